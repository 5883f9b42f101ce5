import itertools
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from train.tiny_training import recipe, stage

from satray.config.train import ScheduleOptions, StageOptions
from satray.errors import InputError
from satray.train.plan import plan_training
from satray.train.schedules import cycle_ends


def test_a_pseudo_epoch_is_the_split_and_ends_at_the_nearest_step():
    plan = plan_training(recipe(stage(3), batch=32), 1000, 2)
    assert plan.steps_per_pseudo_epoch == 31.25
    assert plan.samples_per_pseudo_epoch == 1000
    assert (plan.global_batch, plan.local_batch) == (32, 16)
    assert plan.ends == (31, 62, 94)  # of 31.25, 62.5, 93.75
    assert [plan.steps_in(n) for n in range(3)] == [31, 31, 32]
    assert plan.total_samples == 94 * 32


def test_the_batch_does_not_change_how_long_training_is():
    """Whole batches a pseudo-epoch would be 2,560 samples at 256 and 4,800 at 32."""
    seen = [plan_training(recipe(stage(10), batch=n), 500, 1).total_samples for n in (32, 256)]
    assert seen == [156 * 32, 20 * 256]  # of 5,000 wanted


LENGTH = st.one_of(st.floats(1, 12), st.integers(1, 12), st.integers(1, 24).map(lambda n: n / 2))


@settings(max_examples=300, deadline=None)
@given(
    batch=st.integers(1, 64),
    pseudo_epoch=st.integers(64, 500),
    lengths=st.lists(LENGTH.filter(lambda n: n >= 1), min_size=1, max_size=4),
    sampled=st.booleans(),
)
def test_stages_end_where_they_should_to_half_a_batch(batch, pseudo_epoch, lengths, sampled):
    stages = [stage(n) for n in lengths]
    if sampled:
        stages[0] = stage(1, samples=round(lengths[0] * pseudo_epoch))
        lengths = [round(lengths[0] * pseudo_epoch) / pseudo_epoch, *lengths[1:]]
    given = recipe(*stages, batch=batch, pseudo_epoch=pseudo_epoch)
    plan = plan_training(given, 1000, 1)
    within = batch / 2 + 1e-6
    wanted = 0.0
    for planned, length in zip(plan.stages, lengths, strict=True):
        wanted += length * pseudo_epoch
        assert abs(planned.end_step * batch - wanted) <= within
    assert abs(plan.total_samples - wanted) <= within
    for number, end in enumerate(plan.ends[:-1], start=1):
        assert abs(end * batch - number * pseudo_epoch) <= within
    assert plan.ends[-1] == plan.total_steps
    assert {math.floor(pseudo_epoch / batch), math.ceil(pseudo_epoch / batch)} >= {
        plan.steps_in(number) for number in range(plan.pseudo_epochs - 1)
    }
    assert all(a < b for a, b in itertools.pairwise((0, *plan.ends)))


@settings(max_examples=300, deadline=None)
@given(
    batch=st.integers(1, 32),
    pseudo_epoch=st.integers(128, 500),
    before=st.floats(1, 3),
    warmup=st.sampled_from([0.0, 0.3, 1.0]),
    cycles=st.integers(1, 12),
    cycle=st.integers(1, 3),
    name=st.sampled_from(["triangular", "triangular2", "exp_range", "cosine_restarts"]),
)
def test_whole_cycles_fill_their_stage(batch, pseudo_epoch, before, warmup, cycles, cycle, name):
    """Lengths that are no whole steps neither lose the last cycle nor begin another."""
    schedule = ScheduleOptions(name=name, cycle=cycle, warmup=warmup)
    whole = StageOptions(pseudo_epochs=warmup + cycles * cycle, schedule=schedule)
    plan = plan_training(
        recipe(stage(before), whole, batch=batch, pseudo_epoch=pseudo_epoch), 1000, 1
    )
    span = plan.stages[1].span
    found = cycle_ends(schedule, span)
    assert len(found) == cycles
    assert found[-1] == span.steps
    assert plan.warnings == ()


def test_drops_are_where_pseudo_epochs_end():
    plan = plan_training(recipe(stage(10, 1.0, "step"), batch=64), 500, 1)  # 7.8125 steps each
    rates = [plan.learning_rate(step) for step in range(plan.total_steps)]
    drops = [n for n in range(1, len(rates)) if rates[n] < rates[n - 1]]
    assert tuple(drops) == plan.ends[:-1]


def test_the_plan_depends_on_workers_through_the_local_batch_only():
    one, four = (plan_training(recipe(stage(2.5), batch=32), 999, n) for n in (1, 4))
    assert one.ends == four.ends
    assert [one.learning_rate(s) for s in range(one.total_steps)] == [
        four.learning_rate(s) for s in range(four.total_steps)
    ]
    assert four.local_batch == 8


def test_stages_may_be_fractions_and_the_end_is_evaluated():
    given = recipe(stage(0.5, 1.0, "constant"), stage(2, 0.1, "constant"), pseudo_epoch=80)
    plan = plan_training(given, 1000, 1)
    assert [(s.first_step, s.end_step) for s in plan.stages] == [(0, 5), (5, 25)]
    assert plan.ends == (10, 20, 25)
    assert [plan.steps_in(n) for n in range(3)] == [10, 10, 5]
    assert [plan.stage_at(s).number for s in (0, 4, 5, 24)] == [0, 0, 1, 1]
    assert [plan.learning_rate(s) for s in (4, 5)] == [1.0, 0.1]


def test_a_run_shorter_than_a_pseudo_epoch_is_evaluated_once():
    plan = plan_training(recipe(stage(0.4), pseudo_epoch=80), 1000, 1)
    assert plan.ends == (4,)
    assert plan.pseudo_epochs == 1


def test_a_pseudo_epoch_may_be_longer_than_the_split():
    assert plan_training(recipe(pseudo_epoch=400), 100, 1).steps_per_pseudo_epoch == 50


def test_one_cycle_runs_over_each_stage_anew():
    plan = plan_training(recipe(stage(2, 0.1), stage(1, 0.01), pseudo_epoch=80), 1000, 1)
    rates = [plan.learning_rate(step) for step in range(plan.total_steps)]
    assert max(rates[:20]) == pytest.approx(0.1, rel=0.02)
    assert max(rates[20:]) == pytest.approx(0.01, rel=0.05)
    assert rates[20] == pytest.approx(0.01 / 25)


@pytest.mark.parametrize(
    ("given", "rows", "workers", "says"),
    [
        (recipe(batch=30), 1000, 4, r"batch=30: .* 4 workers; .* 28 or 32"),
        (recipe(batch=2), 1000, 4, r"batch=2: .* such as 4"),
        (recipe(batch=32), 20, 1, r"batch=32: larger than the train split of 20 .* at most 20"),
        (recipe(batch=32, pseudo_epoch=10), 1000, 1, r"pseudo_epoch=10: .* at least 32"),
        (recipe(stage(1), stage(0.01), batch=8), 80, 1, r"stages\[1\].pseudo_epochs=0.01: .* 0.1"),
    ],
)
def test_what_cannot_be_planned_is_said_in_one_line(given, rows, workers, says):
    with pytest.raises(InputError, match=says) as error:
        plan_training(given, rows, workers)
    assert "\n" not in str(error.value)


def test_a_step_longer_than_its_stage_is_warned_of():
    assert plan_training(recipe(stage(3, schedule="step")), 1000, 1).warnings == ()
    (line,) = plan_training(recipe(stage(1, schedule="step")), 1000, 1).warnings
    assert "stages[0].schedule.step=1" in line


def planned(*stages, rows=1000, **options):
    """Ten steps of eight tiles a pseudo-epoch."""
    return plan_training(recipe(*stages, pseudo_epoch=80, **options), rows, 1)


def test_a_stage_may_be_given_in_samples():
    plan = planned(stage(2, samples=400), stage(1))
    assert [(s.first_step, s.end_step) for s in plan.stages] == [(0, 50), (50, 60)]
    other = plan_training(recipe(stage(2, samples=400), batch=40, pseudo_epoch=80), 1000, 4)
    assert other.total_samples == 400  # whatever the batch and the workers


def test_samples_are_rounded_to_whole_batches_but_not_to_none():
    assert planned(stage(2, samples=75)).total_samples == 72
    with pytest.raises(InputError, match=r"stages\[0\].samples=3: less than one batch; .* 8"):
        planned(stage(2, samples=3))


def test_auto_learning_rates_wait_for_the_range_test():
    plan = planned(stage(1, 0.1, "constant"), stage(1, "auto", "constant"))
    assert [s.peak for s in plan.stages] == [0.1, None]
    assert plan.learning_rate(9) == 0.1
    with pytest.raises(ValueError, match=r"stages\[1\].learning_rate=auto has not been found"):
        plan.learning_rate(10)
    found = plan.with_rates((None, 0.03))
    assert [found.learning_rate(step) for step in (9, 10)] == [0.1, 0.03]
    assert plan.stages[1].peak is None
    assert found.ends == plan.ends


def scheduled(pseudo_epochs, **schedule):
    return StageOptions(pseudo_epochs=pseudo_epochs, schedule=ScheduleOptions(**schedule))


def test_a_warm_up_that_fills_its_stage_cannot_be_planned():
    with pytest.raises(
        InputError, match=r"stages\[0\].schedule.warmup=2 pseudo-epochs: not shorter .* of 2; take"
    ):
        planned(scheduled(2, warmup=2))
    plan = planned(scheduled(2, warmup=1.9, name="constant"))
    assert plan.learning_rate(0) == pytest.approx(1e-5)
    assert plan.learning_rate(19) == 1e-3


def test_momentum_is_the_schedules():
    plan = planned(scheduled(1, cycle_momentum=True), scheduled(1))
    assert plan.momentum(0) == pytest.approx(0.95)
    assert plan.momentum(2) == pytest.approx(0.85)  # three steps of ten: the top
    assert plan.momentum(10) is None


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        ({"name": "triangular", "cycle": 4}, r"cycle=4 pseudo-epochs is longer than the stage \(3"),
        ({"name": "cosine_restarts", "cycle": 2, "warmup": 2}, r"stage \(1 after its warm-up\)"),
        ({"name": "cosine_restarts", "cycle": 2}, "ends 1 pseudo-epochs into a cycle"),
        ({"name": "step", "step": 2, "warmup": 1}, "the learning rate never drops"),
    ],
)
def test_what_a_schedule_probably_did_not_mean_is_noted(schedule, says):
    (line,) = planned(stage(1), scheduled(3, **schedule)).warnings
    assert line.startswith("stages[1].schedule.")
    assert re.search(says, line)


@pytest.mark.parametrize(
    "schedule",
    [
        {"name": "exp_range", "cycle": 1, "cycle_momentum": True},
        {"name": "cosine_restarts", "cycle": 1, "growth": 2},
        {"name": "cosine_restarts", "cycle": 2, "warmup": 1},
        {"name": "step", "step": 2},
    ],
)
def test_what_fits_is_not_noted(schedule):
    assert planned(scheduled(3, **schedule)).warnings == ()


def test_what_stages_do_is_said():
    deeper = stage(2, "auto", "cosine", trainable="layer3", layer_decay=0.8)
    first, second = planned(stage(1, 0.01, trainable="head"), deeper).lines
    assert first == "stage 1 of 2: head, 80 samples, one_cycle, highest learning rate 0.01"
    assert second.startswith("stage 2 of 2: layer3 and all after it, 160 samples, cosine, ")
    assert second.endswith("learning rate found by a range test, 0.8 of it from block to block")
