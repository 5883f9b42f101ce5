"""What the person sees of a sweep under way: one line that moves, a table now and then."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from satray.report.style import short
from satray.tune.records import STATUSES, Metric, Status, TrialRecord, ended_words, ranked
from satray.tune.trials import label, trial_id

ROWS = 12
"""Rows of the table."""
FIRST_SECONDS, LAST_SECONDS = 15.0, 300.0
"""A table comes at the earliest so long after the one before; the time doubles, up to the last."""
FAILURES = 5
"""Failed trials that are told of; of the others the leaderboard knows."""
LABEL = 48
"""Letters of a label."""


@dataclass(frozen=True)
class _Running:
    """A trial under way."""

    share: float
    """How much of it is done, 0 to 1."""
    value: float
    """The metric at its last evaluation."""


@dataclass
class _Kind:
    """Trials that take about as long as each other, and their pace."""

    planned: int = 0
    """Trials, those of earlier attempts included."""
    before: int = 0
    """Of these, trials that an earlier attempt ended."""
    ended: int = 0
    """Trials that have ended, in whichever attempt."""
    begun: tuple[float, float] | None = None
    """When trials first moved, and how many were done by then."""


class Board:
    """Told of trials as they move and end; says little.

    Args:
        metric: what trials are compared by.
        planned: how many trials there will be, those of earlier attempts included.
        say: prints a line.
        progress: shows the line that moves.
        earlier: trials that an earlier attempt ended.
        kinds: id of a planned trial -> its regime, as far as they are known: a head takes seconds,
            a backbone may take hours, so that neither says how long the other takes.
        clock: seconds.
    """

    def __init__(
        self,
        metric: Metric,
        planned: int,
        say: Callable[[str], None],
        progress: Callable[[str], None],
        earlier: Iterable[TrialRecord] = (),
        kinds: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metric = metric
        self._planned = planned
        self._say = say
        self._progress = progress
        self._clock = clock
        self._kind_of = dict(kinds or {})
        numbers = Counter(self._kind_of.values())
        self._kinds = {name: _Kind(number) for name, number in numbers.items()}
        self._kinds[""] = _Kind(max(0, planned - len(self._kind_of)))  # of no known kind
        self._records: dict[str, TrialRecord] = {}
        self._statuses: Counter[Status] = Counter()
        self._best: TrialRecord | None = None
        self._running: dict[str, _Running] = {}
        for one in earlier:
            self._keep(one)
        for kind in self._kinds.values():
            kind.before = kind.ended
        self._failures = 0
        self._shown_at = clock()
        self._pause = FIRST_SECONDS
        self._shown: list[str] = []

    @property
    def records(self) -> list[TrialRecord]:
        """Trials that have ended."""
        return list(self._records.values())

    def moved(self, configuration: Mapping[str, Any], share: float, value: float) -> None:
        """A trial was evaluated.

        Args:
            configuration: the trial's.
            share: how much of its samples it has seen, 0 to 1.
            value: the metric.
        """
        trial = trial_id(configuration)
        self._running[trial] = _Running(min(1.0, share), value)
        self._begin(trial)
        self._progress(self.line())

    def ended(self, record: TrialRecord) -> None:
        """A trial ended."""
        self._running.pop(record.id, None)
        self._keep(record)
        self._begin(record.id)
        if record.status == "failed":
            self._tell_failure(record)
        self._progress(self.line())
        now = self._clock()
        if now - self._shown_at < self._pause:
            return
        order = [one.id for one in ranked(self.records, self._metric)[:ROWS]]
        if order != self._shown:
            for line in table_lines(self.records, self._metric):
                self._say(f"  {line}")
            self._shown, self._shown_at = order, now
            self._pause = min(2 * self._pause, LAST_SECONDS)

    def line(self) -> str:
        """Where the sweep stands."""
        words = [f"{len(self._running)} running"] if self._running else []
        ill = ended_words({name: self._statuses[name] for name in STATUSES if name != "done"})
        words += [ill] if ill else []
        told = f" ({', '.join(words)})" if words else ""
        parts = [f"{len(self._records):,} of {self._planned:,} trials{told}"]
        best = self._best
        if best is not None and best.best is not None:
            name = short(label(best.configuration), LABEL)
            parts.append(f"best {self._metric.title} {best.best:.4f} by {name}")
        left = self.seconds_left()
        if left is not None:
            parts.append(f"{duration(left)} left")
        return ", ".join(parts)

    def seconds_left(self) -> float | None:
        """What the trials to come will take, each kind at its pace so far.

        None while there are trials ahead of a kind that has shown none. A pace is counted from the
        first sign of a trial: what starts before says nothing of it.
        """
        total = 0.0
        for name, kind in self._kinds.items():
            done = self._done(name)
            ahead = kind.planned - kind.before - done
            if ahead <= 0:
                continue
            if kind.begun is None:
                return None
            at, share = kind.begun
            spent, mine = self._clock() - at, done - share
            if mine <= 0 or spent <= 0:
                return None
            total += spent * ahead / mine
        return total if any(kind.begun for kind in self._kinds.values()) else None

    def _keep(self, record: TrialRecord) -> None:
        """Take a record in; one of the same trial once more replaces the first."""
        old = self._records.get(record.id)
        self._records[record.id] = record
        self._statuses[record.status] += 1
        if old is None:
            self._kinds[self._kind_of.get(record.id, "")].ended += 1
            rivals = [record] if self._best is None else [self._best, record]
        else:
            self._statuses[old.status] -= 1
            rivals = self.records
        self._best = ranked(rivals, self._metric)[0]

    def _begin(self, trial: str) -> None:
        name = self._kind_of.get(trial, "")
        if self._kinds[name].begun is None:
            self._kinds[name].begun = self._clock(), self._done(name)

    def _done(self, name: str) -> float:
        """Trials of a kind in this attempt, those under way by their share."""
        running = sum(
            one.share
            for trial, one in self._running.items()
            if self._kind_of.get(trial, "") == name
        )
        kind = self._kinds[name]
        return kind.ended - kind.before + running

    def _tell_failure(self, record: TrialRecord) -> None:
        self._failures += 1
        if self._failures <= FAILURES:
            self._say(f"  trial {record.id} ({label(record.configuration)}) failed: "
                      f"{record.reason}")  # fmt: skip
        elif self._failures == FAILURES + 1:
            self._say("  more trials failed; leaderboard.parquet will hold the reasons")


def table_lines(records: Sequence[TrialRecord], metric: Metric, most: int = ROWS) -> list[str]:
    """The best trials, a line each under a line of heads; then how many there are besides."""
    order = ranked(records, metric)
    rows = [("", metric.title, "trial", "configuration", "best at", "seconds", "")]
    for place, one in enumerate(order[:most], 1):
        value = "–" if one.best is None else f"{one.best:.4f}"
        at = "–" if one.best_samples is None else f"{one.best_samples:,}"
        status = "" if one.status == "done" else one.status
        name = short(label(one.configuration), LABEL)
        rows.append((str(place), value, one.id, name, at, f"{one.seconds:.1f}", status))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    left = (2, 3, 6)  # words; the rest are figures
    lines = [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    more = len(order) - most
    return [*lines, f"and {more:,} more: leaderboard.parquet"] if more > 0 else lines


def duration(seconds: float) -> str:
    """A length of time, roughly: `40 s`, `3 min`, `2 h 10 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
