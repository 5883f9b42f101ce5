"""Learning rates and momentum as pure functions of how far a stage has come.

Each schedule gives the learning rate of one step (one global batch) of a stage. Lengths are
planned in samples (`satray.train.plan.stages`); drops, cycles and warm-ups end at the whole step
nearest to where they should, so a schedule never knows how many workers there are. All are torch's
schedulers point by point where lengths are whole steps (tested), which follow the papers named in
`satray.train.plan.cycles`; a warm-up is torch's `LinearLR` before them.
"""

from __future__ import annotations

from collections.abc import Callable

from satray.config.train import ScheduleOptions
from satray.train.plan import cycles
from satray.train.plan.cycles import anneal
from satray.train.plan.span import Span

__all__ = ["Span", "after_warmup", "cycle_ends", "learning_rate", "momentum", "warmup_steps"]

HIGH_MOMENTUM, LOW_MOMENTUM = 0.95, 0.85
"""Momentum at the lowest and at the highest learning rate of a cycle."""


def learning_rate(options: ScheduleOptions, peak: float, step: int, span: Span) -> float:
    """Learning rate of a step.

    Args:
        options: which schedule, and its shape.
        peak: the stage's highest learning rate.
        step: steps already taken in this stage (0 for the first), below `span.steps`.
        span: the stage's length, warm-up included.

    Raises:
        ValueError: `step` lies outside the stage, or the warm-up fills it.
    """
    warmup = _warmed(options, step, span)
    schedule, proper = _SCHEDULES[options.name], after_warmup(options, span)
    if step >= warmup:
        return schedule(options, peak, step - warmup, proper)
    share = options.warmup_start + (1.0 - options.warmup_start) * step / warmup
    return share * schedule(options, peak, 0, proper)


def momentum(options: ScheduleOptions, step: int, span: Span) -> float | None:
    """Momentum (Adam: beta1) of a step, or None where the schedule does not cycle it.

    It falls from 0.95 to 0.85 while the rate rises and rises while the rate falls, as with torch's
    `OneCycleLR` and `CyclicLR`; in a warm-up it waits at 0.95.

    Raises:
        ValueError: `step` lies outside the stage, or the warm-up fills it.
    """
    warmup = _warmed(options, step, span)
    if not options.cycle_momentum:
        return None
    step, proper = max(0, step - warmup), after_warmup(options, span)
    if options.name == "one_cycle":
        rises, share = cycles.one_cycle_place(options, step, proper)
        first, second = HIGH_MOMENTUM, LOW_MOMENTUM
        return anneal(first, second, share) if rises else anneal(second, first, share)
    if options.name in cycles.SMITH:
        height = cycles.smith_height(options, step, proper)
        return HIGH_MOMENTUM - (HIGH_MOMENTUM - LOW_MOMENTUM) * height
    return None


def cycle_ends(options: ScheduleOptions, span: Span) -> tuple[int, ...]:
    """Steps taken within the stage when each cycle ends, where the rate is lowest.

    `one_cycle` and `cosine` have one cycle, the stage; `constant` and `step` have none, and a cycle
    that the stage's end cuts short does not count.
    """
    warmup = warmup_steps(options, span)
    return tuple(warmup + end for end in cycles.ends(options, after_warmup(options, span)))


def warmup_steps(options: ScheduleOptions, span: Span) -> int:
    """Steps of the warm-up; 0 for none."""
    return max(1, span.whole(options.warmup)) if options.warmup > 0 else 0


def after_warmup(options: ScheduleOptions, span: Span) -> Span:
    """The stretch of the schedule proper."""
    return span.after(warmup_steps(options, span), options.warmup)


def _warmed(options: ScheduleOptions, step: int, span: Span) -> int:
    """Steps of the warm-up, once step and warm-up are known to fit."""
    if not 0 <= step < span.steps:
        raise ValueError(f"step {step} lies outside a stage of {span.steps} steps")
    warmup = warmup_steps(options, span)
    if warmup >= span.steps:
        raise ValueError(f"a warm-up of {warmup} steps fills a stage of {span.steps}")
    return warmup


def _constant(options: ScheduleOptions, peak: float, step: int, span: Span) -> float:  # noqa: ARG001
    return peak


def _step(options: ScheduleOptions, peak: float, step: int, span: Span) -> float:
    """As torch's `StepLR`: times gamma at each drop; drops fall between steps."""
    number, _, _ = cycles.place(options, step, span)
    return float(peak * options.gamma**number)


def _smith(options: ScheduleOptions, peak: float, step: int, span: Span) -> float:
    """As torch's `CyclicLR`, from the lowest rate up to `peak` and back."""
    low = peak * (cycles.LOWEST if options.lowest is None else options.lowest)
    return low + (peak - low) * cycles.smith_height(options, step, span)


def _one_cycle(options: ScheduleOptions, peak: float, step: int, span: Span) -> float:
    """As torch's `OneCycleLR` (two phases, cosine): peak / div to peak to start / final_div."""
    start = peak / options.div
    rises, share = cycles.one_cycle_place(options, step, span)
    return anneal(start, peak, share) if rises else anneal(peak, start / options.final_div, share)


def _cosine(options: ScheduleOptions, peak: float, step: int, span: Span) -> float:
    """As torch's `CosineAnnealingLR` over the stage: the lowest rate would be the next step's."""
    return anneal(peak, peak * (options.lowest or 0.0), step / span.steps)


def _cosine_restarts(options: ScheduleOptions, peak: float, step: int, span: Span) -> float:
    """As torch's `CosineAnnealingWarmRestarts`, cycles growing by any factor from 1."""
    share = cycles.restart_share(options, step, span)
    return anneal(peak, peak * (options.lowest or 0.0), share)


_SCHEDULES: dict[str, Callable[[ScheduleOptions, float, int, Span], float]] = {
    "constant": _constant,
    "step": _step,
    "triangular": _smith,
    "triangular2": _smith,
    "exp_range": _smith,
    "one_cycle": _one_cycle,
    "cosine": _cosine,
    "cosine_restarts": _cosine_restarts,
}
