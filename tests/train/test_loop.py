"""The loop: learning, evaluation, stages, averages of weights, resuming, what stops it."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from train.tiny_training import (
    CLASSES,
    PREPROCESS,
    ROWS,
    VAL_ROWS,
    equal,
    kept,
    mean_of,
    recipe,
    run,
    stage,
    tiles,
    timeless,
    tiny_net,
    weights,
)

from satray.config.train import OptimizerOptions, TowerOptions, VariantOptions
from satray.errors import TrainingError
from satray.metrics.summary import compute_metrics, flat
from satray.models.network import Network
from satray.train.checkpoints import WORST, score
from satray.train.loop import MovingAverage, renew_statistics
from satray.train.optim import set_dropout
from satray.train.step import Inputs


def network(backbone, dropout=0.5, head="linear"):
    torch.manual_seed(0)
    tower = TowerOptions(name="rgb", backbone=backbone, bands=("a", "b", "c"))
    variant = VariantOptions(towers=(tower,), pooling="max", head=head)
    return Network(variant, 2, dropout=dropout, size=16 if head == "dense" else None)


def changed(before, after):
    """Names of weights and buffers that differ in any bit."""
    assert before.keys() == after.keys()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def validation_of(state, net):
    """Logits of the validation tiles, by hand."""
    net.load_state_dict(state)
    x = PREPROCESS(torch.from_numpy(tiles(VAL_ROWS, 2)[0]))
    return net.eval()(x).detach().numpy()


@pytest.mark.parametrize(
    ("task", "classes"),
    [("multilabel", CLASSES), ("multiclass", CLASSES), ("binary", ("bright",))],
)
def test_it_learns_and_reports(task, classes):
    count = len(classes)
    data, val_data = ((p, y[:, :count]) for p, y in (tiles(ROWS, 1), tiles(VAL_ROWS, 2)))
    shapes = {"task": task, "classes": classes, "data": data, "val_data": val_data}
    done = run(recipe(stage(15)), tiny_net(classes=count), **shapes)
    rows, last, found = done.rows, done.rows[-1], done.seen[-1]
    assert rows[0]["val_loss"] > 0.3 > last["val_loss"]
    assert last["map"] == last["accuracy"] == 1.0
    assert [each["pseudo_epoch"] for each in rows] == list(range(15))
    assert (last["step"], last["samples_seen"], last["times_seen"]) == (45, 360, 15.0)
    assert last["seconds_data"] >= 0 < last["seconds_compute"] < 20
    assert last["images_per_second"] > 0 < last["seconds_evaluate"]
    assert last.pop("kind") == "checkpoint"
    assert all(type(value) in (int, float) for value in last.values())
    # of each validation tile once, though some came twice
    assert found.rows.tolist() == list(range(VAL_ROWS))
    np.testing.assert_array_equal(found.labels_NK, val_data[1])
    by_hand = validation_of(done.states[-1].model, done.net)
    np.testing.assert_allclose(found.logits_NK, by_hand, atol=1e-5)
    whole = flat(compute_metrics(found.logits_NK, found.labels_NK, classes, task))
    assert {name: last[name] for name in whole} == whole
    assert last["val_loss"] == pytest.approx(whole["log_loss"], abs=1e-6)
    half = run(recipe(stage(1)), tiny_net(classes=count), bf16=True, **shapes)
    assert half.seen[-1].logits_NK.dtype == np.float32


def test_the_same_seed_gives_the_same_history_and_leaves_the_callers_draws_alone():
    torch.manual_seed(1)
    expected, net = torch.rand(3), tiny_net()
    torch.manual_seed(1)
    given = recipe(stage(2), seed=3, dropout=0.5)
    one = run(given, net)
    assert torch.equal(torch.rand(3), expected)
    other = run(given, tiny_net())
    assert timeless(one.rows) == timeless(other.rows)
    equal(weights(one.net), weights(other.net))
    assert all(value.is_contiguous() for value in one.states[0].model.values())
    third = run(recipe(stage(2), seed=4, dropout=0.5), tiny_net())
    assert third.rows[0]["train_loss"] != one.rows[0]["train_loss"]


CYCLED = {"schedule": {"name": "triangular2", "cycle": 1, "warmup": 0.4, "cycle_momentum": True}}
THAWING = (
    stage(1, 0.02, trainable="head", dropout=0.2),
    {"pseudo_epochs": 1, "trainable": "block5", "layer_decay": 0.6, **CYCLED},
    {"pseudo_epochs": 2, "trainable": "block3", "dropout": 0.0, **CYCLED},
)
CUT = (stage(2, 0.02), stage(1.5, 0.05, "step", trainable="head"))
"""A state amid a stage, at its last step, in the next, and at the end."""


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("build", "stages", "options"),
    [
        (lambda: tiny_net(norm="batch"), CUT, {"dropout": 0.3}),
        (lambda: tiny_net(norm="batch"), CUT, {"optimizer": "sgd", "ema": 0.97}),
        (lambda: tiny_net(norm="batch"), CUT,
         {"optimizer": "adam", "ema": 0.97, "average": {"swa": True}}),
        (lambda: network("simple_cnn"), THAWING, {"optimizer": "sgd"}),
    ],
)  # fmt: skip
def test_resumed_is_uninterrupted_bit_by_bit(build, stages, options, stop_after):
    given = recipe(*stages, **options)
    whole, first = run(given, build()), run(given, build(), stop_after=stop_after)
    torch.manual_seed(99)  # another process: nothing is left of the first one
    rest = run(given, build(), state=first.states[-1])
    equal(weights(whole.net), weights(rest.net))
    last = (*first.states, *rest.states)[-1]
    for average in (kept, mean_of):
        equal(average(last), average(whole.states[-1]))
    assert timeless((*first.rows, *rest.rows)) == timeless(whole.rows)
    assert last.history == (*first.rows, *rest.rows)
    assert (last.history[-1]["kind"] == "swa") == given.average.swa
    done = run(given, build(), state=last)
    assert (done.rows, done.states) == ((), [])
    equal(weights(done.net), weights(whole.net))


@pytest.mark.parametrize(("backbone", "layer_decay"), [("resnet10t", 1.0), ("simple_cnn", 0.5)])
def test_only_what_a_stage_trains_changes(backbone, layer_decay):
    """Gradual unfreezing and back, with weight decay and dropout: bit for bit, buffers too."""
    last, before_it = ("layer4", "layer3") if backbone == "resnet10t" else ("block5", "block4")
    trained = [(), (last,), (before_it, last), ()]
    stages = [
        stage(1, 0.01, trainable=blocks[0] if blocks else "head", layer_decay=layer_decay)
        for blocks in trained
    ]
    decay = OptimizerOptions(name="adamw", weight_decay=0.5)
    given = recipe(*stages).model_copy(update={"optimizer": decay})
    net = network(backbone)
    first = weights(net)
    done = run(given, net)
    assert [row["stage"] for row in done.rows] == [0, 1, 2, 3]
    after = [first, *(each.model for each in done.states)]
    for (before, now), blocks in zip(itertools.pairwise(after), trained, strict=True):
        inside = ("head.", *(f"towers.rgb.body.{block}." for block in blocks))
        assert changed(before, now) == {name for name in first if name.startswith(inside)}


@pytest.mark.parametrize("head", ["linear", "dense"])
def test_the_loop_drops_what_the_stage_says_and_leaves_a_backbones_own_alone(head):
    plain, dropped = (run(recipe(stage(12, **d)), tiny_net()) for d in ({}, {"dropout": 0.99}))
    assert dropped.rows[-1]["train_loss"] > plain.rows[-1]["train_loss"] + 0.1
    net = network("simple_cnn", head=head)
    net.towers["rgb"].add_module("own", nn.Dropout(0.1))
    set_dropout(net, 0.25)
    ours = {name: m.p for name, m in net.named_modules() if isinstance(m, nn.Dropout)}
    assert ours.pop("towers.rgb.own") == 0.1
    assert set(ours.values()) == {0.25}


# What is not readable, or not finite


def test_unreadable_tiles_have_no_weight_whatever_they_hold():
    pixels, labels = tiles(ROWS, 1)
    bad = [3, 7, 20]
    spoilt = pixels.copy(), labels.copy()
    spoilt[0][bad], spoilt[1][bad] = 65535, 1
    given = recipe(stage(2), error_budget=0.125)
    one, other = (
        run(given, tiny_net(norm="batch"), unreadable=bad, val_unreadable=(0,), data=data)
        for data in ((pixels, labels), spoilt)
    )
    assert one.rows[0]["unreadable"] == 3
    assert one.rows[0]["train_loss"] == other.rows[0]["train_loss"]
    equal(weights(one.net), weights(other.net))
    assert [row["val_unreadable"] for row in one.rows] == [1, 1]
    assert one.seen[-1].rows.tolist() == list(range(1, VAL_ROWS))


def test_batches_without_a_readable_tile_teach_nothing():
    """Nor norms, nor weight decay: the network is given the bands' means in their place."""
    given, net, seen = recipe(stage(1), error_budget=1), tiny_net(norm="batch"), []
    net.first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].abs().max().item()))
    (row,) = run(given, net, unreadable=range(ROWS)).rows
    equal(weights(net), weights(tiny_net(norm="batch")))
    assert seen[:3] == [0.0] * 3
    assert seen[3] > 0  # validation
    assert row["unreadable"] == ROWS
    assert math.isnan(row["train_loss"])
    assert math.isfinite(row["val_loss"])
    order = np.random.default_rng(0).permutation(ROWS)
    net = run(given, tiny_net(norm="batch"), unreadable=order[8:16]).net  # the second of three
    assert net.norm.num_batches_tracked == 2
    assert net.norm.training
    assert net.norm.running_mean.abs().max() > 0


NONE_FINITE = tiny_net()
NONE_FINITE.head.bias.data[0] = math.nan


@pytest.mark.parametrize(
    ("changes", "options", "says"),
    [
        ({"error_budget": 0.1}, {"unreadable": (3, 7, 20)},
         r"pseudo-epoch 1: 3 of 24 tiles could not be read .error_budget=0\.1"),
        # row 0 is there twice: 1 of 10, not 2 of 12
        ({"error_budget": 0.09}, {"val_unreadable": (0,)}, "validation: 1 of 10 tiles could not"),
        ({"error_budget": 1}, {"val_unreadable": range(10)}, "none of its tiles could be read"),
        ({"pseudo_epoch": 48}, {}, "batches ended after 3 of 6"),
        ({}, {"net": NONE_FINITE},
         r"3 steps in a row .* at sample 24 .learning rate .*lower stages.0..learning_rate may"),
        ({"pseudo_epoch": 240}, {"net": NONE_FINITE, "data": tiles(240, 1)},
         "10 steps in a row .* at sample 80 "),
    ],
)  # fmt: skip
def test_what_stops_a_training_is_said_in_one_line(changes, options, says):
    given = recipe(stage(1), **changes)
    with pytest.raises(TrainingError, match=says) as error:
        run(given, options.pop("net", None) or tiny_net(), **options)
    assert "\n" not in str(error.value)


def broken(first, last, **options):
    """A network whose steps from one to another, 0 for the first, are not finite."""
    net, steps = tiny_net(**options), itertools.count()

    def burst(module, _, output):
        return output * math.inf if module.training and first <= next(steps) <= last else output

    net.first.register_forward_hook(burst)
    return net


def test_steps_in_a_row_are_counted_over_pseudo_epochs_and_stops():
    given, says = recipe(stage(5, 0.02, "constant")), "10 steps in a row .* at sample 96 "
    with pytest.raises(TrainingError, match=says):
        run(given, broken(2, 11))
    first = run(given, broken(2, 11), stop_after=2)
    assert [row["skipped"] for row in first.rows] == [1, 3]
    with pytest.raises(TrainingError, match=says):
        run(given, broken(0, 5), state=first.states[-1])
    assert [row["skipped"] for row in run(given, broken(2, 10)).rows] == [1, 3, 3, 2, 0]


def test_one_step_that_is_not_finite_ends_no_training_though_it_is_all_of_a_pseudo_epoch():
    done = run(recipe(stage(1 + 1 / 3, 0.02, "constant")), broken(3, 3))
    assert [row["skipped"] for row in done.rows] == [0, 1]
    assert math.isnan(done.rows[-1]["train_loss"])
    assert math.isfinite(done.rows[-1]["val_loss"])


def test_float32_is_float32_while_it_trains_and_evaluates():
    """On GPUs: convolutions would be in TF32, and the bundle's are not."""
    net, seen, before = tiny_net(), set(), torch.backends.cudnn.allow_tf32
    net.register_forward_pre_hook(lambda *_: seen.add(torch.backends.cudnn.allow_tf32))
    try:
        torch.backends.cudnn.allow_tf32 = True
        run(recipe(stage(1)), net)
        assert (seen, torch.backends.cudnn.allow_tf32) == ({False}, True)
    finally:
        torch.backends.cudnn.allow_tf32 = before


def test_a_step_that_is_not_finite_is_left_out():
    """Weights, batch statistics and the average are those of a run without it."""
    net = broken(1, 1, norm="batch")
    (first, last), states, _, _ = run(recipe(stage(2, 0.02, "constant"), ema=0.9), net)
    assert (first["skipped"], last["skipped"]) == (1, 0)
    assert all(math.isfinite(each["val_loss"]) for each in (first, last))
    for value in (*weights(net).values(), *kept(states[-1]).values()):
        assert value.isfinite().all()
    assert last["train_loss"] < first["train_loss"]


# What it is told, and what it is given


def test_validation_flipped_by_chance_is_of_the_tile_or_of_its_mirror_image():
    """As the Planet report's code does it; training is not touched, each look draws anew."""
    plain, flipped = (
        run(recipe(stage(2, 1e-12, "constant"), seed=3, input={"evaluate_flip": flip}), tiny_net())
        for flip in (False, True)
    )
    assert [r["train_loss"] for r in plain.rows] == [r["train_loss"] for r in flipped.rows]
    first, last = (each.logits_NK for each in flipped.seen)
    assert np.abs(first - last).max() > 1e-4
    x, net = PREPROCESS(torch.from_numpy(tiles(VAL_ROWS, 2)[0])), flipped.net.eval()
    with torch.no_grad():
        as_it_is, mirrored = (
            np.abs(last - net(way).numpy()).max(axis=1) < 1e-5 for way in (x, x.flip(3))
        )
    assert (as_it_is | mirrored).all()
    assert 0 < mirrored.sum() < VAL_ROWS


# Averages of weights


def test_the_moving_average_is_the_formula_with_its_warm_up():
    net = tiny_net(norm="batch").train()
    average = MovingAverage(net, 0.25)
    expected = {name: value.double().clone() for name, value in net.state_dict().items()}
    torch.manual_seed(1)
    for t in range(5):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter))
            net(torch.randn(4, 3, 8, 8) + 3)
        decay = min(0.25, (1 + t) / (10 + t))
        for name, value in net.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value.double()
        average.update()
    for name, value in average.kept.state_dict().items():
        own = net.state_dict()[name].double()  # counts of batches are the network's own
        target = expected[name] if value.is_floating_point() else own
        torch.testing.assert_close(value.double(), target, rtol=1e-5, atol=1e-6)


def test_evaluation_and_bundle_use_the_average_and_training_does_not():
    plain = run(recipe(stage(3)), tiny_net(norm="batch"))
    assert plain.states[-1].average == {}
    done = run(recipe(stage(3), ema=0.9), tiny_net(norm="batch"))
    equal(weights(plain.net), weights(done.net))
    assert [r["train_loss"] for r in done.rows] == [r["train_loss"] for r in plain.rows]
    assert all(a["val_loss"] != b["val_loss"] for a, b in zip(done.rows, plain.rows, strict=True))
    found = validation_of(kept(done.states[-1]), tiny_net(norm="batch"))
    np.testing.assert_allclose(found, done.seen[-1].logits_NK, atol=1e-4)


def test_the_mean_of_snapshots_is_the_mean_and_its_logits_are_those_measured():
    """Taken at pseudo-epoch ends here, where cycles end, and whose states are known."""
    cycled = recipe(stage(4, 0.2, "triangular", trainable="head"), average={"swa": True})
    done = run(cycled, tiny_net(norm="batch"))
    states, last = [state.model for state in done.states[:-1]], done.states[-1]
    found = mean_of(last)
    mean = torch.stack([state["head.weight"] for state in states]).mean(0)
    torch.testing.assert_close(found["head.weight"], mean)
    assert torch.equal(found["first.weight"], states[0]["first.weight"])  # what never moved
    assert not torch.allclose(found["norm.running_mean"], states[-1]["norm.running_mean"])
    assert found["norm.num_batches_tracked"] == 3  # the pass, from the start
    by_hand = validation_of(found, tiny_net(norm="batch"))
    np.testing.assert_allclose(by_hand, done.seen[-1].logits_NK, atol=1e-4)
    assert done.rows[-1]["val_loss"] < 0.69
    equal(weights(done.net), states[-1])  # the run's own weights are left alone
    assert [row["kind"] for row in last.history] == ["checkpoint"] * 4 + ["swa"]
    assert [row["samples_seen"] for row in last.history] == [24, 48, 72, 96, 96]


def test_a_snapshot_is_taken_at_its_step_also_amid_a_pseudo_epoch():
    """Cycles of 4.5 steps, 3 steps a pseudo-epoch: after steps 4 and 9."""
    given = {"pseudo_epochs": 3, "schedule": {"name": "triangular", "cycle": 1.5}}
    net, before = tiny_net(), []

    def note(module, _):
        if module.training:
            before.append(module.head.weight.detach().clone())

    net.register_forward_pre_hook(note)
    done = run(recipe(given, average={"swa": True}), net)
    assert len(before) == 9
    expected = (before[4] + net.head.weight.detach()) / 2
    torch.testing.assert_close(mean_of(done.states[-1])["head.weight"], expected)


def test_a_mean_that_is_not_finite_is_a_row_without_validation_and_never_best():
    given = recipe(stage(2, 0.05, "constant"), average={"swa": True})
    state = run(given, tiny_net(), stop_after=2).states[-1]
    state.swa["module.head.bias"].fill_(math.inf)
    again = run(given, tiny_net(), state=state)
    (row,) = again.rows
    assert (again.seen, row["kind"], "val_loss" in row) == ([None], "swa", False)
    assert score(row, "map") == score(row, "loss") == WORST


def inputs(x_BCHW, readable=True):
    none = np.full(len(x_BCHW), 0)
    return Inputs(x_BCHW, torch.zeros(0), torch.zeros(0), none, none + int(readable) > 0)


def test_batch_statistics_are_renewed_as_torch_does_but_for_frozen_norms():
    torch.manual_seed(0)
    xs = [torch.randn(4, 3, 8, 8) * 2 + 1 for _ in range(5)]
    ours, theirs = (tiny_net(norm="batch", dropout=0.5) for _ in range(2))
    for net in (ours, theirs):
        net.norm.running_mean.fill_(9.0)
    renew_statistics(ours, iter([inputs(xs[0] + 9, readable=False), *map(inputs, xs)]))
    update_bn(xs, theirs)
    torch.testing.assert_close(ours.norm.running_mean, theirs.norm.running_mean)
    torch.testing.assert_close(ours.norm.running_var, theirs.norm.running_var)
    assert (ours.norm.momentum, ours.training, ours.norm.training) == (0.1, False, False)
    net = network("resnet10t")
    before = weights(net)
    net.set_trainable("head")
    renew_statistics(net, (pytest.fail("asked for tiles") for _ in range(1)))
    equal(weights(net), before)
    net.set_trainable("layer4")
    renew_statistics(net, iter([inputs(torch.randn(2, 3, 64, 64))]))
    moved = changed(before, weights(net))
    assert moved
    assert all(".layer4." in name for name in moved)
