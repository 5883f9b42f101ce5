"""One step: its input, the update by hand, pieces, clipping, what is not finite; precision."""

import copy
import math

import numpy as np
import pytest
import torch
from train.tiny_training import PREPROCESS, SIZE, equal, recipe, stage, tiles, tiny_net, weights

from satray.config.train import LossOptions, OptimizerOptions
from satray.data.augment import Augment
from satray.data.order import samples
from satray.train.losses import make_loss
from satray.train.plan import plan_training
from satray.train.process import takes_bf16
from satray.train.step import AugmentedTiles, Inputs, TrainStep, train_input

LOSS = make_loss(LossOptions(), "multilabel")


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


def step_of(net, name="sgd", momentum=0.9, decay=0.05, clip=0.0, **options):
    keys = OptimizerOptions(name=name, momentum=momentum, weight_decay=decay, clip=clip)
    (whole,) = plan_training(recipe(stage(1)), 8, 1).stages
    return TrainStep(net, keys, whole, LOSS, **options)


def test_it_is_torchs_own_loop():
    net, other = tiny_net(), tiny_net()
    step = step_of(net, decay=0)
    theirs = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    for seed in range(3):
        given = inputs(seed=seed, unreadable=(1, 5))
        loss, readable, skipped = step(given, 0.1).tolist()
        theirs.zero_grad()
        taken = torch.from_numpy(given.valid)
        mean = LOSS(other(given.x_BCSS), given.labels_BK)[taken].mean()
        mean.backward()
        theirs.step()
        assert (loss / readable, readable, skipped) == (pytest.approx(mean.item()), 6, 0)
    torch.testing.assert_close(weights(net), weights(other))


@pytest.mark.parametrize("changes", [{"accumulate": 4}, {"compile": True}])
def test_pieces_and_compiling_make_the_same_update(changes):
    whole, changed = tiny_net(), tiny_net()
    first = step_of(whole, "sgd")(inputs(unreadable=(2,)), 0.01)
    second = step_of(changed, "sgd", **changes)(inputs(unreadable=(2,)), 0.01)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(weights(whole), weights(changed), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("clip", "share"), [(0, 1.0), (1e9, 1.0), (0.5, 0.5)])
def test_the_gradients_norm_is_clipped(clip, share):
    norms = []
    for most in (0, clip):
        net = tiny_net()
        for weight in net.parameters():
            weight.data.mul_(3)
        before = copy.deepcopy(dict(net.named_parameters()))
        step_of(net, momentum=0, decay=0, clip=most)(inputs(), 1.0)
        moved = [(now - before[name]).square().sum() for name, now in net.named_parameters()]
        norms.append(math.sqrt(sum(each.item() for each in moved)))
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
        step = step_of(net, name, clip=1.0)
        for number in range(4):
            if disturbed and number == after:
                _, readable, skipped = step(bad, 0.05).tolist()
                assert (readable, skipped) == ((8, 1) if bad.valid.all() else (0, 0))
            step(inputs(seed=number), 0.05)
    equal(weights(nets[0]), weights(nets[1]))


def test_a_copy_in_a_pseudo_epoch_has_its_view():
    """`augment.views`: so many draws a tile, which then come again."""
    rows, copies = np.array([3, 1, 3, 0, 3]), np.array([0, 0, 1, 0, 2])
    pixels, augment = torch.from_numpy(tiles(8, 1)[0][rows]), Augment(SIZE, seed=7, brightness=0.5)
    views = [
        train_input(pixels, samples(rows, np.full(5, view)), 0, PREPROCESS, augment)
        for view in range(3)
    ]
    assert min((one - other).abs().amax() for one in views for other in views if one is not other)
    for pseudo_epoch in range(7):
        found = AugmentedTiles(PREPROCESS, augment, 3)(pixels, rows, copies, pseudo_epoch)
        for place, copy_number in enumerate(copies):
            assert torch.equal(found[place], views[(pseudo_epoch + copy_number) % 3][place])


@pytest.mark.parametrize(
    ("precision", "device", "able", "expected"),
    [
        ("auto", "cuda", True, True),
        ("auto", "cuda", False, False),
        ("auto", "cpu", {"avx512_bf16": True, "amx_bf16": False}, True),
        ("auto", "cpu", {"avx512_bf16": False, "amx_bf16": True}, True),
        ("auto", "cpu", {"avx512_f": True}, False),
        ("bf16", "cpu", {}, True),
        ("fp32", "cuda", True, False),
    ],
)
def test_auto_is_bf16_where_the_device_computes_in_it(
    monkeypatch, precision, device, able, expected
):
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: able or including_emulation,
    )
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert takes_bf16(precision, torch.device(device)) is expected
