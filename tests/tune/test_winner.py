"""The best trial's bundle: its own weights, whatever its process left behind."""

import pytest
from by_hand import WORKERS
from sweep_material import MAP, record
from train.small_archive import generate, make_run
from tune.feature_material import in_memory, prepare

from satray.config.cli import validate
from satray.config.tune import TuneRecipe
from satray.errors import TrainingError
from satray.storage import Storage
from satray.train.checkpoints import to_bytes
from satray.tune import job as tune_job
from satray.tune import winner as module
from satray.tune.head import best_of
from satray.tune.records import TrialRecord, curve_row, trial_folder, trial_id
from satray.tune.starts import Start
from satray.tune.trials import Trial
from satray.tune.tuner import Work, config_of, open_trial


class Table:
    """Features of both splits."""

    uri = "k"

    def __init__(self, train, val):
        self.splits = {"train": train, "val": val}

    def open(self, split, pooling, labels):
        return self.splits[split]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("winner")
    found = prepare(generate(folder / "archive"), folder)
    return found, in_memory(found)


@pytest.fixture
def work(made, tmp_path):
    prepared, splits = made
    head = {name: value for name, value in prepared.first.items() if name.startswith("head.")}
    uri = str(tmp_path / "head.pt")
    Storage().write(uri, to_bytes(head))
    setup = prepared.setup
    start = Start(prepared.weights, uri, setup.mean, setup.std, Table(*splits))
    state = str(tmp_path / "state")
    return Work(setup.index, Storage(), state, "0" * 12, MAP, {"s": start}, True, WORKERS, {})


@pytest.fixture
def trial(made, monkeypatch):
    monkeypatch.setattr(module.cluster, "run_once", lambda function, *args: function(*args))
    configuration = {"dropout": 0.1}
    recipe = made[0].setup.recipe.model_copy(update=configuration)
    return Trial(trial_id(configuration), configuration, recipe)


def course(work, trial, most=99):
    """Run a trial, or its first evaluations."""
    training, rows = open_trial(work, config_of(trial, "s", "head")), []
    while not training.done and len(rows) < most:
        rows.append(curve_row(training.step(), MAP))
    training.close()
    return TrialRecord.ended(
        trial.configuration, MAP, regime="head", status="done", seed=0, seconds=1, curve=rows
    )


def test_the_bundle_is_what_the_record_says(work, trial, tmp_path) -> None:
    shown = course(work, trial)
    run, _ = make_run(tmp_path / "out")
    won = module.winner(work, trial, "s", shown, run)
    assert won.validation["map"] == pytest.approx(shown.best)
    assert "model.json" in won.files
    assert len(won.lines) == 1


@pytest.mark.parametrize("left", ["nothing", "more"])
def test_what_was_left_elsewhere_is_trained_again_to_where_it_was_best(
    work, trial, tmp_path, left
) -> None:
    shown = course(work, trial, 1)  # stopped after its first evaluation
    folder = trial_folder(work.state, trial.id)
    Storage().delete(folder)
    if left == "more":  # a process that went on past what was told of it
        course(work, trial)
        assert best_of(Storage(), folder).samples_seen != shown.best_samples
    run, _ = make_run(tmp_path / "out")
    won = module.winner(work, trial, "s", shown, run)
    assert best_of(Storage(), folder).samples_seen == shown.best_samples == shown.samples
    assert won.validation["map"] == pytest.approx(shown.best, abs=1e-9)


def test_tables_are_there_where_no_trial_has_a_value(monkeypatch, tmp_path) -> None:
    from types import SimpleNamespace

    from satray.tune import search

    failed = record({"batch": 8}, status="failed", reason="no room")
    log = SimpleNamespace(records={failed.id: failed})
    found = SimpleNamespace(log=log, sweep=SimpleNamespace(metric=MAP))
    monkeypatch.setattr(search, "search", lambda *_: found)
    run, _ = make_run(tmp_path / "out")
    with pytest.raises(TrainingError, match="no room"):
        tune_job.work(validate(TuneRecipe, {"index": "/i"}), None, run)
    assert {each.path for each in run.products} == {"leaderboard.parquet", "trials.parquet"}
