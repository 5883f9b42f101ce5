"""Optuna's suggestions, and range tests before a sweep, in this process."""

import itertools
import math
from types import SimpleNamespace

import pytest
from sweep_material import MAP, record
from train.small_archive import SIDE, generate, make_run

from satray.config.cli import validate
from satray.config.tune import TuneRecipe
from satray.errors import InputError, TrainingError
from satray.storage import Storage
from satray.tune import search
from satray.tune.records import trial_id
from satray.tune.search import Optuna, range_tests, rate_bounds
from satray.tune.space import Range, Space, Values
from satray.tune.trials import RATES, Trial, resolved

RATE = "stages.0.learning_rate"
SPACE = Space.parse(
    {
        "variant": ["single3", "single4"],
        RATE: {"log_uniform": [1e-4, 1e-1]},
        "stages.0.schedule.cycle": {"values": [1, 2], "when": {"variant": ["single3"]}},
    }
)
FINITE = Space.parse({"variant": ["single3", "single4"], "batch": [8, 16]})


def accept(configuration) -> Trial:
    return Trial(trial_id(configuration), configuration, None)


def optuna(space, count, seed, accept=accept, records=(), unfinished=(), refused=None) -> Optuna:
    recipe = SimpleNamespace(seed=seed)
    sweep = SimpleNamespace(
        space=space, planned=count, recipe=recipe, metric=MAP, accept=accept, lost={}
    )
    log = SimpleNamespace(records={one.id: one for one in records}, unfinished=unfinished)
    log.refuse = lambda configuration, reason, keep: refused.append((configuration, reason))
    return Optuna(sweep, log)


def worth(configuration) -> float:
    """Best at 1e-2."""
    return 1 - abs(math.log10(configuration[RATE]) + 2) / 4


def drain(source, most=1000, value=worth):
    found = []
    for trial in itertools.islice(source, most):
        found.append(trial.configuration)
        source.tell(trial, value(trial.configuration))
    return found


def test_optuna_gives_so_many_distinct_ones_and_learns() -> None:
    found = drain(optuna(SPACE, 40, 3))
    assert len({trial_id(each) for each in found}) == len(found) == 40
    worths = [worth(each) for each in found]
    assert sum(worths[20:]) / 20 > sum(worths[:10]) / 10 + 0.05


def test_optuna_is_pure_in_its_seed() -> None:
    one, two, other = (drain(optuna(SPACE, 15, seed)) for seed in (1, 1, 2))
    assert one == two
    assert one != other


def test_several_at_once_differ() -> None:
    source = optuna(SPACE, 8, 0)
    asked = list(source)
    assert len({trial.id for trial in asked}) == len(asked) == 8


def test_what_ended_counts_and_what_began_comes_first() -> None:
    earlier = drain(optuna(SPACE, 22, 0))
    ended = [record(each, worth(each)) for each in earlier[:20]]
    assert list(optuna(SPACE, 20, 0, records=ended)) == []
    rest = drain(optuna(SPACE, 40, 0, records=ended, unfinished=earlier[20:]))
    assert rest[:2] == earlier[20:]
    assert len(rest) == 20
    assert not {trial_id(each) for each in rest[2:]} & {trial_id(each) for each in earlier}
    # it knows what the earlier ones showed: no longer drawn at random
    assert sum(map(worth, rest[2:])) / 18 > sum(map(worth, earlier[:10])) / 10 + 0.05


def test_a_failure_is_no_lesson_and_a_space_that_is_used_up_ends_it() -> None:
    found = drain(optuna(SPACE, 15, 0), value=lambda _: -math.inf)
    assert len({trial_id(each) for each in found}) == 15
    found = drain(optuna(FINITE, 100, 0), value=lambda each: each["batch"] / 16)
    assert sorted(map(trial_id, found)) == sorted(map(trial_id, FINITE.grid()))


def test_what_cannot_be_valid_is_refused_and_counts() -> None:
    def picky(configuration) -> Trial:
        if configuration["batch"] == 16:
            raise InputError("batch=16: too many")
        return accept(configuration)

    refused = []
    source = optuna(FINITE, 4, 0, picky, refused=refused)
    found = drain(source, value=lambda _: 0.5)
    assert [each["batch"] for each in found] == [8, 8]
    assert [(each["batch"], reason) for each, reason in refused] == [(16, "batch=16: too many")] * 2


def test_rates_around_what_a_range_test_chose() -> None:
    assert rate_bounds(1e-2, 1.0) == (1e-3, 1e-1)
    assert rate_bounds(1e-2, 1e-2) == (1e-3, 3e-2)  # not beyond where the loss bursts
    assert rate_bounds(1e-2, 1e-3) == (1e-3, 1e-2)


NIR = {"towers": [{"name": "nir", "backbone": "simple_cnn", "bands": ["nir"]}]}
RAMP = {"lowest": 1e-5, "highest": 1.0, "steps": 24, "seeds": 1}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("archive"), tiles=32)


def recipe_of(archive, rate=(1e-3,), workers=1, **base):
    common = {"input": {"size": SIDE}, "batch": 8, "stages.0.pseudo_epochs": 2, "landscape": RAMP}
    space = {"variant": ["simple_cnn", NIR]} | ({RATE: rate} if rate else {})
    return validate(
        TuneRecipe,
        {
            "index": archive.index,
            "base": common | base,
            "space": space,
            "landscape": True,
            "resources": {"gpus": "no", "workers": workers},
        },
    )


def ranges_found(recipe, folder, out="out"):
    run, said = make_run(folder / out, ray=False)
    return *range_tests(resolved(recipe, Storage()), run, str(folder / "store")), said


def rates_of(space):
    return [axis for axis in space.axes if axis.key == RATE]


def test_each_variant_has_rates_of_its_own_and_is_tested_once(archive, tmp_path) -> None:
    recipe = recipe_of(archive)
    found, pictures, said = ranges_found(recipe, tmp_path)
    axes = rates_of(found)
    assert [dict(axis.when)["variant"] for axis in axes] == [("simple_cnn",), (NIR,)]
    for axis in axes:
        assert isinstance(axis.domain, Range)
        assert 1e-6 < axis.domain.low < axis.domain.high <= 3.0
    assert pictures.keys() == {"simple_cnn", "simple_cnn (2)"}
    for name in pictures:
        assert any(line.startswith(f"{name}: learning rates ") for line in said)
    assert done_in(said) == 2
    # a run that goes on tests none again; a head needs no batch that divides among 3 workers
    space, _, said = ranges_found(recipe_of(archive, workers=3), tmp_path)
    assert (space, done_in(said)) == (found, 0)


def done_in(said) -> int:
    """Range tests that were done, by what was said."""
    return sum(line.startswith("range test: 1 sweeps of") for line in said)


def fails(monkeypatch, line="the loss bursts at once"):
    from satray.train import range_test

    def explore(*_):
        raise TrainingError(line)

    monkeypatch.setattr(range_test, "explore", explore)


def test_a_test_that_shows_nothing_leaves_the_rates_of_the_space(
    archive, tmp_path, monkeypatch
) -> None:
    fails(monkeypatch)
    found, pictures, said = ranges_found(recipe_of(archive), tmp_path)
    assert [each[RATE] for each in found.grid()] == [1e-3] * 2
    assert pictures == {}
    assert sum("learning rates as given" in line and "bursts" in line for line in said) == 2
    # the sweep that goes on does not try again, which might give another space; others do
    monkeypatch.undo()
    again, _, more = ranges_found(recipe_of(archive), tmp_path)
    assert again == found
    assert sum("bursts" in line for line in more) == 2
    fails(monkeypatch, "it bursts again")
    *_, others = ranges_found(recipe_of(archive), tmp_path, "elsewhere")
    assert sum("bursts again" in line for line in others) == 2
    # without an axis, base's own rate; where there is none, the widest range
    assert rates_of(ranges_found(recipe_of(archive, rate=None, **{RATE: 0.25}), tmp_path)[0]) == []
    bare, *_ = ranges_found(recipe_of(archive, rate=None, **{RATE: "auto"}), tmp_path)
    assert [(axis.domain.low, axis.domain.high) for axis in rates_of(bare)] == [RATES] * 2


def test_one_variant_that_cannot_be_had_does_not_end_the_others_tests(
    archive, tmp_path, monkeypatch
) -> None:
    real = search.settle

    def settle(setup, *rest):
        if setup.bands == ("nir",):
            raise InputError("weights: none published")
        return real(setup, *rest)

    monkeypatch.setattr(search, "settle", settle)
    found, pictures, said = ranges_found(recipe_of(archive), tmp_path)
    assert pictures.keys() == {"simple_cnn"}
    assert [type(axis.domain) for axis in rates_of(found)] == [Range, Values]
    assert any("none published" in line for line in said)
