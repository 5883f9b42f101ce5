"""Several networks of one kind as one: their towers side by side, one head over all of them.

The head's weights are each network's over their number and its bias is the mean bias, so that
logits are the mean of the networks' logits, and class activation maps add up as ever.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from satray.errors import InputError
from satray.models.spec import BundleSpec


def ensemble(
    spec: BundleSpec, states: Sequence[dict[str, Tensor]]
) -> tuple[BundleSpec, dict[str, Tensor]]:
    """An ordinary bundle that gives the mean of several networks' logits.

    Args:
        spec: of each of them; its temperature and thresholds are taken over.
        states: their state dicts, one at least.

    Returns:
        The spec, with towers `rgb1`, `rgb2`, ... for each `rgb`, and the state dict. All is copied.

    Raises:
        InputError: the head is dense: its hidden layer mixes cells, so that no head over all
            towers gives the mean.
    """
    if spec.variant.head != "linear":
        raise InputError(
            "ensemble: needs a linear head, found head=dense; accepted: a variant with "
            "head=linear, or average.snapshots=swa"
        )
    names = tower_names([tower.name for tower in spec.variant.towers], len(states))
    towers = [
        tower.model_copy(update={"name": named[tower.name]})
        for named in names
        for tower in spec.variant.towers
    ]
    joined: dict[str, Tensor] = {}
    for named, state in zip(names, states, strict=True):
        for key, value in state.items():
            room, _, rest = key.partition(".")
            if room == "towers":
                tower, _, inside = rest.partition(".")
                joined[f"towers.{named[tower]}.{inside}"] = value.detach().clone()
    weights = [state["head.weight"].double() for state in states]
    biases = [state["head.bias"].double() for state in states]
    kind = states[0]["head.weight"]
    joined["head.weight"] = (torch.cat(weights, dim=1) / len(states)).to(kind)
    joined["head.bias"] = torch.stack(biases).mean(dim=0).to(kind)
    wider = replace(
        spec,
        variant=spec.variant.model_copy(update={"towers": tuple(towers)}),
        grids={named[name]: grid for named in names for name, grid in spec.grids.items()},
    )
    return wider, joined


def tower_names(towers: Sequence[str], copies: int) -> list[dict[str, str]]:
    """For each copy, tower -> its new name: its number behind the old one.

    Behind an `x` where that is ambiguous, as with towers `a` and `a1` eleven times.
    """
    for between in ("", "x"):
        names = [{name: f"{name}{between}{i + 1}" for name in towers} for i in range(copies)]
        if len({new for named in names for new in named.values()}) == copies * len(towers):
            break
    return names
