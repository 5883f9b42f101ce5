"""How much of each cell of a scene's map has no data, counted in the scene's own mask. Pure.

Each net px belongs to one cell, and to one window that counts it, so that counts of windows add up.

Legend: H x W net px, h x w cells.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from satray.scoring.dense.windows import ScenePlan, Span


@dataclass(frozen=True)
class GapPart:
    """Net px without data in whole rows of cells; parts of a scene add up."""

    row: int
    """First row of cells."""
    counts: NDArray[np.int32]
    """(h, w)."""


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
        """What a window adds: its px without data in each cell, over the whole width of the map.

        Args:
            valid_HW: of the window.
            origin: its first net row and column.
            rows: net rows that it counts.
            cols: net columns that it counts.
        """
        h, w = self.shape
        gap_HW = ~valid_HW[rows.within(origin[0]), cols.within(origin[1])]
        row_H = self.rows[rows.start : rows.start + gap_HW.shape[0]]
        inside = row_H[(row_H >= 0) & (row_H < h)]
        if not inside.size or not gap_HW.any():
            return GapPart(0, np.zeros((0, w), np.int32))
        first, count = int(inside[0]), int(inside[-1] - inside[0]) + 1
        down, across = np.nonzero(gap_HW)
        r, c = row_H[down] - first, self.cols[cols.start + across]
        good = (r >= 0) & (r < count) & (c >= 0) & (c < w)
        counts = np.bincount(r[good] * w + c[good], minlength=count * w)
        return GapPart(first, counts.reshape(count, w).astype(np.int32))

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
