"""The moving average of weights: by hand, by torch, in the loop, after a resume."""

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from train.tiny_training import (
    SIZE,
    VAL_ROWS,
    averaged,
    equal,
    recipe,
    run,
    stage,
    tiles,
    timeless,
    tiny_net,
    weights,
)

from satray.config.train import TowerOptions, VariantOptions
from satray.errors import InputError
from satray.models.network import Network
from satray.train.loop.averages import MovingAverage
from satray.train.loop.train import TrainState


def shaken(net, draws=5):
    """The network after so many random changes, one at a time."""
    torch.manual_seed(1)
    for _ in range(draws):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter))
        yield net


def test_it_is_the_formula_with_its_warm_up():
    net = tiny_net()
    average = MovingAverage(net, 0.25)
    expected = net.head.bias.detach().double().clone()
    for t, now in enumerate(shaken(net)):
        decay = min(0.25, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * now.head.bias.detach().double()
        average.update()
    assert [min(0.25, (1 + t) / (10 + t)) for t in (0, 1, 4)] == [0.1, 2 / 11, 0.25]
    found = average.weights()["head.bias"]
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(found, net.head.bias)


def test_it_is_torchs_where_the_decay_is_constant():
    """A decay below the warm-up's first, 1/10, is the same at every update."""
    net = tiny_net()
    ours = MovingAverage(net, 0.05)
    theirs = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.05))
    theirs.update_parameters(net)  # torch's first update copies
    for now in shaken(net):
        ours.update()
        theirs.update_parameters(now)
    for name, value in theirs.module.named_parameters():
        torch.testing.assert_close(ours.weights()[name], value, rtol=1e-6, atol=1e-6)


def test_buffers_are_averaged_and_counts_are_copied():
    net = tiny_net(norm="batch").train()
    average = MovingAverage(net, 0.05)
    net(torch.randn(4, 3, 8, 8) + 3)
    average.update()
    found, own = average.weights(), net.state_dict()
    assert found["norm.num_batches_tracked"] == own["norm.num_batches_tracked"] == 1
    expected = 0.95 * own["norm.running_mean"]  # it started at 0
    torch.testing.assert_close(found["norm.running_mean"], expected)


def test_the_networks_own_weights_come_back():
    net = tiny_net(norm="batch")
    average = MovingAverage(net, 0.9)
    for _ in shaken(net):
        average.update()
    own = weights(net)
    with average.applied():
        equal(weights(net), average.weights())
        assert not torch.equal(net.head.weight, own["head.weight"])
    equal(weights(net), own)


def test_without_an_average_nothing_is_carried():
    given = recipe(stage(2))
    _, states, net = run(given, tiny_net(), settings=averaged(given))
    state = TrainState.from_bytes(states[-1])
    assert state.extra == {}
    equal(state.kept, weights(net))


def test_evaluation_and_bundle_use_the_average_and_training_does_not():
    given = recipe(stage(3))
    plain, _, net = run(given, tiny_net(norm="batch"), settings=averaged(given))
    reports, states, other = run(given, tiny_net(norm="batch"), settings=averaged(given, ema=0.9))
    equal(weights(net), weights(other))  # the average is looked at, never trained from
    assert [r.train_loss for r in reports] == [r.train_loss for r in plain]
    assert all(a.val_loss != b.val_loss for a, b in zip(reports, plain, strict=True))
    state = TrainState.from_bytes(states[-1])
    equal(state.model, weights(net))
    assert state.kept.keys() == state.model.keys()
    # The bundle's weights give the logits that were measured.
    kept = tiny_net(norm="batch")
    kept.load_state_dict(state.kept)
    x = (torch.from_numpy(tiles(VAL_ROWS, 2)[0].astype(np.float32)) - 2500) / 1500
    x = torch.nn.functional.interpolate(x, size=(SIZE, SIZE), mode="bilinear", antialias=True)
    found = kept.eval()(x).detach().numpy()
    np.testing.assert_allclose(found, reports[-1].predictions.logits_NK, atol=1e-4)


def test_frozen_weights_stay_bit_equal_in_the_average():
    given = recipe(stage(2, 0.05, trainable="head"))
    before = weights(tiny_net())
    _, states, _ = run(given, tiny_net(), settings=averaged(given, ema=0.99))
    for name, value in TrainState.from_bytes(states[-1]).kept.items():
        assert torch.equal(value, before[name]) == (not name.startswith("head"))


def test_what_is_frozen_later_rests_in_the_average_too():
    """Weights and batch statistics are those that the head then trains on, from its first step."""
    torch.manual_seed(0)
    tower = TowerOptions(name="rgb", backbone="resnet10t", bands=("a", "b", "c"))
    net = Network(VariantOptions(towers=(tower,)), 2)
    given = recipe(stage(1, 0.05, "constant"), stage(2, 0.05, "constant", trainable="head"))
    _, states, _ = run(given, net, settings=averaged(given, ema=0.97))
    before, first, last = (TrainState.from_bytes(state) for state in states)
    frozen = {name for name in before.kept if name.startswith("towers.")}
    assert any(name.endswith("running_var") for name in frozen)
    assert any(not torch.equal(before.kept[name], before.model[name]) for name in frozen)
    for state in (first, last):
        for name in frozen:
            assert torch.equal(state.kept[name], before.model[name]), name
        assert not torch.equal(state.kept["head.weight"], state.model["head.weight"])


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_resumed_is_uninterrupted_with_the_average(stop_after):
    given = recipe(stage(2, 0.02), stage(1.5, 0.05, "constant", trainable="head"))

    def options():
        return {"settings": averaged(given, ema=0.97)}

    whole, full, net = run(given, tiny_net(norm="batch", dropout=0.3), **options())
    first, cut, _ = run(
        given, tiny_net(norm="batch", dropout=0.3), stop_after=stop_after, **options()
    )
    torch.manual_seed(99)
    rest, ends, again = run(given, tiny_net(norm="batch", dropout=0.3), state=cut[-1], **options())
    equal(weights(net), weights(again))
    equal(TrainState.from_bytes(ends[-1]).kept, TrainState.from_bytes(full[-1]).kept)
    assert [timeless(r.row()) for r in (*first, *rest)] == [timeless(r.row()) for r in whole]


def test_a_state_without_an_average_is_refused():
    given = recipe(stage(2))
    _, states, _ = run(given, tiny_net(), settings=averaged(given), stop_after=1)
    with pytest.raises(InputError, match="holds no moving average"):
        run(given, tiny_net(), settings=averaged(given, ema=0.9), state=states[0])
