import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR, StepLR

from satray.config.train import ScheduleOptions
from satray.train.schedules import Span, learning_rate


def ours(options, peak, span):
    return [learning_rate(options, peak, step, span) for step in range(span.steps)]


def sgd():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)


@pytest.mark.parametrize("steps", [2, 3, 4, 7, 50, 337])
@pytest.mark.parametrize(("pct", "div", "final"), [(0.3, 25.0, 1e4), (0.5, 10.0, 100.0)])
def test_one_cycle_is_torchs(steps, pct, div, final):
    if pct * steps == 1:
        pytest.skip("torch divides by zero here")
    optimizer = sgd()
    scheduler = OneCycleLR(
        optimizer,
        0.02,
        total_steps=steps,
        pct_start=pct,
        anneal_strategy="cos",
        cycle_momentum=False,
        div_factor=div,
        final_div_factor=final,
    )
    theirs = []
    for _ in range(steps):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(theirs) < steps:
            scheduler.step()
    options = ScheduleOptions(name="one_cycle", pct_start=pct, div=div, final_div=final)
    assert ours(options, 0.02, Span(steps, 10)) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("steps", [1, 2])
def test_one_cycle_without_room_to_rise_stays_finite(steps):
    options = ScheduleOptions(name="one_cycle", pct_start=0.5)
    rates = ours(options, 0.02, Span(steps, 1))
    assert rates[0] == 0.02
    assert all(0 < rate <= 0.02 for rate in rates)


def test_step_is_torchs_at_epoch_granularity():
    optimizer = sgd()
    scheduler = StepLR(optimizer, step_size=3, gamma=0.3)
    theirs = []
    for _ in range(10):
        theirs += [optimizer.param_groups[0]["lr"]] * 7
        optimizer.step()
        scheduler.step()
    options = ScheduleOptions(name="step", step=3, gamma=0.3)
    assert ours(options, 0.1, Span(70, 7)) == pytest.approx(theirs, rel=1e-12)


def test_step_takes_fractions_of_a_pseudo_epoch():
    options = ScheduleOptions(name="step", step=0.5, gamma=0.1)
    assert ours(options, 1.0, Span(8, 4)) == pytest.approx([1, 1, 0.1, 0.1, 1e-2, 1e-2, 1e-3, 1e-3])


def test_constant():
    assert set(ours(ScheduleOptions(name="constant"), 0.5, Span(5, 2))) == {0.5}


@pytest.mark.parametrize("step", [-1, 5])
def test_a_step_outside_the_stage_is_refused(step):
    with pytest.raises(ValueError, match="outside"):
        learning_rate(ScheduleOptions(), 0.1, step, Span(5, 1))
