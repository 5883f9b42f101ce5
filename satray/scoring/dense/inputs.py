"""From a window's pixels to the network's input, and what of it is valid."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from satray.models.bundle import Bundle
from satray.models.preprocess import normalize
from satray.scoring.dense.lattice import TowerLattice
from satray.scoring.rasters import cells_with_data

Features = Callable[[Tensor], dict[str, Tensor]]
"""x_BCHW (normalised float32; in windows any multiple of the block) -> f_BDhw by tower."""


def network_input(
    bundle: Bundle, pixels_CHW: NDArray[np.generic], valid_HW: NDArray[np.bool_]
) -> Tensor:
    """Normalised x_1CHW (float32, channels last, on the bundle's device).

    Args:
        bundle: whose bands the channels are, in its order.
        pixels_CHW: stored values on the net lattice, any dtype; anything where not valid.
        valid_HW: where there is data; elsewhere the network sees each band's training mean.
    """
    way = bundle.spec.preprocess()
    pixels_1CHW = torch.from_numpy(np.ascontiguousarray(pixels_CHW))[None].to(bundle.device)
    x_1CHW = normalize(way.values(pixels_1CHW), way.mean, way.std)
    if not valid_HW.all():
        gap_HW = torch.from_numpy(~valid_HW).to(bundle.device)
        x_1CHW = x_1CHW.masked_fill(gap_HW, 0.0)  # the mean, normalised
    return x_1CHW.contiguous(memory_format=torch.channels_last)


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
