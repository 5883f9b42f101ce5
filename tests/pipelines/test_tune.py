"""Sweeps on a real Ray: heads from features, failures, deaths, interruptions, backbones."""

import hashlib
import json
import os
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from by_hand import worked
from train.small_archive import SIDE, generate, validation_map

from satray.config.cli import parse_yaml, validate
from satray.config.train import TrainRecipe
from satray.config.tune import TuneRecipe
from satray.runs.run import Run
from satray.storage import Storage

pytestmark = pytest.mark.pipeline

RATE = "stages.0.learning_rate"
NAME = "stages.0.schedule.name"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Features that all sweeps here share."""
    return str(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def job(ray_session):
    from satray.tune import job

    return job


def make_recipe(archive, store, base=None, **keys):
    common = {
        "variant": "simple_cnn",
        "weights": "none",
        "input": {"size": SIDE},
        "batch": 8,
        "augment.views": 2,
        "stages.0.pseudo_epochs": 3,
        "cache": {"folder": f"{store}/cache", "gib": 0.1},
    }
    tree = {
        "index": archive.index,
        "base": {**common, **(base or {})},
        "resources": {"gpus": "no"},
        "features": {"folder": store},
        **keys,
    }
    return validate(TuneRecipe, tree)


def make_run(folder):
    said = []
    return Run("tune", "0123456789ab", str(folder), Storage(), said.append, said.append), said


def board(run):
    return pq.read_table(os.path.join(run.out, "leaderboard.parquet")).to_pylist()


def best_recipe(run):
    tree = parse_yaml((Path(run.out) / "best.yaml").read_text(), "best.yaml")
    return validate(TrainRecipe, tree)


def mortal(folder):
    """Stand in for a trial's process: those of two batch sizes die after their first step."""
    from satray.tune import tuner

    class Mortal(tuner.TrainTrial):  # local, so that it is pickled by value
        def step(self):
            result = super().step()
            batch = self.config["trials"][0].recipe.batch
            deaths = len(list(Path(folder).glob(f"{batch}-*")))
            if deaths < {16: 1, 12: 99}.get(batch, 0):
                self.cleanup()
                (Path(folder) / f"{batch}-{deaths}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return result

    return Mortal


@pytest.fixture(scope="module")
def heads(job, archive, store, tmp_path_factory):
    """Six trials: one explodes, one dies once, one dies for good."""
    from satray.tune import tuner

    folder = tmp_path_factory.mktemp("heads")
    killed = folder / "killed"
    killed.mkdir()
    space = {
        "batch": [8, 16, 12],
        RATE: {"values": [0.01, 1e30], "when": {"batch": [8]}},
        "dropout": {"values": [0.0, 0.5], "when": {"batch": [8]}},
    }
    recipe = make_recipe(archive, store, space=space, stop={"name": "asha", "grace": 1000})
    run, said = make_run(folder / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuner, "TrainTrial", mortal(str(killed)))
        outcome = worked(job, recipe, run)
    return recipe, outcome, run, said, killed


def test_a_sweep_of_heads_leaves_all_its_products(heads, archive) -> None:
    _recipe, outcome, run, _said, _ = heads
    from satray.models.bundle import load_bundle

    made = {product.path for product in run.products}
    assert {
        "leaderboard.parquet",
        "trials.parquet",
        "best.yaml",
        "sweep.json",
        "report.html",
        "plots/parallel.png",
        "bundle/model.json",
        "bundle/model.safetensors",
    } <= made
    assert outcome.summary[0].split()[:3] == ["trial", "configuration", "mAP"]
    rows = board(run)
    assert rows[0]["trial"] in outcome.summary[1]
    assert [row["rank"] for row in rows[:3]] == [1, 2, 3]
    assert {row["regime"] for row in rows} == {"head"}
    assert outcome.counts["trials"] == len(rows) == 6
    assert outcome.counts["unreadable_tiles"] == 0
    curves = pq.read_table(os.path.join(run.out, "trials.parquet")).to_pylist()
    of_best = [row for row in curves if row["trial"] == rows[0]["trial"]]
    assert [row["samples"] for row in of_best] == sorted(row["samples"] for row in of_best)
    assert max(row["map"] for row in of_best) == rows[0]["map"]
    figures = json.loads((Path(run.out) / "sweep.json").read_text())
    assert figures["best"]["trial"] == rows[0]["trial"]
    assert figures["validation"]["map"] == pytest.approx(rows[0]["map"], abs=1e-9)
    # the bundle scores validation as the trial did
    bundle = load_bundle(run.out, Storage())
    assert validation_map(bundle, archive) == pytest.approx(rows[0]["map"], abs=1e-5)


def test_what_fails_is_recorded_and_ends_nothing(heads) -> None:
    _, outcome, run, _said, killed = heads
    rows = {(row["batch"], row[RATE], row["dropout"]): row for row in board(run)}
    exploded = [row for key, row in rows.items() if key[1] == 1e30]
    assert [row["status"] for row in exploded] == ["failed", "failed"]
    assert all("learning" in row["reason"] for row in exploded)
    dead, revived = rows[12, None, None], rows[16, None, None]
    assert dead["status"] == "failed"
    assert dead["reason"].startswith("its process died")
    # its first checkpoint was reached in the first attempt, and all of its curve is there
    assert (revived["status"], revived["samples"]) == ("done", 144)
    assert outcome.counts["trials_failed"] == outcome.failed == 3
    assert {path.name for path in killed.iterdir()} == {"16-0", "12-0", "12-1"}


def test_the_best_recipe_is_one_that_train_takes(heads) -> None:
    recipe = best_recipe(heads[2])
    assert recipe.stages[0].trainable == "head"
    assert recipe.augment.views == 2


def test_a_second_sweep_finds_the_features_and_an_interrupted_one_goes_on(
    job, heads, archive, store, tmp_path, monkeypatch
) -> None:
    from satray.tune.records import TrialLog

    space = {RATE: [1e-4, 1e-3, 1e-2, 1e-1], NAME: ["constant", "one_cycle"]}
    recipe = make_recipe(archive, store, space=space, concurrent=1)
    run, _ = make_run(tmp_path / "out")
    end = TrialLog.end

    def interrupted(self, *args, **keys):
        record = end(self, *args, **keys)
        if len(self.records) == 3:
            raise KeyboardInterrupt
        return record

    monkeypatch.setattr(TrialLog, "end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worked(job, recipe, run)
    monkeypatch.undo()
    assert run.seconds.get("features", 0) == 0
    before = kept(run)
    assert len(before) == 3
    again, said = make_run(tmp_path / "out")
    outcome = worked(job, recipe, again)
    assert outcome.counts["trials"] == outcome.counts["trials_done"] == 8
    assert "3 of 8 trials had ended before" in said
    assert {trial: kept(again)[trial] for trial in before} == before
    rows = board(again)
    assert len({row["trial"] for row in rows}) == 8
    # the driver dies before run.json: a rerun trains nothing
    third, said = make_run(tmp_path / "out")
    worked(job, recipe, third)
    assert "8 of 8 trials had ended before" in said
    assert board(third) == rows


def kept(run):
    from satray.tune.records import Metric, TrialLog

    return TrialLog(run, Metric("map"), 8).records


def test_optuna_suggests_and_goes_on_where_it_was(job, heads, archive, store, tmp_path) -> None:
    space = {RATE: {"log_uniform": [1e-4, 1e-1]}}
    keys = {"search": "optuna", "space": space, "seed": 4, "concurrent": 1}
    file = Path(heads[2].out) / "bundle" / "model.safetensors"
    base = {"seed": 0, "weights": str(file), "pseudo_epoch": 8}
    first, _ = make_run(tmp_path / "out")
    recipe = make_recipe(archive, store, base, trials=4, **keys)
    assert worked(job, recipe, first).counts["trials_done"] == 4
    four = {row["trial"] for row in board(first)}
    more, said = make_run(tmp_path / "out")
    outcome = worked(job, make_recipe(archive, store, base, trials=6, **keys), more)
    assert outcome.counts["trials_done"] == 6
    assert "4 of 6 trials had ended before" in said
    rows = board(more)
    assert four < {row["trial"] for row in rows}
    assert len({row[RATE] for row in rows}) == 6
    # with all of its trials ended, a rerun suggests none, and fine-tunes the best where asked to
    again, _ = make_run(tmp_path / "out")
    worked(job, make_recipe(archive, store, base, trials=6, refit=True, **keys), again)
    assert board(again) == rows
    recipe = best_recipe(again)
    assert [stage.trainable for stage in recipe.stages] == ["head", "all"]
    assert recipe.stages[0].learning_rate == rows[0][RATE]
    history = pq.read_table(Path(again.out) / "refit" / "history.parquet")
    assert set(history["stage"].to_pylist()) == {0, 1}
    from satray.models.bundle import load_bundle

    origin = load_bundle(again.out, Storage()).spec.provenance["weights"]["rgb"]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert origin == {"source": str(file), "sha256": digest}


def backbones(job, archive, store, folder, **keys):
    """Two trials that train whole networks, the worse of which is stopped; the run."""
    base = {"stages.0.trainable": "all", "stages.0.pseudo_epochs": 4, "deterministic": True}
    stop = {"name": "asha", "grace": 96, "factor": 2}
    recipe = make_recipe(archive, store, base, space={RATE: [3e-3, 1e-9]}, stop=stop, **keys)
    run, _said = make_run(folder / "out")
    outcome = worked(job, recipe, run)
    rows = board(run)
    assert [(row["status"], row["regime"]) for row in rows] == [
        ("done", "backbone"),
        ("stopped", "backbone"),
    ]
    assert (rows[0][RATE], rows[0]["samples"]) == (3e-3, 192)
    assert rows[1]["samples"] < 192
    assert outcome.counts["samples"] == 192 + rows[1]["samples"]
    from satray.models.bundle import load_bundle

    bundle = load_bundle(run.out, Storage())
    assert validation_map(bundle, archive) == pytest.approx(rows[0]["map"], abs=1e-5)
    return run


def test_backbones_train_on_workers_and_a_stopped_one_gives_them_back(
    job, archive, store, tmp_path
) -> None:
    import ray
    from ray.util import placement_group_table

    backbones(job, archive, store, tmp_path, resources={"gpus": "no", "ray": "yes"})
    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.2)
    states = {group["state"] for group in placement_group_table().values()}
    assert states <= {"REMOVED"}


def test_a_backbone_of_one_worker_trains_in_its_trial_and_the_best_again_here(
    job, archive, store, tmp_path
) -> None:
    run = backbones(job, archive, store, tmp_path, refit=True)
    # the bundle is of the best configuration trained again, which is the same to the bit
    refit = pq.read_table(os.path.join(run.out, "refit", "history.parquet")).to_pylist()
    assert max(row["map"] for row in refit) == board(run)[0]["map"]
    made = {product.path for product in run.products}
    assert {"refit/history.parquet", "bundle/model.json"} <= made
    assert not any(path.startswith("refit/bundle") for path in made)  # it is in bundle/
    assert not (Path(run.out) / "refit" / "state").exists()
