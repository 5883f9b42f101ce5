"""From pixels to numbers and maps: a bundle on arrays, in plain torch.

Legend: N tiles, B of a forward pass, C bands, H x W pixels, D features, h x w cells, K classes.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from satray.metrics.scored import Rule, decide
from satray.models.bundle import Bundle
from satray.models.cam import argmax_cam, dense_cam, shares
from satray.scoring.predictions import Numbers
from satray.scoring.symmetries import ELEMENTS, turn, turn_back

CamKind = Literal["dense", "argmax"]


@dataclass(frozen=True)
class MapRequest:
    """Which class activation maps to make."""

    classes: tuple[int, ...] = ()
    """Places of the classes in the bundle's list; none: no maps."""
    kind: CamKind = "dense"
    """dense: weighted features; argmax: what a maximum pooling really used."""


@dataclass(frozen=True)
class Forward:
    """What the network says of N tiles."""

    numbers: Numbers
    """Logits, scores, predictions, shares."""
    maps: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """Tower -> (N, classes asked for, h, w), in logit units."""


class Scorer:
    """A bundle with the maps that are wanted; call it on pixels."""

    def __init__(
        self,
        bundle: Bundle,
        maps: MapRequest | None = None,
        batch: int = 64,
        *,
        d4: bool = False,
        features: Callable[[Tensor], dict[str, Tensor]] | None = None,
    ) -> None:
        """Prepare.

        Args:
            bundle: on the device that is to compute.
            maps: maps to make; None for none.
            batch: tiles a forward pass.
            d4: average logits, shares and maps over the eight flips and transposes of the
                network's input; maps are turned back first, and lie on the grid that
                `satray.models.geometry.centred` gives. What adds up for one adds up for the mean.
            features: another way to the network's features; None: the network, eager.

        Raises:
            InputError: maps of a network whose head is dense.
        """
        self._bundle = bundle
        self._maps = maps or MapRequest()
        self._batch = batch
        self._d4 = d4
        self._features = features or bundle.network.features
        spec = bundle.spec
        self._weights: dict[str, Tensor] = {}
        if self._maps.classes or (spec.variant.head == "linear" and len(spec.variant.towers) > 1):
            self._weights = bundle.network.cam_weights()

    def __call__(self, pixels_NCHW: NDArray[Any]) -> Forward:
        """Score tiles.

        Args:
            pixels_NCHW: one tile at least, stored dtype; bands exactly the bundle's, in its order.

        Returns:
            Numbers in float32 on the host; a tile's do not depend on its neighbours but for the
            rounding of other batch shapes. A logit that is not finite stays so.
        """
        parts = [self._pass(part) for part in _parts(pixels_NCHW, self._batch)]
        numbers = Numbers(
            np.concatenate([part.numbers.logits for part in parts]),
            np.concatenate([part.numbers.scores for part in parts]),
            np.concatenate([part.numbers.preds for part in parts]),
            {
                name: np.concatenate([part.numbers.shares[name] for part in parts])
                for name in parts[0].numbers.shares
            },
        )
        maps = {name: np.concatenate([part.maps[name] for part in parts]) for name in parts[0].maps}
        return Forward(numbers, maps)

    @torch.inference_mode()
    def _pass(self, pixels_BCHW: Tensor) -> Forward:
        x_BCHW = self._bundle.spec.preprocess()(pixels_BCHW.to(self._bundle.device))
        found = self._look(x_BCHW)
        if self._d4:
            for g in ELEMENTS[1:]:
                found = found.plus(self._look(turn(x_BCHW, g)).turned_back(g))
            found = found.divided(len(ELEMENTS))
        shared = {name: _host(part) for name, part in found.shares.items()}
        return Forward(
            self._numbers(found.logits, shared),
            {name: _host(maps) for name, maps in found.maps.items()},
        )

    def _look(self, x_BCHW: Tensor) -> "_Look":
        features = self._features(x_BCHW)
        logits_BK = self._bundle.network.classify(features)
        if not self._weights:
            return _Look(logits_BK, {}, {})
        parts = shares(features, self._weights, self._bundle.spec.variant.pooling)
        maps = {}
        if self._maps.classes:
            draw = dense_cam if self._maps.kind == "dense" else argmax_cam
            rows = list(self._maps.classes)
            maps = {name: draw(features[name], w_KD[rows]) for name, w_KD in self._weights.items()}
        return _Look(logits_BK, parts, maps)

    def _numbers(self, logits_BK: Tensor, parts: dict[str, NDArray[np.float32]]) -> Numbers:
        spec, logits = self._bundle.spec, _host(logits_BK)
        # on the logits as they are stored, so that who reads them decides the same
        given = decide(logits, spec.task, Rule(spec.temperature, spec.thresholds))
        scores = _host(self._bundle.scores(logits_BK))
        return Numbers(logits, scores, given.astype(np.uint8), parts)


@dataclass(frozen=True)
class _Look:
    """What the network says of a batch in one position, on its device."""

    logits: Tensor
    """(B, K)."""
    shares: dict[str, Tensor]
    """Tower -> (B, K)."""
    maps: dict[str, Tensor]
    """Tower -> (B, classes asked for, h, w)."""

    def turned_back(self, g: int) -> "_Look":
        """Maps as if the tile had not been turned by g."""
        return replace(self, maps={name: turn_back(m, g) for name, m in self.maps.items()})

    def plus(self, other: "_Look") -> "_Look":
        """Sum."""
        return _Look(
            self.logits + other.logits,
            {name: part + other.shares[name] for name, part in self.shares.items()},
            {name: maps + other.maps[name] for name, maps in self.maps.items()},
        )

    def divided(self, count: int) -> "_Look":
        """Over a number."""
        return _Look(
            self.logits / count,
            {name: part / count for name, part in self.shares.items()},
            {name: maps / count for name, maps in self.maps.items()},
        )


def _parts(pixels_NCHW: NDArray[Any], size: int) -> Iterator[Tensor]:
    for start in range(0, len(pixels_NCHW), size):
        with warnings.catch_warnings():
            # arrays over Ray's shared memory are read-only, and nobody writes to them here
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            yield torch.from_numpy(pixels_NCHW[start : start + size])


def _host(values: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.float().cpu().numpy()
    return array
