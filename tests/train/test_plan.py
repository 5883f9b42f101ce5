"""The plan of a run: lengths in samples, ends at whole steps, what cannot be planned."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from train.tiny_training import recipe, stage

from satray.errors import InputError
from satray.train.plan import plan_training, train_order
from satray.train.schedules import cycle_ends


def planned(*stages, rows=1000, workers=1, pseudo_epoch=80, **options):
    """Ten steps of eight tiles a pseudo-epoch."""
    return plan_training(recipe(*stages, pseudo_epoch=pseudo_epoch, **options), rows, workers)


def rates(plan):
    return [plan.learning_rate(step) for step in range(plan.total_steps)]


def test_a_pseudo_epoch_is_the_split_and_ends_at_the_nearest_step():
    plan = planned(stage(3), workers=2, batch=32, pseudo_epoch=None, accumulate=4)
    assert (plan.steps_per_pseudo_epoch, plan.samples_per_pseudo_epoch) == (31.25, 1000)
    assert (plan.global_batch, plan.local_batch) == (32, 16)
    assert plan.ends == (31, 62, 94)  # of 31.25, 62.5, 93.75
    assert [plan.steps_in(n) for n in range(3)] == [31, 31, 32]
    assert plan.total_samples == 94 * 32
    assert planned(rows=100, pseudo_epoch=400).steps_per_pseudo_epoch == 50  # past the split


LENGTH = st.one_of(st.floats(1, 12), st.integers(1, 12), st.integers(2, 24).map(lambda n: n / 2))


@settings(max_examples=100, deadline=None)
@given(
    batch=st.integers(1, 64),
    pseudo_epoch=st.integers(64, 500),
    lengths=st.lists(LENGTH, min_size=1, max_size=4),
    sampled=st.booleans(),
)
def test_stages_end_where_they_should_to_half_a_batch(batch, pseudo_epoch, lengths, sampled):
    stages = [stage(n) for n in lengths]
    if sampled:
        stages[0] = stage(1, samples=round(lengths[0] * pseudo_epoch))
        lengths = [round(lengths[0] * pseudo_epoch) / pseudo_epoch, *lengths[1:]]
    plan = planned(*stages, batch=batch, pseudo_epoch=pseudo_epoch)
    within, wanted = batch / 2 + 1e-6, 0.0
    for each, length in zip(plan.stages, lengths, strict=True):
        wanted += length * pseudo_epoch
        assert abs(each.end_step * batch - wanted) <= within
    for number, end in enumerate(plan.ends[:-1], start=1):
        assert abs(end * batch - number * pseudo_epoch) <= within
    assert plan.ends[-1] == plan.total_steps == plan.stages[-1].end_step
    assert {math.floor(pseudo_epoch / batch), math.ceil(pseudo_epoch / batch)} >= {
        plan.steps_in(number) for number in range(plan.pseudo_epochs - 1)
    }
    assert all(a < b for a, b in itertools.pairwise((0, *plan.ends)))


@settings(max_examples=100, deadline=None)
@given(
    batch=st.integers(1, 32),
    pseudo_epoch=st.integers(128, 500),
    before=st.floats(1, 3),
    cycles=st.integers(2, 12),
    cycle=st.integers(1, 3),
)
def test_whole_cycles_fill_their_stage(batch, pseudo_epoch, before, cycles, cycle):
    """Lengths that are no whole steps neither lose the last cycle nor begin another."""
    schedule = {"name": "cosine_restarts", "cycle": cycle, "lowest": 0.0}
    whole = {"learning_rate": 1.0, "pseudo_epochs": cycles * cycle, "schedule": schedule}
    plan = planned(stage(before), whole, batch=batch, pseudo_epoch=pseudo_epoch)
    found = rates(plan)[plan.stages[1].first_step :]
    starts = [n for n in range(1, len(found)) if found[n] > found[n - 1]]
    assert len(starts) == cycles - 1
    each = len(found) / cycles
    assert all(abs(start - (n + 1) * each) < 1 for n, start in enumerate(starts))
    assert found[-1] < 0.5
    ends = cycle_ends(plan.stages[1].options.schedule, plan.stages[1].span)
    assert ends[-1] == len(found)
    assert ends == pytest.approx([(n + 1) * each for n in range(cycles)], abs=0.5001)


def test_the_plan_depends_on_workers_through_the_local_batch_only():
    one, four = (planned(stage(2.5, 1.0, "step"), batch=32, rows=960, workers=n) for n in (1, 4))
    found = rates(one)
    drops = [n for n in range(1, len(found)) if found[n] < found[n - 1]]
    assert (len(drops), found[-1]) == (2, pytest.approx(0.09))
    assert (one.ends, rates(one)) == (four.ends, rates(four))
    assert (one.local_batch, four.local_batch) == (32, 8)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"batch": 30, "workers": 4}, r"batch=30: .* 4 workers; .* 28 or 32"),
        ({"batch": 2, "workers": 4}, r"batch=2: .* such as 4"),
        ({"batch": 12, "workers": 2, "accumulate": 4}, r"2 workers and 4 parts each .* 8 or 16"),
        ({"batch": 32, "rows": 20}, r"batch=32: larger than the train split of 20 .* at most 20"),
        ({"batch": 32, "accumulate": 32, "rows": 20}, r"at most 20, over fewer workers or parts"),
        ({"batch": 32, "pseudo_epoch": 10}, r"pseudo_epoch=10: .* at least 32"),
        ({"stages": (stage(1), stage(0.01))}, r"stages\[1\].pseudo_epochs=0.01: .* 0.1"),
        ({"stages": (stage(2, samples=3),)}, r"stages\[0\].samples=3: less than one batch; .* 8"),
        ({"stages": ({"pseudo_epochs": 2, "schedule": {"warmup": 2}},)},
         r"stages\[0\].schedule.warmup=2 pseudo-epochs: not shorter .* of 2; take"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_said_in_one_line(keys, says):
    with pytest.raises(InputError, match=says) as error:
        planned(*keys.get("stages", ()), **{k: v for k, v in keys.items() if k != "stages"})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("length", "warmup"), [(20, 1), (10, 1), (5, 0.5), (1, 0.1), (0.1, 0)])
def test_an_automatic_warm_up_is_a_tenth_of_its_stage_and_at_most_one(length, warmup):
    found, wanted = (
        rates(planned(stage(2), {"pseudo_epochs": length, "schedule": {"warmup": each}}))
        for each in ("auto", warmup)
    )
    assert found == wanted


def test_auto_learning_rates_wait_for_the_range_test():
    plan = planned(stage(1, 0.1, "constant"), stage(1, "auto", "constant"))
    assert [s.peak for s in plan.stages] == [0.1, None]
    found = plan.with_rates((None, 0.03))
    assert [found.learning_rate(step) for step in (9, 10)] == [0.1, 0.03]
    assert found.ends == plan.ends


def cycling(pseudo_epochs, cycle, name="triangular", **options):
    schedule = {"name": name, "cycle": cycle}
    return {"pseudo_epochs": pseudo_epochs, "schedule": schedule, **options}


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ([cycling(6, 2)], (6, 12, 18)),
        ([cycling(3, 1.5, "cosine_restarts")], (4, 9)),  # of 4.5
        ([cycling(6, 1)], (6, 9, 12, 15, 18)),  # the last five
        # stages with one cycle each are cycles too
        ([stage(2), stage(2), stage(1)], (6, 12, 15)),
        # weights from before a thaw are left out
        ([cycling(4, 1, trainable="head"), cycling(4, 2)], (18, 24)),
        ([stage(7, trainable="head"), stage(1)], (24,)),
        # where nothing cycles, at pseudo-epoch ends of the last quarter
        ([stage(8, schedule="constant")], (21, 24)),
        ([stage(8)], (21, 24)),  # one_cycle: its one end would be no average
    ],
)
def test_when_weights_are_taken_for_the_average(stages, expected):
    """3 steps a pseudo-epoch, and a pass more for batch statistics."""
    assert plan_training(recipe(*stages), 24, 1).snapshots == ()
    given = recipe(*stages, average={"swa": True})
    plan = plan_training(given, 24, 1)
    assert plan.snapshots == expected
    order = train_order(given, plan, np.zeros((24, 1)))
    past = order.rows(plan.pseudo_epochs).tolist()
    assert sorted(past) == list(range(24))
    seen = ", ".join(str(8 * step) for step in expected)
    told = [f"weights after {seen} samples are averaged at the end"]
    assert list(plan.lines[len(stages) :]) == told
