"""From pixels to numbers and maps: a bundle on arrays, in plain torch.

Legend: N tiles, B of a forward pass, C bands, H x W pixels, D features, h x w cells, K classes.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from satray.metrics.scored import Rule, decide
from satray.models.bundle import Bundle
from satray.models.network import argmax_cam, dense_cam, shares
from satray.score.predictions import Numbers
from satray.score.results import CamKind, Forward, MapRequest

ELEMENTS = range(8)
K = TypeVar("K", bound=Hashable)


def mean_over(
    look: Callable[[Tensor, int], dict[K, Tensor]], x: Tensor, d4: bool
) -> dict[K, Tensor]:
    """What `look(turn(x, g), g)` gives, by name, in the mean over the symmetries.

    Args:
        look: turns what lies on a grid back itself.
        x: (..., S, S), or (..., H, W) where `look` takes it transposed too.
        d4: over all eight; else the one position alone.
    """
    found = look(x, 0)
    if not d4:
        return found
    for g in ELEMENTS[1:]:
        found = {name: found[name] + part for name, part in look(turn(x, g), g).items()}
    return {name: part / len(ELEMENTS) for name, part in found.items()}


def turn(x: Tensor, g: int) -> Tensor:
    """Element g of a batch x (..., S, S)."""
    flipped = [axis for axis, bit in ((-1, 1), (-2, 2)) if g & bit]
    y = x.flip(flipped) if flipped else x
    return y.transpose(-1, -2) if g & 4 else y


def turn_back(x: Tensor, g: int) -> Tensor:
    """Undo `turn`."""
    y = x.transpose(-1, -2) if g & 4 else x
    flipped = [axis for axis, bit in ((-1, 1), (-2, 2)) if g & bit]
    return y.flip(flipped) if flipped else y


Features = Callable[[Tensor], dict[str, Tensor]]
"""x_BCHW (normalised float32; in windows any multiple of the block) -> f_BDhw by tower."""


@dataclass(frozen=True)
class Looked:
    """What the network says of B tiles, on its device."""

    logits: Tensor
    """(B, K)."""
    shares: dict[str, Tensor]
    """Tower -> (B, K); none of a network with one tower or a dense head."""
    maps: dict[CamKind, dict[str, Tensor]]
    """Kind -> tower -> (B, classes asked for, h, w), in logit units."""


class TileForward:
    """A bundle over batches of tiles, maps and symmetries included."""

    def __init__(
        self,
        bundle: Bundle,
        maps: MapRequest,
        *,
        d4: bool = False,
        features: Features | None = None,
    ) -> None:
        """Prepare.

        Args:
            bundle: on the device that is to compute; its network is turned to channels last.
            maps: maps to make.
            d4: average logits, shares and maps over the eight flips and transposes of the
                network's input; maps are turned back first, and lie on the grid that
                `satray.models.geometry.centred` gives. What adds up for one adds up for the mean.
            features: another way to the same features; None: the network, eager.

        Raises:
            InputError: maps of a network whose head is dense.
        """
        self._network, self._classes, self._kinds = bundle.network, list(maps.classes), maps.kinds
        variant = bundle.spec.variant
        self._pooling, self._d4 = variant.pooling, d4
        several = variant.head == "linear" and len(variant.towers) > 1
        self._weights = bundle.network.cam_weights() if self._kinds or several else {}
        self._shared = tuple(self._weights) if several else ()
        bundle.network.to(memory_format=torch.channels_last)
        self._features = features or bundle.network.features

    @torch.inference_mode()
    def __call__(self, x_BCSS: Tensor) -> Looked:
        """Look at normalised tiles."""
        found = mean_over(self._look, x_BCSS, self._d4)
        return Looked(
            found["logits", "", ""],
            {name: found["share", "", name] for name in self._shared},
            {k: {name: found["map", k, name] for name in self._weights} for k in self._kinds},
        )

    def _look(self, x_BCSS: Tensor, g: int) -> dict[tuple[str, str, str], Tensor]:
        features = self._features(x_BCSS.contiguous(memory_format=torch.channels_last))
        found = {("logits", "", ""): self._network.classify(features)}
        if self._shared:
            parts = shares(features, self._weights, self._pooling)
            found |= {("share", "", name): part for name, part in parts.items()}
        for kind in self._kinds:
            draw = dense_cam if kind == "dense" else argmax_cam
            for name, w_KD in self._weights.items():
                made = draw(features[name], w_KD[self._classes])
                found["map", kind, name] = turn_back(made, g)
        return found


class Scorer:
    """A bundle with the maps that are wanted; call it on pixels."""

    def __init__(
        self,
        bundle: Bundle,
        maps: MapRequest | None = None,
        batch: int = 64,
        *,
        d4: bool = False,
        features: Features | None = None,
    ) -> None:
        """Prepare.

        Args:
            bundle: on the device that is to compute.
            maps: maps to make, of one kind; None for none.
            batch: tiles a forward pass.
            d4: average over the eight symmetries, see `TileForward`.
            features: another way to the network's features; None: the network, eager.

        Raises:
            InputError: maps of a network whose head is dense.
        """
        self._bundle, self._batch = bundle, batch
        self._forward = TileForward(bundle, maps or MapRequest(), d4=d4, features=features)

    @torch.inference_mode()
    def __call__(self, pixels_NCHW: NDArray[Any]) -> Forward:
        """Score tiles.

        Args:
            pixels_NCHW: one tile at least, stored dtype; bands exactly the bundle's, in its order.

        Returns:
            Numbers in float32 on the host; a tile's do not depend on its neighbours but for the
            rounding of other batch shapes. A logit that is not finite stays so.
        """
        spec, device, parts = self._bundle.spec, self._bundle.device, []
        for pixels_BCHW in torch.split(torch.from_numpy(pixels_NCHW), self._batch):
            found = self._forward(spec.preprocess()(pixels_BCHW.to(device)))
            maps = next(iter(found.maps.values()), {})
            parts.append((found.logits, found.shares, {k: v.cpu() for k, v in maps.items()}))
        logits, shared, made = zip(*parts, strict=True)
        numbers = numbers_of(self._bundle, torch.cat(logits), _joined(shared))
        return Forward(numbers, _joined(made))


def numbers_of(
    bundle: Bundle, logits_NK: Tensor, shares: Mapping[str, NDArray[np.float32]]
) -> Numbers:
    """Numbers of tiles, of the head's outputs and each tower's part in them."""
    spec, logits = bundle.spec, host(logits_NK)
    # on the logits as they are stored, so that who reads them decides the same
    given = decide(logits, spec.task, Rule(spec.temperature, spec.thresholds)).astype(np.uint8)
    return Numbers(logits, host(bundle.scores(logits_NK)), given, shares)


def host(values: Tensor) -> NDArray[np.float32]:
    """On the host, in float32, one's own to write to."""
    array: NDArray[np.float32] = values.float().cpu().contiguous().numpy()
    return array.copy() if values.device.type == "cpu" else array


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, NDArray[np.float32]]:
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return {name: each.float().cpu().numpy() for name, each in joined.items()}
