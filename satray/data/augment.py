"""Augmentation of a batch on the device, pure in (seed, pseudo-epoch, row).

What happens to a tile is drawn from a counter-based hash of those three numbers alone, so it does
not depend on the batch the tile is in, the worker, the device, or what was drawn before. Where a
tile comes several times in a pseudo-epoch, each time has a number of its own in place of its row
(`satray.data.order.samples`).

Shapes: B tiles, C bands, H and W pixels of a tile, h and w of its crop, S the side of the square
result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from satray.config.train import AugmentOptions

_D4, _TOP, _LEFT, _AREA, _SHAPE, _CONTRAST, _BRIGHTNESS, *_ERASE = range(12)
"""Streams of the hash: one a decision."""

ERASED, ERASED_RATIO = (0.02, 1 / 3), 10 / 3
"""Random erasing: smallest and largest share of the tile's area, largest ratio of the box's sides
(Zhong et al., AAAI 2020, arXiv 1708.04896; timm's defaults)."""

_SAME_SIZE = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
"""Unsigned types that torch cannot index everywhere, and what carries their bits."""


def send(values: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; a GPU is given it from pinned memory, without being waited for.

    What is drawn of a batch, some eight small arrays, goes each by itself from where it is drawn:
    `satray.train.step.ahead` does it in a thread of its own, while the device computes.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def counter_hash(seed: int, *counters: int, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """64 random bits a row: splitmix64 (Steele, Lea and Flood, OOPSLA 2014), chained over all."""
    state = np.zeros(1, dtype=np.uint64)
    for number in (seed, *counters):
        state = _splitmix64(state ^ np.uint64(number))
    return _splitmix64(state ^ rows.astype(np.uint64))


def evenly(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Random bits as numbers spread evenly between 0 and 1, both left out."""
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


@dataclass(frozen=True)
class Draws:
    """What is done to each tile of a batch."""

    d4: NDArray[np.int64]
    """Element of D4, 0 to 7: bit 0 flips left-right, bit 1 up-down, bit 2 transposes (last)."""
    top: NDArray[np.int64]
    """First row of the crop, in pixels."""
    left: NDArray[np.int64]
    """First column of the crop, in pixels."""


def boxes(
    draws_4B: NDArray[np.float64], height: int, width: int, area: tuple[float, float], ratio: float
) -> NDArray[np.int64]:
    """Boxes within tiles of `height` x `width` px, from four numbers between 0 and 1 a tile.

    As torchvision's RandomResizedCrop: the area is even in shares of the tile's, the ratio of the
    sides (up to `ratio`) even in its logarithm; but a box that is too long for its tile is cut, not
    drawn again, so that each tile needs four numbers and no more: for the area, the ratio, and the
    place among the rows and the columns.

    Returns:
        (4, B), in whole pixels: first rows, first columns, numbers of rows, numbers of columns.
    """
    area_B, shape_B, down_B, across_B = draws_4B
    least, most = area
    side_B = np.sqrt((least + (most - least) * area_B) * height * width)
    stretch_B = np.exp((shape_B - 0.5) * math.log(ratio))  # square root of width / height
    tall = np.clip(np.rint(side_B / stretch_B), 1, height).astype(np.int64)
    wide = np.clip(np.rint(side_B * stretch_B), 1, width).astype(np.int64)
    top = np.floor(down_B * (height - tall + 1)).astype(np.int64)
    left = np.floor(across_B * (width - wide + 1)).astype(np.int64)
    return np.stack([top, left, tall, wide])


@dataclass(frozen=True)
class Augment:
    """Crop, flip and transpose tiles of any dtype; recolour and erase parts of normalised ones.

    Values are moved, never changed, but for `crop="resized"`, which interpolates, and `finish`.
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
    erase: float = 0.0
    """Share of tiles of which a box is set to the mean."""

    @classmethod
    def of(cls, options: AugmentOptions, size: int, seed: int) -> Augment:
        """What a recipe asks for; mixup and cutmix are the training room's."""
        return cls(size=size, seed=seed, **options.model_dump(exclude={"views", "mixup", "cutmix"}))

    def draws(self, rows: NDArray[np.int64], pseudo_epoch: int, height: int, width: int) -> Draws:
        """Decide, for tiles of `height` x `width` pixels.

        Raises:
            ValueError: the tiles are smaller than the crop.
        """
        d4_B = (self._hash(rows, pseudo_epoch, _D4) >> np.uint64(61)).astype(np.int64)
        d4_B &= {"none": 0, "horizontal": 1, "d4": 7}[self.flips]
        offsets = []
        for stream, side in ((_TOP, height), (_LEFT, width)):
            spare = side - self.size
            if spare < 0:
                raise ValueError(f"tiles of {height}x{width} px hold no crop of {self.size} px")
            bits = self._hash(rows, pseudo_epoch, stream) >> np.uint64(32)
            drawn = ((bits * np.uint64(spare + 1)) >> np.uint64(32)).astype(np.int64)
            # the middle is rounded as torchvision's
            offsets.append(
                np.full_like(drawn, round(spare / 2)) if self.crop == "centre" else drawn
            )
        return Draws(d4_B, *offsets)

    def boxes(
        self, rows: NDArray[np.int64], pseudo_epoch: int, height: int, width: int
    ) -> NDArray[np.int64]:
        """Decide the crops of `resized`, for tiles of `height` x `width` pixels: `boxes`."""
        streams = (_AREA, _SHAPE, _TOP, _LEFT)
        draws_4B = np.stack([evenly(self._hash(rows, pseudo_epoch, stream)) for stream in streams])
        return boxes(draws_4B, height, width, (self.scale, 1.0), self.ratio)

    def __call__(self, x_BCHW: Tensor, rows: NDArray[np.int64], pseudo_epoch: int) -> Tensor:
        """x_BCHW of any dtype -> x_BCSS on its device: same dtype; float32 where resized."""
        if self.crop == "resized":
            where_4B = self.boxes(rows, pseudo_epoch, *x_BCHW.shape[2:])
            x_BCHW = resize_boxes(x_BCHW, where_4B, self.size)
        return apply(x_BCHW, self.draws(rows, pseudo_epoch, *x_BCHW.shape[2:]), self.size)

    def finish(self, x_BCSS: Tensor, rows: NDArray[np.int64], pseudo_epoch: int) -> Tensor:
        """Recolour normalised tiles by band, then erase a box of some; float32 to float32.

        Colour is gain * x + shift for each tile and band: a gain of 1.2 is a fifth more contrast
        about the archive's mean, a shift of 0.1 a tenth of its deviation.
        """
        bands, height, width = x_BCSS.shape[1:]
        if self.contrast or self.brightness:
            gain_BC = 1 + self._by_band(_CONTRAST, rows, pseudo_epoch, bands, self.contrast)
            shift_BC = self._by_band(_BRIGHTNESS, rows, pseudo_epoch, bands, self.brightness)
            gain_BC11, shift_BC11 = (
                send(torch.from_numpy(part_BC.astype(np.float32)), x_BCSS.device)[:, :, None, None]
                for part_BC in (gain_BC, shift_BC)
            )
            x_BCSS = torch.addcmul(shift_BC11, x_BCSS, gain_BC11)
        if not self.erase:
            return x_BCSS
        chosen_B, *draws = (evenly(self._hash(rows, pseudo_epoch, stream)) for stream in _ERASE)
        top, left, tall, wide = boxes(np.stack(draws), height, width, ERASED, ERASED_RATIO)
        edges_4B = np.stack([top, left, top + tall * (chosen_B < self.erase), left + wide])
        gone_B1SS = inside(send(torch.from_numpy(edges_4B), x_BCSS.device), height, width)
        return x_BCSS.masked_fill(gone_B1SS, 0.0)  # the mean of normalised values

    def _hash(
        self, rows: NDArray[np.int64], pseudo_epoch: int, stream: int, *more: int
    ) -> NDArray[np.uint64]:
        return counter_hash(self.seed, pseudo_epoch, stream, *more, rows=rows)

    def _by_band(
        self, stream: int, rows: NDArray[np.int64], pseudo_epoch: int, bands: int, most: float
    ) -> NDArray[np.float64]:
        """A number between -most and most for each tile and band: (B, C)."""
        drawn = [evenly(self._hash(rows, pseudo_epoch, stream, band)) for band in range(bands)]
        return most * (2 * np.stack(drawn, axis=1) - 1)


def apply(x_BCHW: Tensor, draws: Draws, size: int, *, batched: bool | None = None) -> Tensor:
    """Crop and turn a batch: x_BCHW of any dtype -> x_BCSS.

    Args:
        x_BCHW: tiles.
        draws: what is done to each.
        size: S.
        batched: by few kernels a batch, as a GPU would rather, or tile by tile, which takes a CPU
            a tenth of the time (32 tiles, 128 px, 3 bands of 8 bits: 0.6 ms for 8); None: as the
            device would rather.
    """
    dtype = x_BCHW.dtype
    carried = x_BCHW.view(_SAME_SIZE.get(dtype, dtype))
    if x_BCHW.device.type != "cpu" if batched is None else batched:
        return _turned_by_gather(carried, draws, size).view(dtype)
    return _turned_by_tile(carried, draws, size).view(dtype)


def resize_boxes(
    x_BCHW: Tensor, where_4B: NDArray[np.int64], size: int, *, batched: bool | None = None
) -> Tensor:
    """Crops of tiles of any dtype, bilinear with antialiasing: x_BCSS float32.

    Tiles stay integers until they are cropped. `batched` as of `apply`.
    """
    if x_BCHW.device.type != "cpu" if batched is None else batched:
        return _resized_by_matrices(x_BCHW, where_4B, size)
    return _resized_by_tile(x_BCHW, where_4B, size)


def inside(edges_4B: Tensor, height: int, width: int) -> Tensor:
    """Which pixels lie in each tile's box: bool (B, 1, H, W).

    Args:
        edges_4B: top, left, bottom (first row below), right (first column beyond), px.
        height: of the tiles, px.
        width: of the tiles, px.
    """
    top_B1, left_B1, bottom_B1, right_B1 = edges_4B[:, :, None]
    y_H, x_W = (torch.arange(side, device=edges_4B.device) for side in (height, width))
    down_BH = (y_H >= top_B1) & (y_H < bottom_B1)
    across_BW = (x_W >= left_B1) & (x_W < right_B1)
    found: Tensor = down_BH[:, None, :, None] & across_BW[:, None, None, :]
    return found


def _turned_by_tile(x_BCHW: Tensor, draws: Draws, size: int) -> Tensor:
    x_BCSS = x_BCHW.new_empty((*x_BCHW.shape[:2], size, size))
    decisions = zip(draws.d4.tolist(), draws.top.tolist(), draws.left.tolist(), strict=True)
    for x_CHW, out_CSS, (d4, top, left) in zip(x_BCHW, x_BCSS, decisions, strict=True):
        crop_CSS = x_CHW[:, top : top + size, left : left + size]
        flipped = [axis for axis, bit in ((2, 1), (1, 2)) if d4 & bit]
        if flipped:
            crop_CSS = crop_CSS.flip(flipped)
        out_CSS.copy_(crop_CSS.transpose(1, 2) if d4 & 4 else crop_CSS)
    return x_BCSS


def _turned_by_gather(x_BCHW: Tensor, draws: Draws, size: int) -> Tensor:
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


def _resized_by_tile(x_BCHW: Tensor, where_4B: NDArray[np.int64], size: int) -> Tensor:
    x_BCSS = x_BCHW.new_empty((*x_BCHW.shape[:2], size, size), dtype=torch.float32)
    boxes_B = where_4B.T.tolist()
    for x_CHW, out_CSS, (top, left, tall, wide) in zip(x_BCHW, x_BCSS, boxes_B, strict=True):
        x_1Chw = x_CHW[None, :, top : top + tall, left : left + wide].float()
        out_CSS.copy_(
            F.interpolate(
                x_1Chw, (size, size), mode="bilinear", align_corners=False, antialias=True
            )[0]
        )
    return x_BCSS


def _resized_by_matrices(x_BCHW: Tensor, where_4B: NDArray[np.int64], size: int) -> Tensor:
    """Rows and columns each weighed by a matrix, which is what a separable resize is."""
    height, width = x_BCHW.shape[2:]
    top_B, left_B, tall_B, wide_B = send(
        torch.from_numpy(where_4B.astype(np.float32)), x_BCHW.device
    )
    rows_BSH = _weights(top_B, tall_B, height, size)
    columns_BSW = _weights(left_B, wide_B, width, size)
    wide_BCHS = x_BCHW.float() @ columns_BSW.transpose(1, 2)[:, None]
    return rows_BSH[:, None] @ wide_BCHS


def _weights(start_B: Tensor, length_B: Tensor, side: int, size: int) -> Tensor:
    """How much each of `side` px of an axis counts in each of `size` of a crop: (B, S, side).

    The triangle of bilinear interpolation, as wide as a source pixel, or as a pixel of the result
    where that is larger (antialiasing, as torch's), cut off at the crop's edges.
    """
    start_B11, length_B11 = start_B[:, None, None], length_B[:, None, None]
    step_B11 = length_B11 / size
    along_S, along_W = (
        torch.arange(n, dtype=start_B.dtype, device=start_B.device) + 0.5 for n in (size, side)
    )
    centre_BS1 = start_B11 + step_B11 * along_S[None, :, None]
    pixel_11W = along_W[None, None]
    near_BSW = 1 - (pixel_11W - centre_BS1).abs() / step_B11.clamp(min=1.0)
    inside_B1W = (pixel_11W > start_B11) & (pixel_11W < start_B11 + length_B11)
    weight_BSW = near_BSW.clamp(min=0.0) * inside_B1W
    return weight_BSW / weight_BSW.sum(dim=2, keepdim=True)


def _splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
