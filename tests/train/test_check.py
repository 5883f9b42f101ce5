"""Overfitting one batch of real tensors: what passes, and what each fault looks like."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from satray.config.train import CheckOptions, OptimizerOptions
from satray.train.check.diagnose import diagnose, labels_note
from satray.train.check.overfit import (
    Setting,
    attempt,
    contradicting,
    decisions,
    examine,
    is_bounded,
)
from satray.train.check.task import without_dropout
from satray.train.loop.losses import loss_for
from satray.train.loop.optimizers import make_optimizer, parameter_groups

TILES = 12


class Net(nn.Module):
    """A small convolutional network; `sigmoid` applies the one that the loss applies again."""

    def __init__(self, classes=1, sigmoid=False):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, classes)
        self.sigmoid = sigmoid

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x)))).amax((2, 3))
        return torch.sigmoid(self.head(x)) if self.sigmoid else self.head(x)


def net(**options):
    torch.manual_seed(1)
    return Net(**options)


def batch(classes=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(TILES, 3, 6, 6, generator=generator)
    y = (torch.arange(TILES * classes).reshape(TILES, classes) % 2).float()
    return x, y[torch.randperm(TILES, generator=generator)]


def setting(task="binary", steps=120, **options):
    return Setting(
        task=task,
        loss=loss_for(task),
        options=CheckOptions(steps=steps, **{"permutations": 0, **options}),
        optimizer=lambda network: make_optimizer(
            OptimizerOptions(), parameter_groups(network, 1.0)
        ),
    )


def verdict(network, given, rate=1e-2, how=None):
    found = examine(network, given, rate, how or setting())
    return diagnose(found)


def test_a_sound_network_learns_its_batch_and_is_left_as_it_was():
    network, (x, y) = net(), batch()
    before = copy.deepcopy(network.state_dict())
    found = examine(network, lambda time: (x, y), 1e-2, setting())
    assert diagnose(found).kind == "passed"
    assert found.main.losses[-1] < 0.01
    assert found.main.accuracy == 1.0
    assert len(found.main.losses) <= 121
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize(("task", "classes"), [("multilabel", 3), ("multiclass", 3)])
def test_other_tasks_are_learnt_too(task, classes):
    x, _ = batch()
    y = torch.eye(classes)[torch.arange(TILES) % classes]
    assert verdict(net(classes=classes), lambda _: (x, y), how=setting(task)).passed


def test_a_too_small_learning_rate_is_told_from_all_else():
    given = batch()
    found = verdict(net(), lambda _: given, rate=1e-5)
    assert found.kind == "rate_too_low", found


def test_a_double_sigmoid_is_told_from_a_too_small_learning_rate():
    given = batch()
    for rate in (1e-2, 1e-5):
        assert verdict(net(sigmoid=True), lambda _: given, rate=rate).kind == "probabilities"


def test_labels_drawn_anew_are_told_from_a_too_small_learning_rate():
    x, y = batch()

    def shuffled(time):
        order = torch.randperm(TILES, generator=torch.Generator().manual_seed(time))
        return x, y[order]

    for rate in (1e-2, 1e-5):
        found = verdict(net(), shuffled, rate=rate)
        assert found.kind == "labels_change", found
    # and indeed they cannot be learnt
    assert not attempt(net(), shuffled, 1e-2, setting()).learnt


def test_labels_shuffled_once_are_learnt_but_no_easier_than_others():
    """Tiles with a bright or a dark mean, labelled by it, or with those labels dealt out."""
    rng = np.random.default_rng(3)
    level = np.arange(TILES) % 2
    pixels = rng.normal(0, 1, (TILES, 3, 6, 6)) + 1.5 * level[:, None, None, None]
    x = torch.from_numpy(pixels.astype(np.float32))
    y = torch.from_numpy(level.astype(np.float32))[:, None]
    how = setting(steps=400, permutations=4)
    true = examine(net(), lambda _: (x, y), 1e-2, how)
    dealt = examine(net(), lambda _: (x, SHUFFLED), 1e-2, how)
    assert diagnose(true).passed
    assert diagnose(dealt).passed
    assert "belong to their tiles" in labels_note(true)
    assert true.main.steps < dealt.main.steps


SHUFFLED = torch.tensor([1, 1, 0, 0, 1, 0, 0, 1, 1, 0, 1, 0.0])[:, None]


def test_a_learning_rate_that_is_too_high():
    given = batch()
    found = verdict(net(), lambda _: given, rate=30.0)
    assert found.kind == "rate_too_high", found
    assert found.line.startswith("learning rate 30 is too high")


def test_constant_labels_pass_nothing():
    x, y = batch()
    found = verdict(net(), lambda _: (x, torch.ones_like(y)))
    assert found.kind == "labels_constant"


def test_equal_tiles_with_other_labels():
    x, y = batch()
    x[1] = x[0]
    y[0], y[1] = 0, 1
    assert contradicting(x, y) == 2
    assert verdict(net(), lambda _: (x, y)).kind == "labels_contradict"
    y[1] = 0
    assert contradicting(x, y) == 0


def test_no_gradient():
    class Cut(Net):
        def forward(self, x):
            return super().forward(x).detach() + 0 * self.head.bias

    given = batch()
    assert verdict(Cut(), lambda _: given).kind == "no_gradient"


def test_a_blind_network_predicts_one_class():
    class Blind(Net):
        def forward(self, x):
            return super().forward(torch.zeros_like(x))

    x, y = batch()
    y[:9] = 0
    found = verdict(Blind(), lambda _: (x, y), how=setting(steps=60))
    assert found.kind == "one_class", found


def test_not_finite_from_the_start():
    x, y = batch()
    x[0] = torch.nan
    assert verdict(net(), lambda _: (x, y)).kind == "not_finite"


def test_bounded_outputs_are_recognised_by_pushing_them():
    x, _ = batch()
    assert is_bounded(net(sigmoid=True), x)
    assert is_bounded(nn.Sequential(net(classes=3), nn.Softmax(dim=1)), x)
    assert not is_bounded(net(), x)
    inside = net()
    with torch.no_grad():
        inside.head.weight.mul_(1e-3)
        inside.head.bias.fill_(0.5)
    with torch.no_grad():
        outputs = inside(x)
    assert 0 < float(outputs.min()) < float(outputs.max()) < 1
    assert not is_bounded(inside, x)


def test_decisions():
    logits = torch.tensor([[2.0, -1.0], [0.0, -3.0], [-1.0, -2.0]])
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    right, one_class = decisions(logits, labels, "multilabel")
    assert right.tolist() == [[True, True], [True, True], [False, True]]
    assert not one_class  # labels are constant: nothing could be told apart
    labels[0, 0], labels[1, 1] = 0.0, 1.0
    assert not decisions(logits, labels, "multilabel")[1]
    assert decisions(torch.ones(3, 2), labels, "multilabel")[1]
    right, one_class = decisions(logits, torch.tensor([[1.0, 0], [0, 1], [1, 0]]), "multiclass")
    assert right.tolist() == [True, False, True]
    assert one_class


def test_dropout_of_all_kinds_is_switched_off():
    from timm.layers import DropPath

    network = nn.Sequential(nn.Dropout(0.5), nn.Dropout2d(0.3), DropPath(0.4))
    network.train()
    without_dropout(network)
    x = torch.ones(4, 3, 2, 2)
    assert torch.equal(network(x), x)
