"""When snapshots are taken, and their mean with renewed batch statistics, and their ensemble."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import update_bn
from train.tiny_training import (
    CLASSES,
    PREPROCESS,
    ROWS,
    SIZE,
    VAL_ROWS,
    batches,
    recipe,
    run,
    stage,
    tiles,
    tiny_net,
)

from satray.config.train import AverageOptions, ScheduleOptions, StageOptions
from satray.data.augment import Augment
from satray.train.loop.combine import combine, mean_state, renew_statistics
from satray.train.loop.evaluation import Predictions
from satray.train.loop.state import TrainState
from satray.train.loop.step import AugmentedTiles
from satray.train.loop.train import LoopSettings
from satray.train.plan import plan_training, renewal_steps, snapshot_note, snapshot_steps
from satray.train.schedules import cycle_ends


def cycling(pseudo_epochs, cycle, name="triangular", **options):
    schedule = ScheduleOptions(name=name, cycle=cycle)
    return StageOptions(pseudo_epochs=pseudo_epochs, schedule=schedule, **options)


def steps(*stages, **average):
    plan = plan_training(recipe(*stages), ROWS, 1)  # 3 steps a pseudo-epoch
    return snapshot_steps(plan, AverageOptions(**{"snapshots": "swa", **average}))


def test_snapshots_are_at_cycle_ends():
    assert steps(cycling(6, 2)) == (6, 12, 18)
    assert steps(cycling(6, 2), snapshots="none") == ()
    assert steps(cycling(6, 2), most=2) == (12, 18)
    assert steps(cycling(3, 1.5, "cosine_restarts")) == cycle_ends(
        ScheduleOptions(name="cosine_restarts", cycle=1.5),
        plan_training(recipe(cycling(3, 1.5, "cosine_restarts")), ROWS, 1).stages[0].span,
    )


def test_stages_with_one_cycle_each_are_cycles_too():
    assert steps(stage(2), stage(2), stage(1)) == (6, 12, 15)


def test_weights_from_before_a_thaw_are_left_out():
    assert steps(cycling(4, 1, trainable="head"), cycling(4, 2)) == (18, 24)
    assert steps(stage(8, trainable="head"), stage(2), start=0.5) == (27, 30)


def test_where_nothing_cycles_they_are_at_pseudo_epoch_ends_past_the_start():
    assert steps(stage(8, schedule="constant")) == (21, 24)
    assert steps(stage(8, schedule="constant"), start=0.5, most=3) == (18, 21, 24)
    assert steps(stage(8)) == (21, 24)  # one_cycle: its one end would be no average
    assert steps(stage(4, schedule="constant"), start=0) == (3, 6, 9, 12)


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
    found = snapshot_steps(plan, AverageOptions(snapshots="swa", start=start, most=most))
    assert 1 <= len(found) <= most
    assert list(found) == sorted(set(found))
    assert 0 < found[0] <= found[-1] <= plan.total_steps


def test_the_plan_says_what_becomes_of_them():
    plan = plan_training(recipe(cycling(4, 2)), ROWS, 1)
    note = snapshot_note(plan, AverageOptions(snapshots="ensemble"))
    assert note == "snapshots after 48, 96 samples, put side by side as towers at the end"
    assert snapshot_note(plan, AverageOptions()) is None
    assert renewal_steps(plan, AverageOptions(snapshots="swa")) == 3
    assert renewal_steps(plan, AverageOptions(snapshots="ensemble")) == 0


def averaging(**options):
    chosen = recipe()
    return LoopSettings(
        "multilabel", CLASSES, chosen.optimizer, average=AverageOptions(**{"ema": 0, **options})
    )


def trained(*stages, norm="batch", state=None, **options):
    """The snapshots of a small run by step, its plan, its states."""
    kept = {}

    def keep(step, now):
        kept[step] = {name: value.clone() for name, value in now.items()}

    chosen = recipe(*stages)
    _, states, net = run(
        chosen, tiny_net(norm=norm), settings=averaging(**options), keep=keep, state=state
    )
    return kept, plan_training(chosen, ROWS, 1), states, net


def test_a_snapshot_is_the_weights_at_its_step_also_amid_a_pseudo_epoch():
    kept, _, states, _ = trained(cycling(3, 1.5), snapshots="swa")
    assert list(kept) == [4, 9]  # 3 steps a pseudo-epoch: cycles of 4.5 steps, two in a stage
    assert not torch.equal(kept[4]["head.weight"], kept[9]["head.weight"])
    whole, _, ends, _ = trained(stage(3, schedule="constant"), snapshots="swa", start=0)
    for step, state in zip((3, 6, 9), ends, strict=True):
        for name, value in TrainState.from_bytes(state).model.items():
            assert torch.equal(whole[step][name], value)
    again, _, _, _ = trained(cycling(3, 1.5), snapshots="swa", state=states[0])
    assert list(again) == [4, 9]  # a resumed run takes those of its part again, the same
    for step, snapshot in again.items():
        for name, value in snapshot.items():
            assert torch.equal(value, kept[step][name]), (step, name)


def test_the_mean_is_the_mean_and_what_never_moved_is_bit_equal():
    states = [
        {"w": torch.randn(5), "same": torch.tensor([0.1, 1 / 3]), "n": torch.tensor(i)}
        for i in range(3)
    ]
    found = mean_state(iter(states))
    torch.testing.assert_close(found["w"], torch.stack([s["w"] for s in states]).mean(0))
    assert torch.equal(found["same"], states[0]["same"])
    assert found["n"] == 2
    assert found["w"].dtype == torch.float32
    with pytest.raises(ValueError, match="no state"):
        mean_state(iter(()))


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
    from satray.config.train import TowerOptions, VariantOptions
    from satray.models.network import Network

    tower = TowerOptions(name="rgb", backbone="resnet18", bands=("red", "green", "blue"))
    net = Network(VariantOptions(towers=(tower,)), 2)
    net.set_trainable("head")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    renew_statistics(net, lambda: pytest.fail("asked for tiles"))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net.set_trainable("layer4")
    renew_statistics(net, lambda: iter([torch.randn(2, 3, 64, 64)]))
    moved = {n for n, v in net.state_dict().items() if not torch.equal(v, before[n])}
    assert moved
    assert all(".layer4." in name for name in moved)


def combined(kept, plan, norm="batch", unreadable=(), **options):
    pixels, labels = tiles(ROWS, 1)
    val_pixels, val_labels = tiles(VAL_ROWS, 2)
    net = tiny_net(norm=norm, dropout=0.5)
    return combine(
        net,
        tuple(kept),
        kept.__getitem__,
        lambda: batches(pixels, labels, np.arange(ROWS), 8, unreadable=unreadable),
        lambda: batches(val_pixels, val_labels, np.resize(np.arange(VAL_ROWS), 12), 4),
        plan=plan,
        settings=averaging(**options),
        train_input=AugmentedTiles(PREPROCESS, Augment(SIZE)),
        eval_input=PREPROCESS,
    )


def test_swa_gives_one_network_whose_logits_are_those_measured():
    kept, plan, _, _ = trained(stage(4, 0.05, "constant"), snapshots="swa", start=0.2)
    found = combined(kept, plan, snapshots="swa", unreadable=(3,))
    assert found.record["kind"] == "swa"
    assert found.record["steps"] == [3, 6, 9, 12]
    weight = torch.stack([state["head.weight"] for state in kept.values()]).mean(0)
    torch.testing.assert_close(found.weights["head.weight"], weight)
    mean = torch.stack([state["norm.running_mean"] for state in kept.values()]).mean(0)
    assert not torch.allclose(found.weights["norm.running_mean"], mean)
    assert found.weights["norm.num_batches_tracked"] == 3  # the pass, from the start
    net = tiny_net(norm="batch")
    net.load_state_dict(found.weights)
    x = (torch.from_numpy(tiles(VAL_ROWS, 2)[0].astype(np.float32)) - 2500) / 1500
    x = nn.functional.interpolate(x, size=(SIZE, SIZE), mode="bilinear", antialias=True)
    logits = net.eval()(x).detach().numpy()
    np.testing.assert_allclose(logits, found.predictions.logits_NK, atol=1e-4)
    assert found.record["validation"]["map"] == 1.0
    assert found.record["validation"]["val_loss"] < 0.5


def test_an_ensembles_logits_are_the_mean_of_its_snapshots():
    kept, plan, _, _ = trained(stage(4, 0.05, "constant"), snapshots="ensemble", start=0.5)
    found = combined(kept, plan, snapshots="ensemble")
    assert found.weights is None
    assert list(kept) == [9, 12]
    single = [
        combined({step: state}, plan, snapshots="ensemble").predictions.logits_NK
        for step, state in kept.items()
    ]
    np.testing.assert_allclose(found.predictions.logits_NK, np.mean(single, axis=0), atol=1e-6)
    assert found.predictions.rows.tolist() == list(range(VAL_ROWS))


def test_logits_that_are_not_finite_are_said_to_be_none():
    kept, plan, _, _ = trained(stage(2, 0.05, "constant"), snapshots="swa", start=0.5, norm="group")
    for state in kept.values():
        state["head.bias"].fill_(float("nan"))
    found = combined(kept, plan, snapshots="swa", norm="group")
    assert found.record["validation"] is None


def test_predictions_survive_their_file():
    made = Predictions(
        np.array([0, 3]), np.float32([[1.5], [-2]]), np.array([[1], [0]], dtype=np.uint8), 4
    )
    again = Predictions.from_bytes(made.to_bytes())
    assert again.unreadable == 4
    for name in ("rows", "logits_NK", "labels_NK"):
        assert np.array_equal(getattr(again, name), getattr(made, name))
        assert getattr(again, name).dtype == getattr(made, name).dtype
