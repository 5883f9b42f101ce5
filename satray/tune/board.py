"""What the person sees of a sweep under way: one line that moves, a table now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from satray.report.style import short
from satray.tune.records import (
    STATUSES,
    Metric,
    TrialLog,
    TrialRecord,
    ended_words,
    label,
    ranked,
)

ROWS = 12
"""Rows of the table."""
PAUSE = 60.0
"""Seconds from one table to the next, at the least."""
FAILURES = 5
"""Failed trials that are reported; of the others the leaderboard knows."""
LABEL = 48
"""Letters of a label."""


class Board:
    """Shows a log as it grows.

    Args:
        metric: what trials are compared by.
        planned: how many trials there will be, those of earlier attempts included.
        say: prints a line.
        progress: shows the line that moves.
        clock: seconds.
    """

    def __init__(
        self,
        metric: Metric,
        planned: int,
        say: Callable[[str], None],
        progress: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metric, self._planned = metric, planned
        self._say, self._progress, self._clock = say, progress, clock
        self._failures = 0
        self._shown_at = clock()
        self._shown: list[str] = []

    def show(self, log: TrialLog, ended: TrialRecord | None) -> None:
        """What changed: an evaluation, or the end of a trial."""
        if ended is not None and ended.status == "failed":
            self._failures += 1
            name = f"{ended.id} ({label(ended.configuration)})"
            if self._failures <= FAILURES:
                self._say(f"  trial {name} failed: {ended.reason}")
            elif self._failures == FAILURES + 1:
                self._say("  more trials failed; leaderboard.parquet will hold the reasons")
        self._progress(self._line(log))
        if ended is None or self._clock() - self._shown_at < PAUSE:
            return
        order = [one.id for one in ranked(log.records.values(), self._metric)[:ROWS]]
        if order != self._shown:
            for line in table_lines(log.records.values(), self._metric):
                self._say(f"  {line}")
            self._shown, self._shown_at = order, self._clock()

    def _line(self, log: TrialLog) -> str:
        words = [f"{len(log.running)} running"] if log.running else []
        ill = ended_words({name: log.numbers[name] for name in STATUSES if name != "done"})
        words += [ill] if ill else []
        besides = f" ({', '.join(words)})" if words else ""
        line = f"{len(log.records):,} of {self._planned:,} trials{besides}"
        if log.best is None or log.best.best is None:
            return line
        name = short(label(log.best.configuration), LABEL)
        return f"{line}, best {self._metric.title} {log.best.best:.4f} by {name}"


def table_lines(records: Iterable[TrialRecord], metric: Metric, most: int = ROWS) -> list[str]:
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
