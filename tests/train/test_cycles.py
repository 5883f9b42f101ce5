"""Cycles, warm-up and momentum against torch's schedulers, point by point."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LinearLR,
    OneCycleLR,
    SequentialLR,
    StepLR,
)

from satray.config.train import ScheduleOptions
from satray.train.schedules import Span, cycle_ends, learning_rate, momentum, warmup_steps

PEAK = 0.02
SMITH = ("triangular", "triangular2", "exp_range")


def ours(options, span):
    return [learning_rate(options, PEAK, step, span) for step in range(span.steps)]


def our_momentum(options, span):
    return [momentum(options, step, span) for step in range(span.steps)]


def sgd():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK, momentum=0.9)


def adam():
    return torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)


def walk(optimizer, scheduler, steps):
    """Learning rate and momentum of each step."""
    rates, momenta = [], []
    for step in range(steps):
        (group,) = optimizer.param_groups
        rates.append(group["lr"])
        momenta.append(group["momentum"] if "momentum" in group else group["betas"][0])
        optimizer.step()
        if step + 1 < steps:
            scheduler.step()
    return rates, momenta


def cyclic(optimizer, name, length, lowest, gamma):
    return CyclicLR(
        optimizer,
        PEAK * lowest,
        PEAK,
        step_size_up=length / 2,
        mode=name,
        gamma=gamma ** (1 / length),
        cycle_momentum=True,
        base_momentum=0.85,
        max_momentum=0.95,
    )


def one_cycle(optimizer, steps):
    return OneCycleLR(optimizer, PEAK, total_steps=steps, base_momentum=0.85, max_momentum=0.95)


@pytest.mark.parametrize("make", [sgd, adam])
@pytest.mark.parametrize("name", SMITH)
@pytest.mark.parametrize(("cycle", "lowest"), [(4.0, None), (2.5, 0.1), (0.9, 0.0)])
def test_smiths_cycles_are_torchs(make, name, cycle, lowest):
    options = ScheduleOptions(name=name, cycle=cycle, lowest=lowest, gamma=0.3, cycle_momentum=True)
    optimizer = make()
    scheduler = cyclic(optimizer, name, round(10 * cycle), 0.25 if lowest is None else lowest, 0.3)
    rates, momenta = walk(optimizer, scheduler, 137)
    span = Span(137, 10)
    assert ours(options, span) == pytest.approx(rates, rel=1e-9, abs=1e-15)
    assert our_momentum(options, span) == pytest.approx(momenta, rel=1e-9)


def test_cycles_by_hand():
    """Four steps a cycle: up two, down two; the highest halves, or falls by gamma a cycle."""
    plain = ScheduleOptions(name="triangular", cycle=1, lowest=0.5)
    span = Span(9, 4)
    assert ours(plain, span) == pytest.approx(
        [0.01, 0.015, 0.02, 0.015, 0.01, 0.015, 0.02, 0.015, 0.01]
    )
    second = ScheduleOptions(name="triangular2", cycle=1, lowest=0.5)
    assert ours(second, span)[6] == pytest.approx(0.015)
    falling = ScheduleOptions(name="exp_range", cycle=1, lowest=0.0, gamma=0.81)
    assert ours(falling, span)[2] == pytest.approx(0.02 * 0.9)  # half a cycle: sqrt(gamma)
    assert ours(falling, span)[6] == pytest.approx(0.02 * 0.9 * 0.81)


@pytest.mark.parametrize("steps", [1, 2, 3, 40, 137])
@pytest.mark.parametrize("lowest", [None, 0.1])
def test_cosine_is_torchs(steps, lowest):
    optimizer = sgd()
    scheduler = CosineAnnealingLR(optimizer, T_max=steps, eta_min=PEAK * (lowest or 0))
    rates, _ = walk(optimizer, scheduler, steps)
    options = ScheduleOptions(name="cosine", lowest=lowest)
    assert ours(options, Span(steps, 10)) == pytest.approx(rates, rel=1e-9)


@pytest.mark.parametrize(("cycle", "growth"), [(1.0, 1), (2.0, 2), (0.3, 3), (50.0, 1)])
@pytest.mark.parametrize("lowest", [None, 0.1])
def test_cosine_restarts_is_torchs(cycle, growth, lowest):
    optimizer = sgd()
    scheduler = CosineAnnealingWarmRestarts(
        optimizer, T_0=round(10 * cycle), T_mult=growth, eta_min=PEAK * (lowest or 0)
    )
    rates, _ = walk(optimizer, scheduler, 137)
    options = ScheduleOptions(name="cosine_restarts", cycle=cycle, growth=growth, lowest=lowest)
    assert ours(options, Span(137, 10)) == pytest.approx(rates, rel=1e-9)


@pytest.mark.parametrize("make", [sgd, adam])
@pytest.mark.parametrize("steps", [2, 3, 4, 50, 137])
def test_one_cycles_momentum_is_torchs(make, steps):
    optimizer = make()
    rates, momenta = walk(optimizer, one_cycle(optimizer, steps), steps)
    options = ScheduleOptions(name="one_cycle", cycle_momentum=True)
    assert ours(options, Span(steps, 10)) == pytest.approx(rates, rel=1e-9)
    assert our_momentum(options, Span(steps, 10)) == pytest.approx(momenta, rel=1e-9)


AFTER = {
    "constant": lambda o: ConstantLR(o, factor=1.0),
    "step": lambda o: StepLR(o, 30, 0.3),
    "triangular": lambda o: cyclic(o, "triangular", 40, 0.25, 0.3),
    "triangular2": lambda o: cyclic(o, "triangular2", 40, 0.25, 0.3),
    "exp_range": lambda o: cyclic(o, "exp_range", 40, 0.25, 0.3),
    "one_cycle": lambda o: one_cycle(o, 100),
    "cosine": lambda o: CosineAnnealingLR(o, T_max=100),
    "cosine_restarts": lambda o: CosineAnnealingWarmRestarts(o, T_0=40),
}
"""What follows 25 steps of warm-up over the other 100 steps of a stage, 10 a pseudo-epoch."""


@pytest.mark.parametrize("name", AFTER)
def test_a_warm_up_is_torchs_linear_one(name):
    """Up to the schedule's own first rate, then the schedule over what is left."""
    options = ScheduleOptions(
        name=name, warmup=2.5, warmup_start=0.2, step=3, cycle=4, cycle_momentum=True
    )
    span = Span(125, 10)
    alone = sgd()
    proper, momenta = walk(alone, AFTER[name](alone), 100)
    start = sgd()
    start.param_groups[0]["lr"] = proper[0]
    warm, _ = walk(start, LinearLR(start, 0.2, 1.0, total_iters=25), 25)
    assert ours(options, span) == pytest.approx(warm + proper, rel=1e-9)
    found = our_momentum(options, span)
    if name in (*SMITH, "one_cycle"):
        assert found == pytest.approx([0.95] * 25 + momenta, rel=1e-9)
    else:
        assert found == [None] * 125


@pytest.mark.parametrize("name", ["constant", "step", "one_cycle", "cosine"])
def test_a_warm_up_is_torchs_sequence(name):
    """Torch's own chaining, where it keeps the second scheduler's first rate."""
    optimizer = sgd()
    second = AFTER[name](optimizer)
    first = LinearLR(optimizer, 0.2, 1.0, total_iters=25)
    scheduler = SequentialLR(optimizer, [first, second], milestones=[25])
    rates, _ = walk(optimizer, scheduler, 125)
    options = ScheduleOptions(name=name, warmup=2.5, warmup_start=0.2, step=3)
    assert ours(options, Span(125, 10)) == pytest.approx(rates, rel=1e-9)


def test_a_short_warm_up_is_a_step_at_least():
    options = ScheduleOptions(name="constant", warmup=0.01, warmup_start=0.5)
    assert ours(options, Span(3, 10)) == [PEAK / 2, PEAK, PEAK]


def test_a_warm_up_that_fills_its_stage_is_refused():
    with pytest.raises(ValueError, match="warm-up of 20 steps fills a stage of 20"):
        learning_rate(ScheduleOptions(warmup=2), PEAK, 3, Span(20, 10))


@pytest.mark.parametrize("name", [*SMITH, "one_cycle"])
def test_momentum_is_left_alone_unless_asked(name):
    assert momentum(ScheduleOptions(name=name), 3, Span(20, 10)) is None


@pytest.mark.parametrize(
    ("options", "ends"),
    [
        ({"name": "triangular", "cycle": 2}, (20, 40, 60)),
        ({"name": "triangular2", "cycle": 6.5}, (65,)),
        ({"name": "exp_range", "cycle": 7}, ()),
        ({"name": "triangular", "cycle": 2, "warmup": 1}, (30, 50)),
        ({"name": "cosine_restarts", "cycle": 1, "growth": 2}, (10, 30)),
        ({"name": "cosine_restarts", "cycle": 1, "growth": 1.5}, (10, 25, 47)),
        ({"name": "cosine_restarts", "cycle": 6.5, "growth": 1}, (65,)),
        ({"name": "one_cycle"}, (65,)),
        ({"name": "one_cycle", "warmup": 3}, (65,)),
        ({"name": "cosine"}, (65,)),
        ({"name": "constant"}, ()),
        ({"name": "step"}, ()),
    ],
)
def test_where_cycles_end(options, ends):
    assert cycle_ends(ScheduleOptions(**options), Span(65, 10)) == ends


EVERY = st.builds(
    ScheduleOptions,
    name=st.sampled_from(sorted(AFTER)),
    warmup=st.sampled_from([0.0, 0.1, 1.3]),
    warmup_start=st.floats(0.01, 1),
    step=st.floats(0.05, 20),
    gamma=st.floats(0.1, 1),
    pct_start=st.floats(0.05, 0.9),
    cycle=st.floats(0.05, 30),
    growth=st.floats(1, 3),
    lowest=st.none() | st.floats(0, 0.9),
    cycle_momentum=st.booleans(),
)


@settings(max_examples=200, deadline=None)
@given(options=EVERY, steps=st.integers(1, 90), each=st.integers(1, 20))
def test_every_schedule_stays_within_its_bounds(options, steps, each):
    span = Span(steps + warmup_steps(options, Span(1, each)), each)
    rates = ours(options, span)
    assert all(0 <= rate <= PEAK * (1 + 1e-12) for rate in rates)
    assert rates == ours(options, span)
    assert all(m is None or 0.85 - 1e-12 <= m <= 0.95 + 1e-12 for m in our_momentum(options, span))
    ends = cycle_ends(options, span)
    assert all(
        a < b for a, b in itertools.pairwise((warmup_steps(options, span), *ends, span.steps + 1))
    )
    if options.name in (*SMITH, "cosine_restarts"):  # lowest where a cycle ends
        for end in ends:
            start = max((e for e in ends if e < end), default=warmup_steps(options, span))
            within = rates[start:end]
            rise = rates[end : end + 1]
            if options.name == "cosine_restarts":
                assert within[-1] == min(within)
                assert not rise or rise[0] == pytest.approx(PEAK)
            elif rise:
                assert rise[0] <= min(within) * (1 + 1e-9) + 1e-15
