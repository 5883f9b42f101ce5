"""What an engine is, and eager torch as one: the reference that the others are compared with.

Legend: B windows or tiles, C bands, H x W px, D features, h x w cells.
"""

from collections.abc import Mapping
from typing import Literal, Protocol

import torch
from torch import Tensor

from satray.errors import SatrayError
from satray.models.backbones import Backbone
from satray.models.bundle import Bundle

EngineName = Literal["eager", "fused", "onnx"]
NAMES: tuple[EngineName, ...] = ("eager", "fused", "onnx")
"""From the plainest to the one that takes the longest to make."""


class UnfitError(SatrayError):
    """An engine cannot run a backbone; the message is the reason, in one line."""


class Engine(Protocol):
    """x_BCHW -> features f_BDhw by tower, without gradients."""

    def __call__(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """Features of normalised input.

        Args:
            x_BCHW: float32, as `Preprocess` gives it: bands `spec.bands` in that order. Height and
                width are free where they are multiples of the towers' strides.

        Returns:
            float32, in any memory format.
        """
        ...


class Trunk(Protocol):
    """One tower's x_BCHW (its own bands) -> f_BDhw."""

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """Features of normalised input."""
        ...


class EagerTrunk:
    """The backbone as it is, on channels-last input."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """Features of normalised input."""
        f_BDhw: Tensor = self._backbone(x_BCHW.contiguous(memory_format=torch.channels_last))
        return f_BDhw


class TowerEngine:
    """An engine out of one trunk a tower."""

    def __init__(self, bundle: Bundle, trunks: Mapping[str, Trunk]) -> None:
        """Take the trunks.

        Args:
            bundle: whose towers they are.
            trunks: by tower, in the bundle's order.
        """
        self._trunks = dict(trunks)
        self._bands = bands_taken(bundle)

    @torch.inference_mode()
    def __call__(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """Features of normalised input, by tower."""
        return {
            name: trunk(look(x_BCHW, self._bands[name])) for name, trunk in self._trunks.items()
        }


def bands_taken(bundle: Bundle) -> dict[str, tuple[int, ...]]:
    """For each tower the places of its bands in the network's input."""
    have = bundle.spec.bands
    return {
        tower.name: tuple(have.index(band) for band in tower.bands)
        for tower in bundle.spec.variant.towers
    }


def look(x_BCHW: Tensor, bands: tuple[int, ...]) -> Tensor:
    """The bands that a tower looks at, in its order; the input itself where those are all."""
    if bands == tuple(range(x_BCHW.shape[1])):
        return x_BCHW
    return x_BCHW[:, list(bands)]
