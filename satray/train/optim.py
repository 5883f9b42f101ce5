"""Optimisers, made anew for each stage over the weights that it trains; dropout stage by stage."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn

from satray.config.train import OptimizerOptions
from satray.errors import InputError
from satray.models.network import Network

Group = dict[str, Any]
"""Parameters that learn alike: `params`, and `share`, the factor of their learning rate; with
`weight_decay` 0 where decay leaves them alone."""

TOWERS = "towers."
"""Modules of the backbones, whose own dropout is not ours to set."""


def make_optimizer(options: OptimizerOptions, groups: Iterable[Group]) -> torch.optim.Optimizer:
    """The optimiser of a stage; `set_rate` gives it its learning rate before each step.

    Kernels are fused: these alone leave out a step that `TrainStep` marks as not finite. timm's
    `create_optimizer_v2` would make groups of its own, by another count of blocks.

    Args:
        options: which optimiser.
        groups: of `parameter_groups`.
    """
    common: dict[str, Any] = {"lr": 0.0, "weight_decay": options.weight_decay, "fused": True}
    if options.name == "sgd":
        return torch.optim.SGD(groups, momentum=options.momentum, **common)
    kind = torch.optim.AdamW if options.name == "adamw" else torch.optim.Adam
    return kind(groups, **common)


def set_rate(
    optimizer: torch.optim.Optimizer, learning_rate: float, momentum: float | None = None
) -> None:
    """Set the rate of the next step: each group learns at its share of it.

    Args:
        optimizer: of `make_optimizer`.
        learning_rate: of groups with share 1.
        momentum: for all groups (Adam: beta1); None leaves it.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["share"]
        if momentum is None:
            continue
        if "betas" in group:
            group["betas"] = (momentum, *group["betas"][1:])
        else:
            group["momentum"] = momentum


def parameter_groups(network: nn.Module, decay: float) -> list[Group]:
    """What a stage trains, in groups whose learning rate falls from the head to the first block.

    The head has share 1, and each block `decay` times the share of the part after it; towers count
    for themselves, each back from the head. (As ELECTRA, arXiv 2003.10555, and BEiT do.) A block
    that only normalises goes with the one before it; weights outside any block, such as class
    tokens, with their tower's first. timm's `param_groups_layer_decay` counts every residual block
    of a stage; here blocks are those that `trainable` names.

    Weight decay leaves alone what timm's `param_groups_weight_decay` leaves alone: norms, biases
    and other parameters of one dimension, and those that a backbone names (position embeddings).

    Args:
        network: with its trainable part chosen (`set_trainable`).
        decay: above 0, at most 1; at 1 all parts share a rate.

    Raises:
        InputError: nothing is trainable.
    """
    depths = _depths(network) if isinstance(network, Network) else {}
    spared = _spared(network)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for weight in network.parameters():
        if weight.requires_grad:
            spare = weight.ndim <= 1 or weight in spared
            groups.setdefault((decay ** depths.get(weight, 0), spare), []).append(weight)
    if not groups:
        raise InputError("trainable: this stage trains nothing; accepted: head, all or a block")
    return [
        {"params": groups[key], "share": key[0]} | ({"weight_decay": 0.0} if key[1] else {})
        for key in sorted(groups, key=lambda key: (-key[0], key[1]))
    ]


def set_dropout(network: nn.Module, share: float) -> None:
    """Drop this share of what goes into the head from now on."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Dropout) and not name.startswith(TOWERS):
            module.p = share


def _depths(network: Network) -> dict[nn.Parameter, int]:
    """How many blocks back from the head each weight of a tower lies; 1 for the last block."""
    depths: dict[nn.Parameter, int] = {}
    for backbone in network.backbones().values():
        depth = 0
        for name in reversed(backbone.blocks):
            inside = list(backbone.block(name).parameters())
            depths.update(dict.fromkeys(inside, depth + 1))
            if any(weight.ndim > 1 for weight in inside):
                depth += 1
        for weight in backbone.parameters():
            depths.setdefault(weight, max(depth, 1))
    return depths


def _spared(network: nn.Module) -> set[nn.Parameter]:
    """Weights of more dimensions that a part of the network wants no decay on, as timm's do."""
    found: set[nn.Parameter] = set()
    for part in network.modules():
        names = getattr(part, "no_weight_decay", None)
        if callable(names):
            found |= {
                weight
                for name, weight in part.named_parameters()
                if any(fnmatch(name, pattern) for pattern in names())
            }
    return found
