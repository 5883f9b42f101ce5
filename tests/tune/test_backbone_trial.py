"""What a trial on workers of its own hands on, with the workers played by the test."""

import threading

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


def test_training_that_is_left_before_it_began_starts_nothing(setup, tmp_path) -> None:
    from satray.train.ray_train import Halt, fit

    run, _ = make_run(tmp_path)
    halt = Halt(run)
    halt()
    fit(setup, run, "weights", pytest.fail, workers=WORKERS, halt=halt)  # there is no Ray
