"""Detections: peaks of a scene's maps as points on the ground.

Legend: K classes, h x w feature cells, N detections or points, T x U tiles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from satray.score.outlines import SceneExtent
from satray.score.products.peaks import PeakRule, find_peaks
from satray.score.windows import AxisTiles

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Detections:
    """N points of one scene, by class in the bundle's order, the likeliest first within a class."""

    extent: SceneExtent
    """The scene's."""
    klass: tuple[str, ...]
    """(N) class names."""
    score: Floats
    """(N,) 0 to 1: the class's probability at the cell, after temperature."""
    row: Floats
    """(N,) stored px from the scene's upper edge."""
    col: Floats
    """(N,) stored px from its left edge."""
    x: Floats
    """(N,) in the scene's CRS, or as its affine says; without one, the column."""
    y: Floats
    """(N,) in the scene's CRS, or as its affine says; without one, minus the row."""
    lon: Floats
    """(N,) degrees; NaN where there is no CRS."""
    lat: Floats
    """(N,) degrees; NaN where there is no CRS."""

    def __len__(self) -> int:
        """N."""
        return len(self.klass)

    def kept(self, keep: NDArray[np.bool_]) -> "Detections":
        """Those of (N,) `keep`."""
        klass = tuple(name for name, good in zip(self.klass, keep, strict=True) if good)
        columns = ("score", "row", "col", "x", "y", "lon", "lat")
        return Detections(self.extent, klass, *(getattr(self, name)[keep] for name in columns))


def on_data(found: Detections, mostly_hw: NDArray[np.bool_], cells: Affine) -> NDArray[np.bool_]:
    """Whether the cell of each point is one that has enough data, (N,).

    A cell with a little data has a value, and at the edge of a scene's data often a high one.

    Args:
        found: N points.
        mostly_hw: cells of which at least half has data.
        cells: from cell corners to stored px, axis-parallel.
    """
    h, w = mostly_hw.shape
    rows = np.clip(np.floor((found.row - cells.f) / cells.e), 0, h - 1).astype(np.int64)
    cols = np.clip(np.floor((found.col - cells.c) / cells.a), 0, w - 1).astype(np.int64)
    keep: NDArray[np.bool_] = mostly_hw[rows, cols]
    return keep


def detect(
    maps_Khw: NDArray[np.float32],
    cells: Affine,
    rule: PeakRule,
    classes: Sequence[str],
    extent: SceneExtent,
    wanted: Sequence[str] | None = None,
) -> Detections:
    """Find detections in the maps of a whole scene.

    Args:
        maps_Khw: dense CAMs of all classes, summed over towers (`summed`); NaN without data.
        cells: from cell corners to stored px.
        rule: what counts.
        classes: K names.
        extent: the scene's.
        wanted: classes whose detections are kept; default all.
    """
    peaks = find_peaks(maps_Khw, rule)
    if wanted is not None:
        places = [k for k, name in enumerate(classes) if name in set(wanted)]
        keep = np.isin(peaks.klass, places)
    else:
        keep = np.ones(len(peaks), dtype=bool)
    a, b, c, d, e, f = tuple(cells)[:6]
    # cells of the last row and column may reach over the scene's edge
    col = np.clip(a * peaks.col[keep] + b * peaks.row[keep] + c, 0, extent.width)
    row = np.clip(d * peaks.col[keep] + e * peaks.row[keep] + f, 0, extent.height)
    x, y = extent.affine @ (col, row)
    lon, lat = extent.lonlat(x, y)
    names = tuple(classes[k] for k in peaks.klass[keep])
    return Detections(extent, names, peaks.score[keep], row, col, x, y, lon, lat)


def summed(
    maps: Sequence[NDArray[np.float32]], cells: Sequence[Affine]
) -> tuple[NDArray[np.float32], Affine]:
    """The sum over towers, on the finest tower's grid.

    Towers on other grids are interpolated between cell centres, edge cells going on.

    Args:
        maps: (K, h, w) of each tower.
        cells: from each tower's cell corners to stored px, axis-parallel.
    """
    first = min(range(len(maps)), key=lambda i: (abs(cells[i].determinant), i))
    total = maps[first].astype(np.float32, copy=True)
    for i, values in enumerate(maps):
        if i != first:
            same = values.shape == total.shape and cells[i].almost_equals(cells[first], 1e-6)
            total += values if same else _moved(values, ~cells[i] @ cells[first], total.shape[1:])
    return total, cells[first]


class GivenTiles:
    """The decisions of a scene's tiles, asked by place.

    A peak is judged by its own cell. A tile is judged by all of its cells; where it takes the
    maximum of each feature, evidence against a class counts wherever it lies, and most peaks in
    tiles that are not given the class are false.
    """

    def __init__(self, rows: AxisTiles, cols: AxisTiles, classes: int) -> None:
        """None is given anything yet."""
        self._axes = (rows, cols)
        self._predicted_TUK = np.zeros((len(rows), len(cols), classes), dtype=bool)

    def add(self, start: int, predicted_NK: NDArray[np.bool_]) -> None:
        """Take whole rows of tiles, from row `start` on, in row order."""
        down = len(predicted_NK) // len(self._axes[1])
        shape = (down, *self._predicted_TUK.shape[1:])
        self._predicted_TUK[start : start + down] = predicted_NK.reshape(shape)

    def holds(
        self, klass: Sequence[int], row: NDArray[np.float64], col: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Whether any tile around each point is given its class, (N,).

        Args:
            klass: (N,) places of classes.
            row: (N,) net px. The strip that no tile reaches counts as the last tile's.
            col: (N,) net px.
        """
        (top, bottom), (left, right) = (
            _around(axis, at) for axis, at in zip(self._axes, (row, col), strict=True)
        )
        boxes = zip(top, bottom, left, right, klass, strict=True)
        held = [self._predicted_TUK[t:b, x:y, k].any() for t, b, x, y, k in boxes]
        return np.array(held, dtype=bool)


def _moved(
    values_Khw: NDArray[np.float32], way: Affine, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Values at the cells of another grid; `way` leads from its cells to those of the values.

    Bilinear over the cells that have data; NaN where none does.
    """
    from scipy import ndimage

    first = way.e / 2 + way.f - 0.5, way.a / 2 + way.c - 0.5

    def at_cells(values_hw: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(
            ndimage.affine_transform(
                values_hw.astype(np.float64), (way.e, way.a), first, shape, order=1, mode="nearest"
            )
        )

    moved_Khw = np.empty((len(values_Khw), *shape), np.float32)
    for moved_hw, values_hw in zip(moved_Khw, values_Khw, strict=True):
        known_hw = ~np.isnan(values_hw)
        share_hw = at_cells(known_hw)
        with np.errstate(invalid="ignore", divide="ignore"):
            moved_hw[:] = at_cells(np.where(known_hw, values_hw, 0)) / share_hw
    return moved_Khw


def _around(
    axis: AxisTiles, at: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last + 1 of the tiles that cover each place along an axis."""
    origins = np.array(axis.origins, dtype=np.float64)
    inside = np.clip(at, 0, np.nextafter(origins[-1] + axis.size, 0))
    first = np.searchsorted(origins, inside - axis.size, side="right")
    stop = np.searchsorted(origins, inside, side="right")
    return first.astype(np.int64), stop.astype(np.int64)
