"""What the training loop needs to know beside the plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from satray.config.train import AverageOptions, LossOptions, OptimizerOptions
from satray.train.imbalance import class_weights
from satray.train.mixing import Mixing

if TYPE_CHECKING:
    from satray.train.setup import Setup


@dataclass(frozen=True)
class LoopSettings:
    """What training needs to know beside the plan."""

    task: Literal["binary", "multilabel", "multiclass"]
    """Chooses loss and metrics."""

    classes: tuple[str, ...]
    """Class names, in the order of the logits."""

    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    """Made anew for each stage."""

    loss: LossOptions = field(default_factory=LossOptions)
    """Which loss."""

    positive_weight: tuple[float, ...] | None = None
    """Weight of each class's positives (bce); None: 1."""

    mixing: Mixing | None = None
    """Mixup and cutmix; None: neither."""

    average: AverageOptions = field(default_factory=AverageOptions)
    """Averages of weights."""

    compile: Literal["auto"] | bool = "auto"
    """By torch.compile; auto: on GPUs."""

    evaluate_flip: bool = False
    """Flip validation tiles left-right at random."""

    seed: int = 0
    """Seed of validation's flips and of dropout; augmentation carries its own."""

    bf16: bool = False
    """Autocast to bfloat16."""

    deterministic: bool = False
    """Ask torch for bitwise repeatable kernels."""

    error_budget: float = 0.05
    """Share of a pseudo-epoch's tiles, and of validation's, that may be unreadable."""

    @classmethod
    def of(cls, setup: Setup, labels_NK: NDArray[Any], bf16: bool) -> LoopSettings:
        """What a run's recipe asks for.

        Args:
            setup: the run, resolved.
            labels_NK: 0 or 1, of the train split.
            bf16: whether the worker at hand computes in bfloat16.
        """
        recipe = setup.recipe
        return cls(
            task=setup.task,
            classes=setup.index.meta.classes,
            optimizer=recipe.optimizer,
            loss=recipe.loss,
            positive_weight=class_weights(recipe.loss, labels_NK, recipe.repeat),
            mixing=Mixing.of(recipe.augment, recipe.seed),
            average=recipe.average,
            compile=recipe.compile,
            evaluate_flip=recipe.input.evaluate_flip,
            seed=recipe.seed,
            bf16=bf16,
            deterministic=recipe.deterministic,
            error_budget=recipe.error_budget,
        )
