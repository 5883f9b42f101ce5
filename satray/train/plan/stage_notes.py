"""What a stage's schedule allows but its author probably did not mean; one line each."""

from __future__ import annotations

from satray.config.train import ScheduleOptions
from satray.train.plan import cycles
from satray.train.plan.schedules import after_warmup, cycle_ends, warmup_steps
from satray.train.plan.span import Span


def notes(schedule: ScheduleOptions, span: Span, number: int) -> tuple[str, ...]:
    """Lines about a schedule that is longer than its stage, or ends amid a cycle.

    Args:
        schedule: of the stage.
        span: the stage's length, warm-up included.
        number: of the stage, 0 for the first.
    """
    name = f"stages[{number}].schedule"
    warmup = warmup_steps(schedule, span)
    proper = after_warmup(schedule, span)
    past = " after its warm-up" if warmup else ""
    found: list[str] = []
    if schedule.name == "step" and cycles.starts(schedule, proper)[1] >= proper.steps:
        found.append(
            f"{name}.step={schedule.step:g} pseudo-epochs is not shorter than the stage "
            f"({proper.pseudo_epochs:.3g}{past}): the learning rate never drops"
        )
    if schedule.name in (*cycles.SMITH, "cosine_restarts"):
        ends = cycle_ends(schedule, span)
        if not ends:
            found.append(
                f"{name}.cycle={schedule.cycle:g} pseudo-epochs is longer than the stage "
                f"({proper.pseudo_epochs:.3g}{past}): no cycle comes to its end"
            )
        elif ends[-1] < span.steps:
            left = (span.steps - ends[-1]) / span.steps_per_pseudo_epoch
            found.append(
                f"{name}.cycle={schedule.cycle:g}: the stage ends {left:.3g} pseudo-epochs into a "
                "cycle, before its rate is lowest again"
            )
    return tuple(found)
