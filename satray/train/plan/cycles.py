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

from satray.config.train import ScheduleOptions
from satray.train.plan.span import Span, whole_steps

SMITH = ("triangular", "triangular2", "exp_range")
"""Schedules that go up and down on straight lines."""

LOWEST = 0.25
"""Lowest rate of Smith's cycles, as a share of the highest, where none is given: he found a third
to a quarter."""


def starts(options: ScheduleOptions, span: Span) -> tuple[int, ...]:
    """Steps at which cycles begin (`step`: at which the rate drops), 0 first.

    Each is the whole step nearest to where the cycle should begin, so that roundings never add up;
    the last is the first past the span. Smith's cycles take two steps at least, others one.
    """
    each = span.steps_per_pseudo_epoch
    if options.name == "step":
        return _starts(max(1.0, options.step * each), 1.0, 1, span.offset, span.steps)
    least = 2 if options.name in SMITH else 1
    growth = options.growth if options.name == "cosine_restarts" else 1.0
    return _starts(max(least, options.cycle * each), growth, least, span.offset, span.steps)


def place(options: ScheduleOptions, step: int, span: Span) -> tuple[int, int, int]:
    """The number of the cycle (0 first) that a step belongs to, its steps before, its length."""
    begun = starts(options, span)
    number = bisect_right(begun, step) - 1
    return number, step - begun[number], begun[number + 1] - begun[number]


def ends(options: ScheduleOptions, span: Span) -> tuple[int, ...]:
    """Steps taken when each cycle ends, as far as the span reaches; empty for other schedules."""
    if options.name in (*SMITH, "cosine_restarts"):
        return starts(options, span)[1:-1]
    if options.name in ("one_cycle", "cosine"):
        return (span.steps,)
    return ()


def smith_height(options: ScheduleOptions, step: int, span: Span) -> float:
    """Height of a Smith cycle between its lowest rate (0) and the highest of all (1).

    max(0, 1 - x) g with x = |t / s - 2 cycle + 1|, cycle = floor(1 + t / 2s), s half a cycle and
    g = 1 (triangular), 2^-(cycle - 1) (triangular2), gamma^(t / 2s) (exp_range, whose factor a
    step is so written as one a cycle).
    """
    number, before, length = place(options, step, span)
    height = 1.0 - abs(2.0 * before / length - 1.0)
    if options.name == "triangular2":
        return height * 0.5**number
    if options.name == "exp_range":
        return float(height * options.gamma ** (number + before / length))
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
    _, before, length = place(options, step, span)
    return before / length


def anneal(first: float, second: float, share: float) -> float:
    """From one number to another on half a cosine."""
    return second + (first - second) / 2.0 * (math.cos(math.pi * share) + 1.0)


@functools.lru_cache(maxsize=8)
def _starts(first: float, growth: float, least: int, offset: float, steps: int) -> tuple[int, ...]:
    """Steps at which cycles begin, 0 first, up to the first past `steps`."""
    found, end, length = [0], offset, first
    while found[-1] <= steps:
        end, length = end + length, length * growth
        found.append(max(found[-1] + least, whole_steps(end)))
    return tuple(found)
