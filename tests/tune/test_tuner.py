"""What Tune is given: early stopping that remembers, and resources that starve nobody."""

import json
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from sweep_material import LOSS, MAP, record

from satray.config.tune import StopOptions

ASHA = StopOptions(name="asha", factor=2)


@pytest.fixture(scope="module")
def tuner():
    from satray.tune import tuner

    return tuner


def decide(scheduler, samples, worth):
    trial = SimpleNamespace(trial_id="new")
    scheduler.on_trial_add(None, trial)
    return scheduler.on_trial_result(None, trial, {"place": samples, "worth": worth})


@pytest.mark.parametrize(("worth", "word"), [(0.95, "CONTINUE"), (0.2, "STOP")])
def test_trials_that_ended_before_are_what_new_ones_are_compared_with(tuner, worth, word) -> None:
    ended = [record({"batch": n}, 0.5, 0.9) for n in (8, 16, 32)]
    known = [(each, 1000) for each in ended]
    assert decide(tuner.scheduler(ASHA, 1000, MAP, known), 1000, worth) == word
    assert decide(tuner.scheduler(ASHA, 1000, MAP, []), 1000, worth) == "CONTINUE"


def test_of_a_loss_less_is_better(tuner) -> None:
    ended = [record({"batch": n}, 1.0, metric=LOSS) for n in (8, 16, 32)]
    known = [(each, 1000) for each in ended]
    assert decide(tuner.scheduler(ASHA, 1000, LOSS, known), 1000, -5.0) == "STOP"
    assert decide(tuner.scheduler(ASHA, 1000, LOSS, known), 1000, -0.1) == "CONTINUE"


def test_failed_trials_are_no_measure_and_grace_is_in_samples(tuner) -> None:
    failed = record({"batch": 8}, 0.9, status="failed", reason="no")
    assert decide(tuner.scheduler(ASHA, 1000, MAP, [(failed, 1000)]), 1000, 0.1) == "CONTINUE"
    good = record({"batch": 8}, 0.9)
    assert decide(tuner.scheduler(ASHA, 1001, MAP, [(good, 1000)]), 1000, 0.1) == "CONTINUE"


def test_trials_are_compared_at_the_samples_that_were_asked_for(tuner) -> None:
    """Batches of 32 see 96 samples where 100 are asked for, and the grace is 100."""
    ended = [record({"batch": n}, 0.5, 0.9) for n in (8, 16, 32)]
    for one in ended:
        one.curve[0]["samples"] = 96
    known = [(each, 100) for each in ended]
    assert decide(tuner.scheduler(ASHA, 100, MAP, known), 100, 0.2) == "STOP"
    assert decide(tuner.scheduler(ASHA, 100, MAP, known), 100, 0.6) == "CONTINUE"


def test_without_early_stopping_nothing_is_stopped(tuner) -> None:
    good = record({"batch": 8}, 0.9)
    scheduler = tuner.scheduler(StopOptions(), 1, MAP, [(good, 1000)])
    assert decide(scheduler, 10**9, 0.0) == "CONTINUE"


def test_a_head_takes_a_cpu_and_a_driver_of_workers_none(tuner) -> None:
    def bundles(regime):
        return tuner._resources({"job": json.dumps({"regime": regime})}).bundles

    assert bundles("head") == [{"CPU": 1}]
    assert bundles("backbone") == [{"node:__internal_head__": 0.001}]


@pytest.mark.parametrize(
    ("error", "kept", "reason"),
    [
        (RayTaskError("step", "trace", OSError("no room")), 0, "no room"),
        (ActorDiedError(), 1, "its process died: "),
    ],
)
def test_what_may_pass_is_not_kept_and_a_death_is(tuner, error, kept, reason) -> None:
    told = []
    desk = SimpleNamespace(ended=lambda *args: told.append(args))
    searcher = tuner._Searcher(desk)
    searcher.jobs["t"] = "job"
    trial = SimpleNamespace(trial_id="t", get_pickled_error=lambda: error, get_error=lambda: "")
    tuner._Watch(searcher).on_trial_error(trial=trial)
    ((job, stopped, died, passing),) = told
    assert (job, stopped, passing) == ("job", False, not kept)
    assert died.startswith(reason) or reason in died
