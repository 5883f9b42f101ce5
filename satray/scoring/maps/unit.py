"""Score one unit: read its windows ahead, one forward each, and gather what they say.

Legend: K classes, k classes mapped, C bands, H x W net px, T x U tiles.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.errors import DecodeError
from satray.models.bundle import Bundle
from satray.scoring.dense.answers import TileScores
from satray.scoring.dense.by_tile import Patch, TileScorer
from satray.scoring.dense.forward import DenseScorer
from satray.scoring.dense.windows import ScenePlan, Span, Window
from satray.scoring.forward import CamKind, Features
from satray.scoring.maps.ahead import Ahead
from satray.scoring.maps.coverage import Coverage, GapPart, coverage_of
from satray.scoring.maps.jobs import SceneJob
from satray.scoring.maps.picture import Canvas, canvas_of
from satray.scoring.maps.piece import PicturePart, PieceOfWork, Strip, TileRows
from satray.scoring.maps.plan import Geometries, Row, owned, plan_of, rows_of
from satray.scoring.maps.settings import Settings
from satray.scoring.predictions import Numbers
from satray.scoring.scenes.grid import NetGrid
from satray.scoring.scenes.open import Scene
from satray.scoring.scenes.read import WindowPixels, read_window, with_fills


@dataclass(frozen=True)
class Layouts:
    """A scene's plan and picture: what all of its units share."""

    plan: ScenePlan
    """Its windows or pieces."""
    rows: tuple[Row, ...]
    """They, row by row."""
    own: tuple[Span, ...]
    """Net rows of the picture that each row of windows shows."""
    canvas: Canvas
    """The picture."""
    coverage: Coverage
    """Which cell each net px belongs to."""


def layouts_of(
    job: SceneJob, settings: Settings, geometries: Geometries, bands: tuple[str, ...]
) -> Layouts:
    """Plan a scene, as every process does that works on it."""
    grid = job.grid
    plan = plan_of(grid.net_height, grid.net_width, job.way.mode, settings, geometries)
    rows = rows_of(plan)
    own = owned([row.px for row in rows], grid.net_height)
    size, net = (grid.height, grid.width), (grid.net_height, grid.net_width)
    canvas, coverage = canvas_of(size, net, bands), coverage_of(net, plan)
    return Layouts(plan, rows, tuple(own), canvas, coverage)


class UnitScorer:
    """A bundle over units of scenes."""

    def __init__(
        self,
        bundle: Bundle,
        settings: Settings,
        geometries: Geometries,
        features: Features | None = None,
    ) -> None:
        """Prepare.

        Args:
            bundle: on the device that is to compute.
            settings: the recipe's.
            geometries: the network's.
            features: another way to the network's features.
        """
        self._bundle, self._settings, self._geometries = bundle, settings, geometries
        self._features = features
        self._wanted = settings.wanted(bundle.spec)
        self._known: tuple[int, Layouts] | None = None

    def layouts(self, job: SceneJob) -> Layouts:
        """The plan of a job's scene; the last one is kept."""
        if self._known is None or self._known[0] != job.number:
            bands = self._bundle.spec.bands
            found = layouts_of(job, self._settings, self._geometries, bands)
            self._known = (job.number, found)
        return self._known[1]

    def __call__(self, scene: Scene, job: SceneJob, unit: int) -> PieceOfWork:
        """Score a unit.

        Raises:
            DecodeError: the scene cannot be read there, or the network's output is not finite.
        """
        layouts = self.layouts(job)
        some = range(job.way.units[unit].start, job.way.units[unit].stop)
        reads = [
            functools.partial(read_part, scene, job.grid, layouts.plan, part)
            for n in some
            for part in layouts.rows[n].parts
        ]
        ahead = Ahead(reads)
        pixels = iter(ahead)
        score = self._scorer(layouts.plan)
        gathered = _Gathered()
        start = time.perf_counter()
        for n in some:
            row = _RowGatherer(layouts, n, len(self._wanted.classes))
            for place, part in enumerate(layouts.rows[n].parts):
                window = next(pixels)
                row.show(window, part, place)
                row.add(*score(window, part), part)
                del window
            row.into(gathered, job.ref.scene)
        spent = time.perf_counter() - start
        computing = spent - ahead.waiting
        seconds = {"reading": ahead.reading, "waiting": ahead.waiting, "computing": computing}
        px = sum(p.height * p.width for n in some for p in layouts.rows[n].parts)
        return PieceOfWork(
            {tower: tuple(strips) for tower, strips in gathered.strips.items()},
            {tower: tuple(patches) for tower, patches in gathered.patches.items()},
            tuple(gathered.tiles),
            tuple(gathered.picture),
            tuple(gathered.gaps),
            seconds,
            px,
        )

    def _scorer(self, plan: ScenePlan) -> "Score":
        if plan.mode == "tiles":
            by_tile = TileScorer(
                self._bundle, plan, self._wanted, self._settings.batch, self._features
            )

            def tiles(pixels: WindowPixels, piece: Any) -> tuple[TileScores, Any, Any]:
                found = by_tile(pixels.pixels_CHW, pixels.measured_CHW, piece, pixels.fills_NC)
                return found.tiles, {}, found.patches

            return tiles
        dense = DenseScorer(self._bundle, plan, self._wanted, self._features)

        def windows(pixels: WindowPixels, window: Any) -> tuple[TileScores, Any, Any]:
            found = dense(pixels.pixels_CHW, pixels.measured_CHW, window)
            return found.tiles, found.maps, {}

        return windows


Maps = dict[CamKind, dict[str, NDArray[np.float32]]]
Score = Callable[[WindowPixels, "Window"], tuple[TileScores, Maps, dict[str, Patch]]]


def read_part(scene: Scene, grid: NetGrid, plan: ScenePlan, part: Window) -> WindowPixels:
    """Read a window, or a piece with what stands in for missing values in its tiles."""
    rows, cols = part.row.px, part.col.px
    window = read_window(scene, grid, cols.start, rows.start, len(cols), len(rows))
    if plan.mode == "dense":
        return window
    tops, lefts = plan.corners(part)
    tiles = [(int(top), int(left)) for top in tops for left in lefts]
    size = plan.rows.size, plan.cols.size
    return with_fills(window, scene, grid, (rows.start, cols.start), tiles, size)


@dataclass
class _Gathered:
    strips: dict[str, list[Strip]] = field(default_factory=dict)
    patches: dict[str, list[Patch]] = field(default_factory=dict)
    tiles: list[TileRows] = field(default_factory=list)
    picture: list[PicturePart] = field(default_factory=list)
    gaps: list[GapPart] = field(default_factory=list)


class _RowGatherer:
    """Puts the windows of one row side by side."""

    def __init__(self, layouts: Layouts, number: int, classes: int) -> None:
        self._layouts, self._number, self._classes = layouts, number, classes
        self._row = layouts.rows[number]
        self._own = owned([p.col.px for p in self._row.parts], len(layouts.coverage.cols))
        self._gaps: list[GapPart] = []
        self._tiles: list[tuple[Span, TileScores]] = []
        self._strips: dict[str, Strip] = {}
        self._patches: dict[str, list[Patch]] = {}
        canvas = layouts.canvas
        self._shown = canvas.within(layouts.own[number])
        shape = (len(self._shown), canvas.width)
        self._pixels = np.zeros((len(canvas.bands), *shape), dtype=np.float32)
        self._valid = np.zeros(shape, dtype=bool)

    def show(self, window: WindowPixels, part: Window, place: int) -> None:
        """Take the part of the picture, and count px without data."""
        layouts, canvas = self._layouts, self._layouts.canvas
        net = (layouts.own[self._number], self._own[place])
        start = (part.row.px.start, part.col.px.start)
        self._gaps.append(layouts.coverage.gaps(window.valid_HW, start, *net))
        cols = canvas.across(self._own[place])
        if not len(cols) or not len(self._shown):
            return
        found = canvas.sample(window.pixels_CHW, window.valid_HW, start, self._shown, cols)
        self._pixels[:, :, cols.start : cols.stop], self._valid[:, cols.start : cols.stop] = found

    def add(self, tiles: TileScores, maps: Maps, patches: dict[str, Patch], part: Window) -> None:
        """Take what the network says."""
        self._tiles.append((part.col.tiles, tiles))
        for tower, patch in patches.items():
            self._patches.setdefault(tower, []).append(patch)
        plan = self._layouts.plan
        if not maps:
            return
        for tower in next(iter(maps.values())):
            rows, cols = part.cells(tower)
            if tower not in self._strips:
                shape = (self._classes, len(rows), plan.cells(tower)[1])
                empty: dict[CamKind, NDArray[np.float32]] = {
                    kind: np.full(shape, np.nan, dtype=np.float32) for kind in maps
                }
                self._strips[tower] = Strip(rows.start, empty)
            for kind, by_tower in maps.items():
                self._strips[tower].maps[kind][:, :, cols.start : cols.stop] = by_tower[tower]

    def into(self, gathered: _Gathered, scene: str) -> None:
        """Hand over the row."""
        for tower, strip in self._strips.items():
            if next(iter(strip.maps.values())).shape[1]:
                gathered.strips.setdefault(tower, []).append(strip)
        gaps = [part for part in self._gaps if len(part.counts)]
        if gaps:
            gathered.gaps.append(
                GapPart(gaps[0].row, np.sum([part.counts for part in gaps], axis=0))
            )
        for tower, patches in self._patches.items():
            gathered.patches.setdefault(tower, []).extend(patches)
        if len(self._shown):
            part = PicturePart(self._shown.start, self._pixels, self._valid)
            gathered.picture.append(part)
        if len(self._row.tiles):
            gathered.tiles.append(self._joined(scene))

    def _joined(self, scene: str) -> TileRows:
        T = len(self._row.tiles)

        def across(values: Callable[[TileScores], NDArray[Any]]) -> NDArray[Any]:
            parts = [
                values(tiles).reshape(T, len(cols), *values(tiles).shape[1:])
                for cols, tiles in self._tiles
            ]
            whole = np.concatenate(parts, axis=1)
            return whole.reshape(-1, *whole.shape[2:])

        names = self._tiles[0][1].numbers.shares
        numbers = Numbers(
            across(lambda t: t.numbers.logits),
            across(lambda t: t.numbers.scores),
            across(lambda t: t.numbers.preds),
            {name: across(lambda t, name=name: t.numbers.shares[name]) for name in names},  # type: ignore[misc]
        )
        scored = across(lambda t: t.scored)
        wrong = int((scored & ~np.isfinite(numbers.logits).all(axis=1)).sum())
        if wrong:
            raise DecodeError(f"{scene}: the network's output is not finite for {wrong} tiles")
        return TileRows(self._row.tiles.start, numbers, scored)
