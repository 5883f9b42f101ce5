"""What Tune is given: a scheduler, a searcher, a trainable, a callback; Ray is not up."""

import json
import math
from types import SimpleNamespace

import pytest
from by_hand import WORKERS
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import ActorDiedError, RayTaskError
from ray.tune.search import Searcher
from sweep_material import LOSS, MAP, record, tune

from satray.config.tune import StopOptions
from satray.errors import SatrayError, TrainingError
from satray.storage import Storage
from satray.tune import tuner
from satray.tune.records import TrialLog, trial_id
from satray.tune.trials import Trial, full_recipe
from satray.tune.tuner import Available, TrainTrial, backbones_at_once, heads_at_once

ASHA = StopOptions(name="asha", factor=2)


def decide(scheduler, samples, worth):
    trial = SimpleNamespace(trial_id="new")
    scheduler.on_trial_add(None, trial)
    return scheduler.on_trial_result(None, trial, {"place": samples, "worth": worth})


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
    stop = stop.model_copy(update={"grace": grace})
    sweep = SimpleNamespace(
        recipe=SimpleNamespace(stop=stop),
        metric=metric,
        listed=list,
        trial=lambda configuration: configuration,
        length_of=lambda configuration: (10 * each, each),
    )
    scheduler = tuner.scheduler_of(sweep, ended)
    assert decide(scheduler, at, worth) == word


def test_a_head_takes_a_cpu_and_a_driver_of_workers_none() -> None:
    bundles = {name: tuner.resources_of({"regime": name}).bundles for name in ("head", "backbone")}
    assert bundles == {"head": [{"CPU": 1}], "backbone": [{"node:__internal_head__": 0.001}]}
    on_gpus = tuner.resources_of({"regime": "head"}, gpu=True).bundles
    assert on_gpus == [{"CPU": 1, "GPU": 1 / 16}]


class Sweep:
    """What a searcher asks of one."""

    def regime_of(self, trial):
        return trial.configuration.get("regime", "head")

    def start_of(self, trial):
        return "start"


def make(folder, *configurations, at_once=None):
    """A log, what is told of ended trials, and the searcher of some trials."""
    log, told = TrialLog(Storage(), str(folder), MAP), {}
    recipe = full_recipe(tune(), {})
    trials = (Trial(trial_id(each), each, recipe) for each in configurations)
    at_once = {"head": 2, "backbone": 1} | (at_once or {})

    def tell(trial, worth):
        told[trial.configuration["n"]] = worth

    return log, told, tuner.TrialSearcher(Sweep(), trials, log, at_once, tell)


def test_no_more_trials_at_once_than_fit_and_never_two_regimes(tmp_path) -> None:
    heads, backbones = ([{"n": n, "regime": r} for n in range(3)] for r in ("head", "backbone"))
    _, _, searcher = make(tmp_path, *heads, *backbones[:2])
    running = [searcher.suggest("a"), searcher.suggest("b")]
    assert [each["regime"] for each in running] == ["head", "head"]
    assert searcher.suggest("c") is None
    searcher.on_trial_complete("a", {"failed": None, "best": 1.0})
    assert searcher.suggest("c")["regime"] == "head"
    searcher.on_trial_complete("b", {"failed": None, "best": 1.0})
    assert searcher.suggest("d") is None  # a backbone waits for the heads to end
    searcher.on_trial_complete("c", {"failed": None, "best": 1.0})
    assert searcher.suggest("d")["regime"] == "backbone"
    assert searcher.suggest("e") is None
    searcher.on_trial_complete("d", error=True)
    assert searcher.suggest("e")["trial"] == trial_id(backbones[1])
    assert searcher.suggest("f") == Searcher.FINISHED


def test_how_trials_ended_is_told(tmp_path) -> None:
    _, told, searcher = make(tmp_path, *({"n": n} for n in range(4)), at_once={"head": 4})
    for name, result in (
        ("a", {"failed": None, "best": 0.75}),
        ("b", {"failed": "the loss is not finite", "best": 0.5}),
        ("c", None),
    ):
        searcher.suggest(name)
        searcher.on_trial_complete(name, result, error=result is None)
    assert told == {0: 0.75, 1: -math.inf, 2: -math.inf}


@pytest.mark.parametrize(
    ("over", "failed", "status", "reason"),
    [
        (True, None, "done", None),
        (False, None, "stopped", tuner.STOPPED),
        (True, "the loss is not finite", "failed", "the loss is not finite"),
    ],
)
def test_a_trial_that_ends_is_written_down(tmp_path, over, failed, status, reason) -> None:
    log, _, searcher = make(tmp_path, {"n": 0})
    callback = tuner.LogCallback(log)
    trial = SimpleNamespace(config=searcher.suggest("a"), last_result=None)
    curve = [{"samples": 100, "map": 0.5}]
    result = {"rows": curve, "seconds": [2.0], "failed": failed, "over": over}
    callback.on_trial_result(trial=trial, result=result)
    trial.last_result = result
    callback.on_trial_complete(trial=trial)
    (ended,) = TrialLog(Storage(), str(tmp_path), MAP).records.values()
    assert (ended.status, ended.reason, ended.seconds) == (status, reason, 2.0)


@pytest.mark.parametrize(
    ("error", "kept", "reason"),
    [
        (RayTaskError("step", "trace", OSError("no room")), 0, "no room"),
        (ActorDiedError(), 1, "its process died: "),
    ],
)
def test_what_may_pass_is_not_kept_and_a_death_is(tmp_path, error, kept, reason) -> None:
    log, _, searcher = make(tmp_path, {"n": 0})
    callback = tuner.LogCallback(log)
    trial = SimpleNamespace(
        config=searcher.suggest("a"), get_pickled_error=lambda: error, get_error=lambda: ""
    )
    callback.on_trial_error(trial=trial)
    (ended,) = log.records.values()
    assert ended.status == "failed"
    assert reason in ended.reason
    assert len(TrialLog(Storage(), str(tmp_path), MAP).records) == kept


class Scripted:
    """A training whose evaluations are given; an exception is raised."""

    def __init__(self, *script, each=250):
        self.script, self.each, self.closed = list(script), each, 0

    @property
    def done(self):
        return not self.script

    def step(self):
        found = self.script.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def close(self):
        self.closed += 1


def row(samples, value, seconds=0.25):
    figures = {"samples_seen": samples, "map": value, "train_loss": 1.0, "val_loss": 2.0}
    return figures | {"learning_rate": 0.1, "seconds_data": 0.0, "seconds_compute": seconds}


def running(*trainings, one_by_one=False) -> TrainTrial:
    """A trial's process in this one, with trainings in place of those that it would open."""
    waiting = list(trainings)

    class Running(TrainTrial):
        def open(self):
            found = waiting.pop(0)
            if isinstance(found, Exception):
                raise found
            return found

    trial = Running.__new__(Running)
    trial.config = {}
    work = tuner.Work(None, Storage(), "/state", "0" * 12, MAP, {}, one_by_one, WORKERS, {})
    trial.setup({}, work=work)
    return trial


def test_short_evaluations_are_reported_together_with_the_end() -> None:
    found = running(Scripted(row(250, 0.5), row(500, 0.75), row(1000, 0.625))).step()
    assert [each["samples"] for each in found["rows"]] == [250, 500, 1000]
    assert found["seconds"] == [0.25] * 3
    assert (found["worth"], found["best"], found["place"]) == (0.625, 0.75, 750)
    assert (found["over"], found["done"], found["failed"]) == (True, True, None)


def test_where_each_may_be_the_last_each_is_reported_by_itself() -> None:
    """At the place that was asked for, whatever batches make of it."""
    script = row(256, 0.5), row(512, 0.25), row(1000, 0.5)
    trial = running(Scripted(*script), one_by_one=True)
    found = [trial.step() for _ in range(3)]
    assert [each["place"] for each in found] == [250, 500, 750]
    assert [(each["worth"], each["best"]) for each in found] == [
        (0.5, 0.5),
        (0.25, 0.5),
        (0.5, 0.5),
    ]
    assert [each["over"] for each in found] == [False, False, True]


@pytest.mark.parametrize(
    ("script", "said", "rows"),
    [
        ([row(500, 0.5), TrainingError("the loss is nan")], "the loss is nan", 1),
        ([row(500, math.nan)], "mAP is not a number after 500 samples", 1),
        ([MemoryError()], "MemoryError: ", 0),
        ([RuntimeError("first\nCUDA out of memory")], "RuntimeError: first CUDA out of memory", 0),
    ],
)
def test_what_goes_wrong_is_reported_and_the_process_lives(script, said, rows) -> None:
    first, second = Scripted(*script, row(1000, 0.5)), Scripted(row(1000, 0.5))
    trial = running(first, second)
    found = trial.step()
    assert (found["failed"], found["over"], len(found["rows"])) == (said, True, rows)
    assert math.isnan(found["worth"])
    assert trial.reset_config({})
    assert first.closed == 1
    found = trial.step()
    assert (found["failed"], found["worth"], found["place"]) == (None, 0.5, 250)
    trial.cleanup()
    assert second.closed == 0  # it was at its end


def test_a_trial_that_cannot_be_opened_has_failed() -> None:
    found = running(ValueError("no such head")).step()
    assert (found["failed"], found["over"]) == ("ValueError: no such head", True)


@pytest.mark.parametrize("trouble", [OSError("no room"), SatrayError("the store is away")])
def test_what_may_pass_is_raised(trouble) -> None:
    for training in (trouble, Scripted(row(500, 0.5), trouble)):
        with pytest.raises(type(trouble)):
            running(training).step()


def test_what_travels_is_the_recipe_itself() -> None:
    recipe = full_recipe(tune(), {"dropout": 0.25})
    config = tuner.config_of(Trial("a", {"dropout": 0.25}, recipe), "s", "head")
    assert {name: type(value) for name, value in config.items()} == dict.fromkeys(
        ("trial", "recipe", "start", "regime"), str
    )
    again = type(recipe).model_validate_json(config["recipe"])
    assert (again, again.model_fields_set) == (recipe, recipe.model_fields_set)
    assert "learning_rate" not in json.loads(config["recipe"])["stages"][0]  # said by nobody


SMALL = Available(cpus=4, gpus=0, nodes=1, cores=2)
"""Two cores, of which Ray is told four."""


def test_heads_are_as_many_as_cores_on_one_machine_and_as_cpus_on_many() -> None:
    assert heads_at_once(SMALL) == 2
    assert heads_at_once(Available(cpus=64, gpus=8, nodes=4, cores=16)) == 64
    assert heads_at_once(Available(cpus=0, gpus=0, nodes=1, cores=2)) == 1  # a head alone, so far
    assert heads_at_once(Available(cpus=64, gpus=2, nodes=4, cores=16), gpu=True) == 32
    assert heads_at_once(Available(cpus=16, gpus=8, nodes=1, cores=16), gpu=True) == 16


@pytest.mark.parametrize(
    ("there", "demand", "fitting"),
    [
        (SMALL, (1, False), 1),
        (Available(cpus=32, gpus=0, nodes=1, cores=32), (1, False), 1),
        (Available(cpus=128, gpus=0, nodes=4, cores=32), (1, False), 4),
        (Available(cpus=128, gpus=0, nodes=4, cores=32), (2, False), 2),
        (Available(cpus=16, gpus=1, nodes=1, cores=16), (1, True), 1),
        (Available(cpus=16, gpus=1, nodes=1, cores=16), (1, True, 0.5), 2),
        (Available(cpus=16, gpus=1, nodes=1, cores=16), (1, True, 1 / 3), 3),
        (Available(cpus=64, gpus=8, nodes=1, cores=64), (1, True), 8),
        (Available(cpus=64, gpus=8, nodes=1, cores=64), (4, True), 2),
        # 0.4 fits twice into a GPU, though 2.5 times by arithmetic: a share never spans two
        (Available(cpus=64, gpus=2, nodes=1, cores=64), (1, True, 0.4), 4),
        # the CPUs are what is short: 9 hold 3 workers with two streams of tiles each
        (Available(cpus=9, gpus=8, nodes=1, cores=9), (1, True), 3),
    ],
)
def test_backbones_are_as_many_as_gpus_and_cpus_hold(there, demand, fitting: int) -> None:
    assert backbones_at_once(there, *demand) == fitting


@given(
    cpus=st.integers(1, 512),
    gpus=st.integers(0, 64),
    nodes=st.integers(1, 16),
    workers=st.integers(1, 8),
    share=st.sampled_from([1.0, 0.5, 0.34, 0.25, 0.1]),
)
def test_no_stream_of_tiles_is_ever_left_without_a_cpu(cpus, gpus, nodes, workers, share) -> None:
    found = backbones_at_once(Available(cpus, gpus, nodes, cpus), workers, gpus > 0, share)
    assert found >= 1
    if found > 1:  # one alone is refused elsewhere, where it can never be met
        assert (cpus - found * workers) // (2 * found) >= 1
        if gpus:
            assert found * workers * share <= gpus + 1e-6
