"""What is kept of a training: where it goes on from, its best weights, what could not be read."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from train.tiny_training import ROWS, equal, recipe, run, stage, tiny_net

from satray.storage import Storage
from satray.train.checkpoints import WORST, Kept, Writer, best_of, find, is_done, latest_of, score
from satray.train.evaluation import Predictions
from satray.train.plan import plan_training

STORAGE = Storage()
GIVEN = recipe(stage(2), ema=0.9, average={"swa": True})


@pytest.fixture(scope="module")
def states():
    """Of two pseudo-epochs; the network goes on changing."""
    net = tiny_net()
    states = run(GIVEN, net).states[:2]
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(1)
    return states


def kept(kind="checkpoint", **validation):
    seen = Predictions(np.arange(2), np.float32([[1], [2]]), np.uint8([[1], [0]]))
    shown = {"kind": kind, "val_loss": 0.5, "map": 0.5, **validation}
    return Kept(24, {"w": torch.ones(2)}, shown, seen)


def write(state, *pairs):
    writer = Writer(STORAGE, state)
    for train_state, best in pairs:
        writer.keep(train_state, best)
    writer.wait()


def test_the_newest_state_and_the_best_weights_stay(tmp_path, states):
    state, plan = str(tmp_path), plan_training(recipe(stage(2)), ROWS, 1)
    assert find(STORAGE, state) == (0, None)
    assert latest_of(STORAGE, state) is best_of(STORAGE, state) is None
    write(state, (states[0], kept()))
    assert not is_done(STORAGE, state, plan)
    write(state, (states[1], None))
    assert is_done(STORAGE, state, plan)
    assert find(STORAGE, state, "best")[1].endswith("best-000001.pt")
    again = latest_of(STORAGE, state)
    for name in ("model", "average", "swa"):
        equal(getattr(again, name), getattr(states[1], name))
    assert not torch.equal(again.model["head.bias"], states[0].model["head.bias"])
    assert again.history == states[1].history
    assert len(STORAGE.list(state)) == 2
    write(state, (states[1], kept("swa", map=0.7)))
    best = best_of(STORAGE, state)
    assert (best.kind, best.validation["map"]) == ("swa", 0.7)
    for name, value in vars(kept().predictions).items():
        np.testing.assert_array_equal(getattr(best.predictions, name), value)
        assert getattr(best.predictions, name).dtype == value.dtype
    assert len(STORAGE.list(state)) == 2


def test_weights_whose_state_was_not_written_any_more_do_not_count(tmp_path, states):
    state, elsewhere = str(tmp_path / "one"), str(tmp_path / "other")
    write(state, (states[0], kept(map=0.1)))
    write(elsewhere, (replace(states[1], pseudo_epoch=2), kept(map=0.9)))
    newer = STORAGE.read(f"{elsewhere}/rounds/best-000002.pt")
    STORAGE.write(f"{state}/rounds/best-000002.pt", newer)
    assert find(STORAGE, state)[0] == 1
    assert best_of(STORAGE, state).validation["map"] == 0.1


@pytest.mark.parametrize(
    ("best", "value", "expected"),
    [("map", 0.5, 0.5), ("loss", 0.5, -0.3), ("map", math.nan, WORST)],
)
def test_more_is_better_and_no_number_is_worst(best, value, expected):
    assert score({"val_loss": 0.3, "map": value}, best) == expected
    assert score({}, best) == WORST
