"""What a trial on workers of its own hands on, with the workers played by the test."""

import contextlib
import threading
from types import SimpleNamespace

import pytest
from inline_blocks import WORKERS
from train.small_archive import generate, make_recipe, make_run

from satray.errors import TrainingError
from satray.storage import Storage
from satray.train.setup import set_up


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    return set_up(make_recipe(generate(folder, tiles=32), folder), Storage())  # 3 pseudo-epochs


@pytest.fixture
def begin(setup, tmp_path, monkeypatch):
    from satray.tune import backbone_trial

    def opened(play, history=()):
        """`play(listen, halt)` is what `fit` does; `history` what checkpoints hold then."""
        kept = list(history)

        def fit(setup, run, weights, listen, workers, halt):
            play(listen, halt)

        def put_history(self, run):
            for each in kept:
                self._rows.put(each)

        monkeypatch.setattr(backbone_trial, "fit", fit)
        monkeypatch.setattr(backbone_trial.BackboneTrial, "_put_history", put_history)
        run, _ = make_run(tmp_path)
        return backbone_trial.BackboneTrial(setup, run, "weights", WORKERS)

    return opened


def row(number):
    return {"pseudo_epoch": number, "samples_seen": 24 * (number + 1)}


def tell(*numbers):
    def play(listen, halt):
        for number in numbers:
            listen({"kind": "epoch", "rank": 0, "row": row(number)})
            listen({"kind": "epoch", "rank": 1, "row": None})
            listen({"kind": "progress", "now": None})

    return play


def take(trial):
    found = []
    while not trial.done:
        found.append(trial.step()["pseudo_epoch"])
    return found


def test_each_evaluation_is_handed_on_and_the_end_waits_for_the_workers(begin, setup) -> None:
    over = threading.Event()

    def play(listen, halt):
        tell(0, 1, 2)(listen, halt)
        over.wait(20)

    trial = begin(play)
    assert trial.total == setup.plan.total_samples == 72
    assert [trial.step()["pseudo_epoch"] for _ in range(2)] == [0, 1]
    assert not trial.done
    threading.Timer(0.2, over.set).start()
    assert trial.step()["pseudo_epoch"] == 2
    assert over.is_set()
    assert trial.done
    trial.close()


def test_what_checkpoints_hold_comes_first_and_nothing_twice(begin) -> None:
    assert take(begin(tell(1, 1, 2), history=[row(0), row(1)])) == [0, 1, 2]


def test_a_message_that_was_lost_is_found_in_the_checkpoints(begin) -> None:
    assert take(begin(tell(0, 1), history=[row(0), row(1), row(2)])) == [0, 1, 2]


def test_what_ends_training_ends_the_trial(begin) -> None:
    def play(listen, halt):
        tell(0)(listen, halt)
        raise TrainingError("train worker 0 failed 4 times: CUDA out of memory")

    trial = begin(play)
    trial.step()
    with pytest.raises(TrainingError, match="out of memory"):
        trial.step()


def test_training_that_ends_early_and_an_exit_are_failures(begin) -> None:
    with pytest.raises(TrainingError, match="before its plan was done"):
        take(begin(tell(0)))

    def play(listen, halt):
        raise KeyboardInterrupt

    with pytest.raises(TrainingError, match="KeyboardInterrupt"):
        begin(play).step()


def test_a_trial_that_is_left_halts_its_workers(begin) -> None:
    halted = threading.Event()

    def play(listen, halt):
        tell(0)(listen, halt)
        while not halt.asked:
            pass
        halted.set()

    trial = begin(play)
    trial.step()
    trial.close()
    assert halted.is_set()
    assert not trial._thread.is_alive()


class Silent:
    """A channel that nobody uses."""

    @contextlib.contextmanager
    def watch(self, show, say):
        self.show = show
        yield


@pytest.mark.parametrize("when", ["before", "at a failure"])
def test_training_that_is_left_starts_no_more_workers(setup, tmp_path, monkeypatch, when) -> None:
    from ray.train.v2.api.exceptions import ControllerError

    from satray.train.workers import launch
    from satray.train.workers.halt import Halt

    begun = []
    halt = Halt()
    halt.asked = when == "before"

    class Trainer:
        def fit(self):
            begun.append(1)
            halt.asked = True
            raise ControllerError(RuntimeError("aborted"))

    monkeypatch.setattr(launch.cluster, "ProgressChannel", Silent)
    task = SimpleNamespace(train=SimpleNamespace(cache=None))
    monkeypatch.setattr(launch, "make_task", lambda *_: task)
    monkeypatch.setattr(launch, "make_trainer", lambda *_: Trainer())
    run, _ = make_run(tmp_path)
    launch.fit(setup, run, "weights", lambda _: None, workers=WORKERS, halt=halt)
    assert len(begun) == (when == "at a failure")


def test_the_controller_is_known_as_soon_as_there_are_workers(monkeypatch) -> None:
    from ray.train.v2._internal.execution.callback import WorkerGroupCallback

    from satray.train.workers import halt as module

    sent = []
    here = SimpleNamespace(current_actor="me")
    monkeypatch.setattr(module.ray, "get_runtime_context", lambda: here)
    found = module.Introduce(SimpleNamespace(send=sent.append))
    assert isinstance(found, WorkerGroupCallback)
    placed = SimpleNamespace(placement_group="group")
    workers = SimpleNamespace(_worker_group_state=SimpleNamespace(placement_group_handle=placed))
    found.after_worker_group_start(workers)
    found.after_worker_group_start(workers)
    assert sent == [{"kind": module.KIND, "handle": "me", "group": "group"}] * 2
