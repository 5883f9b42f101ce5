"""What a version's marks mean at a moment of the store's clock. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from satray.scoring.ledger.marks import Mark

Status = Literal["new", "claimed", "expired", "done", "failed"]


@dataclass(frozen=True)
class State:
    """Where one version of a scene stands."""

    status: Status
    """`new`: nobody took it up; `claimed`: its owner lives; `expired`: its owner gave it back, or
    gave no sign of life for a lease; `failed`: the last attempt ended so; `done`: committed."""
    attempts: int = 0
    """Attempts begun."""
    since: datetime | None = None
    """The mark that decides, by the store's clock: the last sign of life, the end, the commit."""
    final: bool = False
    """Whether nobody is to try again: it failed for good, or as often as allowed."""

    @property
    def open(self) -> bool:
        """Whether the next attempt may be claimed."""
        return self.status in ("new", "expired", "failed") and not self.final


def state_of(marks: Iterable[Mark], now: datetime, lease: float, max_attempts: int) -> State:
    """Judge one version by its marks.

    The last attempt decides, since it began only when the one before had ended or its owner was
    silent; the commit of any attempt decides over all.

    Args:
        marks: of one version, in any order.
        now: the store's clock, or a little less.
        lease: seconds that a sign of life holds.
        max_attempts: attempts that are allowed; those whose owner died count, those given back do
            not.
    """
    marks = tuple(marks)
    done = min((mark.modified for mark in marks if mark.kind == "done"), default=None)
    tries = [mark for mark in marks if mark.kind not in ("done", "published")]
    attempts = max((mark.number for mark in tries), default=0)
    if done is not None:
        return State("done", attempts, done)
    if not tries:
        return State("new")
    last = [mark for mark in tries if mark.number == attempts]
    ends = [mark for mark in last if mark.kind in ("failed", "final")]
    released = {mark.number for mark in tries if mark.kind == "released"}
    spent = attempts - len(released) >= max_attempts
    if ends:
        for_good = any(mark.kind == "final" for mark in ends)
        return State("failed", attempts, max(m.modified for m in ends), final=for_good or spent)
    sign = max(mark.modified for mark in last)
    if attempts not in released and now < sign + timedelta(seconds=lease):
        return State("claimed", attempts, sign)
    return State("failed" if spent else "expired", attempts, sign, final=spent)
