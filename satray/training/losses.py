"""Losses on raw logits, one value a tile; the loop weighs and averages them.

Shapes: B tiles, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits_BK, labels_BK, both floating) -> loss_B."""


def loss_for(task: str) -> Loss:
    """The loss of a task: `binary`, `multilabel` (sigmoid) or `multiclass` (softmax)."""
    return cross_entropy if task == "multiclass" else binary_cross_entropy


def binary_cross_entropy(logits_BK: Tensor, labels_BK: Tensor) -> Tensor:
    """`BCEWithLogits`, averaged over the classes of each tile."""
    return F.binary_cross_entropy_with_logits(logits_BK, labels_BK, reduction="none").mean(dim=1)


def cross_entropy(logits_BK: Tensor, labels_BK: Tensor) -> Tensor:
    """Softmax cross-entropy against one-hot (or soft) labels."""
    return -(labels_BK * F.log_softmax(logits_BK, dim=1)).sum(dim=1)
