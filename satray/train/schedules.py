"""Learning rates and momentum as pure functions of how far a stage has come. No torch.

Each schedule gives the learning rate of one step (one global batch) of a stage. A step stands for
its share of the stage's length in pseudo-epochs, so that whole cycles fill their stage, whatever is
rounded, and a schedule never knows how many workers there are. All are torch's schedulers point by
point (tested); a warm-up is torch's `LinearLR` before them.

Cycles: L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", arXiv 1506.01186;
L. N. Smith and N. Topin, "Super-Convergence", arXiv 1708.07120; I. Loshchilov and F. Hutter,
"SGDR: Stochastic Gradient Descent with Warm Restarts", arXiv 1608.03983.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from satray.config.train import SMITH, ScheduleOptions

HIGH_MOMENTUM, LOW_MOMENTUM = 0.95, 0.85
"""Momentum at the lowest and at the highest learning rate of a cycle."""
WARMUP_START = 0.01
"""Share of the schedule's first rate that a warm-up starts from."""
LOWEST = 0.25
"""Lowest rate of Smith's cycles, as a share of the highest, where none is given: he found a third
to a quarter."""
NEARLY = 1e-9
"""Of a cycle: what arithmetic may lose before its end counts as reached."""


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
    pseudo_epochs: float
    """Its length, not rounded."""

    def whole(self, pseudo_epochs: float) -> int:
        """The whole steps taken after so many pseudo-epochs."""
        return whole_steps(pseudo_epochs / self.pseudo_epochs * self.steps)


def learning_rate(options: ScheduleOptions, peak: float, step: int, span: Span) -> float:
    """Learning rate of a step.

    Args:
        options: which schedule, and its shape.
        peak: the stage's highest learning rate.
        step: steps already taken in this stage (0 for the first), below `span.steps`.
        span: the stage's length, warm-up included.
    """
    warmup, proper = _parts(options, span)
    rate = peak * _share(options, max(0, step - warmup), proper)
    if step >= warmup:
        return rate
    return rate * (WARMUP_START + (1.0 - WARMUP_START) * step / warmup)


def momentum(options: ScheduleOptions, step: int, span: Span) -> float | None:
    """Momentum (Adam: beta1) of a step, or None where the schedule does not cycle it.

    It falls from 0.95 to 0.85 while the rate rises and rises while the rate falls, as with torch's
    `OneCycleLR` and `CyclicLR`; in a warm-up it waits at 0.95.
    """
    if not options.cycle_momentum or options.name not in (*SMITH, "one_cycle"):
        return None
    warmup, proper = _parts(options, span)
    step = max(0, step - warmup)
    if options.name == "one_cycle":
        ends = (HIGH_MOMENTUM, LOW_MOMENTUM, HIGH_MOMENTUM)
        return _one_cycle(step, proper, options.pct_start, *ends)
    return HIGH_MOMENTUM - (HIGH_MOMENTUM - LOW_MOMENTUM) * _height(options, step, proper)


def warmup_of(options: ScheduleOptions, span: Span) -> float:
    """Length of the warm-up in pseudo-epochs; `auto` is none where it would not fill a step."""
    if options.warmup != "auto":
        return options.warmup
    tenth = min(1.0, span.pseudo_epochs / 10)
    return tenth if span.whole(tenth) else 0.0


def warmup_steps(options: ScheduleOptions, span: Span) -> int:
    """Steps of the warm-up; 0 for none."""
    length = warmup_of(options, span)
    return max(1, span.whole(length)) if length > 0 else 0


def cycle_ends(options: ScheduleOptions, span: Span) -> tuple[int, ...]:
    """Steps taken within the stage when each cycle ends, where the rate is lowest.

    `one_cycle` and `cosine` have one cycle, the stage; `constant` and `step` have none, and a cycle
    that the stage's end cuts short does not count.
    """
    if options.name not in (*SMITH, "cosine_restarts"):
        return (span.steps,) if options.name in ("one_cycle", "cosine") else ()
    warmup, proper = _parts(options, span)
    growth = options.growth if options.name == "cosine_restarts" else 1.0
    ends = itertools.accumulate(options.cycle * growth**number for number in itertools.count())
    room = proper.pseudo_epochs + NEARLY * options.cycle
    whole = itertools.takewhile(lambda end: end <= room, ends)
    return tuple(warmup + min(max(1, proper.whole(end)), proper.steps) for end in whole)


def _parts(options: ScheduleOptions, span: Span) -> tuple[int, Span]:
    """Steps of the warm-up, and the stretch after it."""
    warmup = warmup_steps(options, span)
    return warmup, Span(span.steps - warmup, span.pseudo_epochs - warmup_of(options, span))


def _share(options: ScheduleOptions, step: int, span: Span) -> float:
    """Learning rate after the warm-up as a share of the highest; steps count from there."""
    if options.name == "constant":
        return 1.0
    if options.name == "one_cycle":
        start = 1.0 / options.div
        return _one_cycle(step, span, options.pct_start, start, 1.0, start / options.final_div)
    if options.name == "step":
        number, _ = _place(options.step, 1.0, step, span)
        return float(options.gamma**number)
    if options.name in SMITH:
        low = LOWEST if options.lowest is None else options.lowest
        return low + (1.0 - low) * _height(options, step, span)
    done = step / span.steps  # the lowest rate would be the next step's
    if options.name == "cosine_restarts":
        _, done = _place(options.cycle, options.growth, step, span)
    return _anneal(1.0, options.lowest or 0.0, done)


def _one_cycle(step: int, span: Span, rises: float, start: float, top: float, end: float) -> float:
    """From `start` to `top` over a share `rises` of the span, then to `end`.

    As in torch's `OneCycleLR`: the top falls on step `rises * steps - 1`, the end on the last step.
    """
    turn, last = rises * span.steps - 1.0, span.steps - 1.0
    if turn == step or last == 0:  # the top, also where there is no room to rise or to fall
        return top
    if step < turn:
        return _anneal(start, top, step / turn)
    return _anneal(top, end, (step - turn) / (last - turn))


def _height(options: ScheduleOptions, step: int, span: Span) -> float:
    """Height of a Smith cycle between its lowest rate (0) and the highest of all (1).

    max(0, 1 - x) g with x = |t / s - 2 cycle + 1|, cycle = floor(1 + t / 2s), s half a cycle and
    g = 1 (triangular), 2^-(cycle - 1) (triangular2), gamma^(t / 2s) (exp_range, whose factor a
    step is so written as one a cycle).
    """
    number, done = _place(options.cycle, 1.0, step, span)
    height = 1.0 - abs(2.0 * done - 1.0)
    if options.name == "triangular2":
        return height * 0.5**number
    if options.name == "exp_range":
        return float(height * options.gamma ** (number + done))
    return height


def _anneal(first: float, second: float, share: float) -> float:
    """From one number to another on half a cosine."""
    return second + (first - second) / 2.0 * (math.cos(math.pi * share) + 1.0)


def _place(length: float, growth: float, step: int, span: Span) -> tuple[int, float]:
    """The number of a step's cycle (0 first), and the share of the cycle before the step.

    Args:
        length: of the first cycle, pseudo-epochs.
        growth: each cycle is so many times as long as the one before.
        step: steps taken in the span.
        span: that the cycles run over.
    """
    cycles = step * span.pseudo_epochs / span.steps / length
    if growth == 1.0:
        number = math.floor(cycles + NEARLY)
        return number, max(0.0, cycles - number)
    number = math.floor(math.log(1.0 + cycles * (growth - 1.0), growth) + NEARLY)
    begun = (growth**number - 1.0) / (growth - 1.0)
    return number, max(0.0, (cycles - begun) / growth**number)
