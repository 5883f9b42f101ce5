"""What PIL makes of a 16-bit TIFF of four bands whose last is tagged as associated alpha.

Planet's tiles are blue, green, red, near-infrared, and their TIFF tag (ExtraSamples = 1) calls the
fourth band alpha. Pillow reads such a file as `RGBa;16L`: it keeps each value's high byte, takes
the colours for premultiplied and divides them by alpha, which is near-infrared here. It resizes
such an image on premultiplied colours, in 8 bits, and divides again.

The arithmetic is Pillow's own, in whole numbers (`src/libImaging/Unpack.c`, `Convert.c`,
`Resample.c`), and gives its very levels (tested against the Pillow that is installed).

Legend: B tiles, C bands, H x W pixels; m of them after a resize. Levels are 0 to 255.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PRECISION_BITS = 22
"""Resampling weights are whole multiples of 2 ** -22."""


def pil_levels(x_BCHW: Tensor, alpha: int) -> Tensor:
    """Levels of stored pixels, as `PIL.Image.open` decodes them.

    Args:
        x_BCHW: uint16.
        alpha: place of the band that PIL takes for alpha.

    Returns:
        levels (float32, whole numbers): alpha's high byte; of the others, high byte * 255 / alpha,
        rounded down and clipped, 0 where alpha is 0.
    """
    high_BCHW = (x_BCHW.to(torch.int32) >> 8).float()
    alpha_B1HW = high_BCHW[:, alpha : alpha + 1]
    # Exact in float32: a quotient up to 255 is a whole number, or 1/255 at least below the next.
    level_BCHW = (high_BCHW * 255 / alpha_B1HW.clamp(min=1)).floor().clamp(max=255)
    level_BCHW = level_BCHW.where(alpha_B1HW > 0, 0)
    level_BCHW[:, alpha] = alpha_B1HW[:, 0]
    return level_BCHW


def pil_resize(level_BCHW: Tensor, alpha: int, height: int, width: int) -> Tensor:
    """Resize levels as `Image.resize(..., BILINEAR)` does an `RGBA` image.

    Args:
        level_BCHW: float32, whole numbers.
        alpha: place of alpha.
        height: px.
        width: px.

    Returns:
        levels (float32, whole numbers); the batch itself where it has that shape.
    """
    if level_BCHW.shape[2:] == (height, width):
        return level_BCHW
    y_BCHW = level_BCHW.to(torch.int32)
    alpha_B1HW = y_BCHW[:, alpha : alpha + 1].clone()
    product_BCHW = y_BCHW * alpha_B1HW + 128
    y_BCHW = ((product_BCHW >> 8) + product_BCHW) >> 8  # / 255, to the nearest
    y_BCHW[:, alpha] = alpha_B1HW[:, 0]
    y_BCHW = _resample(_resample(y_BCHW, 3, width), 2, height).float()  # PIL's order
    alpha_B1HW = y_BCHW[:, alpha : alpha + 1].clone()
    apart_BCHW = (y_BCHW * 255 / alpha_B1HW.clamp(min=1)).floor().clamp(max=255)
    apart_BCHW = apart_BCHW.where(alpha_B1HW > 0, y_BCHW)  # Pillow leaves what no alpha covers
    apart_BCHW[:, alpha] = alpha_B1HW[:, 0]
    return apart_BCHW


def _resample(y_BCHW: Tensor, axis: int, after: int) -> Tensor:
    """One axis of levels in int32, which holds the sums, rounded to levels again."""
    before, device = y_BCHW.shape[axis], y_BCHW.device
    first_m, weights = _bilinear(before, after)
    sum_BCHW = torch.full((), 1 << (PRECISION_BITS - 1), dtype=torch.int32, device=device)
    for tap in np.flatnonzero(weights.any(axis=0)):
        at_m = torch.from_numpy(np.minimum(first_m + tap, before - 1)).to(device)
        weight_m = torch.from_numpy(weights[:, tap].copy()).to(device)
        along = weight_m if axis == 3 else weight_m[:, None]
        sum_BCHW = sum_BCHW + y_BCHW.index_select(axis, at_m) * along
    return (sum_BCHW >> PRECISION_BITS).clamp(0, 255)


@lru_cache(maxsize=8)
def _bilinear(before: int, after: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Pillow's bilinear filter: first pixel (m,), weights of it and the next (m, taps)."""
    scale = before / after
    support = max(scale, 1.0)
    first_m = np.zeros(after, np.int64)
    weights = np.zeros((after, 2 * math.ceil(support) + 1), np.int32)
    for row in range(after):
        centre = (row + 0.5) * scale
        first = max(int(centre - support + 0.5), 0)
        end = min(int(centre + support + 0.5), before)
        w = np.maximum(1 - np.abs((np.arange(first, end) - centre + 0.5) * (1 / support)), 0)
        first_m[row] = first
        weights[row, : end - first] = np.floor(0.5 + w / w.sum() * (1 << PRECISION_BITS))
    return first_m, weights
