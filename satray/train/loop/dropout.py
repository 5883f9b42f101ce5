"""Dropout before the head, stage by stage."""

from __future__ import annotations

from torch import nn

TOWERS = "towers."
"""Modules of the backbones, whose own dropout is not ours to set."""


class HeadDropout:
    """The dropout that a network was built with, and what a stage puts in its place."""

    def __init__(self, network: nn.Module) -> None:
        """Note the network's dropout layers outside its towers, and how much each drops."""
        self._built = [
            (module, module.p)
            for name, module in network.named_modules()
            if isinstance(module, nn.Dropout) and not name.startswith(TOWERS)
        ]

    def enter(self, share: float | None) -> None:
        """Drop this share of the pooled features from now on; None: what was built."""
        for module, built in self._built:
            module.p = built if share is None else share
