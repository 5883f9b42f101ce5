"""Learning rates as pure functions of how far a stage has come.

Each schedule gives the learning rate of one step (one global batch) of a stage. Lengths are
planned in samples (`satray.training.stages`) and arrive here as whole steps, so a schedule never
knows how many workers there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from satray.config.train import ScheduleOptions


@dataclass(frozen=True)
class Span:
    """The stretch of steps that a schedule runs over."""

    steps: int
    """Steps in the stage; one step is one global batch."""

    steps_per_pseudo_epoch: int
    """Steps between two evaluations: what `step` lengths in pseudo-epochs are turned into."""


def learning_rate(options: ScheduleOptions, peak: float, step: int, span: Span) -> float:
    """Learning rate of a step.

    Args:
        options: which schedule, and its shape.
        peak: the stage's highest learning rate.
        step: steps already taken in this stage (0 for the first), below `span.steps`.
        span: the stage's length.

    Raises:
        ValueError: `step` lies outside the stage.
    """
    if not 0 <= step < span.steps:
        raise ValueError(f"step {step} lies outside a stage of {span.steps} steps")
    return _SCHEDULES[options.name](options, peak, step, span)


def drop_interval(options: ScheduleOptions, span: Span) -> int:
    """Steps between two drops of the `step` schedule (at least 1)."""
    return max(1, round(options.step * span.steps_per_pseudo_epoch))


def _constant(options: ScheduleOptions, peak: float, step: int, span: Span) -> float:  # noqa: ARG001
    return peak


def _step(options: ScheduleOptions, peak: float, step: int, span: Span) -> float:
    """As torch's `StepLR`: times gamma at each drop; drops fall between steps."""
    return float(peak * options.gamma ** (step // drop_interval(options, span)))


def _one_cycle(options: ScheduleOptions, peak: float, step: int, span: Span) -> float:
    """The learning rate of torch's `OneCycleLR` (two phases, cosine).

    From peak / div to peak to start / final_div. The learning rate only is cycled: momentum stays
    as it is, as with torch's `cycle_momentum=False`.

    The peak falls on step `pct_start * steps - 1`, the end on the last step.
    """
    start = peak / options.div
    end = start / options.final_div
    rise = options.pct_start * span.steps - 1.0
    last = span.steps - 1.0
    if rise == step or last == 0:  # the peak, also where there is no room to rise or to fall
        return peak
    if step < rise:
        return _cosine(start, peak, step / rise)
    return _cosine(peak, end, (step - rise) / (last - rise))


def _cosine(first: float, second: float, share: float) -> float:
    return second + (first - second) / 2.0 * (math.cos(math.pi * share) + 1.0)


_SCHEDULES: dict[str, Callable[[ScheduleOptions, float, int, Span], float]] = {
    "constant": _constant,
    "step": _step,
    "one_cycle": _one_cycle,
}
