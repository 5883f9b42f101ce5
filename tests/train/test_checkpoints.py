"""What is kept of a training: where it goes on from, its best weights, what could not be read."""

import math

import numpy as np
import pytest
import torch
from train.tiny_training import ROWS, equal, recipe, run, stage, tiny_net

from satray.storage import Storage
from satray.train.checkpoints import (
    WORST,
    Checkpoints,
    Kept,
    Writer,
    best_of,
    find,
    is_done,
    latest_of,
    score,
)
from satray.train.evaluation import Predictions
from satray.train.plan import plan_training

STORAGE = Storage()


@pytest.fixture(scope="module")
def states():
    """Of two pseudo-epochs."""
    return run(recipe(stage(2), average={"ema": 0.9, "swa": True}), tiny_net()).states


def kept(kind="checkpoint", **validation):
    seen = Predictions(np.arange(2), np.float32([[1], [2]]), np.uint8([[1], [0]]))
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
    assert latest_of(STORAGE, state) is best_of(STORAGE, state) is None
    write(state, (states[0], kept()), (states[1], None))
    found = find(STORAGE, state)
    assert found.pseudo_epochs == 2
    assert found.best.endswith("best-000001.pt")
    again = latest_of(STORAGE, state)
    equal(again.model, states[1].model)
    for name, average in states[1].averages.items():
        equal(again.averages[name], average)
    assert (again.history, again.averaged) == (states[1].history, None)
    assert len(STORAGE.list(state)) == 2
    write(state, (states[1], kept("swa")))
    best = best_of(STORAGE, state)
    assert (best.kind, best.validation["map"]) == ("swa", 0.5)
    for name, value in vars(kept().predictions).items():
        np.testing.assert_array_equal(getattr(best.predictions, name), value)
        assert getattr(best.predictions, name).dtype == value.dtype
    assert len(STORAGE.list(state)) == 2


def test_weights_whose_state_was_not_written_any_more_do_not_count(tmp_path, states):
    state = str(tmp_path)
    write(state, (states[0], kept(map=0.1)))
    STORAGE.write(f"{state}/train/best-000002.pt", kept(map=0.9).to_bytes())
    assert find(STORAGE, state).pseudo_epochs == 1
    assert best_of(STORAGE, state).validation["map"] == 0.1


@pytest.mark.parametrize(("swa", "evaluations"), [(False, 2), (True, 3)])
def test_a_run_is_done_after_its_last_evaluation(tmp_path, states, swa, evaluations):
    """Of the average of snapshots too."""
    from dataclasses import replace

    plan = plan_training(recipe(stage(2), average={"swa": swa}), ROWS, 1)
    for number in (1, 2, 3):
        write(str(tmp_path), (replace(states[0], pseudo_epoch=number), None))
        assert is_done(STORAGE, str(tmp_path), plan) == (number >= evaluations)


def test_a_copied_state_no_longer_changes():
    net = tiny_net()
    done = run(recipe(stage(1), average={"ema": 0.9}), net)
    live = done.loop.state()
    copied = live.copied()
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(1)
    assert not torch.equal(copied.model["head.bias"], live.model["head.bias"])
    equal(copied.model, done.states[-1].model)


def test_more_is_better_and_no_number_is_worst():
    assert score({"val_loss": 0.3, "map": 0.5}, "map") == 0.5
    assert score({"val_loss": 0.3, "map": 0.5}, "loss") == -0.3
    assert score({"val_loss": 0.3, "map": math.nan}, "map") == WORST
