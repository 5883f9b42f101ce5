"""Cyclic schedules as pure functions: Smith's cycles (CLR, one-cycle) and SGDR's restarts.

Formulas: L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", arXiv 1506.01186;
L. N. Smith and N. Topin, "Super-Convergence", arXiv 1708.07120; I. Loshchilov and F. Hutter,
"SGDR: Stochastic Gradient Descent with Warm Restarts", arXiv 1608.03983. Steps count from the end
of the warm-up here.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_right

from satray.config.stages import ScheduleOptions
from satray.training.span import Span

SMITH = ("triangular", "triangular2", "exp_range")
"""Schedules that go up and down on straight lines."""

LOWEST = 0.25
"""Lowest rate of Smith's cycles, as a share of the highest, where none is given: he found a third
to a quarter."""


def cycle_steps(options: ScheduleOptions, span: Span) -> int:
    """Steps of a cycle, for `cosine_restarts` of the first one."""
    return max(1 if options.name == "cosine_restarts" else 2, span.whole(options.cycle))


def ends(options: ScheduleOptions, span: Span) -> tuple[int, ...]:
    """Steps taken when each cycle ends, as far as the span reaches; empty for other schedules."""
    first = cycle_steps(options, span)
    if options.name in SMITH:
        return tuple(range(first, span.steps + 1, first))
    if options.name == "cosine_restarts":
        return _restarts(first, options.growth, span.steps)[1:]
    if options.name in ("one_cycle", "cosine"):
        return (span.steps,)
    return ()


def smith_height(options: ScheduleOptions, step: int, span: Span) -> float:
    """Height of a Smith cycle between its lowest rate (0) and the highest of all (1).

    max(0, 1 - x) g with x = |t / s - 2 cycle + 1|, cycle = floor(1 + t / 2s), s half a cycle and
    g = 1 (triangular), 2^-(cycle - 1) (triangular2), gamma^(t / 2s) (exp_range, whose factor a
    step is so written as one a cycle).
    """
    length = cycle_steps(options, span)
    done, place = divmod(step, length)
    height = 1.0 - abs(2.0 * place / length - 1.0)
    if options.name == "triangular2":
        return height * 0.5**done
    if options.name == "exp_range":
        return float(height * options.gamma ** (step / length))
    return height


def one_cycle_place(options: ScheduleOptions, step: int, span: Span) -> tuple[bool, float]:
    """Whether a one-cycle still rises at a step, and what share of the way up or down is done.

    As in torch's `OneCycleLR`: the top falls on step `pct_start * steps - 1`, the end on the last
    step.
    """
    top = options.pct_start * span.steps - 1.0
    last = span.steps - 1.0
    if top == step or last == 0:  # the top, also where there is no room to rise or to fall
        return False, 0.0
    if step < top:
        return True, step / top
    return False, (step - top) / (last - top)


def restart_share(options: ScheduleOptions, step: int, span: Span) -> float:
    """How far its cycle of `cosine_restarts` has come at a step: 0 at the restart, below 1."""
    first = cycle_steps(options, span)
    starts = _restarts(first, options.growth, span.steps)
    number = bisect_right(starts, step) - 1
    length = _grown(first, options.growth, number)
    return (step - starts[number]) / length


def anneal(first: float, second: float, share: float) -> float:
    """From one number to another on half a cosine."""
    return second + (first - second) / 2.0 * (math.cos(math.pi * share) + 1.0)


@functools.lru_cache(maxsize=8)
def _restarts(first: int, growth: float, steps: int) -> tuple[int, ...]:
    """Steps at which cycles begin, 0 first, up to and with `steps`."""
    starts = [0]
    while True:
        start = starts[-1] + _grown(first, growth, len(starts) - 1)
        if start > steps:
            return tuple(starts)
        starts.append(start)


def _grown(first: int, growth: float, number: int) -> int:
    return round(first * growth**number)
