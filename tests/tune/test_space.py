"""The space: what a grid, a draw and Optuna may give, and that conditions are honoured."""

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satray.errors import InputError
from satray.tune.space import LARGEST_GRID, WORDS, Space, canonical, choice

optuna.logging.set_verbosity(optuna.logging.ERROR)

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


def within(space: Space, configuration) -> bool:
    """Whether a configuration has the keys that apply, and values of their axes."""
    axes = [axis for axis in space.axes if axis.applies(configuration)]
    there = {axis.key for axis in axes} == configuration.keys()
    return there and all(axis.domain.holds(configuration[axis.key]) for axis in axes)


def honours(configuration) -> None:
    """The conditions of `CYCLING`."""
    assert (CYCLE in configuration) == (configuration[NAME] == "triangular")
    assert (LOWEST in configuration) == (configuration.get(CYCLE) == 4)


def test_a_grid_is_every_combination_that_applies_once() -> None:
    grid = Space.parse(CYCLING).grid()
    # variants x rates x (constant, one_cycle, cycle 2, cycle 4 at two lowest) x batches
    assert len(grid) == 2 * 3 * (1 + 1 + 1 + 2) * 3
    assert len({canonical(each) for each in grid}) == len(grid)
    for configuration in grid:
        honours(configuration)
    assert {each["stages.0.learning_rate"] for each in grid} == {1e-4, 0.003162, 0.1}
    assert {each["batch"] for each in grid} == {8, 9, 10}
    assert list(grid[0])[:3] == ["variant", "stages.0.learning_rate", NAME]


def test_a_smaller_grid_is_drawn_from_all_of_it() -> None:
    space = Space.parse(CYCLING)
    whole, few = space.grid(), space.grid(12, seed=3)
    assert len(few) == 12
    assert [each for each in whole if each in few] == few  # in the grid's order
    assert few == space.grid(12, seed=3) != space.grid(12, seed=4)
    assert len({each[NAME] for each in few}) > 1  # a stride would meet one schedule only
    assert space.grid(1000) == whole


def test_a_grid_of_too_many_is_refused() -> None:
    axes = {f"stages.{i}.learning_rate": [j / 10 for j in range(1, 11)] for i in range(6)}
    with pytest.raises(InputError, match=f"more than {LARGEST_GRID:,} configurations"):
        Space.parse(axes).grid()


@given(count=st.integers(1, 40), seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_samples_are_pure_distinct_and_within_the_space(count: int, seed: int) -> None:
    space = Space.parse(CYCLING)
    found = space.sample(count, seed)
    assert len({canonical(each) for each in found}) == count
    assert found == Space.parse(CYCLING).sample(count, seed)
    assert found[: count // 2] == space.sample(count // 2, seed)
    for configuration in found:
        honours(configuration)
        assert within(space, configuration)
        assert 1e-4 <= configuration["stages.0.learning_rate"] <= 1e-1
        assert isinstance(configuration["batch"], int)


def test_seeds_differ_and_values_are_drawn_evenly() -> None:
    space = Space.parse({"batch": {"integer": [1, 4]}, "dropout": {"uniform": [0.0, 0.5]}})
    assert space.sample(5, 0) != space.sample(5, 1)
    found = space.sample(2000, 0)
    for size in (1, 2, 3, 4):
        assert 420 < sum(each["batch"] == size for each in found) < 580
    assert sum(each["dropout"] for each in found) / 2000 == pytest.approx(0.25, abs=0.01)


def test_log_uniform_is_even_in_the_logarithm() -> None:
    rate = "stages.0.learning_rate"
    found = Space.parse({rate: {"log_uniform": [1e-4, 1e-1]}}).sample(1500, 0)
    for low in (1e-4, 1e-3, 1e-2):
        assert 420 < sum(low <= each[rate] < 10 * low for each in found) < 580


@given(sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_more_samples_than_there_are_give_all(sizes: list[int], seed: int) -> None:
    space = Space.parse({f"stages.{i}.samples": list(range(1, n + 1)) for i, n in enumerate(sizes)})
    whole = {canonical(each) for each in space.grid()}
    found = [canonical(each) for each in space.sample(100, seed)]
    assert set(found) == whole
    assert len(found) == len(whole)


def test_integers_count_too_when_all_are_asked_for() -> None:
    found = Space.parse({"batch": {"integer": [1, 6]}}).sample(10, 0)
    assert sorted(each["batch"] for each in found) == [1, 2, 3, 4, 5, 6]


def test_an_axis_more_does_not_move_the_draws_of_another() -> None:
    one = Space.parse({"dropout": {"uniform": [0.0, 0.5]}}).sample(5, 0)
    two = Space.parse({"batch": [8, 16], "dropout": {"uniform": [0.0, 0.5]}}).sample(5, 0)
    assert [each["dropout"] for each in one] == [each["dropout"] for each in two]


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_optuna_suggests_within_the_space_and_is_told_the_same(seed: int) -> None:
    space = Space.parse(CYCLING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    found = space.suggest(trial)
    honours(found)
    assert within(space, found)
    parameters, distributions = space.evaluated(found)
    assert parameters.keys() == trial.params.keys()
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
    space = Space.parse(
        {"variant": ["single3", "xception"],
         "stages.0.learning_rate": {"log_uniform": [1e-5, 1.0], "points": 2},
         NAME: ["constant", "step"]}
    )  # fmt: skip
    ends = {"single3": (1e-3, 1e-1), "xception": (1e-4, 1e-2)}
    found = space.with_ranges("stages.0.learning_rate", "variant", list(ends.items()))
    assert found.keys == space.keys
    assert len(found.grid()) == 2 * 2 * 2
    for configuration in [*found.grid(), *found.sample(30, 0)]:
        low, high = ends[configuration["variant"]]
        assert low <= configuration["stages.0.learning_rate"] <= high
        assert within(found, configuration)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(20):
        trial = study.ask()
        configuration = found.suggest(trial)
        assert within(found, configuration)
        assert found.evaluated(configuration)[0].keys() == trial.params.keys()
        seen |= trial.params.keys()
    # each of the ranges is a parameter of its own
    assert {"stages.0.learning_rate", "stages.0.learning_rate#2"} <= seen


def test_a_value_without_a_range_keeps_the_axis_that_there_was() -> None:
    rate = "stages.0.learning_rate"
    axes = {"variant": ["a", "b", "c"], rate: {"values": [0.5], "when": {"variant": ["a", "b"]}}}
    space = Space.parse({**axes, "batch": [8]})
    found = space.with_ranges(rate, "variant", [("a", None), ("b", None), ("c", None)])
    assert [axis.when for axis in found.axes if axis.key == rate] == [
        (("variant", (name,)),) for name in "ab"
    ]
    assert found.grid() == space.grid()
    bare = Space.parse({"batch": [8, 16]})
    assert bare.with_ranges(rate, "variant", [("a", None)]) == bare


def test_a_range_test_without_a_variant_axis_replaces_or_adds_the_rate() -> None:
    both = [("single3", (1e-3, 1e-1))]
    for axes in ({"batch": [8, 16]}, {"batch": [8], "stages.0.learning_rate": [1.0, 2.0]}):
        found = Space.parse(axes).with_ranges("stages.0.learning_rate", "variant", both)
        assert {each["stages.0.learning_rate"] for each in found.grid()} == {1e-3, 1e-2, 1e-1}


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"batch": 8}, r"space\.batch=8: accepted: a list of values; .* belongs in base"),
        ({"batch": []}, r"space\.batch=\[\]: accepted: a list of one value or more"),
        ({"batch": [8, 8.0]}, r"space\.batch: 8 is there twice"),
        ({"batch": {"valeus": [8]}}, r"space\.batch: found valeus; accepted: a list of values"),
        ({"batch": {"values": [8], "integer": [1, 2]}}, r"found values, integer; accepted"),
        ({"batch": {"integer": [8]}}, r"space\.batch\.integer=\[8\]: accepted: two numbers"),
        ({"batch": {"integer": [1.5, 3]}}, "two whole numbers"),
        ({"dropout": {"uniform": [0.5, 0.5]}}, "low below high"),
        ({"dropout": {"uniform": [True, 2]}}, "two numbers"),
        ({"dropout": {"log_uniform": [0, 0.5]}}, "low above 0"),
        ({"dropout": {"uniform": [0, 1], "points": 0}}, r"points=0: accepted: a whole number"),
        ({"dropout": {"values": [0], "points": 2}}, r"points: works with a range"),
        ({"dropout": {"values": [0], "when": "always"}}, r"when=always: accepted: {key: \[val"),
        ({"dropout": {"values": [0], "when": {"batch": [8]}}}, "no other axis of the space"),
        (
            {"batch": [4, 8], "dropout": {"values": [0], "when": {"batch": [16]}}},
            r"space\.dropout\.when\.batch=16: never so; accepted: 4, 8",
        ),
        (
            {"batch": {"values": [8], "when": {"dropout": [0]}},
             "dropout": {"values": [0], "when": {"batch": [8]}}},
            "batch, dropout wait for each other",
        ),
        ({"input": {"size": {"list": [1]}}}, r"space\.input\.size: found list; accepted"),
    ],
)  # fmt: skip
def test_what_is_no_space_is_refused_in_one_line(axes, said: str) -> None:
    with pytest.raises(InputError, match=said) as found:
        Space.parse(axes)
    assert "\n" not in str(found.value)


def test_an_axis_written_twice_counts_as_it_comes_last() -> None:
    """An override on the command line is nested; a recipe's key may be dotted."""
    axes = {"stages.0.learning_rate": [1e-3], "stages": {"0": {"learning_rate": [1e-1, 1e-2]}}}
    assert len(Space.parse(axes).grid()) == 2


def test_sections_can_be_values() -> None:
    schedules = [{"name": "constant"}, {"name": "one_cycle", "div": 10}]
    space = Space.parse({"stages.0.schedule": {"values": schedules}})
    assert [each["stages.0.schedule"] for each in space.grid()] == schedules


def test_words_of_an_axis_are_no_keys_of_train() -> None:
    from satray.config.cli import keys_of
    from satray.config.train import TrainRecipe

    parts = {part for entry in keys_of(TrainRecipe) for part in entry.name.split(".")}
    assert not parts & set(WORDS)


def test_true_is_not_one_for_optuna_either() -> None:
    space = Space.parse({"shuffle": [True, 1]})
    assert len({choice(True), choice(1)}) == 2
    assert [space.evaluated({"shuffle": each})[0]["shuffle"] for each in (True, 1)] == ["true", 1]
