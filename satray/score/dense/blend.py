"""Put patches of pieces together to strips of a scene's map, with bounded memory.

Legend: k classes, h x w cells.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from satray.score.dense.windows import ScenePlan
from satray.score.results import CamKind, Patch


@dataclass(frozen=True)
class Strip:
    """Whole rows of a scene's map, done."""

    row: int
    """First of them."""

    maps: dict[CamKind, NDArray[np.float32]]
    """Kind -> (k, h, w), NaN where no tile lies or no px is valid."""


class Blender:
    """One tower's map of a scene; give it each piece's patch once, in any order.

    Only rows between the first that is not done and the last that was given are in memory: two
    rows of pieces at the most where patches come in row order.
    """

    def __init__(
        self, plan: ScenePlan, tower: str, classes: int, kinds: tuple[CamKind, ...]
    ) -> None:
        """Prepare.

        Args:
            plan: of the scene.
            tower: whose map.
            classes: k, how many are mapped.
            kinds: of the maps.
        """
        self._height, width = plan.cells(tower)
        # rows of pieces by their first row of cells, with the patches that are still to come
        self._waiting: dict[int, int] = {}
        for piece in plan.windows:
            start = piece.row.cells[tower].start
            self._waiting[start] = self._waiting.get(start, 0) + 1
        self._done = 0
        self._sums = {kind: np.zeros((classes, 0, width), dtype=np.float32) for kind in kinds}
        self._weights = np.zeros((0, width), dtype=np.float32)
        self._data = np.zeros((0, width), dtype=bool)

    def add(self, patch: Patch) -> Iterator[Strip]:
        """Take a patch, and give what is done by it: one strip or none.

        All rows have been given when all pieces have been taken.
        """
        h, w = patch.weights.shape
        self._grow(patch.row + h - self._done)
        top = patch.row - self._done
        there = np.s_[top : top + h, patch.col : patch.col + w]
        self._weights[there] += patch.weights
        self._data[there] |= patch.data
        for kind, sums in patch.sums.items():
            self._sums[kind][:, *there] += sums
        self._waiting[patch.row] -= 1
        if not self._waiting[patch.row]:
            del self._waiting[patch.row]
        until = min(self._waiting, default=self._height)
        if until > self._done:
            yield self._take(until - self._done)

    def _grow(self, rows: int) -> None:
        more = rows - len(self._weights)
        if more > 0:
            self._weights = np.pad(self._weights, ((0, more), (0, 0)))
            self._data = np.pad(self._data, ((0, more), (0, 0)))
            self._sums = {
                kind: np.pad(sums, ((0, 0), (0, more), (0, 0))) for kind, sums in self._sums.items()
            }

    def _take(self, rows: int) -> Strip:
        self._grow(rows)
        weights, data = self._weights[:rows], self._data[:rows]
        maps = {}
        for kind, sums in self._sums.items():
            maps[kind] = np.divide(
                sums[:, :rows],
                weights,
                out=np.full(sums[:, :rows].shape, np.nan, dtype=np.float32),
                where=(weights > 0) & data,
            )
        strip = Strip(self._done, maps)
        self._weights, self._data = self._weights[rows:].copy(), self._data[rows:].copy()
        self._sums = {kind: sums[:, rows:].copy() for kind, sums in self._sums.items()}
        self._done += rows
        return strip
