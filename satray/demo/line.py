"""The job `demo`: the whole line on an invented coast, from a bare archive to a measured answer."""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from satray.config.demo import DemoRecipe
from satray.config.evaluate import EvaluateRecipe
from satray.config.prepare import PrepareRecipe
from satray.config.score import ScoreRecipe
from satray.config.train import TrainRecipe
from satray.demo.plans import (
    CLASS,
    NETWORKS,
    PASSES,
    SCENE,
    SPLIT,
    TEST,
    VAL,
    evaluate_recipe,
    prepare_recipe,
    scene_recipe,
    score_recipe,
    train_recipe,
)
from satray.demo.results import Result, result_lines, seconds_lines
from satray.demo.scene_ships import Found, measure
from satray.runs.jsonable import to_json
from satray.runs.perform import Inputs
from satray.runs.record import Product, RunRecord
from satray.runs.run import Outcome, Run
from satray.storage import Storage, join


def read(recipe: DemoRecipe, storage: Storage) -> Inputs:
    """The demo takes nothing."""
    del recipe, storage
    return Inputs()


def plan(recipe: DemoRecipe, found: Inputs, storage: Storage) -> list[str]:
    """What would be done."""
    del found, storage
    names = " and ".join(NETWORKS)
    return [
        f"archive: {recipe.tiles:,} tiles of {recipe.size} px, 4 bands, and a scene of {SCENE} px",
        f"prepare: index, split ({VAL:.0%} to choose by, {TEST:.0%} to measure on), statistics",
        f"train, evaluate and score {names}: {recipe.pseudo_epochs:g} pseudo-epochs of {PASSES} "
        "passes each",
        "score: the scene too, and compare the points found with its ships",
        "2 to 4 minutes on 2 cores with the defaults; nothing is downloaded",
    ]


def work(recipe: DemoRecipe, found: Inputs, run: Run) -> Outcome:
    """Generate, prepare, then train, evaluate and score each network; measure and draw."""
    del found
    # Rasterio, and torch behind some: not for --help.
    from satray.data.index import read_index
    from satray.demo.maps import MappedTile, pointing_score, read_tiles
    from satray.demo.picture import TILES, overview

    line = _Line(recipe, run)
    line.make_archive()
    line.prepare()
    for name in NETWORKS:
        line.train(name)
        line.evaluate(name)
        line.score(name)
        line.score_scene(name)

    with run.activity("pointing and drawing"):
        index = read_index(join(run.out, "prepare"), run.storage).part(SPLIT)
        labels = index.labels.astype(bool)
        holds = labels[:, index.meta.classes.index(CLASS)]
        ids = index.table.column("tile_id").to_pylist()
        uris = index.table.column("uri").to_pylist()
        ships = [(ids[i], uris[i]) for i in np.flatnonzero(holds)]
        boxes = line.boxes()
        mapped: dict[str, list[MappedTile]] = {}
        results = []
        for name, variant in NETWORKS.items():
            towers = [tower.name for tower in variant.towers]
            out = join(run.out, f"score-{name}")
            mapped[name] = read_tiles(run.storage, out, ships, boxes, towers, CLASS)
            results.append(line.result(name, pointing_score(mapped[name]), float(labels.mean())))
        run.publish("demo.json", to_json([one.to_dict() for one in results]))
        if ships:
            first = {name: tiles[:TILES] for name, tiles in mapped.items()}
            run.publish("maps.png", overview(first, CLASS))

    return Outcome(
        counts={"tiles": recipe.tiles, "ships_in_scene": line.ships_in_scene},
        metrics={one.name: one.to_dict() for one in results},
        summary=(
            "",
            *result_lines(results),
            "",
            *(f"{one.name}, {one.scene.line()}" for one in results),
            "",
            *seconds_lines(line.seconds(), line.inside),
            "",
            *_look_at(run.out),
        ),
    )


class _Line:
    """The steps of one demo."""

    def __init__(self, recipe: DemoRecipe, run: Run) -> None:
        from satray.demo.generator import Archive

        self.recipe = recipe
        self.run = run
        self.inside: dict[str, dict[str, float]] = {}
        self.records: dict[str, RunRecord] = {}
        self.ships_in_scene = 0
        self.archive: Archive

    def seconds(self) -> dict[str, float]:
        """Wall seconds of each step so far."""
        return {name: spent for name, spent in self.run.seconds.items() if name != "writing"}

    def make_archive(self) -> None:
        """Write archive and scene, or find those that an earlier attempt of this run wrote."""
        from satray.demo.generator import Archive, write_archive, write_scene

        recipe, storage, uri = self.recipe, self.run.storage, self.run.uri("archive")
        # Names the run, so that another size or seed does not take it for its own; written last.
        made = join(uri, "made.json")
        with self.run.activity("archive"):
            found = json.loads(storage.read(made)) if storage.exists(made) else {}
            if found.get("run_id") == self.run.run_id:
                self.archive = Archive(**found["archive"])
                self.ships_in_scene = found["ships_in_scene"]
            else:
                storage.delete(uri)
                self.archive = write_archive(storage, uri, recipe.tiles, recipe.size, recipe.seed)
                self.ships_in_scene = write_scene(storage, uri, SCENE, recipe.seed)
                note = {
                    "run_id": self.run.run_id,
                    "archive": asdict(self.archive),
                    "ships_in_scene": self.ships_in_scene,
                }
                storage.write(made, json.dumps(note).encode())
            for name in ("labels.csv", "ships.json", "scene.tif", "scene-ships.geojson"):
                data = storage.read(join(uri, name))
                digest = hashlib.sha256(data).hexdigest()
                self.run.record(Product(f"archive/{name}", len(data), digest))
        counts = ", ".join(f"{n} with {name}" for name, n in self.archive.counts.items())
        self.run.say(f"archive: {self.archive.tiles:,} tiles ({counts})")

    def prepare(self) -> None:
        """Index the archive."""
        from satray.data import prepare

        record = self._step(
            "prepare",
            PrepareRecipe,
            prepare,
            prepare_recipe(self.recipe, self.run.out, self.archive),
        )
        self.train_tiles = record.counts["tiles_train"]

    def train(self, name: str) -> None:
        """Train one network."""
        from satray.training import job

        recipe = train_recipe(self.recipe, self.run.out, name, self.train_tiles)
        self._step("train", TrainRecipe, job, recipe, name)

    def evaluate(self, name: str) -> None:
        """Measure it."""
        from satray.scoring import evaluate

        recipe = evaluate_recipe(self.recipe, self.run.out, name)
        self._step("evaluate", EvaluateRecipe, evaluate, recipe, name)

    def score(self, name: str) -> None:
        """Score the whole archive with it, maps included."""
        from satray.scoring import score

        recipe = score_recipe(self.recipe, self.run.out, name, self.archive)
        self._step("score", ScoreRecipe, score, recipe, name)

    def score_scene(self, name: str) -> None:
        """Score the scene with it, and point at its ships."""
        from satray.scoring import score

        recipe = scene_recipe(self.recipe, self.run.out, name)
        self._step("score", ScoreRecipe, score, recipe, name, of="scene")

    def boxes(self) -> dict[str, tuple[tuple[float, float, float, float], ...]]:
        """Where the ships are, by tile."""
        from satray.demo.generator import read_boxes

        return read_boxes(self.run.storage, self.archive.boxes)

    def result(self, name: str, pointing: Any, prevalence: float) -> Result:
        """Gather what was measured of a network."""
        record = self.records[f"evaluate {name}"]
        metrics = record.metrics
        return Result(
            name=name,
            tiles=record.counts["tiles"],
            accuracy=_number(metrics["accuracy"]),
            majority=_number(metrics["baseline_accuracy"]),
            map=_number(metrics["map"]),
            prevalence=prevalence,
            auc=self._auc(record, join(self.run.out, f"evaluate-{name}")),
            pointing=pointing,
            scene=self._scene(name),
        )

    def _scene(self, name: str) -> Found:
        from satray.scoring.over_tiles import read_spec

        storage, out = self.run.storage, self.run.out
        grids = read_spec(join(out, f"train-{name}"), storage).grids.values()
        cell = min(grid.stride for grid in grids)  # tiles are not resized
        return measure(storage, join(out, f"scene-{name}"), join(out, "archive"), cell)

    def _auc(self, record: RunRecord, out: str) -> float:
        from satray.metrics.ranking import roc_auc

        tables = [
            pq.read_table(io.BytesIO(self.run.storage.read(join(out, product.path))))
            for product in record.products
            if product.path.startswith("predictions/")
        ]
        rows = pa.concat_tables(tables).to_pydict()
        good = [i for i, status in enumerate(rows["status"]) if status == "ok"]
        logits = np.array([rows[f"logit_{CLASS}"][i] for i in good], np.float64)
        targets = np.array([rows[f"target_{CLASS}"][i] for i in good], np.bool_)
        return roc_auc(logits, targets)

    def _step(
        self, job: str, model: Any, module: Any, recipe: Any, name: str = "", of: str = ""
    ) -> RunRecord:
        from satray.demo.steps import step
        from satray.runs.frame import Job

        title = " ".join(part for part in (job, of, name) if part)
        parts = Job(job, model, module.read, module.plan, module.work)
        with self.run.activity(title):
            record, ran = step(parts, recipe, self.run, title)
        self.records[title] = record
        if ran:
            self.inside[title] = record.seconds
        spent = f"{self.run.seconds[title]:.1f} s" if ran else "done already"
        self.run.say(f"{title}: {spent}; {_gist(record.summary)}")
        return record


def _gist(summary: Sequence[str]) -> str:
    """The first line of what a job had to say."""
    return summary[0].strip() if summary else "done"


def _number(value: Any) -> float:
    """A figure of run.json, where null stands for NaN."""
    return float("nan") if value is None else float(value)


def _look_at(out: str) -> list[str]:
    first = next(iter(NETWORKS))
    places = {
        "maps.png": "ship tiles, and where each network saw the ships",
        f"train-{first}/curves.png": "how it learned",
        f"evaluate-{first}/report.html": "how good it is, in plots and tiles (open in a browser)",
        f"evaluate-{first}/metrics.json": "all figures, class by class",
        f"score-{first}/cam/": "ship maps of all tiles, to lay over archive/tiles/ in QGIS",
        f"score-{first}/predictions/": "the same tiles as a GeoParquet table",
        f"scene-{first}/quicklooks/": "a scene that no network has seen, and the ships found in it",
        f"scene-{first}/runs/": "a page with the map of all scenes, here one",
        f"scene-{first}/detections/": "those points, to lay over archive/scene.tif in QGIS",
        "archive/scene-ships.geojson": "where the ships really are",
    }
    width = max(map(len, places))
    return [f"look at, in {out}:"] + [f"  {path:{width}}  {what}" for path, what in places.items()]
