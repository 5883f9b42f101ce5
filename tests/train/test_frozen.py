"""Frozen means frozen: weights and buffers bit for bit, in each stage; and dropout by stage."""

import itertools

import pytest
import torch
from train.tiny_training import recipe, run, stage, timeless, tiny_net, weights

from satray.config.stages import ScheduleOptions
from satray.config.train import OptimizerOptions, TowerOptions, VariantOptions
from satray.models.network import Network
from satray.train.optim import set_dropout
from satray.train.plan import plan_training
from satray.train.state import TrainState


def network(backbone, dropout=0.5):
    torch.manual_seed(0)
    tower = TowerOptions(name="rgb", backbone=backbone, bands=("a", "b", "c"))
    return Network(VariantOptions(towers=(tower,), pooling="max"), 2, dropout=dropout)


def changed(before, after):
    """Names of weights and buffers that differ in any bit."""
    assert before.keys() == after.keys()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def parts(net, *blocks):
    """Names of all weights and buffers of the head and of these blocks."""
    inside = tuple(f"towers.rgb.body.{block}." for block in blocks)
    return {name for name in net.state_dict() if name.startswith(("head.", *inside))}


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
@pytest.mark.parametrize(
    ("backbone", "last", "one_more"),
    [
        ("resnet10t", ("layer4",), ("layer3", "layer4")),
        ("simple_cnn", ("block5",), ("block4", "block5")),
    ],
)
def test_only_what_a_stage_trains_changes(backbone, last, one_more, layer_decay):
    """Gradual unfreezing and back, with weight decay, momentum cycles and dropout."""
    given = recipe(
        stage(1, 0.01, trainable="head"),
        stage(1, 0.01, trainable=last[0], layer_decay=layer_decay),
        stage(1, 0.01, trainable=one_more[0], layer_decay=layer_decay),
        stage(1, 0.01, trainable="head", layer_decay=layer_decay),
    ).model_copy(update={"optimizer": OptimizerOptions(name="adamw", weight_decay=0.5)})
    net = network(backbone)
    first = weights(net)
    reports, states, _ = run(given, net)
    after = [first, *(TrainState.from_bytes(each).model for each in states)]
    assert [report["stage"] for report in reports] == [0, 1, 2, 3]
    trained = [(), last, one_more, ()]
    for (before, now), blocks in zip(itertools.pairwise(after), trained, strict=True):
        expected = parts(net, *blocks)
        assert changed(before, now) == expected
    if backbone == "resnet10t":
        assert {n for n in parts(net, *last) if n.endswith(("running_var", "num_batches_tracked"))}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_resumed_is_uninterrupted_with_all_a_stage_can_have(optimizer, stop_after):
    cycled = ScheduleOptions(name="triangular2", cycle=1, warmup=0.4, cycle_momentum=True)
    given = recipe(
        stage(1, 0.02, trainable="head", dropout=0.2),
        stage(1, trainable="block5", layer_decay=0.6).model_copy(update={"schedule": cycled}),
        stage(2, trainable="block3", layer_decay=0.6, dropout=0.0).model_copy(
            update={"schedule": cycled}
        ),
        optimizer=optimizer,
    )
    whole, _, net = run(given, network("simple_cnn"))
    _, cut, _ = run(given, network("simple_cnn"), stop_after=stop_after)
    rest, _, again = run(given, network("simple_cnn"), state=cut[-1])
    assert not changed(weights(net), weights(again))
    assert [timeless(r) for r in rest] == [timeless(r) for r in whole[stop_after:]]


def test_rates_and_momentum_of_each_step_are_the_plans(monkeypatch):
    seen = []
    step = torch.optim.AdamW.step

    def spy(self, *args, **options):
        seen.append([(group["lr"], group["betas"][0]) for group in self.param_groups])
        return step(self, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    cycled = ScheduleOptions(name="one_cycle", cycle_momentum=True)
    plain = stage(1, 0.1, "constant", trainable="head")
    given = recipe(stage(2, layer_decay=0.5).model_copy(update={"schedule": cycled}), plain)
    run(given, network("simple_cnn"))
    plan = plan_training(given, 24, 1)
    assert len(seen) == plan.total_steps == 9
    for number, groups in enumerate(seen[:6]):
        rate, beta = plan.learning_rate(number), plan.momentum(number)
        # The head, blocks 5 to 1; each with weight decay and without.
        assert sorted(set(groups), reverse=True) == [(rate * 0.5**n, beta) for n in range(6)]
    assert seen[6:] == [[(0.1, 0.9)] * 2] * 3  # an optimiser of its own, not cycled


@pytest.mark.parametrize("head", ["linear", "dense"])
def test_dropout_is_the_stages_else_the_recipes_and_a_backbones_own_is_left_alone(head):
    tower = TowerOptions(name="rgb", backbone="simple_cnn", bands=("a", "b", "c"))
    net = Network(VariantOptions(towers=(tower,), head=head), 2, dropout=0.4, size=16)
    net.towers["rgb"].add_module("own", torch.nn.Dropout(0.1))
    plan = plan_training(recipe(stage(1, dropout=0.25), stage(1), dropout=0.5), 24, 1)
    assert [each.dropout for each in plan.stages] == [0.25, 0.5]
    set_dropout(net, plan.stages[0].dropout)
    ours = {name: m.p for name, m in net.named_modules() if isinstance(m, torch.nn.Dropout)}
    assert ours.pop("towers.rgb.own") == 0.1
    assert set(ours.values()) == {0.25}


def test_the_loop_drops_what_the_stage_says():
    """All but nothing dropped: the head hardly learns from features that are not there."""
    kept, _, _ = run(recipe(stage(12)), tiny_net())
    dropped, _, _ = run(recipe(stage(12, dropout=0.99)), tiny_net())
    assert dropped[-1]["train_loss"] > kept[-1]["train_loss"] + 0.1
