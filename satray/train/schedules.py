"""Learning rates and momentum as pure functions of how far a stage has come. No torch.

Each schedule gives the learning rate of one step (one global batch) of a stage. Lengths are
planned in samples (`satray.train.plan`); drops, cycles and warm-ups end at the whole step nearest
to where they should, so a schedule never knows how many workers there are. All are torch's
schedulers point by point where lengths are whole steps (tested); a warm-up is torch's `LinearLR`
before them.

Cycles: L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", arXiv 1506.01186;
L. N. Smith and N. Topin, "Super-Convergence", arXiv 1708.07120; I. Loshchilov and F. Hutter,
"SGDR: Stochastic Gradient Descent with Warm Restarts", arXiv 1608.03983.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_right
from dataclasses import dataclass

from satray.config.stages import SMITH, ScheduleOptions

HIGH_MOMENTUM, LOW_MOMENTUM = 0.95, 0.85
"""Momentum at the lowest and at the highest learning rate of a cycle."""

LOWEST = 0.25
"""Lowest rate of Smith's cycles, as a share of the highest, where none is given: he found a third
to a quarter."""


def whole_steps(steps: float) -> int:
    """The nearest whole number of steps, of two the lower.

    A relative 1e-12 is left for what arithmetic adds, so that one length reached on two ways (a
    stage's end, an evaluation's, a cycle's) never becomes two numbers.
    """
    return math.ceil(steps * (1.0 - 1e-12) - 0.5)


@dataclass(frozen=True)
class Span:
    """The stretch of steps that a schedule runs over."""

    steps: int
    """Steps in the stage; one step is one global batch."""

    steps_per_pseudo_epoch: float
    """Steps that a pseudo-epoch takes, not rounded: what lengths in it are turned into."""

    offset: float = 0.0
    """How many steps after its first whole step it would begin, were nothing rounded: -0.5 to
    0.5. Lengths count from there, so that roundings never add up."""

    @property
    def pseudo_epochs(self) -> float:
        """The stage's length in pseudo-epochs."""
        return self.steps / self.steps_per_pseudo_epoch

    def whole(self, pseudo_epochs: float) -> int:
        """The whole steps taken after so many pseudo-epochs."""
        return max(0, whole_steps(self.offset + pseudo_epochs * self.steps_per_pseudo_epoch))

    def after(self, steps: int, pseudo_epochs: float) -> Span:
        """What is left of the stage after so many steps, which stand for so many pseudo-epochs."""
        exact = self.offset + pseudo_epochs * self.steps_per_pseudo_epoch
        offset = min(0.5, max(-0.5, exact - steps))
        return Span(self.steps - steps, self.steps_per_pseudo_epoch, offset)


def learning_rate(options: ScheduleOptions, peak: float, step: int, span: Span) -> float:
    """Learning rate of a step.

    Args:
        options: which schedule, and its shape.
        peak: the stage's highest learning rate.
        step: steps already taken in this stage (0 for the first), below `span.steps`.
        span: the stage's length, warm-up included.
    """
    warmup, proper = _parts(options, span)
    if step >= warmup:
        return _rate(options, peak, step - warmup, proper)
    share = options.warmup_start + (1.0 - options.warmup_start) * step / warmup
    return share * _rate(options, peak, 0, proper)


def momentum(options: ScheduleOptions, step: int, span: Span) -> float | None:
    """Momentum (Adam: beta1) of a step, or None where the schedule does not cycle it.

    It falls from 0.95 to 0.85 while the rate rises and rises while the rate falls, as with torch's
    `OneCycleLR` and `CyclicLR`; in a warm-up it waits at 0.95.
    """
    if not options.cycle_momentum:
        return None
    warmup, proper = _parts(options, span)
    step = max(0, step - warmup)
    if options.name == "one_cycle":
        return _one_cycle(step, proper, options.pct_start, HIGH_MOMENTUM, LOW_MOMENTUM)
    if options.name in SMITH:
        return HIGH_MOMENTUM - (HIGH_MOMENTUM - LOW_MOMENTUM) * _height(options, step, proper)
    return None


def cycle_ends(options: ScheduleOptions, span: Span) -> tuple[int, ...]:
    """Steps taken within the stage when each cycle ends, where the rate is lowest.

    `one_cycle` and `cosine` have one cycle, the stage; `constant` and `step` have none, and a cycle
    that the stage's end cuts short does not count.
    """
    warmup, proper = _parts(options, span)
    if options.name in (*SMITH, "cosine_restarts"):
        begun = _cycles(options, proper)
        return tuple(warmup + end for end in begun[1:-1])
    return (span.steps,) if options.name in ("one_cycle", "cosine") else ()


def warmup_steps(options: ScheduleOptions, span: Span) -> int:
    """Steps of the warm-up; 0 for none."""
    return max(1, span.whole(options.warmup)) if options.warmup > 0 else 0


def schedule_note(options: ScheduleOptions, span: Span) -> str:
    """What a schedule allows but its author probably did not mean; empty for nothing.

    Args:
        options: the schedule.
        span: its stage's length, warm-up included.
    """
    _, proper = _parts(options, span)
    length = f"a stage of {proper.pseudo_epochs:.3g} pseudo-epochs"
    if options.name == "step" and _cycles(options, proper)[1] >= proper.steps:
        return f"step={options.step:g}: the learning rate never drops in {length}"
    if options.name in (*SMITH, "cosine_restarts") and not cycle_ends(options, span):
        return f"cycle={options.cycle:g}: no cycle comes to its end in {length}"
    return ""


def _parts(options: ScheduleOptions, span: Span) -> tuple[int, Span]:
    """Steps of the warm-up, and the stretch after it."""
    warmup = warmup_steps(options, span)
    return warmup, span.after(warmup, options.warmup)


def _rate(options: ScheduleOptions, peak: float, step: int, span: Span) -> float:
    """Learning rate after the warm-up; steps count from there."""
    if options.name == "constant":
        return peak
    if options.name == "one_cycle":
        start = peak / options.div
        return _one_cycle(step, span, options.pct_start, start, peak, start / options.final_div)
    if options.name == "cosine":  # the lowest rate would be the next step's
        return _anneal(peak, peak * (options.lowest or 0.0), step / span.steps)
    if options.name in SMITH:
        low = peak * (LOWEST if options.lowest is None else options.lowest)
        return low + (peak - low) * _height(options, step, span)
    number, before, length = _cycle_at(options, step, span)
    if options.name == "step":
        return float(peak * options.gamma**number)
    return _anneal(peak, peak * (options.lowest or 0.0), before / length)


def _one_cycle(
    step: int, span: Span, rises: float, start: float, top: float, end: float | None = None
) -> float:
    """From `start` to `top` over a share `rises` of the span, then to `end` (None: `start`).

    As in torch's `OneCycleLR`: the top falls on step `rises * steps - 1`, the end on the last step.
    """
    turn, last = rises * span.steps - 1.0, span.steps - 1.0
    if turn == step or last == 0:  # the top, also where there is no room to rise or to fall
        return top
    if step < turn:
        return _anneal(start, top, step / turn)
    return _anneal(top, start if end is None else end, (step - turn) / (last - turn))


def _height(options: ScheduleOptions, step: int, span: Span) -> float:
    """Height of a Smith cycle between its lowest rate (0) and the highest of all (1).

    max(0, 1 - x) g with x = |t / s - 2 cycle + 1|, cycle = floor(1 + t / 2s), s half a cycle and
    g = 1 (triangular), 2^-(cycle - 1) (triangular2), gamma^(t / 2s) (exp_range, whose factor a
    step is so written as one a cycle).
    """
    number, before, length = _cycle_at(options, step, span)
    height = 1.0 - abs(2.0 * before / length - 1.0)
    if options.name == "triangular2":
        return height * 0.5**number
    if options.name == "exp_range":
        return float(height * options.gamma ** (number + before / length))
    return height


def _anneal(first: float, second: float, share: float) -> float:
    """From one number to another on half a cosine."""
    return second + (first - second) / 2.0 * (math.cos(math.pi * share) + 1.0)


def _cycle_at(options: ScheduleOptions, step: int, span: Span) -> tuple[int, int, int]:
    """The number of the cycle (0 first) that a step belongs to, its steps before, its length."""
    begun = _cycles(options, span)
    number = bisect_right(begun, step) - 1
    return number, step - begun[number], begun[number + 1] - begun[number]


def _cycles(options: ScheduleOptions, span: Span) -> tuple[int, ...]:
    """Steps at which cycles begin (`step`: at which the rate drops), 0 first.

    Each is the whole step nearest to where the cycle should begin, so that roundings never add up;
    the last is the first past the span. Smith's cycles take two steps at least, others one.
    """
    least = 2 if options.name in SMITH else 1
    length = options.step if options.name == "step" else options.cycle
    first = max(float(least), length * span.steps_per_pseudo_epoch)
    growth = options.growth if options.name == "cosine_restarts" else 1.0
    return _begun(first, growth, least, span.offset, span.steps)


@functools.lru_cache(maxsize=8)
def _begun(first: float, growth: float, least: int, offset: float, steps: int) -> tuple[int, ...]:
    found, end, length = [0], offset, first
    while found[-1] <= steps:
        end, length = end + length, length * growth
        found.append(max(found[-1] + least, whole_steps(end)))
    return tuple(found)
