"""From a scene's windows to its products, on the local disk: memory is bounded.

Legend: K classes, k classes mapped, h x w cells, N tiles.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from satray.errors import DecodeError, SatrayError
from satray.models.spec import BundleSpec
from satray.score.dense.blend import Blender
from satray.score.dense.windows import AxisTiles, ScenePlan, Window
from satray.score.maps.jobs import SceneJob
from satray.score.maps.layout import SceneLayout
from satray.score.maps.overview import Seen
from satray.score.maps.settings import Settings
from satray.score.predictions import (
    Layout,
    Numbers,
    PredictionsWriter,
    SceneTiles,
    scene_predictions,
)
from satray.score.products import names, vectors
from satray.score.products.detections import Detections, GivenTiles, detect, on_data, summed
from satray.score.products.moment import Moment, moment_of
from satray.score.products.peaks import PeakRule
from satray.score.products.quicklook import Evidence, View, quicklook, strongest
from satray.score.products.stac import ItemProduct
from satray.score.rasters import StripWriter
from satray.score.results import CamKind, TileScores, WindowScores

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


class SceneMaps:
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


MANY = 100_000
"""Detections that GeoJSON is still written for; readers of text give up beyond."""


@dataclass(frozen=True)
class MadeFile:
    """A product on the local disk, or in memory."""

    facts: ItemProduct
    """What its catalogue entry will say; size and digest are yet unknown."""
    source: Path | bytes
    """It."""
    rows: int | None = None
    """Rows, where it is a table."""


@dataclass
class Counts:
    """What was counted of a scene."""

    tiles: int = 0
    """With scores."""
    nodata: int = 0
    """Without, for want of data."""
    detections: int = 0
    """Points."""
    predicted: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Tiles that are given each class."""


@dataclass(frozen=True)
class Assembly:
    """All that assembling needs to know."""

    job: SceneJob
    """The scene's."""
    scene: SceneLayout
    """Its windows and overview."""
    settings: Settings
    """The recipe's."""
    spec: BundleSpec
    """The bundle's."""
    layout: Layout
    """Columns of tables."""
    bias: tuple[float, ...]
    """(K,) of the head; empty where it is dense."""
    engine: str
    """What computed the features (`engine_line`)."""

    @property
    def moment(self) -> Moment:
        """When the scene was taken."""
        ref, pattern = self.job.ref, self.settings.pattern
        known = re.compile(pattern) if pattern else None
        return moment_of(ref.scene, ref.modified, known, ref.item, self.job.taken_at)

    def make(
        self, windows: Iterable[tuple[Seen, WindowScores]], folder: Path
    ) -> tuple[list[MadeFile], Counts, list[str]]:
        """Make all products but the catalogue entry.

        Args:
            windows: what was seen of each, and what the network says; in order.
            folder: on the local disk; empty.

        Returns:
            Products, counts, and notes for the reader.
        """
        wanted = self.settings.wanted(self.spec)
        counts = Counts(predicted=np.zeros(len(self.spec.classes), dtype=np.int64))
        table = folder / "tiles.parquet"
        canvas, plan = self.scene.canvas, self.scene.plan
        shape = (len(canvas.rows), canvas.width)
        pixels = np.zeros((len(canvas.bands), *shape), dtype=np.float32)
        valid = np.zeros(shape, dtype=bool)
        gaps = np.zeros(self.scene.coverage.shape, dtype=np.int32)
        given = GivenTiles(plan.rows, plan.cols, len(self.spec.classes))
        with SceneMaps(
            folder, plan, len(wanted.classes), wanted.kinds, self._facts(wanted.classes)
        ) as scene_maps:
            made = {"mode": self.job.mode, "engine": self.engine}
            with PredictionsWriter(table, self.layout, **made) as writer:
                row: list[TileScores] = []
                for window, (seen, scores) in zip(plan.windows, windows, strict=True):
                    scene_maps.add(window, scores)
                    shown = np.s_[..., seen.rows.within(0), seen.cols.within(0)]
                    pixels[shown], valid[shown] = seen.pixels, seen.valid
                    gap, (h, w) = seen.gaps, seen.gaps.counts.shape
                    gaps[gap.row : gap.row + h, gap.col : gap.col + w] += gap.counts
                    row.append(scores.tiles)
                    if len(row) == len(self.scene.cols):
                        start, rows = window.row.tiles.start, self._side_by_side(row)
                        row = []
                        if len(rows.scored):
                            self._tiles(writer, start, rows, counts)
                            given.add(start, (rows.numbers.preds > 0) & rows.scored[:, None])
            files = self._rasters(scene_maps)
            tiles = ItemProduct("tiles", names.predictions_name(self.job.ref.scene))
            files.append(MadeFile(tiles, table, writer.rows))
            mostly = self.scene.coverage.mostly_data(gaps)
            found, evidence, notes = self._peaks(scene_maps, mostly, given)
        if found is not None:
            counts.detections = len(found)
            files += self._vectors(found)
        view = View(pixels, valid, self.job.grid.height, self.job.grid.width)
        files.append(self._quicklook(view, evidence, found))
        if not counts.tiles:
            notes.append("no tile holds enough data")
        return files, counts, notes

    def _facts(self, mapped: tuple[int, ...]) -> RasterFacts:
        settings, grid, spec = self.settings, self.job.grid, self.spec
        geometry = self.scene.plan.geometry
        affine = {
            tower.name: grid.affine_net @ geometry.tower(tower.name).affine()
            for tower in geometry.towers
        }
        tags = {
            "model_id": self.layout.model_id,
            "run_id": self.layout.run_id,
            "scene": self.job.ref.scene,
            "pooling": spec.variant.pooling,
            "symmetries": "d4" if settings.d4 else "none",
            "mode": self.job.mode,
            "engine": self.engine,
            "border_cells": (
                "as of one forward over the whole scene"
                if self.job.mode == "dense"
                else "tiles blended with a Hann window"
            ),
        }
        places = tuple(mapped.index(k) for k in settings.classes)
        named = tuple(spec.classes[k] for k in settings.classes)
        return RasterFacts(affine, grid.crs, tags, places, named, settings.kinds)

    def _rasters(self, scene_maps: SceneMaps) -> list[MadeFile]:
        facts, several = self._facts(self._mapped()), len(self.spec.variant.towers) > 1
        files = []
        for kind, tower, path in scene_maps.rasters():
            told = ItemProduct(
                "cam" if kind == "dense" else "argmax",
                names.cam_name(self.job.ref.scene, tower if several else None, kind),
                tower=tower if several else None,
                bands=facts.names,
                shape=scene_maps.shape(tower),
                transform=tuple(facts.affine[tower])[:6],
            )
            files.append(MadeFile(told, path))
        return files

    def _mapped(self) -> tuple[int, ...]:
        return self.settings.wanted(self.spec).classes

    def _side_by_side(self, row: Sequence[TileScores]) -> TileScores:
        """The tiles of a row of windows, in row order."""
        spans = [window.col.tiles for window in self.scene.plan.windows[: len(row)]]
        across = len(self.scene.plan.cols)
        down = sum(len(tiles.scored) for tiles in row) // across

        def joined(values: Iterable[NDArray[Any]]) -> NDArray[Any]:
            parts = [
                each.reshape(down, len(span), *each.shape[1:])
                for each, span in zip(values, spans, strict=True)
            ]
            return np.concatenate(parts, axis=1).reshape(down * across, *parts[0].shape[2:])

        numbers = [tiles.numbers for tiles in row]
        return TileScores(
            Numbers(
                joined(each.logits for each in numbers),
                joined(each.scores for each in numbers),
                joined(each.preds for each in numbers),
                {
                    tower: joined(each.shares[tower] for each in numbers)
                    for tower in numbers[0].shares
                },
            ),
            joined(tiles.valid for tiles in row),
            joined(tiles.scored for tiles in row),
        )

    def _tiles(
        self, writer: PredictionsWriter, start: int, rows: TileScores, counts: Counts
    ) -> None:
        plan, across = self.scene.plan, len(self.scene.plan.cols)
        down = len(rows.scored) // across
        ys, tall = _edges(plan.rows, start, start + down, self.job.grid.scale_y)
        xs, wide = _edges(plan.cols, 0, across, self.job.grid.scale_x)
        tiles = SceneTiles(
            np.repeat(ys, across), np.tile(xs, down), tall, wide, rows.scored, rows.numbers
        )
        writer.write(scene_predictions(self.layout, self.job.extent, tiles))
        counts.tiles += int(rows.scored.sum())
        counts.nodata += int((~rows.scored).sum())
        counts.predicted += rows.numbers.preds[rows.scored].sum(0, dtype=np.int64)

    def _peaks(
        self, scene_maps: SceneMaps, mostly: NDArray[np.bool_], given: GivenTiles
    ) -> tuple[Detections | None, Evidence | None, list[str]]:
        mapped = self._mapped()
        if not scene_maps.dense:
            notes = ["no detections: its maps are too large to be searched"]
            return None, None, notes if self.settings.detections else []
        grid, geometry = self.job.grid, self.scene.plan.geometry
        stored = Affine.scale(1 / grid.scale_x, 1 / grid.scale_y)
        cells = [stored @ geometry.tower(tower).affine() for tower in scene_maps.dense]
        maps_khw, own = summed(list(scene_maps.dense.values()), cells)
        bias = tuple(self.bias[k] for k in mapped)
        found = None
        if self.settings.detections:
            finest = min(own.a * grid.scale_x, own.e * grid.scale_y)
            rule = PeakRule(
                self.spec.task,
                self.bias,
                self.spec.temperature,
                tuple(self.spec.thresholds),
                self.settings.distance / finest,
            )
            names = [self.spec.classes[k] for k in self.settings.sought]
            found = detect(maps_khw, own, rule, self.spec.classes, self.job.extent, names)
            found = found.kept(on_data(found, mostly, own))
            if self.settings.within_tiles:
                klass = [self.spec.classes.index(name) for name in found.klass]
                net = (found.row * grid.scale_y, found.col * grid.scale_x)
                found = found.kept(given.holds(klass, *net))
        shown = [n for n, k in enumerate(mapped) if k in self.settings.sought] or [
            *range(len(mapped))
        ]
        if np.isnan(maps_khw).all():
            return found, None, []
        place = shown[strongest(maps_khw[shown], [bias[n] for n in shown])]
        map_hw = maps_khw[place]
        top = np.unravel_index(int(np.nanargmax(map_hw)), map_hw.shape)
        local = maps_khw[:, top[0], top[1]].astype(np.float64) + np.array(bias)
        score = best_score(list(local), place, self.spec.task, self.spec.temperature)
        name = self.spec.classes[mapped[place]]
        return found, Evidence(name, map_hw, own, score), []

    def _vectors(self, found: Detections) -> list[MadeFile]:
        ref, ids = self.job.ref, (self.layout.model_id, self.layout.run_id)
        try:
            package = vectors.geopackage(found, *ids, ref.modified)
        except SatrayError as error:  # a CRS that PROJ cannot write costs this scene only
            raise DecodeError(str(error)) from error
        texts: dict[str, tuple[str, bytes | None]] = {
            "gpkg": ("detections", package),
            "parquet": ("detections_parquet", vectors.geoparquet(found, *ids)),
            "geojson": (
                "detections_geojson",
                vectors.geojson(found, *ids) if len(found) <= MANY else None,
            ),
        }
        return [
            MadeFile(ItemProduct(kind, names.detections_name(ref.scene, ending)), data, len(found))
            for ending, (kind, data) in texts.items()
            if data is not None
        ]

    def _quicklook(
        self, view: View, evidence: Evidence | None, found: Detections | None
    ) -> MadeFile:
        rows, cols = np.zeros(0), np.zeros(0)
        if found is not None and evidence is not None:
            mine = np.array([name == evidence.name for name in found.klass], dtype=bool)
            rows, cols = found.row[mine], found.col[mine]
        data = quicklook(view, evidence, rows, cols, self.job.ref.scene)
        path = names.quicklook_name(self.job.ref.scene)
        return MadeFile(ItemProduct("quicklook", path), data)


def _edges(
    tiles: AxisTiles, start: int, stop: int, scale: float
) -> tuple[NDArray[np.float64], float]:
    """First stored px of tiles along an axis, and how many each covers."""
    firsts = np.array(tiles.origins[start:stop], dtype=np.float64) / scale
    return firsts, tiles.size / scale
