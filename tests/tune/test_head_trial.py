"""A head's trial: the same as training it in one go, wherever it is interrupted."""

import numpy as np
import pytest
import torch
from train.small_archive import generate
from tune.feature_material import from_features, in_memory, prepare

from satray.errors import TrainingError
from satray.storage import Storage, join
from satray.train.loop.state import TrainState
from satray.train.workers.combining import to_bytes
from satray.tune.head_trial import FILE, HeadTrial, best_of


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("head-trial")
    found = prepare(generate(folder / "archive"), folder, average={"ema": 0.8}, dropout=0.3)
    return found, in_memory(found)


def head_file(prepared, folder):
    uri = str(folder / "head.pt")
    state = {name: value for name, value in prepared.first.items() if name.startswith("head.")}
    Storage().write(uri, to_bytes(state))
    return uri


class Opened:
    """A trial over a folder, with a clock in the test's hands."""

    def __init__(self, made, folder, setup=None):
        prepared, (train, val) = made
        self.now = 0.0
        self.folder = str(folder)
        self.trial = HeadTrial(
            setup or prepared.setup,
            train,
            val,
            head_file(prepared, folder),
            self.folder,
            Storage(),
            clock=lambda: self.now,
        )

    def rows(self, most=100, seconds=0.0):
        found = []
        while not self.trial.done and len(found) < most:
            self.now += seconds
            found.append(self.trial.step())
        return found


def figures(rows):
    return [(row["samples_seen"], row["train_loss"], row["val_loss"], row["map"]) for row in rows]


def expected(made):
    reports, states = from_features(*made)
    return figures([report.row() for report in reports]), states


def test_it_trains_as_in_one_go_and_keeps_its_best(made, tmp_path) -> None:
    opened = Opened(made, tmp_path)
    rows = opened.rows()
    whole, states = expected(made)
    assert figures(rows) == whole
    assert opened.trial.total == rows[-1]["samples_seen"]
    best = best_of(Storage(), opened.folder)
    assert best is not None
    maps = [row["map"] for row in rows]
    assert best.pseudo_epochs == int(np.argmax(maps)) + 1
    kept = TrainState.from_bytes(states[best.pseudo_epochs - 1]).kept
    assert best.state.keys() == kept.keys()
    assert all(torch.equal(best.state[name], kept[name]) for name in kept)
    assert best.seen.logits_NK.shape == (16, 2)


@pytest.mark.parametrize("stop", [1, 2])
def test_interrupted_it_goes_on_and_tells_all_again(made, tmp_path, stop) -> None:
    Opened(made, tmp_path).rows(stop, seconds=10.0)  # then its process is killed
    opened = Opened(made, tmp_path)
    first = opened.trial.step()
    assert first["samples_seen"] == 48
    whole, _ = expected(made)
    assert figures([first, *opened.rows()]) == whole


def test_it_keeps_a_checkpoint_now_and_then_and_when_it_is_left(made, tmp_path) -> None:
    storage, uri = Storage(), join(str(tmp_path), FILE)
    opened = Opened(made, tmp_path)
    opened.rows(2, seconds=0.9)
    assert not storage.exists(uri)
    assert best_of(storage, str(tmp_path)) is None
    opened.trial.close()
    assert storage.exists(uri)
    assert len(TrainState.from_bytes(np.load(uri)["state"].tobytes()).history) == 2


def test_the_best_of_an_earlier_attempt_stays_the_best(made, tmp_path) -> None:
    opened = Opened(made, tmp_path)
    opened.rows(1, seconds=10.0)
    # no evaluation to come can be better than this one
    uri = join(str(tmp_path), FILE)
    with np.load(uri) as file:
        parts = {name: file[name] for name in file.files}
    state = TrainState.from_bytes(parts["state"].tobytes())
    state.history[0]["map"] = 2.0
    sink = tmp_path / "again.npz"
    np.savez(sink, **{**parts, "state": np.frombuffer(state.to_bytes(), np.uint8)})
    Storage().write(uri, sink.read_bytes())
    again = Opened(made, tmp_path)
    assert again.rows()[0]["map"] == 2.0
    best = best_of(Storage(), str(tmp_path))
    assert best is not None
    assert best.pseudo_epochs == 1
    assert best.weights == parts["weights"].tobytes()


def test_a_loss_that_is_not_finite_is_said(made, tmp_path) -> None:
    from dataclasses import replace

    prepared, _ = made
    plan = prepared.setup.plan.with_rates([1e36])
    opened = Opened(made, tmp_path, replace(prepared.setup, plan=plan))
    with pytest.raises(TrainingError, match="learning"):
        opened.rows()
