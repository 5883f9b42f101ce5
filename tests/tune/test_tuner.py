"""What Tune is given: a scheduler, trials at once, what may pass; Ray is not up."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
from by_hand import WORKERS
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import ActorDiedError, RayTaskError
from sweep_material import LOSS, MAP, record, tune

from satray.config.tune import StopOptions
from satray.errors import InputError, SatrayError, TrainingError
from satray.runs.run import Run
from satray.storage import Storage
from satray.tune import tuner
from satray.tune.records import TrialLog, trial_id
from satray.tune.trials import Sweep, Trial, full_recipe
from satray.tune.tuner import trials_at_once

ASHA = StopOptions(name="asha", factor=2)
GOOD = [record({"batch": n}, 0.5, 0.9) for n in (8, 16, 32)]
LOW = [record({"batch": n}, 1.0, metric=LOSS) for n in (8, 16, 32)]
FAILED = [record({"batch": 8}, 0.9, status="failed", reason="no")]


@pytest.mark.parametrize(
    ("stop", "grace", "metric", "ended", "each", "at", "worth", "word"),
    [
        (ASHA, 1000, MAP, GOOD, 1000, 1000, 0.95, "CONTINUE"),
        (ASHA, 1000, MAP, GOOD, 1000, 1000, 0.2, "STOP"),
        (ASHA, 1000, MAP, [], 1000, 1000, 0.2, "CONTINUE"),  # none to compare with
        (ASHA, 1000, LOSS, LOW, 1000, 1000, -5.0, "STOP"),
        (ASHA, 1000, LOSS, LOW, 1000, 1000, -0.1, "CONTINUE"),
        (ASHA, 1000, MAP, FAILED, 1000, 1000, 0.1, "CONTINUE"),
        (ASHA, 1001, MAP, GOOD, 1000, 1000, 0.1, "CONTINUE"),  # within the grace
        (ASHA, 100, MAP, GOOD, 100, 100, 0.2, "STOP"),  # by samples asked for, not seen
        (ASHA, 100, MAP, GOOD, 100, 100, 0.6, "CONTINUE"),
        (StopOptions(), 1, MAP, GOOD, 1000, 10**9, 0.0, "CONTINUE"),
    ],
)
def test_trials_are_compared_with_those_that_ended_before(
    stop, grace, metric, ended, each, at, worth, word
) -> None:
    sweep = SimpleNamespace(
        recipe=SimpleNamespace(stop=stop.model_copy(update={"grace": grace})),
        metric=metric,
        trials=(),
        trial=lambda configuration: configuration,
        length_of=lambda configuration: (10 * each, each),
    )
    scheduler, trial = tuner.scheduler_of(sweep, ended), SimpleNamespace(trial_id="new")
    scheduler.on_trial_add(None, trial)
    assert scheduler.on_trial_result(None, trial, {"place": at, "worth": worth}) == word


# How many at once, and with what


def at_once(cpus, gpus, nodes, cores, workers=1, share=1.0):
    asked = replace(WORKERS, count=workers, gpu=gpus > 0, gpu_share=share)
    found = trials_at_once({"CPU": cpus, "GPU": gpus}, nodes, cores, asked)
    return found["head"], found["backbone"]


@pytest.mark.parametrize(
    ("there", "heads", "backbones"),
    [
        ((4, 0, 1, 2), 2, 1),  # two cores, of which Ray is told four
        ((0, 0, 1, 2), 1, 1),  # one alone, so far
        ((32, 0, 1, 32), 32, 1),
        ((128, 0, 4, 32), 128, 4),
        ((128, 0, 4, 32, 2), 128, 2),
        ((16, 1, 1, 16), 16, 1),
        ((16, 1, 1, 16, 1, 0.5), 16, 2),
        ((16, 1, 1, 16, 1, 1 / 3), 16, 3),
        ((64, 2, 4, 16), 32, 2),
        ((64, 8, 1, 64), 64, 8),
        ((64, 8, 1, 64, 4), 64, 2),
        # 0.4 fits twice into a GPU, though 2.5 times by arithmetic: a share never spans two
        ((64, 2, 1, 64, 1, 0.4), 32, 4),
        # the CPUs are what is short: 9 hold 3 workers with two streams of tiles each
        ((9, 8, 1, 9), 9, 3),
    ],
)
def test_trials_are_as_many_as_cores_gpus_and_cpus_hold(there, heads, backbones) -> None:
    assert at_once(*there) == (heads, backbones)


@given(
    cpus=st.integers(1, 512),
    gpus=st.integers(0, 64),
    nodes=st.integers(1, 16),
    workers=st.integers(1, 8),
    share=st.sampled_from([1.0, 0.5, 0.34, 0.25, 0.1]),
)
def test_no_stream_of_tiles_is_ever_left_without_a_cpu(cpus, gpus, nodes, workers, share) -> None:
    _, found = at_once(cpus, gpus, nodes, cpus, workers, share)
    assert found >= 1
    if found > 1:  # one alone is refused elsewhere, where it can never be met
        assert (cpus - found * workers) // (2 * found) >= 1
        if gpus:
            assert found * workers * share <= gpus + 1e-6


@pytest.mark.parametrize(
    ("gpus", "workers", "share", "heads", "search", "refused"),
    [
        ("yes", 2, 0.5, [True, False], "grid", True),
        ("yes", 2, 0.5, [True], "optuna", True),  # it may come to others
        ("yes", 2, 0.5, [True], "grid", False),
        ("yes", 1, 0.5, [False], "grid", False),
        ("yes", 2, 1.0, [False], "grid", False),
        ("no", 2, 0.5, [False], "grid", False),
    ],
)
def test_workers_of_a_trial_that_would_share_gpus_are_refused_before_anything_is_made(
    gpus, workers, share, heads, search, refused
) -> None:
    given = tune(gpu_share=share, search=search, resources={"gpus": gpus, "workers": workers})
    trials = tuple(SimpleNamespace(head=head) for head in heads)
    said = r"resources.workers=2: .*share a GPU .gpu_share=0.5.; accepted: one worker, or"
    with pytest.raises(InputError, match=said) if refused else nullcontext():
        tuner.refuse_shared_gpus(Sweep(given, None, None, MAP, trials))


# The driver's side


def make(folder, *configurations):
    """A log, and the searcher of some trials."""
    log = TrialLog(Run("tune", "r", str(folder), Storage()), MAP, 9)
    sweep = SimpleNamespace(regime_of=lambda trial: "head")
    recipe = full_recipe(tune(), {})
    trials = tuple(Trial(trial_id(each), each, recipe, "start") for each in configurations)
    return log, tuner.TrialSearcher(sweep, iter([trials]), log)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (OSError("no room"), True),
        (SatrayError("the store is away"), True),
        (TrainingError("the loss is nan"), False),
        (InputError("weights=none"), False),
        (MemoryError(), False),
        (RuntimeError("CUDA out of memory"), False),
    ],
    ids=repr,
)
def test_which_errors_may_pass(error, passes) -> None:
    assert tuner.may_pass(error) is passes


@pytest.mark.parametrize(
    ("error", "together", "kept", "reason"),
    [
        (RayTaskError("step", "trace", OSError("no room")), 1, 0, "no room"),
        (ActorDiedError(), 1, 1, "its process died: "),
        (ActorDiedError(), 2, 0, "its process died: "),  # nobody knows which of them it was
    ],
)
def test_what_may_pass_is_not_kept_and_a_death_of_one_is(
    tmp_path, error, together, kept, reason
) -> None:
    log, searcher = make(tmp_path, *({"n": n} for n in range(together)))
    trial = SimpleNamespace(
        config=searcher.suggest("a"), get_pickled_error=lambda: error, get_error=lambda: ""
    )
    tuner.LogCallback(log).on_trial_error(trial=trial)
    assert [each.status for each in log.records.values()] == ["failed"] * together
    assert all(reason in each.reason for each in log.records.values())
    assert len(make(tmp_path)[0].records) == kept
