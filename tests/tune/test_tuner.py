"""What Tune is given: a scheduler, a searcher, a trainable, a callback; Ray is not up."""

import math
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
from by_hand import WORKERS
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import ActorDiedError, RayTaskError
from sweep_material import LOSS, MAP, record, tune
from train.small_archive import generate, make_recipe, make_run

from satray.config.tune import StopOptions
from satray.errors import SatrayError, TrainingError
from satray.runs.run import Run
from satray.storage import Storage
from satray.train.checkpoints import TrainState, Writer
from satray.train.ray_train import Halt, fit
from satray.train.setup import set_up
from satray.tune import tuner
from satray.tune.records import TrialLog, trial_id
from satray.tune.trials import Sweep, Trial, full_recipe
from satray.tune.tuner import BackboneTrial, TrainTrial, trials_at_once

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


# The driver's side


def make(folder, *configurations):
    """A log, and the searcher of some trials."""
    log = TrialLog(Run("tune", "r", str(folder), Storage()), MAP, 9)
    sweep = SimpleNamespace(regime_of=lambda trial: "head")
    recipe = full_recipe(tune(), {})
    trials = tuple(Trial(trial_id(each), each, recipe, "start") for each in configurations)
    return log, tuner.TrialSearcher(sweep, iter([trials]), log)


def shown(configuration, rows=(), seconds=(), failed=None, over=False):
    """What a step shows of a trial."""
    return {
        "trial": trial_id(configuration), "rows": list(rows), "seconds": list(seconds),
        "failed": failed, "over": over,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("over", "failed", "status", "reason"),
    [
        (True, None, "done", None),
        (False, None, "stopped", tuner.STOPPED),
        (True, "the loss is not finite", "failed", "the loss is not finite"),
    ],
)
def test_a_trial_that_ends_is_written_down(tmp_path, over, failed, status, reason) -> None:
    log, searcher = make(tmp_path, {"n": 0})
    callback = tuner.LogCallback(log)
    curve = [{"samples": 100, "map": 0.5}]
    result = {"shown": [shown({"n": 0}, curve, [2.0], failed, over)]}
    trial = SimpleNamespace(config=searcher.suggest("a"), last_result=result)
    callback.on_trial_result(trial=trial, result=result)
    callback.on_trial_complete(trial=trial)
    (ended,) = log.records.values()
    assert (ended.status, ended.reason, ended.seconds) == (status, reason, 2.0)


@pytest.mark.parametrize(
    ("error", "kept", "reason"),
    [
        (RayTaskError("step", "trace", OSError("no room")), 0, "no room"),
        (ActorDiedError(), 1, "its process died: "),
    ],
)
def test_what_may_pass_is_not_kept_and_a_death_is(tmp_path, error, kept, reason) -> None:
    log, searcher = make(tmp_path, {"n": 0})
    trial = SimpleNamespace(
        config=searcher.suggest("a"), get_pickled_error=lambda: error, get_error=lambda: ""
    )
    tuner.LogCallback(log).on_trial_error(trial=trial)
    (ended,) = log.records.values()
    assert ended.status == "failed"
    assert reason in ended.reason
    assert len(make(tmp_path)[0].records) == kept


def test_each_trial_of_a_stack_ends_by_itself_and_a_death_is_nobodys(tmp_path) -> None:
    configurations = [{"n": n} for n in range(4)]
    log, searcher = make(tmp_path, *configurations)
    trial = SimpleNamespace(
        config=searcher.suggest("a"), get_pickled_error=ActorDiedError, get_error=lambda: ""
    )
    assert searcher.suggest("b") == "FINISHED"
    assert log.running.keys() == set(map(trial_id, configurations))
    callback, row = tuner.LogCallback(log), {"samples": 100, "map": 0.5}
    first = [shown(each, [row], [1.0], over=each["n"] == 0) for each in configurations]
    callback.on_trial_result(trial=trial, result={"shown": first})
    again = [shown(configurations[0], [row], [1.0], over=True)]  # by a second attempt
    wrong = [shown(configurations[1], failed="no", over=True)]
    callback.on_trial_result(trial=trial, result={"shown": again + wrong})
    callback.on_trial_error(trial=trial)
    found = [log.records[trial_id(each)] for each in configurations]
    assert [one.status for one in found] == ["done", "failed", "failed", "failed"]
    assert [one.samples for one in found] == [100] * 4
    assert found[1].reason == "no"
    assert found[3].reason.startswith("its process died")
    # those that died together are tried again
    assert make(tmp_path)[0].records.keys() == {found[0].id, found[1].id}


# A trial's process


class Scripted(BackboneTrial):
    """A training whose evaluations are given; an exception is raised."""

    each = 250

    def __init__(self, *script):
        self.script, self.closed = list(script), 0

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


def swept(recipe):
    """A sweep of nothing."""
    return Sweep(recipe, None, None, MAP)


def row(samples, value):
    return {"samples_seen": samples, "map": value, "seconds_data": 0.0, "seconds_compute": 0.25}


ONE = {"trials": (SimpleNamespace(id="one"),), "regime": "head"}


def running(*trainings, one_by_one=False) -> TrainTrial:
    """A trial's process in this one, with trainings in place of those that it would open."""
    waiting = list(trainings)

    class Running(TrainTrial):
        def open(self, trial):
            found = waiting.pop(0)
            if isinstance(found, Exception):
                raise found
            return found

    trial = Running.__new__(Running)
    recipe = tune(stop={"name": "asha" if one_by_one else "none"})
    work = tuner.Work(swept(recipe), Storage(), "/state", "0" * 12, WORKERS, {})
    trial.setup(ONE, work=work)
    return trial


def only(result):
    """What a step shows of its only trial, with the result's own entries."""
    (one,) = result["shown"]
    return result | one


def test_short_evaluations_are_reported_together_with_the_end() -> None:
    found = running(Scripted(row(250, 0.5), row(500, 0.75), row(1000, 0.625)))
    found = only(found.step())
    assert [each["samples"] for each in found["rows"]] == [250, 500, 1000]
    assert found["seconds"] == [0.25] * 3
    assert (found["worth"], found["place"]) == (0.625, 750)
    assert (found["over"], found["done"], found["failed"]) == (True, True, None)


def test_where_each_may_be_the_last_each_is_reported_by_itself() -> None:
    """At the place that was asked for, whatever batches make of it."""
    trial = running(Scripted(row(256, 0.5), row(512, 0.25), row(1000, 0.5)), one_by_one=True)
    found = [only(trial.step()) for _ in range(3)]
    shown = [(each["place"], each["worth"], each["over"]) for each in found]
    assert shown == [(250, 0.5, False), (500, 0.25, False), (750, 0.5, True)]


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
    trial = running(first, second, ValueError("no such head"))
    found = only(trial.step())
    assert (found["failed"], found["over"], len(found["rows"])) == (said, True, rows)
    assert math.isnan(found["worth"])
    assert trial.reset_config(ONE)
    assert first.closed == 1
    found = only(trial.step())
    assert (found["failed"], found["worth"], found["place"]) == (None, 0.5, 250)
    assert trial.reset_config(ONE)
    assert second.closed == 0  # it was at its end
    found = only(trial.step())
    assert (found["failed"], found["over"]) == ("ValueError: no such head", True)


@pytest.mark.parametrize("trouble", [OSError("no room"), SatrayError("the store is away")])
def test_what_may_pass_is_raised(trouble) -> None:
    for training in (trouble, Scripted(row(500, 0.5), trouble)):
        with pytest.raises(type(trouble)):
            running(training).step()


# A trial on workers of its own, which are played by the test


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    return set_up(make_recipe(generate(folder, tiles=32), folder), Storage())  # 3 pseudo-epochs


@pytest.fixture
def begin(setup, tmp_path, monkeypatch):
    def opened(*numbers, then=None, history=()):
        """Workers finish some pseudo-epochs and end; `history` is what checkpoints hold before."""
        run, _ = make_run(tmp_path)
        if history:
            rows = tuple(map(epoch, history))
            writer = Writer(run.storage, run.state)
            writer.keep(TrainState(len(rows), {}, {}, rows, {}), None)
            writer.wait()

        def played(setup, run, weights, listen, workers, halt):
            for number in numbers:
                listen({"kind": "epoch", "rank": 0, "row": epoch(number)})
                listen({"kind": "epoch", "rank": 1, "row": None})
                listen({"kind": "progress", "now": None})
            if isinstance(then, BaseException):
                raise then
            if then is not None:
                then(halt)

        monkeypatch.setattr(tuner, "fit", played)
        return BackboneTrial(setup, run, "weights", WORKERS)

    return opened


def epoch(number):
    return {"pseudo_epoch": number, "samples_seen": 24 * (number + 1)}


def test_each_evaluation_is_handed_on_and_the_end_waits_for_the_workers(begin) -> None:
    over = threading.Event()
    trial = begin(0, 1, 2, then=lambda _: over.wait(20))
    assert [trial.step()["pseudo_epoch"] for _ in range(2)] == [0, 1]
    assert not trial.done
    threading.Timer(0.2, over.set).start()
    assert trial.step()["pseudo_epoch"] == 2
    assert over.is_set()
    assert trial.done
    trial.close()


@pytest.mark.parametrize(
    ("numbers", "history"), [((1, 1, 2), (0, 1)), ((2,), (0, 1)), ((), (0, 1, 2))]
)
def test_what_checkpoints_hold_comes_first_and_nothing_twice(begin, numbers, history) -> None:
    trial = begin(*numbers, history=history)
    assert [trial.step()["pseudo_epoch"] for _ in range(3)] == [0, 1, 2]
    assert trial.done


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (TrainingError("worker 0 failed: CUDA out of memory"), "out of memory"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (None, "before its plan was done"),
    ],
    ids=str,
)
def test_what_ends_training_ends_the_trial(begin, end, said) -> None:
    trial = begin(0, then=end)
    assert trial.step()["pseudo_epoch"] == 0
    with pytest.raises(TrainingError, match=said):
        trial.step()


def test_a_trial_that_is_left_halts_its_workers(begin, setup, tmp_path) -> None:
    halted = threading.Event()

    def until_halted(halt):
        while not halt.asked:
            pass
        halted.set()

    trial = begin(0, then=until_halted)
    trial.step()
    trial.close()
    assert halted.is_set()
    # one that is left before it began starts nothing
    run, _ = make_run(tmp_path)
    halt = Halt(run)
    halt()
    fit(setup, run, "weights", pytest.fail, workers=WORKERS, halt=halt)  # there is no Ray
