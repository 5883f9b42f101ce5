"""What a trial on workers of its own hands on, with the workers played by the test."""

import threading

import pytest
from by_hand import WORKERS
from train.small_archive import generate, make_recipe, make_run

from satray.errors import TrainingError
from satray.storage import Storage
from satray.train.checkpoints import TrainState, Writer
from satray.train.ray_train import Halt, fit
from satray.train.setup import set_up
from satray.tune import backbone_trial
from satray.tune.backbone_trial import BackboneTrial


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    return set_up(make_recipe(generate(folder, tiles=32), folder), Storage())  # 3 pseudo-epochs


@pytest.fixture
def begin(setup, tmp_path, monkeypatch):
    def opened(play, *history):
        """`play(listen, halt)` is what workers do; `history` what checkpoints hold before."""
        run, _ = make_run(tmp_path)
        if history:
            rows = tuple(map(row, history))
            state = TrainState(len(rows), {}, {}, rows, {})
            writer = Writer(run.storage, run.state)
            writer.keep(state, None)
            writer.wait()

        def played(setup, run, weights, listen, workers, halt):
            play(listen, halt)

        monkeypatch.setattr(backbone_trial, "fit", played)
        return BackboneTrial(setup, run, "weights", WORKERS)

    return opened


def row(number):
    return {"pseudo_epoch": number, "samples_seen": 24 * (number + 1)}


def tell(*numbers, then=None):
    """Workers that finish these pseudo-epochs."""

    def play(listen, halt):
        for number in numbers:
            listen({"kind": "epoch", "rank": 0, "row": row(number)})
            listen({"kind": "epoch", "rank": 1, "row": None})
            listen({"kind": "progress", "now": None})
        if isinstance(then, BaseException):
            raise then
        if then is not None:
            then(halt)

    return play


def take(trial):
    found = []
    while not trial.done:
        found.append(trial.step()["pseudo_epoch"])
    return found


def test_each_evaluation_is_handed_on_and_the_end_waits_for_the_workers(begin) -> None:
    over = threading.Event()
    trial = begin(tell(0, 1, 2, then=lambda _: over.wait(20)))
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
    assert take(begin(tell(*numbers), *history)) == [0, 1, 2]


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
    trial = begin(tell(0, then=end))
    assert trial.step()["pseudo_epoch"] == 0
    with pytest.raises(TrainingError, match=said):
        trial.step()


def test_a_trial_that_is_left_halts_its_workers(begin) -> None:
    halted = threading.Event()

    def until_halted(halt):
        while not halt.asked:
            pass
        halted.set()

    trial = begin(tell(0, then=until_halted))
    trial.step()
    trial.close()
    assert halted.is_set()


def test_training_that_is_left_before_it_began_starts_nothing(setup, tmp_path) -> None:
    run, _ = make_run(tmp_path)
    halt = Halt(run)
    halt()
    fit(setup, run, "weights", pytest.fail, workers=WORKERS, halt=halt)  # there is no Ray
