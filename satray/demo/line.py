"""The job `demo`: the whole line on an invented coast, from a bare archive to a measured answer."""

import io
import json
from math import nan
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from satray.config.base import Recipe
from satray.config.prepare import DemoRecipe, PrepareRecipe, SplitOptions
from satray.config.score import CamOptions, DetectionOptions, EvaluateRecipe, ScoreRecipe
from satray.config.train import (
    InputOptions,
    StageOptions,
    TowerOptions,
    TrainRecipe,
    VariantOptions,
)
from satray.errors import SatrayError
from satray.runs.job import Inputs, Job, perform
from satray.runs.run import Outcome, Run, RunRecord, finite, run_id, to_json
from satray.storage import Storage, join

if TYPE_CHECKING:  # they import rasterio
    from satray.demo.results import MappedTile

CLASS = "ship"
"""The class that is pointed at."""
VAL, TEST = 0.15, 0.2
"""Shares of the archive that choose the bundle, and that measure it."""
SCENE = 768
"""Side of the scene (px)."""
PASSES = 2
"""A pseudo-epoch of the demo, in passes over the training tiles."""

_RGB = TowerOptions(name="rgb", backbone="simple_cnn", bands=("red", "green", "blue"))
_NIR = TowerOptions(name="nir", backbone="simple_cnn", bands=("nir", "nir", "nir"))
NETWORKS: dict[str, VariantOptions] = {
    # Maximum pooling, as in the ship post: one strong cell decides, and so the map points.
    "simple_cnn": VariantOptions(towers=(_RGB,), pooling="max"),
    "double4_small": VariantOptions(towers=(_RGB, _NIR), pooling="max"),
}
"""The networks that are trained: colours alone, and double4's two towers on the small backbone."""


def read(recipe: DemoRecipe, storage: Storage) -> Inputs:
    """The demo takes nothing."""
    del recipe, storage
    return Inputs()


def plan(recipe: DemoRecipe, found: Inputs, storage: Storage) -> list[str]:
    """What would be done."""
    del found, storage
    return [
        f"archive: {recipe.tiles:,} tiles of {recipe.size} px, 4 bands, and a scene of {SCENE} px",
        f"prepare: index, split ({VAL:.0%} to choose by, {TEST:.0%} to measure on), statistics",
        f"train, evaluate and score {' and '.join(NETWORKS)}: {recipe.pseudo_epochs:g} "
        f"pseudo-epochs of {PASSES} passes each",
        "score: the scene too, and compare the points found with its ships",
        "about 2 minutes on 2 cores with the defaults; nothing is downloaded",
    ]


def work(recipe: DemoRecipe, found: Inputs, run: Run) -> Outcome:
    """Generate, prepare, then train, evaluate and score each network; and measure.

    What a demo that was cut short left is done anew.
    """
    del found
    from satray.demo.archive import write_archive, write_scene
    from satray.demo.results import result_lines

    line, archive = steps(recipe, run.out), run.uri("archive")
    run.begin_writing()
    for folder in (archive, *(str(one.out) for _, one in line.values())):
        run.storage.delete(folder)
    with run.activity("archive"):
        counts = write_archive(run.storage, archive, recipe.tiles, recipe.size, recipe.seed)
        write_scene(run.storage, archive, SCENE, recipe.seed)
    classes = ", ".join(f"{n} with {name}" for name, n in counts.items())
    run.say(f"archive: {recipe.tiles:,} tiles ({classes})")
    for title, (job, one) in line.items():
        with run.activity(title):
            record = step(job, one, run, title)
        said = (*record.summary, "done")[0].strip()
        run.say(f"{title}: {run.seconds[title]:.1f} s; {said}")
    with run.activity("pointing"):
        results = [_result(run, name) for name in NETWORKS]
        run.publish("demo.json", to_json(results))
    return Outcome(
        counts={"tiles": recipe.tiles, "ships_in_scene": results[0]["scene"]["ships"]},
        metrics={one["name"]: finite(one) for one in results},
        summary=("", *result_lines(results, CLASS), "", *_look_at(run.out)),
    )


def steps(recipe: DemoRecipe, out: str) -> dict[str, tuple[Job[Any, Any], Recipe]]:
    """Each job of the line by its title, in order, with its recipe."""
    from satray.data import prepare
    from satray.evaluate import job as evaluate
    from satray.score import job as score
    from satray.train import job as train

    def a(name: str, model: type[Recipe], module: Any, folder: str, **keys: Any) -> Any:
        keys |= {"storage": recipe.storage, "resources": recipe.resources}
        job = Job(name, model, module.read, module.plan, module.work)
        return job, model(out=join(out, folder), **keys)

    archive, index = join(out, "archive"), join(out, "prepare")
    learnt = int((1 - VAL - TEST) * recipe.tiles)
    line = {
        "prepare": a(
            "prepare", PrepareRecipe, prepare, "prepare",
            images=join(archive, "tiles"), labels=join(archive, "labels.csv"),
            split=SplitOptions(by="draw", val=VAL, test=TEST, seed=recipe.seed),
        )
    }  # fmt: skip
    for name, variant in NETWORKS.items():
        bundle, cam = join(out, f"train-{name}"), CamOptions(classes=(CLASS,))
        line[f"train {name}"] = a(
            "train", TrainRecipe, train, f"train-{name}",
            index=index, variant=variant, weights="none", input=InputOptions(size=recipe.size),
            stages=(StageOptions(learning_rate=3e-3, pseudo_epochs=recipe.pseudo_epochs),),
            batch=min(32, learnt), pseudo_epoch=PASSES * learnt, seed=recipe.seed,
        )  # fmt: skip
        line[f"evaluate {name}"] = a(
            "evaluate", EvaluateRecipe, evaluate, f"evaluate-{name}",
            bundle=bundle, index=index, split="test",
        )  # fmt: skip
        line[f"score {name}"] = a(
            "score", ScoreRecipe, score, f"score-{name}",
            bundle=bundle, tiles=join(archive, "tiles"), cam=cam,
        )  # fmt: skip
        # By overlapping tiles; ships may lie close together, so points may too: an eighth of a
        # tile, a cell of the map.
        line[f"score scene {name}"] = a(
            "score", ScoreRecipe, score, f"scene-{name}",
            bundle=bundle, scenes=join(archive, "scene.tif"), stride=0.5, cam=cam,
            detections=DetectionOptions(distance=0.125),
        )  # fmt: skip
    return line


def step(job: Job[Any, Any], recipe: Recipe, outer: Run, title: str) -> RunRecord:
    """Do a job as part of `outer`, whose Ray session it shares.

    Args:
        job: the job.
        recipe: its recipe; `out` is set, and an empty folder.
        outer: the run that it is part of; shows its progress.
        title: what the progress lines call it.

    Raises:
        SatrayError: the job failed, or ended with a status other than 0.
    """
    prepared = job.read(recipe, outer.storage)
    run = Run(
        job.name,
        run_id(job.name, recipe, prepared.digests),
        str(recipe.out),
        outer.storage,
        progress=lambda line: outer.progress(f"{title}: {line}"),
        ray=outer.ray,
    )
    record = perform(job, recipe, prepared, run)
    if record.status:
        failed = f"{record.failed} of {record.attempted} inputs failed"
        raise SatrayError(f"{job.name}: {record.verdict or failed} ({run.out})")
    return record


def _mapped(run: Run, name: str) -> "list[MappedTile]":
    """The test tiles that hold ships, with the network's maps."""
    from satray.data.index import read_index
    from satray.demo.results import read_tiles

    test = read_index(join(run.out, "prepare"), run.storage).part("test")
    boxes = json.loads(run.storage.read(run.uri("archive", "ships.json")))
    ships = {one: boxes[one] for one in test.table["tile_id"].to_pylist() if boxes[one]}
    towers = [tower.name for tower in NETWORKS[name].towers]
    scores, tiles = join(run.out, f"score-{name}"), run.uri("archive", "tiles")
    return read_tiles(run.storage, tiles, scores, ships, towers, CLASS)


def _result(run: Run, name: str) -> dict[str, Any]:
    """What was measured of a network, on tiles that it did not learn from: see `result_lines`."""
    from satray.demo.results import match, pointing
    from satray.models.spec import read_spec
    from satray.score.products.names import product_path

    def load(*path: str) -> Any:
        return json.loads(run.storage.read(run.uri(*path)))

    document = load(f"evaluate-{name}", "metrics.json")
    metrics = {key: nan if value is None else value for key, value in document["metrics"].items()}
    auc = document["by_class"][CLASS]["auc"]
    ships = load("archive", "scene-ships.geojson")["features"]
    place = run.uri(f"scene-{name}", product_path("detections_parquet", "scene.tif"))
    points = [
        (one["row"], one["col"], one["score"])
        for one in pq.read_table(io.BytesIO(run.storage.read(place))).to_pylist()
        if one["class"] == CLASS
    ]
    grids = read_spec(join(run.out, f"train-{name}"), run.storage).grids.values()
    slack = min(grid.stride for grid in grids) / 2  # half a cell; tiles are not resized
    boxes = [ship["properties"]["box_px"] for ship in ships]
    return {
        "name": name,
        "tiles": document["tiles"],
        "metrics": metrics,
        "auc": nan if auc is None else auc,
        "pointing": pointing(_mapped(run, name)),
        "scene": match(points, boxes, slack, (SCENE, SCENE)),
    }


def _look_at(out: str) -> list[str]:
    first = next(iter(NETWORKS))
    places = {
        f"train-{first}/curves.png": "how it learned",
        f"evaluate-{first}/report.html": "how good it is, and where in tiles it saw ships (a page)",
        f"score-{first}/cam/": "ship maps of all tiles, to lay over archive/tiles/ in QGIS",
        f"scene-{first}/quicklooks/": "a scene that no network has seen, and the ships found in it",
        f"scene-{first}/detections/": "those points, to lay over archive/scene.tif in QGIS",
        "archive/scene-ships.geojson": "where the ships really are",
    }
    width = max(map(len, places))
    return [f"look at, in {out}:"] + [f"  {path:{width}}  {what}" for path, what in places.items()]
