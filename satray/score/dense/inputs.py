"""From a window's pixels to the network's input, and what of it is valid."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from satray.data.values import filled
from satray.models.bundle import Bundle
from satray.models.preprocess import normalize
from satray.score.dense.windows import TowerLattice
from satray.score.rasters import cells_with_data
from satray.score.scenes.grid import HALF


def network_input(
    bundle: Bundle, pixels_CHW: NDArray[np.generic], measured: NDArray[Any]
) -> Tensor:
    """Normalised x_1CHW (float32, channels last, on the bundle's device).

    Args:
        bundle: whose bands the channels are, in its order.
        pixels_CHW: stored values on the net lattice, any dtype; anything where not measured.
        measured: (H, W) or (C, H, W) bool, or share of each that is measured; below half the
            network sees the band's training mean.
    """
    way = bundle.spec.preprocess()
    pixels_1CHW = torch.from_numpy(np.ascontiguousarray(pixels_CHW))[None].to(bundle.device)
    x_1CHW = normalize(way.values(pixels_1CHW), way.mean, way.std)
    gap = measured < HALF
    if gap.any():
        x_1CHW = x_1CHW.masked_fill(torch.from_numpy(gap).to(bundle.device), 0.0)  # the mean
    return x_1CHW.contiguous(memory_format=torch.channels_last)


def tile_filled(
    pixels_CHW: NDArray[Any], measured: NDArray[Any], fill_C: NDArray[Any] | None
) -> NDArray[Any] | None:
    """A tile's pixels as a file of its own would have them; None where nothing is missing.

    Args:
        pixels_CHW: of the tile: means over what is measured.
        measured: (H, W) or (C, H, W) bool, or share of each that is measured.
        fill_C: what stands in for the rest; None: the tile's mean over what is measured.
    """
    if (measured == 1).all():
        return None
    share_CHW = np.broadcast_to(measured, pixels_CHW.shape)
    if measured.dtype == bool:
        return filled(pixels_CHW, share_CHW)
    if fill_C is None:
        raise ValueError("resampled tiles need what stands in for missing values")
    mixed_CHW: NDArray[Any] = pixels_CHW * share_CHW + fill_C[:, None, None] * (1 - share_CHW)
    return mixed_CHW


def valid_shares(
    valid_HW: NDArray[np.bool_],
    tops: NDArray[np.int64],
    lefts: NDArray[np.int64],
    height: int,
    width: int,
) -> NDArray[np.float32]:
    """Share of valid px of each footprint, (T, U).

    Args:
        valid_HW: where there is data.
        tops: (T,) first rows.
        lefts: (U,) first columns.
        height: of every footprint, in px.
        width: the same.
    """
    if valid_HW.all():  # as most are; sums of a large window cost as much as a layer
        return np.ones((len(tops), len(lefts)), dtype=np.float32)
    sums = np.zeros((valid_HW.shape[0] + 1, valid_HW.shape[1] + 1), dtype=np.int64)
    sums[1:, 1:] = valid_HW.cumsum(0, dtype=np.int32).cumsum(1)
    rows = sums[tops + height] - sums[tops]
    counts = rows[:, lefts + width] - rows[:, lefts]
    shares: NDArray[np.float32] = (counts / (height * width)).astype(np.float32)
    return shares


def blank_cells(
    valid_HW: NDArray[np.bool_],
    tower: TowerLattice,
    origin: tuple[int, int],
    rows: slice,
    cols: slice,
) -> NDArray[np.bool_]:
    """Cells whose square, a stride wide, holds no valid px.

    Args:
        valid_HW: of a rectangle of net px.
        tower: whose cells.
        origin: first row and column of the rectangle, in net px.
        rows: of cells, counted from the scene's origin.
        cols: the same.
    """
    from affine import Affine

    h, w = rows.stop - rows.start, cols.stop - cols.start
    if not h or not w or valid_HW.all():
        return np.zeros((h, w), dtype=bool)
    cells = (
        Affine.translation(-origin[1], -origin[0])
        @ tower.affine()
        @ Affine.translation(cols.start, rows.start)
    )
    return ~cells_with_data(valid_HW, cells, h, w)
