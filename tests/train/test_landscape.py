"""One sweep on a tiny network: rates, early stop, and nothing left behind."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from train.tiny_training import ROWS, tiles, tiny_net

from satray.config.train import OptimizerOptions, RangeOptions
from satray.train.landscape.range_test import rates, suggest
from satray.train.landscape.sweep import sweep
from satray.train.loop.losses import loss_for, make_loss
from satray.train.loop.optimizers import make_optimizer, parameter_groups
from satray.train.loop.undisturbed import undisturbed

LOSS = loss_for("multilabel")


def inputs(batch=8, seed=0):
    """Endless normalised batches of the tiny tiles."""
    pixels, labels = tiles(ROWS, 1)
    x = torch.from_numpy(pixels.astype(np.float32) / 1500 - 1.5)
    y = torch.from_numpy(labels.astype(np.float32))
    rng = np.random.default_rng(seed)
    while True:
        rows = rng.choice(ROWS, batch, replace=False)
        yield x[rows], y[rows]


def swept(net, options, optimizer="adamw", **more):
    made = make_optimizer(OptimizerOptions(name=optimizer), parameter_groups(net, 1.0))
    return sweep(net, made, inputs(), LOSS, options, **more), made


def test_the_loss_falls_then_bursts_and_the_suggestion_lies_between():
    options = RangeOptions(lowest=1e-4, highest=1e4, steps=60, smoothing=0.8)
    told = []
    curve, _ = swept(tiny_net(), options, "sgd", tell=lambda *step: told.append(step))
    assert curve.learning_rates == tuple(rates(options)[: len(curve.losses)])
    assert len(curve.losses) < 60  # it stopped early
    assert curve.smoothed[-1] > options.stop * min(curve.smoothed)
    assert all(loss <= options.stop * min(curve.smoothed[: i + 1])
               for i, loss in enumerate(curve.smoothed[:-1]))  # fmt: skip
    assert told == [(i + 1, loss) for i, loss in enumerate(curve.losses)]
    found = suggest(curve)
    assert 1e-4 < found.valley < 1.0
    assert 1e-4 < found.steep < 1.0


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_everything_is_put_back_bit_by_bit(optimizer):
    net = tiny_net(norm="batch", dropout=0.5)
    net.set_trainable("all")
    made = make_optimizer(OptimizerOptions(name=optimizer), parameter_groups(net, 1.0))
    for x, y in [next(inputs(seed=s)) for s in (1, 2)]:  # the optimiser has a past
        made.zero_grad()
        LOSS(net(x), y).mean().backward()
        made.step()
    net.eval()
    net.first.train()
    net.second.weight.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    gradients = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    settings = copy.deepcopy(made.state_dict())
    modes = [module.training for module in net.modules()]
    generators = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())

    options = RangeOptions(lowest=1e-4, highest=10.0, steps=30)
    curve = sweep(net, made, inputs(), LOSS, options)

    assert len(curve.losses) > 10
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)
    assert [module.training for module in net.modules()] == modes
    assert not net.second.weight.requires_grad
    after = made.state_dict()
    assert after["param_groups"] == settings["param_groups"]
    assert after["state"].keys() == settings["state"].keys()
    for key, state in settings["state"].items():
        for name, value in state.items():
            found = after["state"][key][name]
            assert torch.equal(found, value) if torch.is_tensor(value) else found == value
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert np.array_equal(np.random.get_state()[1], generators[1])
    assert random.getstate() == generators[2]


def test_numpys_generator_is_put_back_even_after_an_error():
    net = tiny_net()
    before = copy.deepcopy(net.state_dict())
    np.random.seed(3)
    expected = np.random.random(4)
    np.random.seed(3)

    def meddle():
        with undisturbed(net), torch.no_grad():
            np.random.random(10)
            net.head.weight.zero_()
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        meddle()
    np.testing.assert_array_equal(np.random.random(4), expected)
    assert torch.equal(net.head.weight, before["head.weight"])


def test_a_loss_that_is_not_finite_ends_the_sweep_and_is_not_kept():
    options = RangeOptions(lowest=1e-3, highest=1e30, steps=40, stop=1e30)
    curve, _ = swept(tiny_net(), options, optimizer="sgd")
    assert 0 < len(curve.losses) < 40
    assert np.isfinite(curve.losses).all()


def test_batches_that_end_end_the_sweep():
    net = tiny_net()
    made = make_optimizer(OptimizerOptions(), parameter_groups(net, 1.0))
    few = (batch for batch, _ in zip(inputs(), range(7), strict=False))
    assert len(sweep(net, made, few, LOSS, RangeOptions()).losses) == 7


def test_a_batch_in_parts_is_the_whole_batch_where_there_is_no_batch_norm():
    options = RangeOptions(lowest=1e-4, highest=1e-1, steps=20)
    whole, _ = swept(tiny_net(), options)
    parted, _ = swept(tiny_net(), options, parts=4)
    np.testing.assert_allclose(whole.losses, parted.losses, rtol=1e-4)


def test_rates_reach_the_optimiser_by_their_groups_shares():
    net, seen = tiny_net(), []

    class Watching(torch.optim.SGD):
        def step(self, closure=None):
            seen.append([group["lr"] for group in self.param_groups])

    groups = [
        {"params": list(net.head.parameters()), "share": 1.0},
        {"params": list(net.first.parameters()), "share": 0.25},
    ]
    options = RangeOptions(lowest=1e-4, highest=1e-1, steps=20)
    sweep(net, Watching(groups, lr=0.0), inputs(), LOSS, options)
    np.testing.assert_allclose([lr for lr, _ in seen], rates(options))
    np.testing.assert_allclose([part / lr for lr, part in seen], 0.25)


def test_frozen_batch_norm_stays_as_its_network_has_it():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)
            self.head = nn.Linear(3, 2)
            self.norm.requires_grad_(False)

        def train(self, mode=True):
            super().train(mode)
            self.norm.train(False)
            return self

        def forward(self, x):
            return self.head(self.norm(x).mean((2, 3)))

    net = Frozen()
    touched = []
    net.norm.register_forward_hook(lambda module, _, __: touched.append(module.training))
    swept(net, RangeOptions(lowest=1e-4, highest=1e-2, steps=20))
    assert touched == [False] * 20


def test_the_recipes_own_loss_is_what_is_swept():
    from satray.config.train import LossOptions

    focal = make_loss(LossOptions(name="focal", gamma=2.0), "multilabel", None)
    options = RangeOptions(lowest=1e-6, highest=1e-5, steps=20)
    made = make_optimizer(OptimizerOptions(), parameter_groups(tiny_net(), 1.0))
    first = next(inputs())
    curve = sweep(tiny_net(), made, iter([first]), focal, options)
    with torch.no_grad():
        logits = tiny_net()(first[0])
    assert curve.losses[0] == pytest.approx(float(focal(logits, first[1]).mean()), rel=1e-5)
