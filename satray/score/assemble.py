"""From a scene's windows to its products, on the local disk.

Legend: K classes, k classes mapped, h x w cells, N tiles.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from affine import Affine
from numpy.typing import NDArray

from satray.metrics.scored import scores_of
from satray.score.layout import SceneLayout, Seen
from satray.score.predictions import Layout, Numbers, PredictionsWriter, scene_predictions
from satray.score.products.catalogue import MadeFile, Moment, map_fields, moment_of
from satray.score.products.detections import detect, in_tiles_given, summed, vector_files
from satray.score.products.quicklook import Evidence, quicklook
from satray.score.rasters import StripWriter
from satray.score.results import CamKind, MapRequest, SceneJob, WindowScores
from satray.score.survey import Scoring
from satray.score.windows import AxisTiles, ScenePlan, Span, Window

if TYPE_CHECKING:
    import pandas as pd  # half a second

HELD = 1 << 30
"""Bytes that a scene's maps and the search for their peaks may take; beyond, there are none."""
ROWS = 4096
"""Rows of tiles, about, that go into a scene's table at once: one of few takes as long as one of
thousands, and as much memory."""


@dataclass(frozen=True)
class Counts:
    """What was counted of a scene."""

    predicted: tuple[int, ...]
    """Tiles that are given each class."""
    tiles: int
    """With scores."""
    nodata: int
    """Without, for want of data."""
    detections: int
    """Points."""


@dataclass(frozen=True)
class Assembly:
    """All that assembling needs to know."""

    job: SceneJob
    """The scene's."""
    scene: SceneLayout
    """Its windows and picture."""
    scoring: Scoring
    """How it is scored, and what is made of it."""
    layout: Layout
    """Columns of tables."""
    bias: tuple[float, ...]
    """(K,) of the head; empty where it is dense."""
    engine: str
    """What computed the features, see `satray.score.engines.Loaded`."""

    @property
    def made(self) -> dict[str, str]:
        """What made the scene's files; each says so."""
        return {
            "model_id": self.layout.model_id,
            "run_id": self.layout.run_id,
            "mode": self.scoring.mode,
            "engine": self.engine,
        }

    @property
    def moment(self) -> Moment:
        """When the scene was taken."""
        ref, pattern = self.job.ref, self.scoring.recipe.datetime
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
        table = folder / "tiles.parquet"
        canvas, plan = self.scene.canvas, self.scene.plan
        shape = (len(canvas.rows), canvas.width)
        pixels = np.zeros((len(canvas.bands), *shape), dtype=np.float32)
        valid = np.zeros(shape, dtype=bool)
        finest = plan.geometry.finest.name
        mostly = np.zeros(plan.cells(finest), dtype=bool)
        tiles = len(plan.rows), len(plan.cols)
        predicted_TUK = np.zeros((*tiles, len(self.scoring.spec.classes)), dtype=bool)
        scored_TU = np.zeros(tiles, dtype=bool)
        computed, written = self.scoring.computed, self.scoring.maps
        with ExitStack() as stack:
            writers = {
                (kind, tower.name): stack.enter_context(self._raster(folder, kind, tower.name))
                for kind in written.kinds
                for tower in plan.geometry.towers
            }
            scene_maps = SceneMaps(plan, computed, written, writers)
            made = {"mode": self.scoring.mode, "engine": self.engine}
            with PredictionsWriter(table, self.layout, **made) as writer:
                waiting: list[tuple[Window, WindowScores]] = []
                rows_waiting = 0
                for window, (seen, scores) in zip(plan.windows, windows, strict=True):
                    scene_maps.add(window, scores)
                    shown = np.s_[..., seen.rows.within(0), seen.cols.within(0)]
                    pixels[shown], valid[shown] = seen.pixels, seen.valid
                    if scores.mostly is not None:
                        rows, cols = window.cells(finest)
                        mostly[rows.within(0), cols.within(0)] = scores.mostly
                    if not window.tiles:
                        continue
                    # copies: views would keep the maps beside them in Ray's memory
                    waiting.append((window, deepcopy(replace(scores, maps={}, mostly=None))))
                    rows_waiting += window.tiles
                    if rows_waiting >= ROWS:
                        writer.write(self._tiles(waiting))
                        waiting, rows_waiting = [], 0
                    there = window.row.tiles.within(0), window.col.tiles.within(0)
                    given = (scores.numbers.preds > 0) & scores.scored[:, None]
                    predicted_TUK[there] = given.reshape(predicted_TUK[there].shape)
                    scored_TU[there] = scores.scored.reshape(scored_TU[there].shape)
                if waiting:
                    writer.write(self._tiles(waiting))
            files = self._raster_files(folder, writers)
        files.append(MadeFile("tiles", table, writer.rows))
        maps = scene_maps.dense, computed.classes
        found, evidence, notes = self._peaks(*maps, mostly, predicted_TUK)
        if found is not None:
            about = self.job.grid.extent, self.made, self.job.ref.modified
            vectors = vector_files(found, *about)
            files += [MadeFile(kind, data, len(found)) for kind, data in vectors.items()]
        files.append(self._quicklook(pixels, valid, evidence, found))
        if not scored_TU.any():
            notes.append("no tile holds enough data")
        counts = Counts(
            tuple(predicted_TUK.sum(axis=(0, 1)).tolist()),
            int(scored_TU.sum()),
            int((~scored_TU).sum()),
            0 if found is None else len(found),
        )
        return files, counts, notes

    def _raster(self, folder: Path, kind: CamKind, tower: str) -> StripWriter:
        """Begin a raster of the scene."""
        scoring, spec = self.scoring, self.scoring.spec
        border = "as of one forward over the whole scene"
        if self.scoring.mode == "tiles":
            border = "each tile's own, cut in the middle where tiles overlap"
        tags = {
            **self.made,
            "scene": self.job.ref.scene,
            "pooling": spec.variant.pooling,
            "symmetries": "d4" if scoring.d4 else "none",
            "border_cells": border,
            "kind": kind,
            "tower": tower,
        }
        classes = [spec.classes[k] for k in scoring.maps.classes]
        shape = len(classes), *self.scene.plan.cells(tower)
        path, crs = folder / f"{kind}-{tower}.tif", self.job.grid.extent.crs
        return StripWriter(path, shape, classes, self._cells(tower), crs, tags)

    def _cells(self, tower: str) -> Affine:
        """From a tower's cell corners to CRS units."""
        return self.job.grid.affine_net @ self.scene.plan.geometry.tower(tower).affine()

    def _raster_files(
        self, folder: Path, writers: Mapping[tuple[CamKind, str], StripWriter]
    ) -> list[MadeFile]:
        """Make the optimised rasters, one after another."""
        spec, extent = self.scoring.spec, self.job.grid.extent
        classes = [spec.classes[k] for k in self.scoring.maps.classes]
        several = len(spec.variant.towers) > 1
        files = []
        for (kind, tower), writer in writers.items():
            path = writer.optimise(folder / f"{kind}-{tower}-cog.tif")
            affine = self._cells(tower) if extent.georeferenced else None
            fields = map_fields(classes, self.scene.plan.cells(tower), affine)
            name = "cam" if kind == "dense" else "argmax"
            files.append(MadeFile(name, path, None, tower if several else None, fields))
        return files

    def _tiles(self, some: Sequence[tuple[Window, WindowScores]]) -> pa.Table:
        """The rows of some windows' tiles."""
        plan, grid = self.scene.plan, self.job.grid
        rows, cols = [], []
        for window, _ in some:
            ys = _firsts(plan.rows, window.row.tiles, grid.scale_y)
            xs = _firsts(plan.cols, window.col.tiles, grid.scale_x)
            rows.append(np.repeat(ys, len(xs)))
            cols.append(np.tile(xs, len(ys)))
        numbers = [scores.numbers for _, scores in some]
        return scene_predictions(
            self.layout,
            grid.extent,
            np.concatenate(rows),
            np.concatenate(cols),
            (plan.rows.size / grid.scale_y, plan.cols.size / grid.scale_x),
            np.concatenate([scores.scored for _, scores in some]),
            Numbers(
                np.concatenate([each.logits for each in numbers]),
                np.concatenate([each.scores for each in numbers]),
                np.concatenate([each.preds for each in numbers]),
                {
                    tower: np.concatenate([each.shares[tower] for each in numbers])
                    for tower in numbers[0].shares
                },
            ),
        )

    def _peaks(
        self,
        dense: Mapping[str, NDArray[np.float32]],
        mapped: tuple[int, ...],
        mostly: NDArray[np.bool_],
        predicted_TUK: NDArray[np.bool_],
    ) -> "tuple[pd.DataFrame | None, Evidence | None, list[str]]":
        """Detections, what the picture shows of a class, and notes; nothing without whole maps."""
        scoring, spec = self.scoring, self.scoring.spec
        if not dense:
            notes = ["no detections: its maps are too large to be searched"]
            return None, None, notes if scoring.detections else []
        grid, geometry = self.job.grid, self.scene.plan.geometry
        stored = Affine.scale(1 / grid.scale_x, 1 / grid.scale_y)
        cells = [stored @ geometry.tower(tower).affine() for tower in dense]
        maps_khw, own = summed(list(dense.values()), cells)
        bias_k = np.array([self.bias[k] for k in mapped])
        found = None
        if scoring.detections:
            finest = min(own.a * grid.scale_x, own.e * grid.scale_y)
            head = spec, self.bias, scoring.distance / finest
            sought = [spec.classes[k] for k in scoring.sought]
            found = detect(maps_khw, own, mostly, self.job.grid.extent, *head, sought)
            if scoring.within_tiles:
                klass = [spec.classes.index(name) for name in found["class"]]
                net = (found.row * grid.scale_y).to_numpy(), (found.col * grid.scale_x).to_numpy()
                axes = self.scene.plan.rows, self.scene.plan.cols
                found = found[in_tiles_given(predicted_TUK, axes, klass, *net)]
        if np.isnan(maps_khw).all():
            return found, None, []
        shown = [n for n, k in enumerate(mapped) if k in scoring.sought] or [*range(len(mapped))]
        tops = np.nanmax(maps_khw[shown], axis=(1, 2)) + bias_k[shown]
        place = shown[int(tops.argmax())]
        map_hw = maps_khw[place]
        i, j = np.unravel_index(int(np.nanargmax(map_hw)), map_hw.shape)
        best_1k = (maps_khw[:, i, j] + bias_k)[None]
        score = float(scores_of(best_1k, spec.task, spec.temperature)[0, place])
        return found, Evidence(spec.classes[mapped[place]], map_hw, own, score), []

    def _quicklook(
        self,
        pixels: NDArray[np.float32],
        valid: NDArray[np.bool_],
        evidence: Evidence | None,
        found: "pd.DataFrame | None",
    ) -> MadeFile:
        rows, cols = np.zeros(0), np.zeros(0)
        if found is not None and evidence is not None:
            mine = found[found["class"] == evidence.name]
            rows, cols = mine.row.to_numpy(), mine.col.to_numpy()
        extent = self.job.grid.extent
        shown = pixels, valid, (extent.height, extent.width)
        data = quicklook(*shown, evidence, rows, cols, extent.scene, self.made)
        return MadeFile("quicklook", data)


class SceneMaps:
    """Gathers a scene's maps of its windows'."""

    def __init__(
        self,
        plan: ScenePlan,
        computed: MapRequest,
        written: MapRequest,
        writers: Mapping[tuple[CamKind, str], StripWriter],
    ) -> None:
        """Prepare.

        Args:
            plan: of the scene.
            computed: maps in the windows' scores.
            written: what of them is written.
            writers: of rasters, by kind and tower.
        """
        self._writers = writers
        self._places = [computed.classes.index(k) for k in written.classes]
        self.dense: dict[str, NDArray[np.float32]] = {}
        """Tower -> (k, h, w), the whole dense map; none where it is too large to be held."""
        mapped = len(computed.classes)
        cells = {tower.name: plan.cells(tower.name) for tower in plan.geometry.towers}
        sizes = [h * w for h, w in cells.values()]
        held = 4 * mapped * sum(sizes) + (40 + 20 * mapped) * max(sizes)
        if "dense" in computed.kinds and held <= HELD:
            for tower, shape in cells.items():
                self.dense[tower] = np.full((mapped, *shape), np.nan, dtype=np.float32)

    def add(self, window: Window, scores: WindowScores) -> None:
        """Take what the network says of a window."""
        for kind, by_tower in scores.maps.items():
            for tower, values in by_tower.items():
                if not values.size:
                    continue
                rows, cols = window.cells(tower)
                if kind == "dense" and tower in self.dense:
                    self.dense[tower][:, rows.within(0), cols.within(0)] = values
                writer = self._writers.get((kind, tower))
                if writer is not None:
                    writer.write(values[self._places], rows.start, cols.start)


def _firsts(tiles: AxisTiles, some: Span, scale: float) -> NDArray[np.float64]:
    """First stored px of some tiles along an axis."""
    return np.array(tiles.origins[some.start : some.stop], dtype=np.float64) / scale
