import pytest
from training.tiny_training import recipe, stage

from satray.errors import InputError
from satray.training.stages import plan_training


def test_a_pseudo_epoch_is_the_split_in_whole_batches():
    plan = plan_training(recipe(stage(3), batch=32), 1000, 2)
    assert plan.steps_per_pseudo_epoch == 31
    assert plan.samples_per_pseudo_epoch == 992
    assert (plan.global_batch, plan.local_batch) == (32, 16)
    assert plan.ends == (31, 62, 93)
    assert plan.total_samples == 93 * 32


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
