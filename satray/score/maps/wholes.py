"""A scene's maps put together from its windows: rasters on the local disk, arrays for peaks.

Legend: k classes mapped, h x w cells.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from satray.score.dense.blend import Blender
from satray.score.dense.windows import ScenePlan, Window
from satray.score.rasters import StripWriter
from satray.score.results import CamKind, WindowScores

HELD = 1 << 30
"""Bytes that a scene's maps and the search for their peaks may take; beyond, there are none."""


@dataclass(frozen=True)
class RasterFacts:
    """What a scene's rasters say of themselves."""

    affine: Mapping[str, Affine]
    """Tower -> from cell corners to CRS units."""
    crs: str | None
    """CRS."""
    tags: Mapping[str, str]
    """Tags of them all."""
    written: tuple[int, ...]
    """Places, among the classes mapped, of those written."""
    names: tuple[str, ...]
    """Their names."""
    kinds: tuple[CamKind, ...]
    """Kinds that are written."""


class Wholes:
    """Gathers a scene's maps; a context manager that removes its working files."""

    def __init__(
        self,
        folder: Path,
        plan: ScenePlan,
        mapped: int,
        kinds: tuple[CamKind, ...],
        facts: RasterFacts,
    ) -> None:
        """Prepare.

        Args:
            folder: on the local disk.
            plan: of the scene.
            mapped: k, classes in the windows' maps; 0 for no maps.
            kinds: kinds in the windows' maps.
            facts: of the rasters.
        """
        self._plan, self._facts, self._folder = plan, facts, folder
        self._towers = [t.name for t in plan.geometry.towers] if kinds and mapped else []
        self._stack = ExitStack()
        self._writers: dict[tuple[CamKind, str], StripWriter] = {}
        self._blenders: dict[str, Blender] = {}
        self.dense: dict[str, NDArray[np.float32]] = {}
        """Tower -> (k, h, w), the whole dense map; none where it is too large to be held."""
        if plan.mode == "tiles":
            self._blenders = {t: Blender(plan, t, mapped, kinds) for t in self._towers}
        if "dense" in kinds and self._towers and self._held(mapped) <= HELD:
            for tower in self._towers:
                shape = (mapped, *plan.cells(tower))
                self.dense[tower] = np.full(shape, np.nan, dtype=np.float32)

    def _held(self, mapped: int) -> int:
        cells = [h * w for h, w in (self._plan.cells(tower) for tower in self._towers)]
        return 4 * mapped * sum(cells) + (40 + 20 * mapped) * max(cells)

    def __enter__(self) -> Self:
        for kind in self._facts.kinds if self._towers and self._facts.written else ():
            for tower in self._towers:
                writer = StripWriter(
                    self._folder / f"{kind}-{tower}.tif",
                    (len(self._facts.written), *self._plan.cells(tower)),
                    self._facts.names,
                    self._facts.affine[tower],
                    self._facts.crs,
                    {**self._facts.tags, "kind": kind, "tower": tower},
                )
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

    def shape(self, tower: str) -> tuple[int, int]:
        """Rows and columns of a tower's map."""
        return self._plan.cells(tower)

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
            writer.write(values[list(self._facts.written)], row, col)


def best_score(local_k: Sequence[float], place: int, task: str, temperature: float) -> float:
    """Score of a class at one cell, of the local logits there."""
    z_k = np.asarray(local_k, dtype=np.float64) / temperature
    if task == "multiclass" and len(z_k) > 1:
        e_k = np.exp(z_k - z_k.max())
        return float(e_k[place] / e_k.sum())
    return float(1 / (1 + np.exp(-z_k[place])))
