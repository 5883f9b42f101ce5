"""The space: what a grid, a draw and Optuna may give, and that conditions are honoured."""

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satray.config.cli import keys_of
from satray.config.train import TrainRecipe
from satray.errors import InputError
from satray.tune.space import LARGEST_GRID, WORDS, Space, canonical

optuna.logging.set_verbosity(optuna.logging.ERROR)

RATE = "stages.0.learning_rate"
CYCLING = {
    "variant": ["single3", {"towers": [{"name": "a", "backbone": "resnet34"}]}],
    "stages": {
        "0": {
            "learning_rate": {"log_uniform": [1e-4, 1e-1]},
            "schedule": {"name": ["constant", "one_cycle", "triangular"]},
        }
    },
    "stages.0.schedule.cycle": {
        "values": [2, 4],
        "when": {"stages.0.schedule.name": ["triangular"]},
    },
    "stages.0.schedule.lowest": {
        "uniform": [0.1, 0.3],
        "points": 2,
        "when": {"stages.0.schedule.cycle": [4]},
    },
    "batch": {"integer": [8, 10]},
}
NAME, CYCLE, LOWEST = (f"stages.0.schedule.{last}" for last in ("name", "cycle", "lowest"))


def check(space: Space, configuration) -> None:
    """It has the keys that apply, in order, and values of their axes."""
    axes = [axis for axis in space.axes if axis.applies(configuration)]
    assert list(configuration) == [axis.key for axis in axes]
    assert all(axis.holds(configuration[axis.key]) for axis in axes)
    if LOWEST in space.keys:
        assert (CYCLE in configuration) == (configuration[NAME] == "triangular")
        assert (LOWEST in configuration) == (configuration.get(CYCLE) == 4)


def test_a_grid_is_every_combination_that_applies_once() -> None:
    space = Space.parse(CYCLING)
    grid = space.grid()
    # variants x rates x (constant, one_cycle, cycle 2, cycle 4 at two lowest) x batches
    assert len(grid) == len(set(map(canonical, grid))) == 2 * 3 * (1 + 1 + 1 + 2) * 3
    for configuration in grid:
        check(space, configuration)
    assert {each[RATE] for each in grid} == {1e-4, 0.003162, 0.1}
    assert {each["batch"] for each in grid} == {8, 9, 10}
    # one that is smaller is drawn from all of it, in its order
    few = space.grid(12, seed=3)
    assert [each for each in grid if each in few] == few
    assert len(few) == 12
    assert few == space.grid(12, seed=3) != space.grid(12, seed=4)
    assert len({each[NAME] for each in few}) > 1  # a stride would meet one schedule only
    assert space.grid(1000) == grid
    axes = {f"stages.{i}.learning_rate": [j / 10 for j in range(1, 11)] for i in range(6)}
    with pytest.raises(InputError, match=f"more than {LARGEST_GRID:,} configurations"):
        Space.parse(axes).grid()


@given(count=st.integers(1, 40), seed=st.integers(0, 2**31))
@settings(max_examples=30)
def test_samples_are_pure_distinct_and_within_the_space(count: int, seed: int) -> None:
    space = Space.parse(CYCLING)
    found = space.sample(count, seed)
    assert len(set(map(canonical, found))) == count
    assert found == Space.parse(CYCLING).sample(count, seed)
    assert found[: count // 2] == space.sample(count // 2, seed)
    for configuration in found:
        check(space, configuration)
        assert isinstance(configuration["batch"], int)


def test_values_are_drawn_evenly_and_no_axis_moves_the_draws_of_another() -> None:
    axes = {"batch": {"integer": [1, 4]}, "dropout": {"uniform": [0.0, 0.5]},
            RATE: {"log_uniform": [1e-4, 1e-1]}}  # fmt: skip
    found = Space.parse(axes).sample(2000, 0)
    for size in (1, 2, 3, 4):
        assert 420 < sum(each["batch"] == size for each in found) < 580
    assert sum(each["dropout"] for each in found) / 2000 == pytest.approx(0.25, abs=0.01)
    for low in (1e-4, 1e-3, 1e-2):  # even in the logarithm
        assert 580 < sum(low <= each[RATE] < 10 * low for each in found) < 760
    alone = Space.parse({"dropout": axes["dropout"]}).sample(20, 0)
    assert [each["dropout"] for each in alone] == [each["dropout"] for each in found[:20]]
    assert alone != Space.parse({"dropout": axes["dropout"]}).sample(20, 1)


@pytest.mark.parametrize(
    "axes",
    [
        {"batch": {"integer": [1, 6], "points": 6}},
        {f"stages.{i}.samples": list(range(1, n + 2)) for i, n in enumerate((1, 2, 0))},
        {"batch": [8, 16], "dropout": {"values": [0, 0.5], "when": {"batch": 16}}},
    ],
)
def test_more_samples_than_there_are_give_all(axes) -> None:
    found = [canonical(each) for each in Space.parse(axes).sample(100, 3)]
    whole = {
        name: axis | {"points": 6} if "integer" in axis else axis for name, axis in axes.items()
    }
    assert sorted(found) == sorted(map(canonical, Space.parse(whole).grid()))


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40)
def test_optuna_suggests_within_the_space_and_is_told_the_same(seed: int) -> None:
    space = Space.parse(CYCLING | {"shuffle": [True, 1]})  # no choice is taken for another
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    found = space.suggest(trial)
    check(space, found)
    parameters, distributions = space.evaluated(found)
    assert distributions == trial.distributions
    for name, value in trial.params.items():
        close = pytest.approx(value, rel=1e-3) if isinstance(value, float) else value
        assert parameters[name] == close
    # what was done before is learnt from, as if this study had asked for it
    study.add_trial(
        optuna.trial.create_trial(params=parameters, distributions=distributions, value=0.5)
    )
    assert study.best_value == 0.5


def test_ranges_of_each_variant_replace_one_for_all() -> None:
    space = Space.parse({"variant": ["single3", "xception"],
                         RATE: {"log_uniform": [1e-5, 1.0], "points": 2},
                         NAME: ["constant", "step"]})  # fmt: skip
    ends = {"single3": (1e-3, 1e-1), "xception": (1e-4, 1e-2)}
    found = space.with_ranges(RATE, "variant", list(ends.items()))
    assert found.keys == space.keys
    assert len(found.grid()) == 2 * 2 * 2
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    suggested, names = [], set()
    for trial in (study.ask() for _ in range(20)):
        suggested.append(found.suggest(trial))
        assert found.evaluated(suggested[-1])[0].keys() == trial.params.keys()
        names |= trial.params.keys()
    assert {RATE, f"{RATE}#2"} <= names  # each of the ranges is a parameter of its own
    for configuration in [*found.grid(), *found.sample(30, 0), *suggested]:
        low, high = ends[configuration["variant"]]
        assert low <= configuration[RATE] <= high
        check(found, configuration)


def test_a_value_without_a_range_keeps_the_axis_that_there_was() -> None:
    axes = {"variant": ["a", "b", "c"], RATE: {"values": [0.5], "when": {"variant": ["a", "b"]}}}
    space = Space.parse({**axes, "batch": [8]})
    found = space.with_ranges(RATE, "variant", [(name, None) for name in "abc"])
    assert found.grid() == space.grid()
    bare = Space.parse({"batch": [8, 16]})
    assert bare.with_ranges(RATE, "variant", [("a", None)]) == bare
    # without an axis of variants, what was found holds always
    for axes in ({"batch": [8, 16]}, {"batch": [8], RATE: [1.0, 2.0]}):
        found = Space.parse(axes).with_ranges(RATE, "variant", [("single3", (1e-3, 1e-1))])
        assert {each[RATE] for each in found.grid()} == {1e-3, 1e-2, 1e-1}


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"batch": 8}, r"space\.batch=8: accepted: a list of values; .* belongs in base"),
        ({"batch": [8, 8.0]}, r"space\.batch=\[8, 8.0\]: accepted: each value once"),
        ({"batch": {"integer": [8]}}, r"space\.batch\.integer=\[8\]: accepted: two whole numbers"),
        ({"dropout": {"uniform": [0.5, 0.5]}}, "low below high"),
        ({"dropout": {"log_uniform": [0, 0.5]}}, "low above 0"),
        ({"dropout": {"uniform": [0, 1], "points": 0}}, r"points=0: accepted: a whole number"),
        ({"dropout": {"values": [0], "when": "always"}}, r"when=always: accepted: {key: \[val"),
        ({"dropout": {"values": [0], "when": {"batch": [8]}}}, r"dropout\.when\.batch=8: never so"),
        (
            {"batch": {"values": [8], "when": {"dropout": [0]}},
             "dropout": {"values": [0], "when": {"batch": [8]}}},
            "wait for each other",
        ),
    ],
)  # fmt: skip
def test_what_is_no_space_is_refused_in_one_line(axes, said: str) -> None:
    with pytest.raises(InputError, match=said) as found:
        Space.parse(axes)
    assert "\n" not in str(found.value)


def test_an_axis_written_twice_counts_as_it_comes_last_and_sections_can_be_values() -> None:
    """An override on the command line is nested; a recipe's key may be dotted."""
    axes = {RATE: [1e-3], "stages": {"0": {"learning_rate": [1e-1, 1e-2]}}}
    assert len(Space.parse(axes).grid()) == 2
    schedules = [{"name": "constant"}, {"name": "one_cycle", "div": 10}]
    space = Space.parse({"stages.0.schedule": {"values": schedules}})
    assert [each["stages.0.schedule"] for each in space.grid()] == schedules
    parts = {part for entry in keys_of(TrainRecipe) for part in entry.name.split(".")}
    assert not parts & set(WORDS)  # an axis is told from a section by these
