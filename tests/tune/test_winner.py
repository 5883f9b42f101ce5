"""The best trial's bundle: its own weights, whatever its process left behind."""

import json

import pytest
from inline_blocks import WORKERS
from sweep_material import MAP, record
from train.small_archive import generate, make_run
from tune.feature_material import in_memory, prepare

from satray.config.cli import validate
from satray.config.tune import TuneRecipe
from satray.errors import TrainingError
from satray.storage import Storage
from satray.train.workers.combining import to_bytes
from satray.tune import job as tune_job
from satray.tune import winner as module
from satray.tune.actor import Session, Work
from satray.tune.desk import Job
from satray.tune.ground import Ground
from satray.tune.head import best_of
from satray.tune.ledger import trial_folder
from satray.tune.records import TrialRecord
from satray.tune.trials import trial_id


class Table:
    """Features of both splits."""

    key = "k"

    def __init__(self, train, val):
        self.splits = {"train": train, "val": val}

    def open(self, split, pooling):
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
    tree = json.loads(setup.recipe.model_dump_json(exclude_unset=True))
    own = {name: tree.pop(name) for name in ("index", "resources")}
    recipe = validate(TuneRecipe, {**own, "base": tree})
    ground = Ground(prepared.weights, uri, "", setup.mean, setup.std, Table(*splits))
    tiles = setup.index
    state = str(tmp_path / "state")
    return Work(recipe, tiles, Storage(), state, "0" * 12, MAP, {"g": ground}, True, 1, WORKERS)


@pytest.fixture
def trial(monkeypatch):
    monkeypatch.setattr(module.cluster, "run_once", lambda function, *args: function(*args))
    configuration = {"dropout": 0.1}
    return Job(trial_id(configuration), configuration, "g", "head", 0)


def course(work, job, most=99):
    """Run a trial, or its first evaluations."""
    session, rows = Session(work), []
    session.begin(vars(job))
    while len(rows) < most:
        told = session.step()
        assert told["error"] is None
        rows += told["rows"]
        if told["over"]:
            break
    session.end()
    return TrialRecord.ended(
        job.configuration, MAP, regime="head", status="done", seed=0, seconds=1, curve=rows
    )


def test_the_bundle_is_what_the_record_says(work, trial, tmp_path) -> None:
    shown = course(work, trial)
    run, _ = make_run(tmp_path / "out")
    won = module.winner(work, trial, shown, run)
    assert won.validation["map"] == pytest.approx(shown.best)
    assert "model.json" in won.files
    assert len(won.lines) == 1


@pytest.mark.parametrize("left", ["nothing", "more"])
def test_what_was_left_elsewhere_is_trained_again_to_where_it_was_best(
    work, trial, tmp_path, left
) -> None:
    shown = course(work, trial, 1)  # stopped after its first evaluation
    folder = trial_folder(work.state, trial.trial)
    Storage().delete(folder)
    if left == "more":  # a process that went on past what was told of it
        course(work, trial)
        assert best_of(Storage(), folder).samples != shown.best_samples
    run, _ = make_run(tmp_path / "out")
    won = module.winner(work, trial, shown, run)
    assert best_of(Storage(), folder).samples == shown.best_samples == shown.samples
    assert won.validation["map"] == pytest.approx(shown.best, abs=1e-9)


def test_a_bundle_that_does_other_than_its_trial_says_so() -> None:
    shown = record({"batch": 8}, 0.5, 0.75)
    assert module.differs({"map": 0.75}, shown, MAP) == ()
    (line,) = module.differs({"map": 0.7}, shown, MAP)
    assert line == "the bundle's own mAP is 0.7000, its trial's was 0.7500"


def test_tables_are_there_where_no_trial_has_a_value(monkeypatch, tmp_path) -> None:
    from types import SimpleNamespace

    from satray.tune import search

    failed = record({"batch": 8}, status="failed", reason="no room")
    found = SimpleNamespace(records={failed.id: failed}, sweep=SimpleNamespace(metric=MAP))
    monkeypatch.setattr(search, "search", lambda *_: found)
    run, _ = make_run(tmp_path / "out")
    with pytest.raises(TrainingError, match="no room"):
        tune_job.work(validate(TuneRecipe, {"index": "/i"}), None, run)
    assert {each.path for each in run.products} == {"leaderboard.parquet", "trials.parquet"}
