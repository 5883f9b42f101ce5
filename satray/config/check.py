"""Keys of `check`."""

from typing import ClassVar

from satray.config.base import Section, key
from satray.config.train import TrainRecipe


class CheckOptions(Section):
    """Overfitting one batch."""

    steps: int = key(300, "steps on the batch, at the most", unit="batches", ge=1)
    loss: float = key(0.01, "loss below which the batch counts as learnt", gt=0)
    learning_rate: float | None = key(
        None, "constant learning rate; default the highest that the stages give, else 1e-3", gt=0
    )
    trainable: str = key(
        "all", "what is trained: head, all, a block or TOWER.block, as in stages.N.trainable"
    )
    permutations: int = key(
        3,
        "once learnt: how often the same is tried with the batch's labels dealt out at random, to "
        "see whether the given ones are easier; 0: not at all",
        ge=0,
    )


class CheckRecipe(TrainRecipe):
    """Overfit one fixed batch, and say why where that fails.

    Takes every recipe of `train`. What counts: index, variant, pooling, weights, first_conv, input,
    loss (without smoothing; balanced weights as `repeat` makes them), optimizer, the highest
    learning_rate of the stages, batch, precision, deterministic, error_budget, seed, check.
    """

    makes: ClassVar[str] = "check.json; ends with status 1 where the batch is not learnt"

    check: CheckOptions = key(CheckOptions(), "the test")
