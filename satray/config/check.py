"""Keys of `check`."""

from satray.config.base import Section, key
from satray.config.train import TrainRecipe


class CheckOptions(Section):
    """Overfitting one batch."""

    steps: int = key(300, "steps on the batch, at the most", unit="batches", ge=1)
    loss: float = key(0.01, "loss below which the batch counts as learnt", gt=0)
    learning_rate: float | None = key(
        None, "constant learning rate; default the highest that the stages give, else 1e-3", gt=0
    )
    trainable: str = key("all", "what is trained: head, all, or a block of the backbone")
    permutations: int = key(
        3,
        "once learnt: how often the same is tried with the batch's labels dealt out at random, to "
        "see whether the given ones are easier; 0: not at all",
        ge=0,
    )


class CheckRecipe(TrainRecipe):
    """Overfit one fixed batch, and say why where that fails.

    Takes every recipe of `train`; dropout, augmentation, mixup and label smoothing are off.
    """

    check: CheckOptions = key(CheckOptions(), "the test")
