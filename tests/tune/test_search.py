"""Optuna's suggestions, and range tests before a sweep, in this process."""

import itertools
import math
from dataclasses import replace

import pytest
from sweep_material import MAP, record
from train.small_archive import SIDE, generate, make_run
from tune.feature_material import one_core

from satray.config.cli import validate
from satray.config.tune import TuneRecipe
from satray.errors import TrainingError
from satray.runs.run import Run
from satray.storage import Storage
from satray.train import range_test
from satray.tune.job import read
from satray.tune.records import TrialLog, trial_id
from satray.tune.search import range_tests, rate_bounds, suggested
from satray.tune.trials import RATES

RATE = "stages.0.learning_rate"
SPACE = {
    "variant": ["simple_cnn", "single3"],
    RATE: {"log_uniform": [1e-4, 1e-1]},
    "stages.0.schedule.cycle": {"values": [1, 2], "when": {"variant": ["single3"]}},
}
FINITE = {"pooling": ["avg", "max"], "batch": [8, 16]}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("archive"), tiles=32)


def swept(archive, space, **keys):
    base = {"input": {"size": SIDE}, "batch": 8, "weights": "none", "variant": "simple_cnn"}
    tree = {"index": archive.index, "base": base, "space": space, "search": "optuna"}
    return read(validate(TuneRecipe, tree | keys), Storage())


class Log(TrialLog):
    """A log of trials that ended before, or began and did not."""

    def __init__(self, folder, records=(), unfinished=()) -> None:
        super().__init__(Run("tune", "r", str(folder), Storage()), MAP, 9)
        self.records |= {one.id: one for one in records}
        self.unfinished += unfinished


@pytest.fixture
def optuna(archive, tmp_path):
    sweep = swept(archive, SPACE)

    def drained(count, seed=0, sweep=sweep, log=None, value=worth, **earlier):
        """What is suggested, where each trial ends with a value, or fails, before the next."""
        recipe = sweep.recipe.model_copy(update={"trials": count, "seed": seed})
        log, found = log or Log(tmp_path, **earlier), []
        for trial in itertools.islice(suggested(replace(sweep, recipe=recipe), log), 1000):
            found.append(trial.configuration)
            if value is not None:
                one = record(trial.configuration, value(trial.configuration))
                log.records[one.id] = one
        return found

    return drained


def worth(configuration) -> float:
    """Best at 1e-2."""
    return 1 - abs(math.log10(configuration[RATE]) + 2) / 4


def test_optuna_gives_so_many_distinct_ones_is_pure_in_its_seed_and_learns(optuna) -> None:
    found = optuna(40, 3)
    assert len(set(map(trial_id, found))) == len(found) == 40
    worths = [worth(each) for each in found]
    assert sum(worths[20:]) / 20 > sum(worths[:10]) / 10 + 0.05
    assert optuna(12, 3) == found[:12]
    assert optuna(12, 2) != found[:12]
    asked = optuna(8, value=None)  # several at once
    assert len(set(map(trial_id, asked))) == len(asked) == 8


def test_what_ended_counts_and_what_began_comes_first(optuna) -> None:
    earlier = optuna(22)
    ended = [record(each, worth(each)) for each in earlier[:20]]
    assert optuna(20, records=ended) == []
    rest = optuna(40, records=ended, unfinished=earlier[20:])
    assert rest[:2] == earlier[20:]
    assert len(rest) == 20
    assert not set(map(trial_id, rest[2:])) & set(map(trial_id, earlier))
    # it knows what the earlier ones showed: no longer drawn at random
    assert sum(map(worth, rest[2:])) / 18 > sum(map(worth, earlier[:10])) / 10 + 0.05


def test_a_failure_is_no_lesson_and_a_space_that_is_used_up_ends_it(optuna, archive) -> None:
    found = optuna(15, value=lambda _: math.nan)
    assert len(set(map(trial_id, found))) == 15
    finite = swept(archive, FINITE)
    found = optuna(100, sweep=finite, value=lambda each: each["batch"] / 16)
    assert sorted(map(trial_id, found)) == sorted(map(trial_id, finite.space.grid()))


def test_what_cannot_be_tried_is_refused_and_counts(optuna, archive, tmp_path) -> None:
    sweep = swept(archive, {"batch": [8], "pooling": ["avg", "max"]})
    space = swept(archive, {"batch": [8, 16], "pooling": ["avg"]}).space
    lost = replace(sweep, lost={sweep.trials[0].start: "no weights"}, space=space)
    log = Log(tmp_path)
    assert optuna(4, sweep=lost, log=log) == []
    assert [one.reason for one in log.records.values()] == ["no weights"] * 2
    assert Log(tmp_path).records == {}  # it may pass


def test_rates_around_what_a_range_test_chose() -> None:
    assert rate_bounds(1e-2, 1.0) == (1e-3, 1e-1)
    assert rate_bounds(1e-2, 1e-2) == (1e-3, 3e-2)  # not beyond where the loss bursts
    assert rate_bounds(1e-2, 1e-3) == (1e-3, 1e-2)


NIR = {"towers": [{"name": "nir", "backbone": "simple_cnn", "bands": ["nir"]}]}
RAMP = {"lowest": 1e-5, "highest": 1.0, "steps": 24, "seeds": 1}


def ranges_of(archive, folder, rate=(1e-3,), out="out", weights="none", workers=1, **base):
    """The rates of the space after range tests, the pictures, and what was said."""
    base = {"input": {"size": SIDE}, "batch": 8, "stages.0.pseudo_epochs": 2, **base}
    base |= {"landscape": RAMP, "weights": weights}
    space = {"variant": ["simple_cnn", NIR]} | ({RATE: rate} if rate else {})
    keys = {"landscape": True, "resources": {"gpus": "no", "workers": workers}, "search": "grid"}
    run, said = make_run(folder / out, ray=False)
    sweep = swept(archive, space, base=base, **keys)
    with one_core():
        found, pictures = range_tests(sweep, run, str(folder / "store"))
    rates = [trial.recipe.stages[0].learning_rate for trial in sweep.over(found).trials]
    assert rates
    assert "auto" not in rates
    return [axis for axis in found.axes if axis.key == RATE], pictures, said


def count(said, word) -> int:
    return sum(word in line for line in said)


def test_each_variant_has_rates_of_its_own_and_is_tested_once(archive, tmp_path) -> None:
    axes, pictures, said = ranges_of(archive, tmp_path)
    assert [axis.when["variant"] for axis in axes] == [("simple_cnn",), (NIR,)]
    for axis in axes:
        low, high = axis.values
        assert axis.kind == "log_uniform"
        assert 1e-6 < low < high <= 3.0
    assert pictures.keys() == {"simple_cnn", "simple_cnn (2)"}
    assert all(count(said, f"{name}: learning rates ") for name in pictures)
    assert count(said, "range test: 1 sweeps of") == 2
    # a run that goes on tests none again; a head needs no batch that divides among 3 workers
    again, _, said = ranges_of(archive, tmp_path, workers=3)
    assert (again, count(said, "range test: 1 sweeps of")) == (axes, 0)


def test_a_test_that_shows_nothing_leaves_the_rates_of_the_space(
    archive, tmp_path, monkeypatch
) -> None:
    def fails(line):
        def explore(*_):
            raise TrainingError(line)

        monkeypatch.setattr(range_test, "explore", explore)

    fails("the loss bursts at once")
    axes, pictures, said = ranges_of(archive, tmp_path)
    assert [axis.values for axis in axes] == [(1e-3,)] * 2
    assert pictures == {}
    assert count(said, "learning rates as given, since its range test failed: the loss bursts") == 2
    # the sweep that goes on does not try again, which might give another space; others do
    monkeypatch.undo()
    again, _, more = ranges_of(archive, tmp_path)
    assert (again, count(more, "bursts")) == (axes, 2)
    fails("it bursts again")
    *_, others = ranges_of(archive, tmp_path, out="elsewhere")
    assert count(others, "bursts again") == 2
    # without an axis, base's own rate; where there is none, the widest range
    assert ranges_of(archive, tmp_path, rate=None, **{RATE: 0.25})[0] == []
    bare, *_ = ranges_of(archive, tmp_path, rate=None, **{RATE: "auto"})
    assert [axis.values for axis in bare] == [RATES] * 2
