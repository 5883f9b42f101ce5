"""The maps of a scene, put together of its windows': memory is bounded by strips.

Legend: k classes mapped, h x w cells.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from satray.score.rasters import StripWriter
from satray.score.results import CamKind, MapRequest, Patch, WindowScores
from satray.score.windows import ScenePlan, Window

HELD = 1 << 30
"""Bytes that a scene's maps and the search for their peaks may take; beyond, there are none."""


class SceneMaps:
    """Gathers a scene's maps; a context manager that removes its working files."""

    def __init__(
        self,
        folder: Path,
        plan: ScenePlan,
        maps: MapRequest,
        written: MapRequest,
        create: Callable[[Path, CamKind, str], StripWriter],
    ) -> None:
        """Prepare.

        Args:
            folder: on the local disk.
            plan: of the scene.
            maps: in the windows' scores.
            written: what of them is written.
            create: begins the raster of a kind and tower, at a local path.
        """
        mapped, kinds = len(maps.classes), maps.kinds
        self._plan, self._folder = plan, folder
        self._kinds, self._create = written.kinds, create
        self._places = [maps.classes.index(k) for k in written.classes]
        self._towers = [t.name for t in plan.geometry.towers] if kinds else []
        self._stack = ExitStack()
        self._writers: dict[tuple[CamKind, str], StripWriter] = {}
        self._blenders: dict[str, Blender] = {}
        self.dense: dict[str, NDArray[np.float32]] = {}
        """Tower -> (k, h, w), the whole dense map; none where it is too large to be held."""
        if plan.mode == "tiles":
            self._blenders = {t: Blender(plan, t, mapped, kinds) for t in self._towers}
        if "dense" in kinds and self._held(mapped) <= HELD:
            for tower in self._towers:
                shape = (mapped, *plan.cells(tower))
                self.dense[tower] = np.full(shape, np.nan, dtype=np.float32)

    def _held(self, mapped: int) -> int:
        cells = [h * w for h, w in (self._plan.cells(tower) for tower in self._towers)]
        return 4 * mapped * sum(cells) + (40 + 20 * mapped) * max(cells)

    def __enter__(self) -> Self:
        for kind in self._kinds:
            for tower in self._towers:
                path = self._folder / f"{kind}-{tower}.tif"
                writer = self._create(path, kind, tower)
                self._writers[kind, tower] = self._stack.enter_context(writer)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, window: Window, scores: WindowScores) -> None:
        """Take what the network says of the next window; they come in row order."""
        for kind, by_tower in scores.maps.items():
            for tower, values in by_tower.items():
                rows, cols = window.cells(tower)
                self._write(kind, tower, values, rows.start, cols.start)
        for tower, patch in scores.patches.items():
            for done in self._blenders[tower].add(patch):
                for kind, values in done.maps.items():
                    self._write(kind, tower, values, done.row, 0)

    def rasters(self) -> Iterator[tuple[CamKind, str, Path]]:
        """Make the optimised rasters, one after another: kind, tower, local file."""
        for (kind, tower), writer in self._writers.items():
            yield kind, tower, writer.optimise(self._folder / f"{kind}-{tower}-cog.tif")

    def _write(
        self, kind: CamKind, tower: str, values: NDArray[np.float32], row: int, col: int
    ) -> None:
        if not values.size:
            return
        if kind == "dense" and tower in self.dense:
            there = np.s_[:, row : row + values.shape[1], col : col + values.shape[2]]
            self.dense[tower][there] = values
        writer = self._writers.get((kind, tower))
        if writer is not None:
            writer.write(values[self._places], row, col)


@dataclass(frozen=True)
class Strip:
    """Whole rows of a scene's map, done."""

    row: int
    """First of them."""

    maps: dict[CamKind, NDArray[np.float32]]
    """Kind -> (k, h, w), NaN where no tile lies or no px is valid."""


class Blender:
    """One tower's map of a scene; give it each window's patch once, in any order.

    Only rows between the first that is not done and the last that was given are in memory: two
    rows of windows at the most where patches come in row order.
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
        # rows of windows by their first row of cells, with the patches that are still to come
        self._waiting: dict[int, int] = {}
        for window in plan.windows:
            start = window.row.cells[tower].start
            self._waiting[start] = self._waiting.get(start, 0) + 1
        self._done = 0
        self._sums = {kind: np.zeros((classes, 0, width), dtype=np.float32) for kind in kinds}
        self._weights = np.zeros((0, width), dtype=np.float32)
        self._data = np.zeros((0, width), dtype=bool)

    def add(self, patch: Patch) -> Iterator[Strip]:
        """Take a patch, and give what is done by it: one strip or none.

        All rows have been given when all windows have been taken.
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
