"""Where configurations come from: each once, and an attempt goes on where the last one ended."""

import math

from sweep_material import MAP, record

from satray.errors import InputError
from satray.tune.sources import Listed, Optuna
from satray.tune.space import Space
from satray.tune.trials import trial_id

RATE = "stages.0.learning_rate"
SPACE = Space.parse(
    {
        "variant": ["single3", "single4"],
        RATE: {"log_uniform": [1e-4, 1e-1]},
        "stages.0.schedule.cycle": {"values": [1, 2], "when": {"variant": ["single3"]}},
    }
)
FINITE = Space.parse({"variant": ["single3", "single4"], "batch": [8, 16]})


def worth(configuration) -> float:
    """Best at 1e-2."""
    return 1 - abs(math.log10(configuration[RATE]) + 2) / 4


def drain(source, most=1000, value=worth):
    found = []
    for _ in range(most):
        configuration = source.ask()
        if configuration is None:
            break
        found.append(configuration)
        source.tell(configuration, value(configuration))
    return found


def test_a_list_comes_in_order_each_once_without_what_is_done() -> None:
    configurations = [{"batch": 8}, {"batch": 16}, {"batch": 8.0}, {"batch": 32}]
    source = Listed(configurations, done=[trial_id({"batch": 16})])
    assert [trial_id(each) for each in drain(source, value=lambda _: 0.0)] == [
        trial_id({"batch": 8}),
        trial_id({"batch": 32}),
    ]
    assert source.ask() is None
    assert source.over
    assert Listed(configurations, done=map(trial_id, configurations)).over


def test_optuna_gives_so_many_distinct_ones_of_the_space_and_learns() -> None:
    found = drain(Optuna(SPACE, 40, 3, MAP))
    assert len(found) == 40
    assert len({trial_id(each) for each in found}) == 40
    worths = [worth(each) for each in found]
    assert sum(worths[20:]) / 20 > sum(worths[:10]) / 10 + 0.05


def test_optuna_is_pure_in_its_seed() -> None:
    one, two, other = (drain(Optuna(SPACE, 15, seed, MAP)) for seed in (1, 1, 2))
    assert one == two
    assert one != other


def test_several_at_once_differ() -> None:
    source = Optuna(SPACE, 8, 0, MAP)
    asked = [source.ask() for _ in range(8)]
    assert len({trial_id(each) for each in asked if each is not None}) == 8
    assert source.over
    assert source.ask() is None


def test_what_ended_counts_and_what_began_comes_first() -> None:
    earlier = drain(Optuna(SPACE, 12, 0, MAP))
    ended = [record(each, worth(each)) for each in earlier[:10]]
    assert not Optuna(SPACE, 10, 0, MAP, records=ended, begun=earlier).over
    assert Optuna(SPACE, 10, 0, MAP, records=ended).over
    source = Optuna(SPACE, 20, 0, MAP, records=ended, begun=earlier)
    assert source.ask() == earlier[10]
    assert source.ask() == earlier[11]
    rest = drain(source)
    assert len(rest) == 8
    assert not {trial_id(each) for each in rest} & {trial_id(each) for each in earlier}
    # it knows what the earlier ones showed: no longer drawn at random
    assert len(source._study.trials) >= 10


def test_a_failure_is_no_lesson_and_does_not_end_it() -> None:
    found = drain(Optuna(SPACE, 15, 0, MAP), value=lambda _: -math.inf)
    assert len({trial_id(each) for each in found}) == 15


def test_a_space_that_is_used_up_ends_it() -> None:
    found = drain(Optuna(FINITE, 100, 0, MAP), value=lambda each: each["batch"] / 16)
    assert len(found) == 4
    assert {trial_id(each) for each in found} == {trial_id(each) for each in FINITE.grid()}


def test_what_cannot_be_valid_counts_as_failed() -> None:
    def refuse(configuration) -> None:
        if configuration["batch"] == 16:
            raise InputError("batch=16: too many")

    source = Optuna(FINITE, 4, 0, MAP, refuse=refuse)
    told = []
    source.refused = lambda configuration, reason: told.append((configuration["batch"], reason))
    found = drain(source, value=lambda _: 0.5)
    assert [each["batch"] for each in found] == [8, 8]
    assert told == [(16, "batch=16: too many")] * 2
