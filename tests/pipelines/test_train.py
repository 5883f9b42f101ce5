"""Training whole, on a real Ray and in the job's process: bundle, workers, deaths, reruns."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from by_hand import worked
from train.small_archive import generate, make_recipe, make_run, validation_map

from satray.errors import TrainingError
from satray.storage import Storage
from satray.train import checkpoints, worker
from satray.train.loop import TIMES

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("archive"), spoil=(5,))


@pytest.fixture(scope="module")
def job(ray_session):
    from satray.train import job

    return job


CYCLES = {"name": "cosine_restarts", "cycle": 1}


def rich_recipe(archive, folder, **changes):
    """What takes part in every sample: repeats, weights, resized crops, colours; an average."""
    rich = {
        "repeat": 0.9,
        "loss": {"positive_weight": "balanced"},
        "augment": {"crop": "resized", "brightness": 0.1, "contrast": 0.1},
        "precision": "fp32",  # batches of another shape round otherwise in bf16
        "average": {"swa": True},
        "stages": [{"learning_rate": 3e-3, "pseudo_epochs": 3, "schedule": CYCLES}],
    }
    return make_recipe(archive, folder, **rich | changes)


@pytest.fixture(scope="module")
def plain(job, archive, tmp_path_factory):
    """One worker on Ray, undisturbed."""
    folder = tmp_path_factory.mktemp("plain")
    run, said = make_run(folder / "out")
    outcome = worked(job, rich_recipe(archive, folder), run)
    return outcome, run, said


def history(run):
    table = pq.read_table(os.path.join(run.out, "history.parquet"))
    return table.drop_columns(TIMES).to_pydict()


def same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_one_worker_trains_and_leaves_a_bundle_that_scores_as_validation_did(plain, archive):
    from satray.models.bundle import load_bundle

    outcome, run, said = plain
    bundle = load_bundle(run.out, Storage())
    assert bundle.spec.classes == ("bright", "left")
    assert bundle.spec.bands == ("red", "green", "blue")
    # 500 km west of its meridian UTM shows the ground 1.0027 times as long
    assert bundle.spec.resolution == pytest.approx(2.992, abs=1e-3)
    assert outcome.counts == {
        "train_tiles": 48,
        "val_tiles": 16,
        "classes": 2,
        "pseudo_epochs": 3,
        "samples": 144,
        "unreadable_tiles": 1,
    }
    rows = history(run)
    assert rows["samples_seen"] == [48, 96, 144, 144]
    assert rows["kind"] == [*["checkpoint"] * 3, "swa"]
    assert rows["train_loss"][2] < rows["train_loss"][0]
    figures = json.loads((Path(run.out) / "metrics.json").read_text())
    assert figures["best"]["map"] == max(rows["map"][:3])
    assert figures["swa"]["map"] == rows["map"][3]
    assert figures["best"]["ap"].keys() == {"bright", "left"}
    made = {product.path for product in run.products}
    files = {"bundle/model.json", "bundle/model.safetensors", "history.parquet", "curves.png"}
    assert files | {"metrics.json"} <= made
    assert any(path.startswith("tensorboard/events") for path in made)
    assert all((Path(run.out) / path).stat().st_size for path in made)
    assert sum("pseudo-epoch" in line for line in said) == 3

    found = figures["bundle"]["validation"]["map"]
    assert validation_map(bundle, archive) == pytest.approx(found, abs=1e-6)
    # of the best checkpoint and the mean of snapshots, the better one
    kind = figures["bundle"]["weights_of"]
    assert kind == ("swa" if figures["swa"]["map"] >= figures["best"]["map"] else "checkpoint")
    (line,) = [line for line in outcome.summary if line.startswith("average of 3 snapshots: map ")]
    taken = {"swa": "the average", "checkpoint": "the best checkpoint"}[kind]
    assert line.endswith(f"the bundle is {taken}")


class Training:
    """A training by itself, up to where its products would be written."""

    def __init__(self, recipe, folder):
        from satray.train import initial
        from satray.train.setup import read

        self.run, self.said = make_run(folder)
        self.setup = read(recipe, self.run.storage)
        self.weights = initial.prepare(self.setup, self.run)

    def here(self, listen=print):
        """Train in this process."""
        worker.fit(self.setup, self.run, self.weights, listen)

    def on_ray(self, listen=print, **options):
        from satray.train import ray_train

        ray_train.fit(self.setup, self.run, self.weights, listen, **options)

    @property
    def state(self):
        return checkpoints.latest_of(self.run.storage, self.run.state)

    def history(self):
        rows = self.state.history
        return {n: [row.get(n) for row in rows] for n in rows[0] if n not in TIMES}


def an_epoch(message):
    return message["kind"] == "epoch" and message["row"] is not None


def test_in_the_jobs_process_it_is_the_same_to_the_bit(job, plain, archive, tmp_path):
    run, said = make_run(tmp_path / "out", ray=False)
    outcome = worked(job, rich_recipe(archive, tmp_path), run)
    assert "training on 1 CPU worker, in this process" in said
    same(history(plain[1]), history(run))
    assert outcome.counts == plain[0].counts
    for name in ("model.json", "model.safetensors"):
        mine, theirs = ((Path(each.out) / "bundle" / name) for each in (run, plain[1]))
        assert mine.read_bytes() == theirs.read_bytes(), name


def test_left_on_ray_it_goes_on_here_and_the_other_way(job, plain, archive, tmp_path):
    from satray.train.ray_train import Halt

    there = Training(rich_recipe(archive, tmp_path), tmp_path / "there")
    halt = Halt(there.run)
    there.on_ray(lambda message: an_epoch(message) and halt(), halt=halt)
    assert there.state.pseudo_epoch >= 1
    there.here()

    class LeftError(Exception):
        """The process of the job is gone."""

    def leaving(message):
        if an_epoch(message):
            raise LeftError

    here = Training(rich_recipe(archive, tmp_path), tmp_path / "here")
    with pytest.raises(LeftError):
        here.here(leaving)
    assert here.state.pseudo_epoch == 1
    here.on_ray()
    whole = history(plain[1])
    for training in (there, here):
        found = training.history()
        same(found, {name: whole[name] for name in found})
        assert list(training.state.lost["train"]) == [3]  # of both attempts


def test_two_workers_of_whom_one_is_killed_equal_one_at_the_same_global_batch(
    job, plain, archive, tmp_path
):
    recipe = rich_recipe(archive, tmp_path, resources={"workers": 2, "gpus": "no"})
    training, pids, killed = Training(recipe, tmp_path / "out"), {}, []

    def listen(message):
        if message["kind"] == "worker":
            pids[message["rank"]] = message["pid"]
        elif not killed and an_epoch(message):
            killed.append(pids[0])
            os.kill(pids[0], signal.SIGKILL)

    training.on_ray(listen)
    assert len(killed) == 1
    assert "training on 2 CPU workers" in training.said
    one, two = history(plain[1]), training.history()
    for name in ("train_loss", "val_loss"):
        np.testing.assert_allclose(one[name][:3], two[name][:3], atol=1e-4, err_msg=name)
    assert one["samples_seen"] == two["samples_seen"]


def test_a_worker_that_always_dies_is_given_up_in_one_line(job, archive, tmp_path, monkeypatch):
    from satray.train import ray_train

    monkeypatch.setattr(ray_train, "MAX_FAILURES", 1)  # each costs the start of a worker
    training, starts = Training(rich_recipe(archive, tmp_path), tmp_path / "out"), []

    def listen(message):
        if message["kind"] == "worker":
            starts.append(message["pid"])
            os.kill(message["pid"], signal.SIGKILL)

    with pytest.raises(TrainingError, match=r"train worker 0 failed 2 times: ") as caught:
        training.on_ray(listen)
    assert "\n" not in str(caught.value)
    assert len(set(starts)) == 2


def test_a_finished_state_only_writes(job, plain, archive, tmp_path):
    """The driver dies before run.json: a rerun does not train."""
    _, run, _ = plain
    for product in ("bundle/model.json", "history.parquet"):
        (Path(run.out) / product).unlink()
    again, said = make_run(Path(run.out))
    worked(job, rich_recipe(archive, tmp_path), again)
    assert not any("training on" in line or "pseudo-epoch" in line for line in said)
    assert again.seconds["training"] == 0
    assert (Path(run.out) / "bundle" / "model.json").exists()


def test_unreadable_tiles_are_listed_and_training_goes_on(job, tmp_path):
    archive = generate(tmp_path / "archive", tiles=32, spoil=(4, 5))
    stages = [{"learning_rate": "auto", "pseudo_epochs": 1}]
    search = {"lowest": 1e-5, "highest": 1.0, "steps": 24, "seeds": 1}
    recipe = make_recipe(
        archive, tmp_path, stages=stages, landscape=search, deterministic=False, error_budget=0.2
    )
    # Twice: should the driver die before run.json, what could not be read is known all the same,
    # and the seconds of the first attempt are not the second's.
    for attempt in range(2):
        run, _ = make_run(tmp_path / "out", ray=False)
        assert worked(job, recipe, run).counts["unreadable_tiles"] == 2
        table = pq.read_table(os.path.join(run.out, "unreadable.parquet")).to_pylist()
        found = [(row["tile_id"], row["split"], bool(row["error"])) for row in table]
        assert found == [("t005", "train", True), ("t004", "val", True)]
        assert (run.seconds["training"] > 0) == (attempt == 0)

    # its learning rate was found first, and is written down
    figures = json.loads((Path(run.out) / "metrics.json").read_text())
    (test,) = figures["range_tests"]
    assert 1e-5 < test["learning_rate"] < 1.0
    assert max(history(run)["learning_rate"]) <= test["learning_rate"]
    bundled = json.loads((Path(run.out) / "bundle" / "model.json").read_text())
    assert bundled["provenance"]["learning_rates"] == [test["learning_rate"]]
    assert (Path(run.out) / "landscape.png").stat().st_size
