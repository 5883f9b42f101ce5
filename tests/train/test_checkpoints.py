"""What is kept of a training: where it goes on from, its best weights, what could not be read."""

import math

import numpy as np
import pytest
import torch
from train.tiny_training import ROWS, equal, recipe, run, stage, tiny_net

from satray.errors import InputError
from satray.storage import Storage
from satray.train.checkpoints import (
    WORST,
    Checkpoints,
    Kept,
    Writer,
    choose,
    find,
    is_best,
    is_done,
    keep_lost,
    load,
    lost,
    score,
    write_average,
)
from satray.train.evaluation import Predictions
from satray.train.plan import plan_training
from satray.train.state import TrainState

STORAGE = Storage()


@pytest.fixture(scope="module")
def states():
    """Of two pseudo-epochs."""
    done = run(recipe(stage(2)), tiny_net())
    return [TrainState.from_bytes(state) for state in done.states]


def kept(kind="checkpoint", **validation):
    seen = Predictions(np.arange(2), np.float32([[1], [2]]), np.uint8([[1], [0]]), 0)
    weights = {"w": torch.full((2,), float(len(kind)))}
    return Kept(kind, 24, weights, {"val_loss": 0.5, "map": 0.5, **validation}, seen)


def write(state, *pairs):
    writer = Writer(STORAGE, state)
    for train_state, best in pairs:
        writer.keep(train_state, best)
    writer.wait()


def test_the_newest_state_and_the_best_weights_stay(tmp_path, states):
    state = str(tmp_path)
    assert find(STORAGE, state) == Checkpoints()
    write(state, (states[0], kept()), (states[1], None))
    found = find(STORAGE, state)
    assert found.pseudo_epochs == 2
    assert found.best.endswith("best-000001.pt")
    again = load(STORAGE, found.latest)
    equal(again.model, states[1].model)
    assert again.history == states[1].history
    assert len(STORAGE.list(state)) == 2
    write(state, (states[1], kept()))
    assert find(STORAGE, state).best.endswith("best-000002.pt")
    assert len(STORAGE.list(state)) == 2


def test_a_checkpoint_whose_state_was_not_written_any_more_does_not_count(tmp_path, states):
    state = str(tmp_path)
    write(state, (states[0], kept(map=0.1)))
    STORAGE.write(f"{state}/train/best-000002.pt", kept(map=0.9).to_bytes())
    found = find(STORAGE, state)
    assert (found.pseudo_epochs, found.best[-14:]) == (1, "best-000001.pt"[-14:])
    assert choose(STORAGE, state, "map")[0].validation["map"] == 0.1


def test_a_copied_state_no_longer_changes(states):
    net = tiny_net()
    done = run(recipe(stage(1), average={"ema": 0.9}), net)
    live = done.loop.state()
    copied = live.copied()
    before = copied.to_bytes()
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(1)
    equal(TrainState.from_bytes(before).model, copied.model)
    assert not torch.equal(copied.model["head.bias"], live.model["head.bias"])
    assert copied.history == live.history


def test_more_is_better_and_no_number_is_worst():
    assert score({"val_loss": 0.3, "map": 0.5}, "map") == 0.5
    assert score({"val_loss": 0.3, "map": 0.5}, "loss") == -0.3
    assert score({"val_loss": 0.3, "map": math.nan}, "map") == WORST
    rows = tuple({"map": value} for value in (0.2, math.nan, 0.2))
    assert [is_best(rows[:n], "map") for n in (1, 2, 3)] == [True, False, True]


@pytest.mark.parametrize(
    ("best", "average", "expected"),
    [
        ("map", {"map": 0.6}, "swa"),
        ("map", {"map": 0.5}, "checkpoint"),
        ("map", {"map": math.nan}, "checkpoint"),
        ("loss", {"val_loss": 0.4}, "swa"),
        ("loss", {"val_loss": 0.6, "map": 0.9}, "checkpoint"),
        ("map", None, "checkpoint"),  # it was not finite
    ],
)
def test_the_better_of_checkpoint_and_average_is_the_bundle(
    tmp_path, states, best, average, expected
):
    state, options = str(tmp_path), recipe(average={"swa": True}).average
    plan = plan_training(recipe(stage(1)), ROWS, 1)  # of one pseudo-epoch
    write(state, (states[0], kept()))
    assert not is_done(STORAGE, state, plan, options)
    write_average(STORAGE, state, None if average is None else kept("swa", **average))
    assert is_done(STORAGE, state, plan, options)
    chosen, other = choose(STORAGE, state, best)
    assert chosen.kind == expected
    assert (other is None) == (average is None)
    equal(chosen.weights, kept(expected).weights)
    assert chosen.predictions.logits_NK.tolist() == [[1], [2]]


def test_without_a_checkpoint_there_is_nothing_to_choose(tmp_path):
    with pytest.raises(InputError, match="no checkpoint"):
        choose(STORAGE, str(tmp_path), "map")


def test_unreadable_tiles_outlive_the_driver(tmp_path):
    state = str(tmp_path / "state")
    assert lost(STORAGE, state) == {}
    keep_lost(STORAGE, state, 0, 0, {"train": {}, "val": {}})
    assert STORAGE.list(state) == []
    keep_lost(STORAGE, state, 0, 0, {"train": {5: "torn"}, "val": {2: "gone"}})
    keep_lost(STORAGE, state, 0, 1, {"train": {7: "not an image"}, "val": {}})
    keep_lost(STORAGE, state, 3, 0, {"train": {9: "late"}, "val": {2: "gone"}})
    assert lost(STORAGE, state) == {
        ("train", 5): "torn",
        ("train", 7): "not an image",
        ("train", 9): "late",
        ("val", 2): "gone",
    }
