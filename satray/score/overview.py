"""What is seen of a scene beside the network: its picture, and where it has no data. Pure.

Each net px belongs to one window that shows and counts it, so that the windows' parts add up.

Legend: C bands shown, H x W net px of a window, h x w px of the picture, or cells of a map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.score.products.quicklook import picture_size
from satray.score.windows import ScenePlan, Span

BOX = 4
"""Side of the square of px that one of the picture is the mean of, at most."""
COLOURS = ("red", "green", "blue")


@dataclass(frozen=True)
class Canvas:
    """Where the picture's px lie in the scene."""

    rows: NDArray[np.int64]
    """(h,) net row that each row of the picture shows."""
    cols: NDArray[np.int64]
    """(w,) net column that each shows."""
    bands: tuple[int, ...]
    """Places of the bands shown: red, green and blue, or the first."""
    box: tuple[int, int]
    """Rows and columns of net px that are averaged, from those on."""

    @property
    def width(self) -> int:
        """Columns of the picture."""
        return len(self.cols)

    def within(self, rows: Span) -> Span:
        """Rows of the picture that show some net rows."""
        found = np.searchsorted(self.rows, (rows.start, rows.stop))
        return Span(int(found[0]), int(found[1]))

    def across(self, cols: Span) -> Span:
        """Columns of the picture that show some net columns."""
        found = np.searchsorted(self.cols, (cols.start, cols.stop))
        return Span(int(found[0]), int(found[1]))

    def sample(
        self,
        pixels_CHW: NDArray[Any],
        valid_HW: NDArray[np.bool_],
        origin: tuple[int, int],
        rows: Span,
        cols: Span,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The part of the picture that a window shows, (C, h, w), and where it has data.

        Args:
            pixels_CHW: of the window.
            valid_HW: where it has data.
            origin: its first net row and column.
            rows: of the picture, shown by this window.
            cols: the same.
        """
        there = (
            self.rows[rows.start : rows.stop] - origin[0],
            self.cols[cols.start : cols.stop] - origin[1],
        )
        H, W = valid_HW.shape
        shape = (len(there[0]), len(there[1]))
        total = np.zeros((len(self.bands), *shape), dtype=np.float64)
        count = np.zeros(shape, dtype=np.int64)
        for down in range(self.box[0]):
            for right in range(self.box[1]):
                at = np.ix_(np.minimum(there[0] + down, H - 1), np.minimum(there[1] + right, W - 1))
                good = valid_HW[at]
                count += good
                for place, band in enumerate(self.bands):
                    total[place] += np.where(good, pixels_CHW[band][at], 0)
        mean: NDArray[np.float32] = (total / np.maximum(count, 1)).astype(np.float32)
        return mean, count > 0


def canvas_of(size: tuple[int, int], net: tuple[int, int], bands: Sequence[str]) -> Canvas:
    """Lay out a scene's picture.

    Args:
        size: height and width of the scene, stored px: they decide the picture's shape.
        net: the same, net px.
        bands: of the pixels that will come.
    """
    shape = picture_size(*size)
    places = [
        ((np.arange(count) + 0.5) * length / count).astype(np.int64)
        for count, length in zip(shape, net, strict=True)
    ]
    box = [max(1, min(BOX, length // count)) for count, length in zip(shape, net, strict=True)]
    colours = all(name in bands for name in COLOURS)
    shown = tuple(bands.index(name) for name in COLOURS) if colours else (0,)
    return Canvas(places[0], places[1], shown, (box[0], box[1]))


@dataclass(frozen=True)
class GapPart:
    """Net px without data in some rows of cells; parts of a scene add up."""

    row: int
    """First row of cells."""
    col: int
    """First column of cells."""
    counts: NDArray[np.int32]
    """(h, w)."""


@dataclass(frozen=True)
class Seen:
    """A window's part of the overview."""

    rows: Span
    """Rows of the picture."""
    cols: Span
    """Columns of the picture."""
    pixels: NDArray[np.float32]
    """(C, h, w)."""
    valid: NDArray[np.bool_]
    """(h, w) where the picture has data."""
    gaps: GapPart
    """Px without data."""


@dataclass(frozen=True)
class Coverage:
    """Which cell each net px of a scene belongs to."""

    rows: NDArray[np.int64]
    """(H,) row of cells, rising; of px beyond the map it is none of its rows."""
    cols: NDArray[np.int64]
    """(W,) column of cells, likewise."""
    shape: tuple[int, int]
    """Rows and columns of cells."""

    def gaps(
        self, valid_HW: NDArray[np.bool_], origin: tuple[int, int], rows: Span, cols: Span
    ) -> GapPart:
        """What a window adds: its px without data in each cell.

        Args:
            valid_HW: of the window.
            origin: its first net row and column.
            rows: net rows that it counts.
            cols: net columns that it counts.
        """
        gap_HW = ~valid_HW[rows.within(origin[0]), cols.within(origin[1])]
        down, right = np.nonzero(gap_HW)
        row_N, col_N = self.rows[rows.start + down], self.cols[cols.start + right]
        h, w = self.shape
        inside = (row_N >= 0) & (row_N < h) & (col_N >= 0) & (col_N < w)
        if not inside.any():
            return GapPart(0, 0, np.zeros((0, 0), np.int32))
        row_N, col_N = row_N[inside], col_N[inside]
        top, left = int(row_N.min()), int(col_N.min())
        shape = int(row_N.max()) - top + 1, int(col_N.max()) - left + 1
        counts = np.bincount((row_N - top) * shape[1] + col_N - left, minlength=shape[0] * shape[1])
        return GapPart(top, left, counts.reshape(shape).astype(np.int32))

    def mostly_data(self, gaps_hw: NDArray[np.int32]) -> NDArray[np.bool_]:
        """(h, w) whether at least half of a cell's px in the scene have data.

        Args:
            gaps_hw: px without data, of all windows.
        """
        down, across = (
            np.bincount(places[(places >= 0) & (places < size)], minlength=size)
            for places, size in zip((self.rows, self.cols), self.shape, strict=True)
        )
        mostly: NDArray[np.bool_] = 2 * gaps_hw <= np.outer(down, across)
        return mostly


def coverage_of(size: tuple[int, int], plan: ScenePlan) -> Coverage:
    """Lay the finest of a plan's maps over its scene.

    Args:
        size: height and width of the scene, net px.
        plan: of the scene.
    """
    lattices = [plan.geometry.tower(tower.name) for tower in plan.geometry.towers]
    tower = min(lattices, key=lambda lattice: lattice.stride)
    corner = tower.centre - tower.stride / 2
    rows, cols = (
        np.floor((np.arange(length) + 0.5 - corner) / tower.stride).astype(np.int64)
        for length in size
    )
    return Coverage(rows, cols, plan.cells(tower.name))


def see(
    canvas: Canvas,
    coverage: Coverage,
    pixels_CHW: NDArray[Any],
    valid_HW: NDArray[np.bool_],
    origin: tuple[int, int],
    alone: tuple[Span, Span],
) -> Seen:
    """A window's part of a scene's overview.

    Args:
        canvas: the scene's.
        coverage: the scene's.
        pixels_CHW: of the window.
        valid_HW: where it has data.
        origin: its first net row and column.
        alone: net rows and columns that it shows and counts, and no other window does.
    """
    rows, cols = canvas.within(alone[0]), canvas.across(alone[1])
    pixels, valid = canvas.sample(pixels_CHW, valid_HW, origin, rows, cols)
    return Seen(rows, cols, pixels, valid, coverage.gaps(valid_HW, origin, *alone))
