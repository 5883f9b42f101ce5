"""Losses on raw logits, one value a tile; the loop weighs and averages them.

All take soft labels as well (mixup, smoothing): a label y counts as y of a positive and 1 - y of a
negative. The sigmoid losses are averaged over the classes of each tile.

Shapes: B tiles, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from satray.config.train import LossOptions
from satray.train.plan.imbalance import check_loss, loss_name

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits_BK, labels_BK, both floating) -> loss_B."""


def loss_for(task: str) -> Loss:
    """The plain loss of a task: `binary`, `multilabel` (sigmoid) or `multiclass` (softmax).

    Validation reports this one whatever is trained with, so that runs can be compared.
    """
    return cross_entropy if task == "multiclass" else binary_cross_entropy


def make_loss(
    options: LossOptions, task: str, positive_weight: tuple[float, ...] | None = None
) -> Loss:
    """The loss to train with.

    Args:
        options: which loss, with its numbers.
        task: `binary`, `multilabel` or `multiclass`.
        positive_weight: weight of the positives of each class (bce); None: 1. Where it comes from:
            `satray.train.plan.imbalance.class_weights`.

    Raises:
        InputError: the loss does not fit the task.
    """
    check_loss(options, task)
    found = _sharp(options, task, positive_weight)
    return smoothed(found, options.smoothing, task) if options.smoothing else found


def _sharp(options: LossOptions, task: str, positive_weight: tuple[float, ...] | None) -> Loss:
    name = loss_name(options, task)
    if name == "focal":
        form = softmax_focal if task == "multiclass" else focal
        return lambda logits_BK, labels_BK: form(logits_BK, labels_BK, options.gamma)
    if name == "asymmetric":
        return lambda logits_BK, labels_BK: asymmetric(
            logits_BK, labels_BK, options.gamma_negative, options.gamma_positive, options.margin
        )
    if name == "bce" and positive_weight is not None:
        return weighted(positive_weight)
    return loss_for(task)


def binary_cross_entropy(logits_BK: Tensor, labels_BK: Tensor) -> Tensor:
    """`BCEWithLogits`, averaged over the classes of each tile."""
    return F.binary_cross_entropy_with_logits(logits_BK, labels_BK, reduction="none").mean(dim=1)


def cross_entropy(logits_BK: Tensor, labels_BK: Tensor) -> Tensor:
    """Softmax cross-entropy against one-hot (or soft) labels."""
    return -(labels_BK * F.log_softmax(logits_BK, dim=1)).sum(dim=1)


def weighted(positive_weight: tuple[float, ...]) -> Loss:
    """`BCEWithLogits` with a weight on the positives of each class, as torch's `pos_weight`."""
    there: dict[torch.device, Tensor] = {}  # carried to a device once, not at every step

    def loss(logits_BK: Tensor, labels_BK: Tensor) -> Tensor:
        if logits_BK.device not in there:
            there[logits_BK.device] = torch.tensor(positive_weight, device=logits_BK.device)
        return F.binary_cross_entropy_with_logits(
            logits_BK,
            labels_BK,
            pos_weight=there[logits_BK.device].to(logits_BK.dtype),
            reduction="none",
        ).mean(dim=1)

    return loss


def smoothed(loss: Loss, amount: float, task: str) -> Loss:
    """The loss against labels moved by `amount` towards 1/2, or towards 1/K for `multiclass`."""

    def soft(logits_BK: Tensor, labels_BK: Tensor) -> Tensor:
        rest = 1 / labels_BK.shape[1] if task == "multiclass" else 0.5
        return loss(logits_BK, labels_BK * (1 - amount) + amount * rest)

    return soft


def focal(logits_BK: Tensor, labels_BK: Tensor, gamma: float) -> Tensor:
    """Focal loss, -(1 - p_t)^gamma log p_t with a sigmoid for each class.

    Lin et al., ICCV 2017 (arXiv 1708.02002), eq. 4; without its alpha. gamma = 0 is `bce`.
    """
    log_p_BK, log_q_BK = F.logsigmoid(logits_BK), F.logsigmoid(-logits_BK)
    # Powers of p by way of its logarithm: finite, with their gradients, at any logit.
    hit_BK = labels_BK * torch.exp(gamma * log_q_BK) * log_p_BK
    miss_BK = (1 - labels_BK) * torch.exp(gamma * log_p_BK) * log_q_BK
    return -(hit_BK + miss_BK).mean(dim=1)


def softmax_focal(logits_BK: Tensor, labels_BK: Tensor, gamma: float) -> Tensor:
    """Focal loss over a softmax: -sum_c y_c (1 - p_c)^gamma log p_c. gamma = 0: `cross_entropy`."""
    log_p_BK = F.log_softmax(logits_BK, dim=1)
    # A floor, since a power below 1 has no gradient at 0.
    rest_BK = (1 - log_p_BK.exp()).clamp(min=torch.finfo(logits_BK.dtype).eps)
    return -(labels_BK * rest_BK.pow(gamma) * log_p_BK).sum(dim=1)


def asymmetric(
    logits_BK: Tensor,
    labels_BK: Tensor,
    gamma_negative: float,
    gamma_positive: float,
    margin: float,
) -> Tensor:
    """Asymmetric loss of Ridnik et al. (arXiv 2009.14119).

    Positives: -(1 - p)^gamma_positive log p. Negatives: -p_m^gamma_negative log(1 - p_m) with
    p_m = max(p - margin, 0): those below the margin are let off. gammas = margin = 0 is `bce`.
    """
    log_p_BK, log_q_BK = F.logsigmoid(logits_BK), F.logsigmoid(-logits_BK)
    hit_BK = labels_BK * torch.exp(gamma_positive * log_q_BK) * log_p_BK
    if margin == 0:
        easy_BK = torch.exp(gamma_negative * log_p_BK) * log_q_BK
    else:
        floor = torch.finfo(logits_BK.dtype).eps
        shifted_BK = (log_p_BK.exp() - margin).clamp(min=floor, max=1 - floor)
        easy_BK = shifted_BK.pow(gamma_negative) * torch.log1p(-shifted_BK)
    return -(hit_BK + (1 - labels_BK) * easy_BK).mean(dim=1)
