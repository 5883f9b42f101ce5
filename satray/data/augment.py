"""Augmentation of a batch on the device, pure in (seed, pseudo-epoch, row).

What happens to a tile is drawn from a counter-based hash of those three numbers alone, so it does
not depend on the batch the tile is in, the worker, the device, or what was drawn before. Where a
tile comes several times in a pseudo-epoch, each time has a number of its own in place of its row
(`satray.data.order.samples`).

Shapes: B tiles, C bands, H and W pixels, S the side of the square crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from satray.config.regularise import AugmentOptions
from satray.data.colour import recolour
from satray.data.resized import Boxes, boxes, resize_boxes
from satray.data.send import send

_D4, _TOP, _LEFT, _AREA, _SHAPE, _CONTRAST, _BRIGHTNESS = range(7)
"""Streams of the hash: one a decision."""

_SAME_SIZE = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
"""Unsigned types that torch cannot index everywhere, and what carries their bits."""


def counter_hash(seed: int, *counters: int, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """64 random bits a row: splitmix64 chained over seed, counters and row.

    splitmix64 is Steele, Lea and Flood's finaliser (OOPSLA 2014); chaining it over the counters
    makes every argument matter.
    """
    state = np.zeros(1, dtype=np.uint64)
    for number in (seed, *counters):
        state = _splitmix64(state ^ np.uint64(number))
    return _splitmix64(state ^ rows.astype(np.uint64))


def evenly(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Random bits as numbers spread evenly between 0 and 1, both left out."""
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@dataclass(frozen=True)
class Draws:
    """What is done to each tile of a batch."""

    d4: NDArray[np.int64]
    """Element of D4, 0 to 7: bit 0 flips left-right, bit 1 up-down, bit 2 transposes (last)."""

    top: NDArray[np.int64]
    """First row of the crop, in pixels."""

    left: NDArray[np.int64]
    """First column of the crop, in pixels."""


@dataclass(frozen=True)
class Augment:
    """Crop, flip and transpose tiles of any dtype, and change the colours of normalised ones.

    Values are moved, never changed, but for `crop="resized"`, which interpolates, and `colour`.
    """

    size: int
    """Side of the crop, in pixels."""

    flips: Literal["none", "horizontal", "d4"] = "d4"
    """none, left-right, or all eight flips and transposes."""

    crop: Literal["random", "centre", "resized"] = "random"
    """Where the crop falls; resized: of random area and shape, resized to `size`."""

    seed: int = 0
    """Seed of all draws."""

    scale: float = 0.5
    """resized: smallest share of the tile's area."""

    ratio: float = 4 / 3
    """resized: largest ratio of a crop's sides."""

    brightness: float = 0.0
    """Largest shift of a band, in its standard deviations."""

    contrast: float = 0.0
    """Largest relative change of a band's contrast."""

    @classmethod
    def of(cls, options: AugmentOptions, size: int, seed: int) -> Augment:
        """What a recipe asks for; mixup is the training room's."""
        return cls(
            size=size,
            flips=options.flips,
            crop=options.crop,
            seed=seed,
            scale=options.scale,
            ratio=options.ratio,
            brightness=options.brightness,
            contrast=options.contrast,
        )

    def draws(self, rows: NDArray[np.int64], pseudo_epoch: int, height: int, width: int) -> Draws:
        """Decide, for tiles of `height` x `width` pixels.

        Raises:
            ValueError: the tiles are smaller than the crop.
        """
        room = (height - self.size, width - self.size)
        if min(room) < 0:
            raise ValueError(f"tiles of {height}x{width} px hold no crop of {self.size} px")
        top, left = (
            self._offsets(rows, pseudo_epoch, stream, spare)
            for stream, spare in zip((_TOP, _LEFT), room, strict=True)
        )
        return Draws(d4=self._symmetries(rows, pseudo_epoch), top=top, left=left)

    def boxes(self, rows: NDArray[np.int64], pseudo_epoch: int, height: int, width: int) -> Boxes:
        """Decide the crops of `resized`, for tiles of `height` x `width` pixels."""
        streams = (_AREA, _SHAPE, _TOP, _LEFT)
        draws = (evenly(self._hash(rows, pseudo_epoch, stream)) for stream in streams)
        return boxes(*draws, height=height, width=width, scale=self.scale, ratio=self.ratio)

    def __call__(self, x_BCHW: Tensor, rows: NDArray[np.int64], pseudo_epoch: int) -> Tensor:
        """x_BCHW of any dtype -> x_BCSS on its device: same dtype; float32 where resized."""
        height, width = x_BCHW.shape[-2:]
        if self.crop != "resized":
            return apply(x_BCHW, self.draws(rows, pseudo_epoch, height, width), self.size)
        x_BCSS = resize_boxes(x_BCHW, self.boxes(rows, pseudo_epoch, height, width), self.size)
        zeros = np.zeros(len(rows), dtype=np.int64)
        return apply(x_BCSS, Draws(self._symmetries(rows, pseudo_epoch), zeros, zeros), self.size)

    def colour(self, x_BCSS: Tensor, rows: NDArray[np.int64], pseudo_epoch: int) -> Tensor:
        """Change contrast and brightness of each band of normalised tiles; float32 to float32."""
        if self.contrast == 0 and self.brightness == 0:
            return x_BCSS
        gain_BC, shift_BC = (
            most * (2 * self._by_band(rows, pseudo_epoch, stream, x_BCSS.shape[1]) - 1)
            for stream, most in ((_CONTRAST, self.contrast), (_BRIGHTNESS, self.brightness))
        )
        return recolour(x_BCSS, 1 + gain_BC, shift_BC)

    def _hash(
        self, rows: NDArray[np.int64], pseudo_epoch: int, stream: int, *more: int
    ) -> NDArray[np.uint64]:
        return counter_hash(self.seed, pseudo_epoch, stream, *more, rows=rows)

    def _by_band(
        self, rows: NDArray[np.int64], pseudo_epoch: int, stream: int, bands: int
    ) -> NDArray[np.float64]:
        """A number between 0 and 1 for each tile and band: (B, C)."""
        drawn = [evenly(self._hash(rows, pseudo_epoch, stream, band)) for band in range(bands)]
        return np.stack(drawn, axis=1)

    def _symmetries(self, rows: NDArray[np.int64], pseudo_epoch: int) -> NDArray[np.int64]:
        if self.flips == "none":
            return np.zeros(len(rows), dtype=np.int64)
        bits = self._hash(rows, pseudo_epoch, _D4) >> np.uint64(61)
        return (bits & np.uint64(7 if self.flips == "d4" else 1)).astype(np.int64)

    def _offsets(
        self, rows: NDArray[np.int64], pseudo_epoch: int, stream: int, spare: int
    ) -> NDArray[np.int64]:
        """Offsets 0 to `spare`, drawn evenly, or the middle (rounded as torchvision's)."""
        if self.crop == "centre" or spare == 0:
            return np.full(len(rows), round(spare / 2), dtype=np.int64)
        bits = self._hash(rows, pseudo_epoch, stream) >> np.uint64(32)
        return ((bits * np.uint64(spare + 1)) >> np.uint64(32)).astype(np.int64)


def apply(x_BCHW: Tensor, draws: Draws, size: int) -> Tensor:
    """Crop and turn a batch: x_BCHW of any dtype -> x_BCSS."""
    dtype = x_BCHW.dtype
    carried = _SAME_SIZE.get(dtype, dtype)
    # On two cores (32 tiles, 128 px, 3 bands of 8 bits) tile by tile takes 0.6 ms and the gather
    # 8 ms; a GPU would rather have few kernels than many.
    way = _tile_by_tile if x_BCHW.device.type == "cpu" else _gathered
    return way(x_BCHW.view(carried), draws, size).view(dtype)


def _tile_by_tile(x_BCHW: Tensor, draws: Draws, size: int) -> Tensor:
    x_BCSS = x_BCHW.new_empty((*x_BCHW.shape[:2], size, size))
    decisions = zip(draws.d4.tolist(), draws.top.tolist(), draws.left.tolist(), strict=True)
    for x_CHW, out_CSS, (d4, top, left) in zip(x_BCHW, x_BCSS, decisions, strict=True):
        crop_CSS = x_CHW[:, top : top + size, left : left + size]
        flipped = [axis for axis, bit in ((2, 1), (1, 2)) if d4 & bit]
        if flipped:
            crop_CSS = crop_CSS.flip(flipped)
        out_CSS.copy_(crop_CSS.transpose(1, 2) if d4 & 4 else crop_CSS)
    return x_BCSS


def _gathered(x_BCHW: Tensor, draws: Draws, size: int) -> Tensor:
    """One gather for crops and flips, one select for transposes."""
    device = x_BCHW.device
    along = np.arange(size)
    y_BS = np.where((draws.d4 & 2).astype(bool)[:, None], along[::-1], along) + draws.top[:, None]
    x_BS = np.where((draws.d4 & 1).astype(bool)[:, None], along[::-1], along) + draws.left[:, None]
    x_BCSS = x_BCHW[
        torch.arange(x_BCHW.shape[0], device=device)[:, None, None, None],
        torch.arange(x_BCHW.shape[1], device=device)[None, :, None, None],
        send(torch.from_numpy(y_BS), device)[:, None, :, None],
        send(torch.from_numpy(x_BS), device)[:, None, None, :],
    ]
    transposed = send(torch.from_numpy((draws.d4 & 4).astype(bool)), device)
    return torch.where(transposed[:, None, None, None], x_BCSS.transpose(2, 3), x_BCSS)
