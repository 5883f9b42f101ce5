"""One step: the update by hand, pieces, clipping, what is not finite."""

import copy
import math

import numpy as np
import pytest
import torch
from train.tiny_training import SIZE, equal, tiny_net, weights

from satray.config.train import LossOptions, OptimizerOptions
from satray.train.losses import make_loss
from satray.train.optim import make_optimizer, parameter_groups
from satray.train.step import Inputs, TrainStep, inputs_of

LOSS = make_loss(LossOptions(), "multilabel")
CPU = torch.device("cpu")


def inputs(tiles=8, seed=0, scale=1.0, unreadable=()):
    torch.manual_seed(seed)
    valid = ~np.isin(np.arange(tiles), unreadable)
    return Inputs(
        scale * torch.randn(tiles, 3, SIZE, SIZE),
        torch.randint(0, 2, (tiles, 2)).float(),
        torch.from_numpy(valid.astype(np.float32)),
        np.arange(tiles),
        valid,
    )


def step_of(net, name="sgd", **options):
    optimizer = make_optimizer(
        OptimizerOptions(name=name, momentum=0.9), parameter_groups(net, 1.0)
    )
    return TrainStep(net, optimizer, LOSS, **options), optimizer


def moved(net, before):
    now = dict(net.named_parameters())
    return math.sqrt(sum(((now[n] - before[n]) ** 2).sum().item() for n in now))


def test_it_is_torchs_own_loop():
    net, other = tiny_net(), tiny_net()
    step, _ = step_of(net)
    theirs = make_optimizer(
        OptimizerOptions(name="sgd", momentum=0.9), parameter_groups(other, 1.0)
    )
    for seed in range(3):
        given = inputs(seed=seed, unreadable=(1, 5))
        loss, readable, skipped = step(given, 0.1).tolist()
        for group in theirs.param_groups:
            group["lr"] = 0.1
        theirs.zero_grad()
        taken = torch.from_numpy(given.valid)
        mean = LOSS(other(given.x_BCSS), given.labels_BK)[taken].mean()
        mean.backward()
        theirs.step()
        assert (loss / readable, readable, skipped) == (pytest.approx(mean.item()), 6, 0)
    for name, value in weights(net).items():
        torch.testing.assert_close(value, weights(other)[name])


def test_pieces_make_the_same_update():
    whole, cut = tiny_net(), tiny_net()
    first = step_of(whole, "adamw")[0](inputs(unreadable=(2,)), 0.01)
    second = step_of(cut, "adamw", accumulate=4)[0](inputs(unreadable=(2,)), 0.01)
    torch.testing.assert_close(first, second)
    for name, value in weights(whole).items():
        torch.testing.assert_close(value, weights(cut)[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("clip", "share"), [(0, 1.0), (1e9, 1.0), (0.5, 0.5)])
def test_the_gradients_norm_is_clipped(clip, share):
    net, free = tiny_net(), tiny_net()
    for each in (net, free):
        for weight in each.parameters():
            weight.data.mul_(3)
    before = copy.deepcopy(dict(net.named_parameters()))
    options = OptimizerOptions(name="sgd", momentum=0, weight_decay=0)
    norms = []
    for each, most in ((free, 0), (net, clip)):
        optimizer = make_optimizer(options, parameter_groups(each, 1.0))
        TrainStep(each, optimizer, LOSS, clip=most)(inputs(), 1.0)
        norms.append(moved(each, before))
    whole, clipped = norms
    assert whole > 0.5
    assert clipped == pytest.approx(whole if share == 1 else clip, rel=1e-4)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("bad", [inputs(scale=math.inf), inputs(unreadable=range(8))])
@pytest.mark.parametrize("after", [0, 2])
def test_a_step_that_teaches_nothing_leaves_no_trace(name, bad, after):
    """Not finite, or no tile that could be read; as the first step, and later."""
    nets = tiny_net(), tiny_net()
    for disturbed, net in enumerate(nets):
        step, _ = step_of(net, name, clip=1.0)
        for number in range(4):
            if disturbed and number == after:
                _, readable, skipped = step(bad, 0.05).tolist()
                assert (readable, skipped) == ((8, 1) if bad.valid.all() else (0, 0))
            step(inputs(seed=number), 0.05)
    equal(weights(nets[0]), weights(nets[1]))


def test_a_compiled_step_learns_alike():
    plain, compiled = tiny_net(), tiny_net()
    first = step_of(plain)[0](inputs(), 0.1)
    second = step_of(compiled, compile=True)[0](inputs(), 0.1)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)
    for name, value in weights(plain).items():
        torch.testing.assert_close(value, weights(compiled)[name], rtol=1e-3, atol=1e-5)


def test_readable_tiles_stand_in_for_the_others():
    pixels = np.arange(4, dtype=np.uint16)[:, None, None, None]
    batch = {
        "pixels": pixels,
        "labels": np.eye(4, 2, dtype=np.uint8),
        "row": np.array([7, 5, 3, 1]),
        "valid": np.array([False, True, True, False]),
    }
    made = inputs_of(batch, lambda stored, *_: stored.float(), CPU)
    assert made.x_BCSS.flatten().tolist() == [1, 1, 2, 2]
    assert made.weight_B.tolist() == [0, 1, 1, 0]
    assert made.rows.tolist() == [7, 5, 3, 1]
