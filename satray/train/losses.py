"""Losses on raw logits, one value a tile; the step weighs and averages them.

All take soft labels as well (mixup, cutmix, smoothing): a label y counts as y of a positive and
1 - y of a negative. The sigmoid losses are averaged over the classes of each tile. timm's and
torchvision's focal and asymmetric losses sum over tiles, or read a soft label otherwise, or have
gradients that are not finite at confident logits.

Shapes: B tiles, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from satray.config.train import LossOptions
from satray.train.imbalance import loss_name

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits_BK, labels_BK, both floating) -> loss_B."""


def loss_for(task: str) -> Loss:
    """The plain loss of a task: `binary`, `multilabel` (sigmoid) or `multiclass` (softmax).

    Validation reports this one whatever is trained with, so that runs can be compared.
    """
    return make_loss(LossOptions(), task)


def make_loss(
    options: LossOptions, task: str, positive_weight: tuple[float, ...] | None = None
) -> Loss:
    """The loss to train with.

    Args:
        options: which loss, with its numbers.
        task: `binary`, `multilabel` or `multiclass`.
        positive_weight: weight of the positives of each class (bce); None: 1. Where it comes from:
            `satray.train.imbalance.class_weights`.

    Raises:
        InputError: the loss does not fit the task.
    """
    name, amount = loss_name(options, task), options.smoothing
    weight = None if positive_weight is None else torch.tensor(positive_weight)

    def loss(logits_BK: Tensor, labels_BK: Tensor) -> Tensor:
        nonlocal weight
        if amount:
            rest = 1 / labels_BK.shape[1] if task == "multiclass" else 0.5
            labels_BK = labels_BK * (1 - amount) + amount * rest
        if name == "cross_entropy":
            return F.cross_entropy(logits_BK, labels_BK, reduction="none")
        if name == "focal" and task == "multiclass":
            return _softmax_focal(logits_BK, labels_BK, options.gamma)
        if name == "focal":
            return _focal(logits_BK, labels_BK, options.gamma)
        if name == "asymmetric":
            return _asymmetric(
                logits_BK,
                labels_BK,
                options.gamma_negative,
                options.gamma_positive,
                options.margin,
            )
        weight = None if weight is None else weight.to(logits_BK)  # carried to a device once
        return F.binary_cross_entropy_with_logits(
            logits_BK, labels_BK, pos_weight=weight, reduction="none"
        ).mean(dim=1)

    return loss


def _focal(logits_BK: Tensor, labels_BK: Tensor, gamma: float) -> Tensor:
    """Focal loss, -(1 - p_t)^gamma log p_t with a sigmoid for each class.

    Lin et al., ICCV 2017 (arXiv 1708.02002), eq. 4; without its alpha. gamma = 0 is `bce`.
    """
    log_p_BK, log_q_BK = F.logsigmoid(logits_BK), F.logsigmoid(-logits_BK)
    # Powers of p by way of its logarithm: finite, with their gradients, at any logit.
    hit_BK = labels_BK * torch.exp(gamma * log_q_BK) * log_p_BK
    miss_BK = (1 - labels_BK) * torch.exp(gamma * log_p_BK) * log_q_BK
    return -(hit_BK + miss_BK).mean(dim=1)


def _softmax_focal(logits_BK: Tensor, labels_BK: Tensor, gamma: float) -> Tensor:
    """Focal loss over a softmax: -sum_c y_c (1 - p_c)^gamma log p_c. gamma = 0: cross-entropy."""
    log_p_BK = F.log_softmax(logits_BK, dim=1)
    # A floor, since a power below 1 has no gradient at 0.
    rest_BK = (1 - log_p_BK.exp()).clamp(min=torch.finfo(logits_BK.dtype).eps)
    return -(labels_BK * rest_BK.pow(gamma) * log_p_BK).sum(dim=1)


def _asymmetric(
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
