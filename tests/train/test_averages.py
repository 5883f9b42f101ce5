"""Averages of weights: the moving one, and the mean of a few moments, with renewed statistics."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from train.tiny_training import (
    ROWS,
    SIZE,
    VAL_ROWS,
    equal,
    recipe,
    run,
    stage,
    tiles,
    timeless,
    tiny_net,
    weights,
)

from satray.config.stages import ScheduleOptions, StageOptions
from satray.config.train import AverageOptions, TowerOptions, VariantOptions
from satray.errors import InputError, TrainingError
from satray.models.network import Network
from satray.train.averages import Averages, renew_statistics
from satray.train.plan import plan_training, renewal_steps, snapshot_note, snapshot_steps
from satray.train.schedules import cycle_ends
from satray.train.state import TrainState


def shaken(net, draws=5):
    """The network after so many random changes, one at a time."""
    torch.manual_seed(1)
    for _ in range(draws):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter))
        yield net


def moving(net, decay):
    return Averages(net, AverageOptions(ema=decay))


def kept(state):
    return TrainState.from_bytes(state).kept


def logits_of(net):
    """Of the validation tiles, by hand."""
    x = (torch.from_numpy(tiles(VAL_ROWS, 2)[0].astype(np.float32)) - 2500) / 1500
    x = nn.functional.interpolate(x, size=(SIZE, SIZE), mode="bilinear", antialias=True)
    return net.eval()(x).detach().numpy()


def test_it_is_the_formula_with_its_warm_up():
    net = tiny_net()
    average = moving(net, 0.25)
    expected = net.head.bias.detach().double().clone()
    for t, now in enumerate(shaken(net)):
        decay = min(0.25, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * now.head.bias.detach().double()
        average.update()
    found = average.kept.head.bias
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(found, net.head.bias)


def test_it_is_torchs_where_the_decay_is_constant():
    """A decay below the warm-up's first, 1/10, is the same at every update."""
    net = tiny_net()
    ours = moving(net, 0.05)
    theirs = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.05))
    theirs.update_parameters(net)  # torch's first update copies
    for now in shaken(net):
        ours.update()
        theirs.update_parameters(now)
    found = ours.kept.state_dict()
    for name, value in theirs.module.named_parameters():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6)


def test_buffers_are_averaged_and_counts_are_copied():
    net = tiny_net(norm="batch").train()
    average = moving(net, 0.05)
    net(torch.randn(4, 3, 8, 8) + 3)
    average.update()
    found, own = average.kept.state_dict(), net.state_dict()
    assert found["norm.num_batches_tracked"] == own["norm.num_batches_tracked"] == 1
    torch.testing.assert_close(found["norm.running_mean"], 0.95 * own["norm.running_mean"])


def test_evaluation_and_bundle_use_the_average_and_training_does_not():
    given = recipe(stage(3))
    plain, ends, net = run(given, tiny_net(norm="batch"))
    assert TrainState.from_bytes(ends[-1]).extra == {}
    equal(kept(ends[-1]), weights(net))
    done = run(recipe(stage(3), average={"ema": 0.9}), tiny_net(norm="batch"))
    equal(weights(net), weights(done.net))  # the average is looked at, never trained from
    assert [r["train_loss"] for r in done.rows] == [r["train_loss"] for r in plain]
    assert all(a["val_loss"] != b["val_loss"] for a, b in zip(done.rows, plain, strict=True))
    state = TrainState.from_bytes(done.states[-1])
    equal(state.model, weights(net))
    equal(state.kept, done.loop.kept())
    # The bundle's weights give the logits that were measured.
    again = tiny_net(norm="batch")
    again.load_state_dict(state.kept)
    np.testing.assert_allclose(logits_of(again), done.seen[-1].logits_NK, atol=1e-4)


def test_frozen_weights_stay_bit_equal_in_the_average():
    before = weights(tiny_net())
    given = recipe(stage(2, 0.05, trainable="head"), average={"ema": 0.99})
    _, states, _ = run(given, tiny_net())
    for name, value in kept(states[-1]).items():
        assert torch.equal(value, before[name]) == (not name.startswith("head"))


def test_what_is_frozen_later_rests_in_the_average_too():
    """Weights and batch statistics are those that the head then trains on, from its first step."""
    torch.manual_seed(0)
    tower = TowerOptions(name="rgb", backbone="resnet10t", bands=("a", "b", "c"))
    net = Network(VariantOptions(towers=(tower,)), 2)
    stages = stage(1, 0.05, "constant"), stage(2, 0.05, "constant", trainable="head")
    _, states, _ = run(recipe(*stages, average={"ema": 0.97}), net)
    before, first, last = (TrainState.from_bytes(state) for state in states)
    frozen = {name for name in before.kept if name.startswith("towers.")}
    assert any(name.endswith("running_var") for name in frozen)
    assert any(not torch.equal(before.kept[name], before.model[name]) for name in frozen)
    for state in (first, last):
        for name in frozen:
            assert torch.equal(state.kept[name], before.model[name]), name
        assert not torch.equal(state.kept["head.weight"], state.model["head.weight"])


@pytest.mark.parametrize("average", [{"ema": 0.97}, {"ema": 0.97, "swa": True, "start": 0.2}])
@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_resumed_is_uninterrupted_with_averages(average, stop_after):
    stages = stage(2, 0.02), stage(1.5, 0.05, "constant", trainable="head")
    given = recipe(*stages, average=average, dropout=0.3)
    whole = run(given, tiny_net(norm="batch"))
    first = run(given, tiny_net(norm="batch"), stop_after=stop_after)
    torch.manual_seed(99)
    rest = run(given, tiny_net(norm="batch"), state=first.states[-1])
    equal(weights(whole.net), weights(rest.net))
    equal(kept(rest.states[-1]), kept(whole.states[-1]))
    assert [timeless(r) for r in (*first.rows, *rest.rows)] == [timeless(r) for r in whole.rows]
    if "swa" in average:
        (one, row, _), (other, again, _) = (d.loop.average(*d.feed) for d in (whole, rest))
        equal(one, other)
        assert row == again


@pytest.mark.parametrize("wanted", [{"ema": 0.9}, {"swa": True}])
def test_a_state_without_an_average_is_refused(wanted):
    _, states, _ = run(recipe(stage(2)), tiny_net(), stop_after=1)
    with pytest.raises(InputError, match="holds no average of the weights"):
        run(recipe(stage(2), average=wanted), tiny_net(), state=states[0])


# The mean of a few moments


def cycling(pseudo_epochs, cycle, name="triangular", **options):
    schedule = ScheduleOptions(name=name, cycle=cycle)
    return StageOptions(pseudo_epochs=pseudo_epochs, schedule=schedule, **options)


@pytest.mark.parametrize(
    ("stages", "average", "expected"),
    [
        ([cycling(6, 2)], {}, (6, 12, 18)),
        ([cycling(6, 2)], {"swa": False}, ()),
        ([cycling(6, 2)], {"most": 2}, (12, 18)),
        # stages with one cycle each are cycles too
        ([stage(2), stage(2), stage(1)], {}, (6, 12, 15)),
        # weights from before a thaw are left out
        ([cycling(4, 1, trainable="head"), cycling(4, 2)], {}, (18, 24)),
        ([stage(8, trainable="head"), stage(2)], {"start": 0.5}, (27, 30)),
        # where nothing cycles, at pseudo-epoch ends past the start
        ([stage(8, schedule="constant")], {}, (21, 24)),
        ([stage(8, schedule="constant")], {"start": 0.5, "most": 3}, (18, 21, 24)),
        ([stage(8)], {}, (21, 24)),  # one_cycle: its one end would be no average
        ([stage(4, schedule="constant")], {"start": 0}, (3, 6, 9, 12)),
    ],
)
def test_when_weights_are_taken(stages, average, expected):
    plan = plan_training(recipe(*stages), ROWS, 1)  # 3 steps a pseudo-epoch
    assert snapshot_steps(plan, AverageOptions(**{"swa": True, **average})) == expected


def test_they_are_taken_at_cycle_ends():
    plan = plan_training(recipe(cycling(3, 1.5, "cosine_restarts")), ROWS, 1)
    (only,) = plan.stages
    found = snapshot_steps(plan, AverageOptions(swa=True))
    assert found == cycle_ends(only.options.schedule, only.span)


@given(
    lengths=st.lists(st.floats(0.4, 9), min_size=1, max_size=3),
    names=st.lists(
        st.sampled_from(["constant", "one_cycle", "triangular", "cosine_restarts", "cosine"]),
        min_size=3,
        max_size=3,
    ),
    cycle=st.floats(0.7, 4),
    start=st.floats(0, 0.99),
    most=st.integers(1, 6),
)
@settings(max_examples=60, deadline=None)
def test_there_is_always_one_and_they_rise_within_the_run(lengths, names, cycle, start, most):
    stages = [cycling(n, cycle, name) for n, name in zip(lengths, names, strict=False)]
    plan = plan_training(recipe(*stages), ROWS, 1)
    found = snapshot_steps(plan, AverageOptions(swa=True, start=start, most=most))
    assert 1 <= len(found) <= most
    assert list(found) == sorted(set(found))
    assert 0 < found[0] <= found[-1] <= plan.total_steps


def test_the_plan_says_what_becomes_of_them():
    plan = plan_training(recipe(cycling(4, 2)), ROWS, 1)
    note = snapshot_note(plan, AverageOptions(swa=True))
    assert note == "weights after 48, 96 samples are averaged at the end"
    assert snapshot_note(plan, AverageOptions()) is None
    assert renewal_steps(plan, AverageOptions(swa=True)) == 3
    assert renewal_steps(plan, AverageOptions()) == 0


def test_the_mean_is_the_mean_and_its_logits_are_those_measured():
    """Taken at pseudo-epoch ends here, whose states are known."""
    stages, swa = stage(4, 0.05, "constant", trainable="head"), {"swa": True, "start": 0.2}
    done = run(recipe(stages, average=swa), tiny_net(norm="batch"))
    found, row, predictions = done.loop.average(*done.feed)
    states = [TrainState.from_bytes(state).model for state in done.states]
    mean = torch.stack([state["head.weight"] for state in states]).mean(0)
    torch.testing.assert_close(found["head.weight"], mean)
    assert torch.equal(found["first.weight"], states[0]["first.weight"])  # what never moved
    statistics = torch.stack([state["norm.running_mean"] for state in states]).mean(0)
    assert not torch.allclose(found["norm.running_mean"], statistics)
    assert found["norm.num_batches_tracked"] == 3  # the pass, from the start
    net = tiny_net(norm="batch")
    net.load_state_dict(found)
    np.testing.assert_allclose(logits_of(net), predictions.logits_NK, atol=1e-4)
    assert row["val_loss"] < 0.69
    equal(weights(done.net), states[-1])  # the run's own weights are left alone


def test_it_is_taken_at_its_step_also_amid_a_pseudo_epoch():
    """Cycles of 4.5 steps, 3 steps a pseudo-epoch: after steps 4 and 9."""
    once = run(recipe(cycling(3, 1.5), average={"swa": True, "most": 1}), tiny_net())
    found, _, _ = once.loop.average(*once.feed)
    equal(found, weights(once.net))
    both = run(recipe(cycling(3, 1.5), average={"swa": True}), tiny_net())
    mean, _, _ = both.loop.average(*both.feed)
    assert not torch.equal(mean["head.weight"], found["head.weight"])


def test_without_swa_there_is_none():
    done = run(recipe(stage(1)), tiny_net())
    assert done.loop.average(*done.feed) is None


def test_logits_that_are_not_finite_are_refused():
    done = run(recipe(stage(2, 0.05, "constant"), average={"swa": True}), tiny_net())
    state = TrainState.from_bytes(done.states[-1])
    state.extra["swa"]["module.head.bias"].fill_(math.nan)
    again = run(recipe(stage(2), average={"swa": True}), tiny_net(), state=state.to_bytes())
    with pytest.raises(TrainingError, match="not finite"):
        again.loop.average(*again.feed)


def test_batch_statistics_are_renewed_as_torch_does():
    torch.manual_seed(0)
    xs = [torch.randn(4, 3, 8, 8) * 2 + 1 for _ in range(5)]
    ours, theirs = (tiny_net(norm="batch", dropout=0.5) for _ in range(2))
    for net in (ours, theirs):
        net.norm.running_mean.fill_(9.0)
    renew_statistics(ours, lambda: iter([*xs[:2], torch.empty(0, 3, 8, 8), *xs[2:]]))
    update_bn(xs, theirs)
    torch.testing.assert_close(ours.norm.running_mean, theirs.norm.running_mean)
    torch.testing.assert_close(ours.norm.running_var, theirs.norm.running_var)
    assert (ours.norm.momentum, ours.training, ours.norm.training) == (0.1, False, False)


def test_frozen_norms_keep_their_statistics_and_ask_for_no_tile():
    tower = TowerOptions(name="rgb", backbone="resnet18", bands=("red", "green", "blue"))
    net = Network(VariantOptions(towers=(tower,)), 2)
    net.set_trainable("head")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    renew_statistics(net, lambda: pytest.fail("asked for tiles"))
    equal(net.state_dict(), before)
    net.set_trainable("layer4")
    renew_statistics(net, lambda: iter([torch.randn(2, 3, 64, 64)]))
    moved = {n for n, v in net.state_dict().items() if not torch.equal(v, before[n])}
    assert moved
    assert all(".layer4." in name for name in moved)
