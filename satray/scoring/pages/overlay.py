"""A class activation map laid on the picture of its tile.

Legend: h x w cells, H x W pixels of the picture.
"""

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from satray.models.geometry import cam_transform, centred
from satray.models.spec import BundleSpec

Floats = NDArray[np.float64]


def cells_on_picture(
    spec: BundleSpec, tower: str, across: int, height: int, width: int, *, d4: bool = False
) -> Affine:
    """The affine from a tower's cell corners to the pixel corners of a picture.

    Args:
        spec: the bundle's.
        tower: whose cells.
        across: how many of them a side.
        height: rows of the picture, which shows the whole tile (px).
        width: columns of the picture (px).
        d4: whether the map is a mean over the tile's symmetries.
    """
    tall, wide = spec.tile_shape
    shown = Affine.scale(width / wide, height / tall)
    geometry = spec.preprocess().geometry(tall, wide)
    grid = spec.grids[tower]
    if d4:
        grid = centred(grid, geometry.size, across)
    return cam_transform(shown, geometry, grid)


def on_pixels(values_hw: NDArray[np.float32], cells: Affine, height: int, width: int) -> Floats:
    """A map at the pixels of a picture: bilinear between cell centres, edge cells going on.

    Args:
        values_hw: the map.
        cells: from cell corners to pixel corners (no rotation).
        height: H.
        width: W.
    """
    back = ~cells
    rows = back.e * (np.arange(height) + 0.5) + back.f - 0.5
    columns = back.a * (np.arange(width) + 0.5) + back.c - 0.5
    row_Hh = _weights(rows, values_hw.shape[0])
    column_Ww = _weights(columns, values_hw.shape[1])
    laid: Floats = row_Hh @ values_hw.astype(np.float64) @ column_Ww.T
    return laid


def _weights(places: Floats, cells: int) -> Floats:
    """Linear weights (places, cells) of a place between cell numbers; clamped at both ends."""
    clamped = np.clip(places, 0, cells - 1)
    lower = np.minimum(clamped.astype(int), max(cells - 2, 0))
    upper = np.minimum(lower + 1, cells - 1)
    share = clamped - lower
    weights = np.zeros((len(places), cells))
    rows = np.arange(len(places))
    weights[rows, lower] += 1 - share
    weights[rows, upper] += share
    return weights
