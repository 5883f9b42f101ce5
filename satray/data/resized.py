"""Random resized crops: where they fall, and their pixels at the network's size.

Shapes: B tiles, C bands, H and W pixels of a tile, h and w of its crop, S the side of the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from satray.data.send import send


@dataclass(frozen=True)
class Boxes:
    """A crop a tile, in whole pixels."""

    top: NDArray[np.int64]
    """First row."""

    left: NDArray[np.int64]
    """First column."""

    height: NDArray[np.int64]
    """Rows."""

    width: NDArray[np.int64]
    """Columns."""


def boxes(
    area_B: NDArray[np.float64],
    shape_B: NDArray[np.float64],
    down_B: NDArray[np.float64],
    across_B: NDArray[np.float64],
    *,
    height: int,
    width: int,
    scale: float,
    ratio: float,
) -> Boxes:
    """Crops from four numbers between 0 and 1 a tile.

    As torchvision's RandomResizedCrop: the area is even in `scale` to 1, the ratio of the sides
    even in its logarithm; but a crop that is too long for its tile is cut, not drawn again, so
    that each tile needs four numbers and no more.

    Args:
        area_B: chooses the area.
        shape_B: chooses the ratio of width to height.
        down_B: chooses the place among the rows.
        across_B: chooses the place among the columns.
        height: of the tiles, px.
        width: of the tiles, px.
        scale: smallest share of the tile's area.
        ratio: largest ratio of the crop's sides; 1 for squares.
    """
    area = (scale + (1 - scale) * area_B) * height * width
    stretch = np.exp((shape_B - 0.5) * math.log(ratio))  # square root of width / height
    tall = np.clip(np.rint(np.sqrt(area) / stretch), 1, height).astype(np.int64)
    wide = np.clip(np.rint(np.sqrt(area) * stretch), 1, width).astype(np.int64)
    return Boxes(
        top=np.floor(down_B * (height - tall + 1)).astype(np.int64),
        left=np.floor(across_B * (width - wide + 1)).astype(np.int64),
        height=tall,
        width=wide,
    )


def resize_boxes(x_BCHW: Tensor, where: Boxes, size: int) -> Tensor:
    """Crops of tiles of any dtype, bilinear with antialiasing: x_BCSS float32.

    Tiles stay integers until they are cropped.
    """
    # A GPU would rather multiply two matrices a batch than start a kernel a tile.
    way = _tile_by_tile if x_BCHW.device.type == "cpu" else _multiplied
    return way(x_BCHW, where, size)


def _tile_by_tile(x_BCHW: Tensor, where: Boxes, size: int) -> Tensor:
    x_BCSS = x_BCHW.new_empty((*x_BCHW.shape[:2], size, size), dtype=torch.float32)
    sides = (part.tolist() for part in (where.top, where.left, where.height, where.width))
    for x_CHW, out_CSS, top, left, tall, wide in zip(x_BCHW, x_BCSS, *sides, strict=True):
        x_1Chw = x_CHW[None, :, top : top + tall, left : left + wide].float()
        out_CSS.copy_(
            F.interpolate(
                x_1Chw, (size, size), mode="bilinear", align_corners=False, antialias=True
            )[0]
        )
    return x_BCSS


def _multiplied(x_BCHW: Tensor, where: Boxes, size: int) -> Tensor:
    """Rows and columns each weighed by a matrix, which is what a separable resize is."""
    height, width = x_BCHW.shape[2:]
    top_B, left_B, tall_B, wide_B = (
        send(torch.from_numpy(part.astype(np.float32)), x_BCHW.device)
        for part in (where.top, where.left, where.height, where.width)
    )
    rows_BSH = weights(top_B, tall_B, height, size)
    columns_BSW = weights(left_B, wide_B, width, size)
    wide_BCHS = x_BCHW.float() @ columns_BSW.transpose(1, 2)[:, None]
    return rows_BSH[:, None] @ wide_BCHS


def weights(start_B: Tensor, length_B: Tensor, side: int, size: int) -> Tensor:
    """How much each source pixel of an axis counts in each pixel of the result: (B, S, side).

    The triangle of bilinear interpolation, as wide as a source pixel, or as a pixel of the result
    where that is larger (antialiasing, as torch's), cut off at the crop's edges.

    Args:
        start_B: first source pixel of each crop, float32.
        length_B: source pixels of each crop, float32.
        side: source pixels of the axis.
        size: S.
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
