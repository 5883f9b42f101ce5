"""Training on a real Ray: bundle, workers, crashes, reruns."""

import functools
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio

from satray.config.train import TrainRecipe
from satray.errors import InputError, TrainingError
from satray.runs.run import Run
from satray.storage import Storage
from satray.tiles.index import BandStatistics, IndexMeta, table_with

pytestmark = pytest.mark.pipeline

BANDS = ("blue", "green", "red", "nir")
SIDE = 24


@dataclass(frozen=True)
class Archive:
    index: str
    folder: Path


def generate(folder, tiles=64, classes=("bright", "left"), spoil=()):
    """Write noise with a bright square, on the left or on the right, and its index."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(tiles):
        pixels = rng.normal(500, 60, (4, SIDE, SIDE))
        bright, left = rng.integers(0, 2, 2)
        at = 2 if left else 14
        pixels[:, 6:14, at : at + 8] += 900 if bright else 200
        path = folder / f"t{number:03d}.tif"
        with rasterio.open(
            path, "w", driver="GTiff", height=SIDE, width=SIDE, count=4, dtype="uint16"
        ) as image:
            image.write(pixels.astype(np.uint16))
        if number in spoil:
            path.write_bytes(b"not an image")
        rows.append(
            {
                "tile_id": path.stem,
                "uri": str(path),
                "split": "val" if number % 4 == 0 else "train",
                "labels": [int(bright), int(left)][: len(classes)],
                "height": SIDE,
                "width": SIDE,
                "bands": list(BANDS),
                "dtype": "uint16",
                "crs": "EPSG:32631",
                "transform": [3.0, 0, 0, 0, -3.0, 0],
                "nodata": None,
                "bytes": path.stat().st_size,
                "etag": None,
            }
        )
    statistics = tuple(
        BandStatistics(name, 600.0, 250.0, 0.0, 2000.0, {"50": 550.0}, 1) for name in BANDS
    )
    meta = IndexMeta("multilabel", classes, BANDS, "uint16", (SIDE, SIDE), statistics, {})
    file = folder / "tiles-00000.parquet"
    pq.write_table(table_with(meta, pa.Table.from_pylist(rows)), file)
    return Archive(str(file), folder)


def make_recipe(archive, folder, **changes):
    settings = {
        "index": archive.index,
        "variant": "simple_cnn",
        "input": {"size": SIDE},
        "batch": 8,
        "stages": [{"learning_rate": 3e-3, "pseudo_epochs": 3}],
        "deterministic": True,
        "resources": {"workers": 1, "gpus": "no"},
        "cache": {"folder": str(folder / "cache"), "gib": 0.1},
    }
    return TrainRecipe.model_validate({**settings, **changes})


def make_run(folder):
    said = []
    run = Run("train", "0123456789ab", str(folder), Storage(), said.append)
    return run, said


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def job(ray_session):
    from satray.training import job

    return job


@pytest.fixture(scope="module")
def plain(job, archive, tmp_path_factory):
    """One worker, undisturbed."""
    folder = tmp_path_factory.mktemp("plain")
    run, said = make_run(folder / "out")
    outcome = job.work(make_recipe(archive, folder), run)
    return outcome, run, said


def history(run):
    table = pq.read_table(os.path.join(run.out, "history.parquet"))
    timing = [name for name in table.column_names if "second" in name]
    return table.drop_columns(timing).to_pydict()


def same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_one_worker_trains_and_leaves_a_bundle(plain):
    outcome, run, said = plain
    from satray.models.bundle import load_bundle

    bundle = load_bundle(run.out, Storage())
    assert bundle.spec.classes == ("bright", "left")
    assert bundle.spec.bands == ("red", "green", "blue")
    assert bundle.spec.resolution == pytest.approx(3.0)
    assert outcome.counts == {
        "train_tiles": 48,
        "val_tiles": 16,
        "classes": 2,
        "pseudo_epochs": 3,
        "samples": 144,
        "unreadable_tiles": 0,
    }
    rows = history(run)
    assert rows["samples_seen"] == [48, 96, 144]
    assert rows["train_loss"][-1] < rows["train_loss"][0]
    figures = json.loads((Path(run.out) / "metrics.json").read_text())
    assert figures["best"]["map"] == max(rows["map"])
    assert figures["best"]["ap"].keys() == {"bright", "left"}
    made = {product.path for product in run.products}
    assert {
        "bundle/model.json",
        "bundle/model.safetensors",
        "history.parquet",
        "metrics.json",
        "curves.png",
    } <= made
    assert any(path.startswith("tensorboard/events") for path in made)
    assert all((Path(run.out) / path).stat().st_size for path in made)
    assert sum("pseudo-epoch" in line for line in said) == 3


def test_the_bundle_scores_as_validation_did(plain, archive):
    import torch

    from satray.models.bundle import load_bundle
    from satray.tiles.decode import read_pixels
    from satray.tiles.index import read_index
    from satray.training.metrics import compute_metrics

    _, run, _ = plain
    bundle = load_bundle(run.out, Storage())
    val = read_index(archive.index, Storage()).part("val")
    pixels = np.stack(
        [
            read_pixels(Path(uri).read_bytes(), (2, 1, 0), SIDE, SIDE, "uint16")
            for uri in val.table.column("uri").to_pylist()
        ]
    )
    logits = bundle.logits(torch.from_numpy(pixels)).numpy()
    found = compute_metrics(logits, val.labels, bundle.spec.classes, "multilabel")
    assert found["map"] == pytest.approx(max(history(run)["map"]), abs=1e-6)


def test_two_workers_equal_one_at_the_same_global_batch(job, plain, archive, tmp_path):
    run, _ = make_run(tmp_path / "out")
    job.work(make_recipe(archive, tmp_path, resources={"workers": 2, "gpus": "no"}), run)
    one, two = history(plain[1]), history(run)
    for name in ("train_loss", "val_loss"):
        np.testing.assert_allclose(one[name], two[name], atol=1e-4, err_msg=name)
    assert one["samples_seen"] == two["samples_seen"]


def die_once(marker, task):
    """Stand in for the worker function: SIGKILL in the midst of the second pseudo-epoch, once."""
    from satray.training import launch

    read = launch.batches

    def deadly(*args, pseudo_epoch=None, **options):
        for number, batch in enumerate(read(*args, pseudo_epoch=pseudo_epoch, **options)):
            if pseudo_epoch == 1 and number == 3 and not Path(marker).exists():
                Path(marker).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch

    launch.batches = deadly  # in this process only, which is the worker's own
    launch._work(task)


def test_a_killed_worker_leaves_the_history_of_an_undisturbed_run(
    job, plain, archive, tmp_path, monkeypatch
):
    from satray.training import launch

    marker = tmp_path / "killed"
    monkeypatch.setattr(launch, "_work", functools.partial(die_once, str(marker)))
    run, said = make_run(tmp_path / "out")
    job.work(make_recipe(archive, tmp_path), run)
    assert marker.exists()
    assert any("started again" in line for line in said)
    same(history(plain[1]), history(run))
    weights = "bundle/model.safetensors"
    assert (Path(run.out) / weights).read_bytes() == (Path(plain[1].out) / weights).read_bytes()


def test_an_interrupted_run_goes_on_and_a_finished_state_only_writes(
    job, plain, archive, tmp_path, monkeypatch
):
    from satray.training import checkpoints, launch

    # No failure is forgiven: the run stops for good in its second pseudo-epoch.
    monkeypatch.setattr(launch, "MAX_FAILURES", 0)
    monkeypatch.setattr(launch, "_work", functools.partial(die_once, str(tmp_path / "killed")))
    run, _ = make_run(tmp_path / "out")
    with pytest.raises(TrainingError, match="worker 0 failed") as caught:
        job.work(make_recipe(archive, tmp_path), run)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    reached = checkpoints.find(run.storage, run.state).pseudo_epochs
    assert reached == 1
    assert not (Path(run.out) / "bundle").exists()

    # Its list of checkpoints torn as by a crash of the machine.
    snapshot = Path(run.state) / checkpoints.NAME / checkpoints.SNAPSHOT
    snapshot.write_text(snapshot.read_text()[:100])

    again, _ = make_run(tmp_path / "out")
    seen = []
    job.train_with(make_recipe(archive, tmp_path), again, seen.append)
    epochs = [message["row"]["pseudo_epoch"] for message in seen if message["kind"] == "epoch"]
    assert epochs == list(range(reached, 3))
    same(history(plain[1]), history(again))

    # The driver dies before run.json: a rerun must not train.
    for product in ("bundle/model.json", "history.parquet"):
        (Path(run.out) / product).unlink()
    third, _ = make_run(tmp_path / "out")
    seen.clear()
    job.train_with(make_recipe(archive, tmp_path), third, seen.append)
    assert seen == []
    same(history(plain[1]), history(third))


def test_unreadable_tiles_are_listed_and_training_goes_on(job, tmp_path):
    archive = generate(tmp_path / "archive", tiles=32, spoil=(4, 5))
    run, _ = make_run(tmp_path / "out")
    stages = [{"learning_rate": 3e-3, "pseudo_epochs": 1}]
    outcome = job.work(make_recipe(archive, tmp_path, stages=stages, deterministic=False), run)
    assert outcome.counts["unreadable_tiles"] == 2
    table = pq.read_table(os.path.join(run.out, "unreadable.parquet")).to_pylist()
    assert [(row["tile_id"], row["split"]) for row in table] == [("t005", "train"), ("t004", "val")]
    assert all(row["error"] for row in table)


def test_a_loss_that_explodes_ends_in_one_line(job, archive, tmp_path):
    run, _ = make_run(tmp_path / "out")
    stages = [
        {"learning_rate": 1e30, "pseudo_epochs": 2, "schedule": {"name": "constant"}},
    ]
    recipe = make_recipe(archive, tmp_path, stages=stages, optimizer={"name": "sgd"})
    with pytest.raises(TrainingError, match="learning") as caught:
        job.work(recipe, run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch": 100}, "batch=100"),
        ({"variant": "simple_cm"}, "simple_cnn"),
        (
            {"variant": {"towers": [{"name": "a", "backbone": "simple_cnn", "bands": ["swir16"]}]}},
            "swir16",
        ),
        ({"input": {"size": SIDE, "normalize": "imagenet"}}, "uint8"),
        ({"batch": 9, "resources": {"workers": 2, "gpus": "no"}}, "workers"),
    ],
)
def test_what_cannot_be_is_refused_without_ray(archive, tmp_path, changes, said):
    from satray.training import job

    with pytest.raises(InputError, match=said):
        job.inputs(make_recipe(archive, tmp_path, **changes), Storage())


def test_the_plan_says_what_would_be_done(archive, tmp_path):
    from satray.training import job

    lines = "\n".join(job.plan(make_recipe(archive, tmp_path), Storage()))
    for part in ("48 train", "18 steps of 8", "3 evaluations", "simple_cnn", "best by map"):
        assert part in lines
