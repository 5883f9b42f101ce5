"""Detections: peaks of a scene's maps as points on the ground.

Legend: K classes, h x w feature cells, N detections.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from satray.scoring.outlines import SceneGround
from satray.scoring.products.peaks import PeakRule, find_peaks

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Detections:
    """N points of one scene, by class in the bundle's order, the likeliest first within a class."""

    ground: SceneGround
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
    """(N,) degrees; NaN where there is no ground."""
    lat: Floats
    """(N,) degrees; NaN where there is no ground."""

    def __len__(self) -> int:
        """N."""
        return len(self.klass)

    def kept(self, keep: NDArray[np.bool_]) -> "Detections":
        """Those of (N,) `keep`."""
        klass = tuple(name for name, good in zip(self.klass, keep, strict=True) if good)
        columns = ("score", "row", "col", "x", "y", "lon", "lat")
        return Detections(self.ground, klass, *(getattr(self, name)[keep] for name in columns))


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


def rule_of(spec: "BundleSpec", bias: Sequence[float], distance: float | None = None) -> PeakRule:
    """The rule of a bundle.

    Args:
        spec: the bundle's.
        bias: K numbers of its head.
        distance: least distance of two detections of a class, in px of the network's input; half
            a tile by default.
    """
    stride = min(grid.stride for grid in spec.grids.values())
    apart = spec.size / 2 if distance is None else distance
    return PeakRule(
        spec.task, tuple(bias), spec.temperature, tuple(spec.thresholds), apart / stride
    )


def detect(
    maps_Khw: NDArray[np.float32],
    cells: Affine,
    rule: PeakRule,
    classes: Sequence[str],
    ground: SceneGround,
    wanted: Sequence[str] | None = None,
) -> Detections:
    """Find detections in the maps of a whole scene.

    Args:
        maps_Khw: dense CAMs of all classes, summed over towers (`summed`); NaN without data.
        cells: from cell corners to stored px.
        rule: what counts.
        classes: K names.
        ground: the scene's.
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
    col = np.clip(a * peaks.col[keep] + b * peaks.row[keep] + c, 0, ground.width)
    row = np.clip(d * peaks.col[keep] + e * peaks.row[keep] + f, 0, ground.height)
    x, y = ground.points(col, row)
    lon, lat = ground.lonlat(x, y)
    names = tuple(classes[k] for k in peaks.klass[keep])
    return Detections(ground, names, peaks.score[keep], row, col, x, y, lon, lat)


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


def _moved(
    values_Khw: NDArray[np.float32], way: Affine, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Values at the cells of another grid; `way` leads from its cells to those of the values."""
    height, width = shape
    rows = np.asarray(way.e * (np.arange(height) + 0.5) + way.f - 0.5, dtype=np.float64)
    cols = np.asarray(way.a * (np.arange(width) + 0.5) + way.c - 0.5, dtype=np.float64)
    return _along(_along(values_Khw, rows, 1), cols, 2)


def _along(values: NDArray[np.float32], places: Floats, axis: int) -> NDArray[np.float32]:
    size = values.shape[axis]
    clamped = np.clip(places, 0, size - 1)
    low = np.minimum(np.floor(clamped).astype(int), max(size - 2, 0))
    share = (clamped - low).astype(np.float32)
    shape = [1, 1, 1]
    shape[axis] = -1
    share = share.reshape(shape)
    lower, upper = (np.take(values, n, axis=axis) for n in (low, np.minimum(low + 1, size - 1)))
    # not lower + share * (...): a neighbour without data must not count where its share is 0
    mixed = np.where(share == 0, lower, np.where(share == 1, upper, 0))
    inner = (share > 0) & (share < 1)
    moved: NDArray[np.float32] = np.where(inner, lower * (1 - share) + upper * share, mixed)
    return moved
