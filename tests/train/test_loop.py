"""The loop: learning, evaluation, resuming, stages, what stops it."""

import math
import time

import numpy as np
import pytest
import torch
from train.tiny_training import (
    CLASSES,
    ROWS,
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

from satray.config.train import TowerOptions, VariantOptions
from satray.data.augment import Augment
from satray.errors import InputError, TrainingError
from satray.metrics.summary import compute_metrics, flat
from satray.models.network import Network
from satray.train.plan import plan_training
from satray.train.state import TrainState


def test_it_learns_and_reports():
    reports, _, _ = run(recipe(stage(15)), tiny_net())
    last = reports[-1]
    assert reports[0]["val_loss"] > 0.5 > 0.2 > last["val_loss"]
    assert last["map"] == last["accuracy"] == 1.0
    assert [each["pseudo_epoch"] for each in reports] == list(range(15))
    assert (last["step"], last["samples_seen"], last["times_seen"]) == (45, 360, 15.0)
    assert last["seconds_data"] >= 0 < last["seconds_compute"] < 20
    assert last["images_per_second"] > 0 < last["seconds_evaluate"]
    assert {"val_loss", "map", "ap_bright", "ap_dark", "stage", "learning_rate"} <= set(last)
    assert all(type(value) in (int, float) for value in last.values())


def test_padded_rows_count_once():
    done = run(recipe(stage(1)), tiny_net())
    (report,), _, net = done
    (found,) = done.seen
    assert found.rows.tolist() == list(range(VAL_ROWS))
    logits = torch.from_numpy(found.logits_NK)
    labels = torch.from_numpy(found.labels_NK).float()
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    assert report["val_loss"] == pytest.approx(theirs.item(), abs=1e-6)
    whole = compute_metrics(found.logits_NK, found.labels_NK, CLASSES, "multilabel")
    assert {name: report[name] for name in flat(whole)} == flat(whole)
    net.eval()
    x = (torch.from_numpy(tiles(VAL_ROWS, 2)[0].astype(np.float32)) - 2500) / 1500
    assert found.labels_NK.tolist() == tiles(VAL_ROWS, 2)[1].tolist()
    assert net(x).shape == logits.shape


def test_the_same_seed_gives_the_same_history():
    given = recipe(stage(2), seed=3, dropout=0.5)
    (a, _, net_a), (b, _, net_b) = (run(given, tiny_net()) for _ in range(2))
    assert [timeless(r) for r in a] == [timeless(r) for r in b]
    equal(weights(net_a), weights(net_b))
    other, _, _ = run(recipe(stage(2), seed=4, dropout=0.5), tiny_net())
    assert other[0]["train_loss"] != a[0]["train_loss"]


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    net = tiny_net()
    torch.manual_seed(1)
    run(recipe(stage(1), dropout=0.5), net)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_resumed_is_uninterrupted_bit_by_bit(optimizer, stop_after):
    """Mid-stage and mid-schedule (1), at a stage's last step (2), in the next stage (3)."""
    given = recipe(
        stage(2, 0.02), stage(1.5, 0.05, "step", trainable="head"), optimizer=optimizer, dropout=0.3
    )
    whole, _, net = run(given, tiny_net(norm="batch"))
    first, cut, _ = run(given, tiny_net(norm="batch"), stop_after=stop_after)
    torch.manual_seed(99)  # another process: nothing is left of the first one
    rest, ends, again = run(given, tiny_net(norm="batch"), state=cut[-1])
    assert len(whole) == 4
    assert len(rest) == 4 - stop_after
    equal(weights(net), weights(again))
    together = [timeless(r) for r in (*first, *rest)]
    assert together == [timeless(r) for r in whole]
    history = TrainState.from_bytes(ends[-1]).history
    assert [timeless(row) for row in history] == together
    assert [r["val_loss"] for r in rest] == [r["val_loss"] for r in whole[stop_after:]]


def test_a_finished_state_trains_no_further():
    given = recipe(stage(2))
    _, states, net = run(given, tiny_net())
    rest, _, again = run(given, tiny_net(), state=states[-1])
    assert rest == ()
    equal(weights(net), weights(again))


def test_a_state_of_another_plan_is_refused():
    _, states, _ = run(recipe(stage(2)), tiny_net())
    for other in (recipe(stage(2), batch=4), recipe(stage(0.5)), recipe(stage(2), pseudo_epoch=8)):
        with pytest.raises(InputError, match="checkpoint: 2 pseudo-epochs, 6 steps of 8 tiles"):
            run(other, tiny_net(), state=states[-1])


def test_bytes_that_are_no_state_are_refused():
    with pytest.raises(InputError, match="not a train state"):
        TrainState.from_bytes(b"PK nonsense")


def test_each_stage_thaws_what_it_says():
    given = recipe(stage(1, 0.05, trainable="head"), stage(1, 0.05))
    before = weights(tiny_net())
    _, states, net = run(given, tiny_net())
    assert net.trainable == ["head", "all"]
    after_head = TrainState.from_bytes(states[0]).model
    for name, value in after_head.items():
        assert torch.equal(value, before[name]) == (not name.startswith("head"))
    assert not torch.equal(weights(net)["first.weight"], before["first.weight"])


def test_the_learning_rate_is_the_plans(monkeypatch):
    rates = []
    step = torch.optim.AdamW.step

    def spy(self, *args, **options):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    given = recipe(stage(2, 0.02), stage(1, 0.1, "constant"))
    reports, _, _ = run(given, tiny_net())
    plan = plan_training(given, ROWS, 1)
    assert rates == [plan.learning_rate(step) for step in range(9)]
    assert [r["learning_rate"] for r in reports] == [rates[2], rates[5], rates[8]]
    assert [r["stage"] for r in reports] == [0, 0, 1]
    assert [r["stage_began"] for r in reports] == [0, 0, 48]


def test_a_stage_that_begins_within_a_pseudo_epoch_says_where():
    reports, _, _ = run(recipe(stage(0.7), stage(1.3, trainable="head")), tiny_net())
    assert [(r["samples_seen"], r["stage"], r["stage_began"]) for r in reports] == [
        (24, 1, 16),
        (48, 1, 16),
    ]


def test_unreadable_tiles_have_no_weight():
    """Whatever their pixels and labels hold."""
    pixels, labels = tiles(ROWS, 1)
    bad = [3, 7, 20]
    spoilt = pixels.copy(), labels.copy()
    spoilt[0][bad], spoilt[1][bad] = 65535, 1
    given = recipe(stage(1), error_budget=0.125)
    runs = [
        run(given, tiny_net(norm="batch"), unreadable=bad, data=data)
        for data in ((pixels, labels), spoilt)
    ]
    assert [r[0][0]["unreadable"] for r in runs] == [3, 3]
    assert runs[0][0][0]["train_loss"] == runs[1][0][0]["train_loss"]
    equal(weights(runs[0][2]), weights(runs[1][2]))


def test_nothing_readable_at_all_teaches_nothing():
    given = recipe(stage(1), error_budget=1)  # adamw: its weight decay has to rest too
    (report,), _, net = run(given, tiny_net(), unreadable=range(ROWS))
    equal(weights(net), weights(tiny_net()))
    assert report["unreadable"] == ROWS
    assert math.isnan(report["train_loss"])
    assert math.isfinite(report["val_loss"])


def test_batch_norms_learn_nothing_from_a_batch_without_a_readable_tile():
    """Nor from its pixels: the network is given the bands' means in their place."""
    given, net, seen = (
        recipe(stage(1, 0.02, "constant"), error_budget=1),
        tiny_net(norm="batch"),
        [],
    )
    net.first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].abs().max().item()))
    run(given, net, unreadable=range(ROWS))
    equal(weights(net), weights(tiny_net(norm="batch")))
    assert seen[:3] == [0.0] * 3
    assert seen[3] > 0  # validation

    order = np.random.default_rng(0).permutation(ROWS)
    _, _, net = run(given, tiny_net(norm="batch"), unreadable=order[8:16])  # the second of three
    assert net.norm.num_batches_tracked == 2
    assert net.norm.training
    assert net.norm.running_mean.abs().max() > 0


def test_more_unreadable_tiles_than_the_budget_stop_training():
    bad = (3, 7, 20)
    with pytest.raises(TrainingError, match=r"error_budget=0\.1") as caught:
        run(recipe(stage(2), error_budget=0.1), tiny_net(), unreadable=bad)
    assert "pseudo-epoch 1: 3 of 24 tiles could not be read" in str(caught.value)
    assert "last checkpoint stays, and rerunning goes on" in str(caught.value)
    assert "\n" not in str(caught.value)
    reports, _, _ = run(recipe(stage(2), error_budget=0.125), tiny_net(), unreadable=bad)
    assert len(reports) == 2


def test_unreadable_validation_tiles_count_once_against_the_budget():
    """Row 0 is there twice: 1 of 10, not 2 of 12."""
    with pytest.raises(TrainingError, match="validation: 1 of 10 tiles could not be read"):
        run(recipe(stage(1), error_budget=0.09), tiny_net(), val_unreadable=(0,))
    (report,), _, _ = run(recipe(stage(1), error_budget=0.1), tiny_net(), val_unreadable=(0,))
    assert report["val_unreadable"] == 1


def test_losses_that_are_never_finite_stop_with_their_place():
    net = tiny_net()
    with torch.no_grad():
        net.head.bias[0] = math.nan
    few = recipe(stage(1, 0.02, "constant"))
    with pytest.raises(
        TrainingError, match=r"3 steps in a row .* at sample 24 \(learning rate 0.02"
    ):
        run(few, net)  # all of its pseudo-epoch
    with pytest.raises(TrainingError, match=r"10 steps in a row .* at sample 80 "):
        run(recipe(stage(1, 0.02), pseudo_epoch=240), net, data=tiles(240, 1))


def test_a_step_that_is_not_finite_is_left_out():
    """Weights, batch statistics and averages are those of a run without it."""
    net, calls = tiny_net(norm="batch"), []

    def burst(module, _, output):
        calls.append(module.training)
        return output * math.inf if len(calls) == 2 else output

    net.first.register_forward_hook(burst)
    given = recipe(stage(2, 0.02, "constant"), average={"ema": 0.9})
    (first, last), states, _ = run(given, net)
    assert (first["skipped"], last["skipped"]) == (1, 0)
    assert math.isfinite(first["train_loss"])
    assert all(math.isfinite(each["val_loss"]) for each in (first, last))
    kept = TrainState.from_bytes(states[-1]).kept
    for value in (*weights(net).values(), *kept.values()):
        assert value.isfinite().all()
    assert last["train_loss"] < first["train_loss"]


def test_batches_that_end_early_or_are_short_are_said():
    with pytest.raises(TrainingError, match="ended after 3 of 6"):
        run(recipe(stage(1), pseudo_epoch=48), tiny_net())


def test_batch_norm_needs_two_tiles():
    with pytest.raises(InputError, match="batch=1: one tile a worker"):
        run(recipe(stage(1), batch=1), tiny_net(norm="batch"))
    run(recipe(stage(0.1), batch=1), tiny_net())  # group norm does not


@pytest.mark.parametrize(("task", "classes"), [("multiclass", CLASSES), ("binary", ("bright",))])
def test_other_tasks_learn_too(task, classes):
    pixels, labels = tiles(ROWS, 1)
    count = len(classes)
    reports, _, _ = run(
        recipe(stage(15)),
        tiny_net(classes=count),
        task=task,
        classes=classes,
        data=(pixels, labels[:, :count]),
        val_data=(lambda p, y: (p, y[:, :count]))(*tiles(VAL_ROWS, 2)),
    )
    assert reports[-1]["accuracy"] == 1.0
    assert reports[-1]["val_loss"] < 0.3


def test_progress_is_told():
    told = []

    net = tiny_net()
    net.first.register_forward_pre_hook(lambda *_: time.sleep(0.4))
    run(recipe(stage(1)), net, progress=told.append)
    (now,) = told
    assert (now.pseudo_epoch, now.step, now.samples_seen) == (0, 3, 24)
    assert 0 < now.images_per_second < 20
    assert math.isfinite(now.loss)


def test_the_projects_own_network():
    """Frozen weights and buffers stay bit for bit; a resumed run is the uninterrupted one."""
    tower = TowerOptions(name="rgb", backbone="resnet10t", bands=("a", "b", "c"))
    variant = VariantOptions(towers=(tower,), pooling="max")

    def build():
        torch.manual_seed(0)
        return Network(variant, 2, dropout=0.5)

    given = recipe(stage(1, 0.01, trainable="head"), stage(2, 0.001))
    before = weights(build())
    whole, states, net = run(given, build())
    frozen = TrainState.from_bytes(states[0]).model
    changed = {name for name, value in frozen.items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}
    rest, _, again = run(given, build(), state=states[1])
    equal(weights(net), weights(again))
    assert timeless(rest[0]) == timeless(whole[2])


def test_deterministic_and_bf16_run():
    given = recipe(stage(1), deterministic=True)
    done = run(given, tiny_net(), bf16=True)
    (report,), _, net = done
    assert math.isfinite(report["val_loss"])
    assert not torch.are_deterministic_algorithms_enabled()
    assert next(net.parameters()).dtype == torch.float32
    assert done.seen[0].logits_NK.dtype == np.float32


def test_weights_are_kept_planar():
    _, states, _ = run(recipe(stage(1)), tiny_net())
    assert all(value.is_contiguous() for value in TrainState.from_bytes(states[0]).model.values())


def test_augmentation_takes_part():
    given = recipe(stage(1))
    plain = Augment(8, "none", "centre")
    (a,), _, _ = run(given, tiny_net(), augment=plain)
    (b,), _, _ = run(given, tiny_net())
    assert a["train_loss"] != b["train_loss"]
