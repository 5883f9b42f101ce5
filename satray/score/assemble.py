"""From a scene's windows to its products, on the local disk.

Legend: K classes, k classes mapped, h x w cells, N tiles.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from satray.metrics.scored import scores_of
from satray.score.layout import SceneLayout
from satray.score.mosaic import SceneMaps
from satray.score.overview import Seen
from satray.score.predictions import (
    Layout,
    Numbers,
    PredictionsWriter,
    scene_predictions,
)
from satray.score.products.catalogue import MadeFile, Moment, map_fields, moment_of
from satray.score.products.detections import detect, in_tiles_given, summed, vector_files
from satray.score.products.quicklook import Evidence, quicklook
from satray.score.rasters import StripWriter
from satray.score.results import CamKind, SceneJob, TileScores, WindowScores
from satray.score.survey import Scoring
from satray.score.windows import AxisTiles

if TYPE_CHECKING:
    import pandas as pd  # half a second


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
    """Its windows and overview."""
    scoring: Scoring
    """How it is scored, and what is made of it."""
    layout: Layout
    """Columns of tables."""
    bias: tuple[float, ...]
    """(K,) of the head; empty where it is dense."""
    engine: str
    """What computed the features, see `satray.score.engines.Loaded`."""

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
        gaps = np.zeros(self.scene.coverage.shape, dtype=np.int32)
        tiles = len(plan.rows), len(plan.cols)
        predicted_TUK = np.zeros((*tiles, len(self.scoring.spec.classes)), dtype=bool)
        scored_TU = np.zeros(tiles, dtype=bool)
        computed = self.scoring.computed
        written = self.scoring.maps
        with SceneMaps(folder, plan, computed, written, self._raster) as scene_maps:
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
                            there = self._tiles(writer, start, rows)
                            scored_TU[there] = rows.scored.reshape(-1, tiles[1])
                            given = (rows.numbers.preds > 0) & rows.scored[:, None]
                            predicted_TUK[there] = given.reshape(-1, *predicted_TUK.shape[1:])
            files = self._raster_files(scene_maps)
            files.append(MadeFile("tiles", table, writer.rows))
            mostly = self.scene.coverage.mostly_data(gaps)
            maps = scene_maps, computed.classes
            found, evidence, notes = self._peaks(*maps, mostly, predicted_TUK)
        if found is not None:
            about = (
                self.job.grid.extent,
                self.layout.model_id,
                self.layout.run_id,
                self.job.ref.modified,
            )
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

    def _raster(self, path: Path, kind: CamKind, tower: str) -> StripWriter:
        """Begin a raster of the scene."""
        scoring, spec = self.scoring, self.scoring.spec
        border = "as of one forward over the whole scene"
        if self.job.mode == "tiles":
            border = "tiles blended with a Hann window"
        tags = {
            "model_id": self.layout.model_id,
            "run_id": self.layout.run_id,
            "scene": self.job.ref.scene,
            "pooling": spec.variant.pooling,
            "symmetries": "d4" if scoring.d4 else "none",
            "mode": self.job.mode,
            "engine": self.engine,
            "border_cells": border,
            "kind": kind,
            "tower": tower,
        }
        classes = [spec.classes[k] for k in scoring.maps.classes]
        shape = len(classes), *self.scene.plan.cells(tower)
        crs = self.job.grid.extent.crs
        return StripWriter(path, shape, classes, self._cells(tower), crs, tags)

    def _cells(self, tower: str) -> Affine:
        """From a tower's cell corners to CRS units."""
        return self.job.grid.affine_net @ self.scene.plan.geometry.tower(tower).affine()

    def _raster_files(self, scene_maps: SceneMaps) -> list[MadeFile]:
        spec, extent = self.scoring.spec, self.job.grid.extent
        classes = [spec.classes[k] for k in self.scoring.maps.classes]
        several = len(spec.variant.towers) > 1
        files = []
        for kind, tower, path in scene_maps.rasters():
            affine = self._cells(tower) if extent.georeferenced else None
            fields = map_fields(classes, self.scene.plan.cells(tower), affine)
            name = "cam" if kind == "dense" else "argmax"
            files.append(MadeFile(name, path, None, tower if several else None, fields))
        return files

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
            joined(tiles.scored for tiles in row),
        )

    def _tiles(self, writer: PredictionsWriter, start: int, rows: TileScores) -> slice:
        """Write rows of tiles from row `start` on; which they are."""
        plan, across = self.scene.plan, len(self.scene.plan.cols)
        down = len(rows.scored) // across
        ys, tall = _edges(plan.rows, start, start + down, self.job.grid.scale_y)
        xs, wide = _edges(plan.cols, 0, across, self.job.grid.scale_x)
        places = np.repeat(ys, across), np.tile(xs, down), (tall, wide)
        numbers = rows.scored, rows.numbers
        writer.write(scene_predictions(self.layout, self.job.grid.extent, *places, *numbers))
        return slice(start, start + down)

    def _peaks(
        self,
        scene_maps: SceneMaps,
        mapped: tuple[int, ...],
        mostly: NDArray[np.bool_],
        predicted_TUK: NDArray[np.bool_],
    ) -> "tuple[pd.DataFrame | None, Evidence | None, list[str]]":
        """Detections, what the picture shows of a class, and notes; nothing without whole maps."""
        scoring, spec = self.scoring, self.scoring.spec
        if not scene_maps.dense:
            notes = ["no detections: its maps are too large to be searched"]
            return None, None, notes if scoring.detections else []
        grid, geometry = self.job.grid, self.scene.plan.geometry
        stored = Affine.scale(1 / grid.scale_x, 1 / grid.scale_y)
        cells = [stored @ geometry.tower(tower).affine() for tower in scene_maps.dense]
        maps_khw, own = summed(list(scene_maps.dense.values()), cells)
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
        return MadeFile("quicklook", quicklook(*shown, evidence, rows, cols, extent.scene))


def _edges(
    tiles: AxisTiles, start: int, stop: int, scale: float
) -> tuple[NDArray[np.float64], float]:
    """First stored px of tiles along an axis, and how many each covers."""
    firsts = np.array(tiles.origins[start:stop], dtype=np.float64) / scale
    return firsts, tiles.size / scale
