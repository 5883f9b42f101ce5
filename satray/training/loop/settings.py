"""What the training loop needs to know beside the plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from satray.config.regularise import AverageOptions, LossOptions
from satray.config.train import OptimizerOptions


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

    mixup: float = 0.0
    """Alpha of mixup; 0: none."""

    average: AverageOptions = field(default_factory=AverageOptions)
    """Averages of weights."""

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
