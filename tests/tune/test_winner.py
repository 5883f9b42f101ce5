"""The best trial's bundle: a head trained once more, up to what its record says."""

from dataclasses import replace

import pytest
from by_hand import WORKERS
from sweep_material import MAP
from train.small_archive import generate, make_run
from tune.feature_material import extracted, prepare

from satray.config.cli import validate
from satray.config.tune import TuneRecipe
from satray.errors import TrainingError
from satray.storage import Storage
from satray.tune import winner as module
from satray.tune.records import TrialRecord, curve_row, trial_id
from satray.tune.starts import Start
from satray.tune.trials import Sweep, Trial
from satray.tune.tuner import Work, open_trial


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("winner")
    found = prepare(generate(folder / "archive"), folder)
    setup = found.setup
    head = found.head_file(folder)
    return setup, Start(found.weights, head, extracted(found))


@pytest.fixture
def work(made, tmp_path):
    setup, start = made
    state = str(tmp_path / "state")
    recipe = validate(TuneRecipe, {"index": "/i", "stop": {"name": "asha"}})
    sweep = Sweep(recipe, setup.index, None, MAP, starts={"s": start})
    return Work(sweep, Storage(), state, "0" * 12, WORKERS, {}, alone=False)


@pytest.fixture
def trial(made, monkeypatch):
    monkeypatch.setattr(
        module.cluster, "run_once", lambda function, *args, workers: function(*args)
    )
    configuration = {"dropout": 0.1}
    recipe = made[0].recipe.model_copy(update=configuration)
    return Trial(trial_id(configuration), configuration, recipe, "s")


def course(work, trial, most=99):
    """Run a trial, or its first evaluations."""
    training, rows = open_trial(work, trial, "head", {}), []
    while not training.done and len(rows) < most:
        rows.append(curve_row(training.step(), MAP))
    begun = TrialRecord(trial.id, trial.configuration, "head", 0)
    return begun.evaluated(rows, [0.5] * len(rows)).ended(MAP, "done")


@pytest.mark.parametrize("most", [99, 1])
def test_the_bundle_is_what_the_record_says(work, trial, tmp_path, most) -> None:
    shown = course(work, trial, most)  # or stopped after one evaluation
    run, _ = make_run(tmp_path / "out")
    files, validation, lines = module.winner(work, trial, shown, run)
    row = next(row for row in shown.curve if row["samples"] == shown.best_samples)
    for figure in ("map", "accuracy", "val_loss"):
        assert validation[figure] == pytest.approx(row[figure], abs=1e-9)
    assert {"model.json", "model.safetensors"} <= files.keys()
    assert len(lines) == 1


def test_a_head_without_its_first_weights_has_no_bundle(work, trial, tmp_path) -> None:
    shown, run = course(work, trial, 1), make_run(tmp_path / "out")[0]
    work = replace(work, sweep=replace(work.sweep, starts={}))
    with pytest.raises(TrainingError, match=f"trial {trial.id}: its first weights cannot be had"):
        module.winner(work, trial, shown, run)
