"""Schedules, warm-ups and momentum against torch's schedulers, point by point."""

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
    StepLR,
)

from satray.config.train import SMITH, ScheduleOptions
from satray.train.schedules import Span, cycle_ends, learning_rate, momentum, warmup_steps

PEAK = 0.02


def over(steps, each=10):
    """A stage of so many steps, of so many a pseudo-epoch."""
    return Span(steps, steps / each)


def ours(options, span):
    """Learning rate and momentum of each step."""
    rates = [learning_rate(options, PEAK, step, span) for step in range(span.steps)]
    return rates, [momentum(options, step, span) for step in range(span.steps)]


def sgd():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK, momentum=0.9)


def walk(optimizer, scheduler, steps):
    """Learning rate and momentum of each step."""
    rates, momenta = [], []
    for step in range(steps):
        (group,) = optimizer.param_groups
        rates.append(group["lr"])
        momenta.append(group["momentum"])
        optimizer.step()
        if step + 1 < steps:
            scheduler.step()
    return rates, momenta


MOMENTA = {"base_momentum": 0.85, "max_momentum": 0.95}


def cyclic(optimizer, name, length, lowest=0.25):
    """With a `gamma` of 0.3 a cycle."""
    return CyclicLR(
        optimizer,
        PEAK * lowest,
        PEAK,
        step_size_up=length / 2,
        mode=name,
        gamma=0.3 ** (1 / length),
        **MOMENTA,
    )


CASES = [
    *(
        ({"name": name, "cycle": cycle, "lowest": lowest}, 137,
         lambda o, n, c=cycle, low=lowest, m=name: cyclic(
             o, m, round(10 * c), 0.25 if low is None else low))
        for name in SMITH
        for cycle, lowest in ((4.0, None), (2.5, 0.1), (0.9, 0.0))
    ),
    *(
        ({"name": "cosine", "lowest": lowest}, steps,
         lambda o, n, low=lowest: CosineAnnealingLR(o, n, PEAK * (low or 0)))
        for steps in (1, 2, 3, 40, 137)
        for lowest in (None, 0.1)
    ),
    *(
        ({"name": "cosine_restarts", "cycle": cycle, "growth": growth, "lowest": lowest}, 137,
         lambda o, n, c=cycle, g=growth, low=lowest: CosineAnnealingWarmRestarts(
             o, round(10 * c), g, PEAK * (low or 0)))
        for cycle, growth in ((1.0, 1), (2.0, 2), (0.3, 3), (50.0, 1))
        for lowest in (None, 0.1)
    ),
    *(
        ({"name": "one_cycle", "pct_start": pct, "div": div, "final_div": final}, steps,
         lambda o, n, p=pct, d=div, f=final: OneCycleLR(
             o, PEAK, total_steps=n, pct_start=p, div_factor=d, final_div_factor=f, **MOMENTA))
        for steps in (2, 3, 4, 7, 50, 337)
        for pct, div, final in ((0.3, 25.0, 1e4), (0.5, 10.0, 100.0))
        if pct * steps != 1  # torch divides by zero there
    ),
    ({"name": "step", "step": 3, "gamma": 0.3}, 137, lambda o, n: StepLR(o, 30, 0.3)),
    ({"name": "step", "step": 0.5, "gamma": 0.1}, 40, lambda o, n: StepLR(o, 5, 0.1)),
    ({"name": "constant"}, 20, lambda o, n: ConstantLR(o, factor=1.0)),
]  # fmt: skip


def test_schedules_and_warm_ups_are_torchs():
    """A warm-up goes up to the schedule's own first rate, then the schedule over what is left."""
    for keys, steps, theirs in CASES:
        optimizer, start = sgd(), sgd()
        rates, momenta = walk(optimizer, theirs(optimizer, steps), steps)
        start.param_groups[0]["lr"] = rates[0]
        warm, _ = walk(start, LinearLR(start, 0.01, 1.0, total_iters=25), 25)
        plain = ScheduleOptions(cycle_momentum=True, **keys)
        warmed = plain.model_copy(update={"warmup": 2.5})
        for options, before in ((plain, []), (warmed, warm)):
            found, moved = ours(options, over(len(before) + steps))
            assert found == pytest.approx(before + rates, rel=1e-9, abs=1e-15), keys
            cycles = options.name in (*SMITH, "one_cycle")
            expected = momenta[:1] * len(before) + momenta if cycles else [None] * len(found)
            assert moved == (pytest.approx(expected, rel=1e-9) if cycles else expected), keys
        still = plain.model_copy(update={"cycle_momentum": False})
        assert set(ours(still, over(steps))[1]) == {None}


def test_a_short_warm_up_is_a_step_at_least():
    options = ScheduleOptions(name="constant", warmup=0.01)
    assert ours(options, over(3))[0] == [PEAK / 100, PEAK, PEAK]


EVERY = st.builds(
    ScheduleOptions,
    name=st.sampled_from(["constant", "step", *SMITH, "one_cycle", "cosine", "cosine_restarts"]),
    warmup=st.sampled_from([0.0, 0.1, 1.3, "auto"]),
    step=st.floats(0.05, 20),
    gamma=st.floats(0.1, 1),
    pct_start=st.floats(0.05, 0.9),
    cycle=st.floats(0.05, 30),
    growth=st.floats(1, 3),
    lowest=st.none() | st.floats(0, 0.9),
    cycle_momentum=st.booleans(),
)


@settings(max_examples=100, deadline=None)
@given(options=EVERY, steps=st.integers(1, 90), each=st.integers(1, 20))
def test_every_schedule_stays_within_its_bounds(options, steps, each):
    span = over(steps + warmup_steps(options, over(1, each)), each)
    rates, momenta = ours(options, span)
    assert all(0 <= rate <= PEAK * (1 + 1e-12) for rate in rates)
    assert all(m is None or 0.85 - 1e-12 <= m <= 0.95 + 1e-12 for m in momenta)
    places = (warmup_steps(options, span), *cycle_ends(options, span), span.steps)
    assert list(places) == sorted(places)
