"""A head trained from features is the head that the whole network would have trained."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from train.small_archive import generate
from tune.feature_material import (
    DOUBLE,
    HEAD_STAGE,
    RESNET,
    from_features,
    in_memory,
    prepare,
    through_backbone,
)

from satray.errors import TrainingError
from satray.storage import Storage
from satray.train.checkpoints import best_of
from satray.train.plan import train_order
from satray.tune import head
from satray.tune.head import CPU, HeadNetwork, HeadTrial, head_batches, val_batches

LONGER = {**HEAD_STAGE, "pseudo_epochs": 4}
CASES = {
    "one tower, batch norm": {"variant": RESNET},
    "two towers, dropout": {"variant": DOUBLE, "dropout": 0.4},
    "rare classes, log-sum-exp": {"repeat": 0.9, "pooling": "lse", "stages": [LONGER]},
    "moving average, random crops": {
        "average": {"ema": 0.7},
        "input": {"size": 16, "resize": 24},
        "stages": [HEAD_STAGE, {**HEAD_STAGE, "dropout": 0.2, "layer_decay": 0.5}],
    },
    "resized crops, focal loss": {"augment": {"crop": "resized"}, "loss": {"name": "focal"}},
}


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny networks are faster on one thread, and the machine may be shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """42 tiles, of which two of the train split cannot be read."""
    return generate(tmp_path_factory.mktemp("archive"), tiles=42, spoil=(5, 21))


@pytest.mark.parametrize("name", CASES)
def test_losses_are_those_of_training_through_the_backbone(archive, tmp_path, name):
    made = prepare(archive, tmp_path, **{"error_budget": 0.5, **CASES[name]})
    features = in_memory(made)
    whole, network = through_backbone(made)
    alone, states = from_features(made, features)
    assert len(whole) == len(alone) >= 3
    for key in ("train_loss", "val_loss"):
        found, wanted = ([row[key] for row in rows] for rows in (alone, whole))
        np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=0)
    assert [each["unreadable"] for each in alone] == [each["unreadable"] for each in whole]
    assert sum(each["unreadable"] for each in whole) > 0
    trained, _ = states[-1]
    for key, value in network.state_dict().items():
        if key.startswith("head."):
            torch.testing.assert_close(trained[key], value, atol=1e-4, rtol=1e-4)
            assert not torch.equal(value, made.first[key]), "nothing was learnt"


@pytest.fixture(scope="module")
def trial(archive, tmp_path_factory):
    """A run with its features: 31 train tiles in three views, 11 of validation."""
    folder = tmp_path_factory.mktemp("trial")
    changes = {"average": {"ema": 0.8}, "dropout": 0.3, "pseudo_epoch": 48, "error_budget": 0.5}
    found = prepare(archive, folder, **changes)
    return found, in_memory(found)


@pytest.mark.parametrize("gathered", [1, 16 << 20])
def test_batches_are_the_orders_rows_in_turn_with_their_views(trial, monkeypatch, gathered):
    monkeypatch.setattr(head, "GATHERED", gathered)
    made, (features, val) = trial
    plan, (part,), seen = made.setup.plan, features.parts, {}
    order = train_order(made.setup.recipe, plan, features.labels)
    for pseudo_epoch in range(plan.pseudo_epochs):
        found = list(head_batches(features, order, 8, CPU, pseudo_epoch))
        assert [len(batch["row"]) for batch in found] == [8] * plan.steps_in(pseudo_epoch)
        rows = np.concatenate([batch["row"] for batch in found])
        assert rows.tolist() == order.rows(pseudo_epoch).tolist()
        came: dict[int, int] = {}
        for batch in found:
            assert np.array_equal(batch["labels"], features.labels[batch["row"]])
            assert np.array_equal(batch["valid"], features.valid[batch["row"]])
            for row, copy, pixels in zip(
                batch["row"].tolist(), batch["copy"], batch["pixels"], strict=True
            ):
                assert copy == came.get(row, 0)
                came[row] = copy + 1
                view = (pseudo_epoch + copy) % 3
                assert np.array_equal(pixels, part[row, view])
                seen.setdefault(row, set()).add(view)
        assert max(came.values()) > 1, "a pseudo-epoch of more than the split repeats tiles"
    assert all(views == {0, 1, 2} for views in seen.values())
    once = list(val_batches(val, CPU))
    assert len(once) == (11 if gathered == 1 else 1)
    assert np.array_equal(np.concatenate([b["pixels"] for b in once]), val.parts[0][:, 0])
    assert np.concatenate([batch["row"] for batch in once]).tolist() == list(range(11))


def test_the_head_computes_in_fp32_under_autocast():
    torch.manual_seed(0)
    network, x = HeadNetwork(64, 3), torch.randn(5, 64)
    with torch.autocast("cpu", torch.bfloat16):
        inside = network(x)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, network(x))


# As a trial


class Opened:
    """A trial over a folder, with a clock in the test's hands."""

    def __init__(self, trial, folder, setup=None):
        made, features = trial
        self.now = 0.0
        self.trial = HeadTrial(
            setup or made.setup, *features, made.head_file(folder), str(folder), Storage(),
            clock=lambda: self.now,
        )  # fmt: skip

    def rows(self, most=100, seconds=0.0):
        found = []
        while not self.trial.done and len(found) < most:
            self.now += seconds
            found.append(self.trial.step())
        return found


def figures(rows):
    return [(row["samples_seen"], row["train_loss"], row["val_loss"], row["map"]) for row in rows]


def test_it_trains_as_in_one_go_and_keeps_its_best(trial, tmp_path) -> None:
    rows = Opened(trial, tmp_path).rows()
    whole, states = from_features(*trial)
    assert figures(rows) == figures(whole)
    best = best_of(Storage(), str(tmp_path))
    place = int(np.argmax([row["map"] for row in rows]))
    assert (best.samples_seen, best.validation) == (rows[place]["samples_seen"], rows[place])
    _, kept = states[place]
    assert best.weights.keys() == kept.keys()
    assert all(torch.equal(best.weights[name], kept[name]) for name in kept)
    assert best.predictions.logits_NK.shape == (11, 2)


@pytest.mark.parametrize("stop", [1, 2])
def test_interrupted_it_goes_on_tells_all_again_and_keeps_the_best(trial, tmp_path, stop) -> None:
    Opened(trial, tmp_path).rows(stop, seconds=10.0)  # then its process is killed
    opened = Opened(trial, tmp_path)
    first = opened.trial.step()
    assert first["samples_seen"] == 48
    whole, _ = from_features(*trial)
    assert figures([first, *opened.rows()]) == figures(whole)
    place = int(np.argmax([row["map"] for row in whole]))
    assert best_of(Storage(), str(tmp_path)).samples_seen == whole[place]["samples_seen"]


def test_it_keeps_a_checkpoint_now_and_then_and_when_it_is_left(trial, tmp_path) -> None:
    opened = Opened(trial, tmp_path)
    opened.rows(2, seconds=0.9)
    assert best_of(Storage(), str(tmp_path)) is None
    opened.trial.close()
    first = best_of(Storage(), str(tmp_path))
    again = Opened(trial, tmp_path)
    assert len(again.rows(2)) == 2  # told again, not made
    again.trial.close()
    assert best_of(Storage(), str(tmp_path)).samples_seen == first.samples_seen


def test_a_loss_that_is_not_finite_is_said(trial, tmp_path) -> None:
    made, _ = trial
    plan = made.setup.plan.with_rates([1e36])
    opened = Opened(trial, tmp_path, replace(made.setup, plan=plan))
    with pytest.raises(TrainingError, match="learning"):
        opened.rows()
