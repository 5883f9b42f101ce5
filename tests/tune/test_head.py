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
    losses,
    prepare,
    through_backbone,
)

from satray.config.stages import StageOptions
from satray.config.train import TrainRecipe
from satray.errors import TrainingError
from satray.storage import Storage
from satray.train.checkpoints import to_bytes
from satray.train.plan import plan_training, train_order
from satray.tune import head
from satray.tune.feature_table import Features
from satray.tune.head import (
    HeadNetwork,
    HeadTrial,
    best_of,
    head_batches,
    val_batches,
)

LONGER = {**HEAD_STAGE, "pseudo_epochs": 4}
CASES = {
    "one tower, batch norm": {"variant": RESNET},
    "two towers, dropout": {"variant": DOUBLE, "dropout": 0.4},
    "dense head, dropout": {"variant": "simple_cnn_dense", "dropout": 0.3},
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
    np.testing.assert_allclose(losses(alone), losses(whole), atol=1e-4, rtol=0)
    assert [each["unreadable"] for each in alone] == [each["unreadable"] for each in whole]
    assert sum(each["unreadable"] for each in whole) > 0
    trained, _ = states[-1]
    for key, value in network.state_dict().items():
        if key.startswith("head."):
            torch.testing.assert_close(trained[key], value, atol=1e-4, rtol=1e-4)
            assert not torch.equal(value, made.first[key]), "nothing was learnt"


def features_of(rows, views, width=4):
    """Each number says its row, view and place."""
    row, view, place = np.meshgrid(
        np.arange(rows), np.arange(views), np.arange(width), indexing="ij"
    )
    values = (row * 1000 + view * 10 + place).astype(np.float32)
    labels = np.stack([np.arange(rows) % 2, np.arange(rows) // 2 % 2], 1).astype(np.uint8)
    return Features((values[:, :, :3], values[:, :, 3:]), labels, np.arange(rows) != 3)


@pytest.mark.parametrize("gathered", [1, 16 << 20])
def test_batches_are_the_orders_rows_in_turn_with_their_views(monkeypatch, gathered):
    monkeypatch.setattr(head, "GATHERED", gathered)
    features = features_of(10, 3)
    given = _recipe(batch=4, pseudo_epoch=14)
    plan = plan_training(given, 10, 1)
    order = train_order(given, plan, features.labels)
    seen = {}
    for pseudo_epoch in range(plan.pseudo_epochs):
        found = list(head_batches(features, order, plan)(pseudo_epoch))
        assert [len(batch["row"]) for batch in found] == [4] * plan.steps_in(pseudo_epoch)
        rows = np.concatenate([batch["row"] for batch in found])
        assert rows.tolist() == order.rows(pseudo_epoch).tolist()
        came = {}
        for batch in found:
            for place, row in enumerate(batch["row"].tolist()):
                copy = came[row] = came.get(row, -1) + 1
                assert batch["copy"][place] == copy
                view = (copy + pseudo_epoch) % 3
                expected = [row * 1000 + view * 10 + column for column in range(4)]
                assert batch["pixels"][place].tolist() == expected
                assert batch["labels"][place].tolist() == features.labels[row].tolist()
                assert batch["valid"][place] == (row != 3)
                seen.setdefault(row, set()).add(view)
        assert max(came.values()) == 1, "a pseudo-epoch of more than the split repeats tiles"
    assert all(views == {0, 1, 2} for views in seen.values())


@pytest.mark.parametrize(("tiles", "sizes"), [(3, [3, 3, 3, 1]), (20, [10])])
def test_validation_comes_whole_and_in_order(monkeypatch, tiles, sizes):
    monkeypatch.setattr(head, "GATHERED", 4 * 4 * tiles)
    found = list(val_batches(features_of(10, 1))())
    assert [len(batch["row"]) for batch in found] == sizes
    assert np.concatenate([batch["row"] for batch in found]).tolist() == list(range(10))
    assert found[-1]["pixels"][-1].tolist() == [9000, 9001, 9002, 9003]


def test_the_head_computes_in_fp32_under_autocast():
    torch.manual_seed(0)
    network, x = HeadNetwork("linear", 64, 3), torch.randn(5, 64)
    with torch.autocast("cpu", torch.bfloat16):
        inside = network(x)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, network(x))


def _recipe(**options):
    stage = StageOptions(trainable="head", pseudo_epochs=5, learning_rate=0.01)
    return TrainRecipe(index="nowhere", stages=(stage,), **options)


# As a trial


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trial")
    found = prepare(generate(folder / "archive"), folder, average={"ema": 0.8}, dropout=0.3)
    return found, in_memory(found)


def head_file(prepared, folder):
    uri = str(folder / "head.pt")
    state = {name: value for name, value in prepared.first.items() if name.startswith("head.")}
    Storage().write(uri, to_bytes(state))
    return uri


class Opened:
    """A trial over a folder, with a clock in the test's hands."""

    def __init__(self, trial, folder, setup=None):
        prepared, (train, val) = trial
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


def test_it_trains_as_in_one_go_and_keeps_its_best(trial, tmp_path) -> None:
    opened = Opened(trial, tmp_path)
    rows = opened.rows()
    whole, states = from_features(*trial)
    assert figures(rows) == figures(whole)
    best = best_of(Storage(), opened.folder)
    assert best is not None
    place = int(np.argmax([row["map"] for row in rows]))
    assert best.samples_seen == rows[place]["samples_seen"]
    assert best.validation == rows[place]
    _, kept = states[place]
    assert best.weights.keys() == kept.keys()
    assert all(torch.equal(best.weights[name], kept[name]) for name in kept)
    assert best.predictions.logits_NK.shape == (16, 2)


@pytest.mark.parametrize("stop", [1, 2])
def test_interrupted_it_goes_on_and_tells_all_again(trial, tmp_path, stop) -> None:
    Opened(trial, tmp_path).rows(stop, seconds=10.0)  # then its process is killed
    opened = Opened(trial, tmp_path)
    first = opened.trial.step()
    assert first["samples_seen"] == 48
    whole, _ = from_features(*trial)
    assert figures([first, *opened.rows()]) == figures(whole)


def test_it_keeps_a_checkpoint_now_and_then_and_when_it_is_left(trial, tmp_path) -> None:
    opened = Opened(trial, tmp_path)
    opened.rows(2, seconds=0.9)
    assert best_of(Storage(), str(tmp_path)) is None
    opened.trial.close()
    first = best_of(Storage(), str(tmp_path))
    assert first is not None
    again = Opened(trial, tmp_path)
    assert len(again.rows(2)) == 2  # told again, not made
    again.trial.close()
    assert best_of(Storage(), str(tmp_path)).samples_seen == first.samples_seen


def test_the_best_of_an_earlier_attempt_stays_the_best(trial, tmp_path) -> None:
    rows, _ = from_features(*trial)
    stop = int(np.argmax([row["map"] for row in rows])) + 1
    Opened(trial, tmp_path).rows(stop, seconds=10.0)
    Opened(trial, tmp_path).rows()
    again = best_of(Storage(), str(tmp_path))
    assert again.samples_seen == rows[stop - 1]["samples_seen"]


def test_a_loss_that_is_not_finite_is_said(trial, tmp_path) -> None:
    prepared, _ = trial
    plan = prepared.setup.plan.with_rates([1e36])
    opened = Opened(trial, tmp_path, replace(prepared.setup, plan=plan))
    with pytest.raises(TrainingError, match="learning"):
        opened.rows()
