"""The driver's side of a sweep: hands out trials, and writes down what becomes of them. No Ray."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from satray.errors import InputError
from satray.tune.board import Board
from satray.tune.ledger import Ledger
from satray.tune.records import Metric, Row, Status, TrialRecord, ranked
from satray.tune.sources import Source
from satray.tune.space import Configuration

STOPPED = "others were better at equal samples seen"

Regime = Literal["head", "backbone"]


@dataclass(frozen=True)
class Job:
    """A trial, as it is handed out."""

    trial: str
    """Its id."""
    configuration: dict[str, Any]
    """Dotted key of train -> value."""
    ground: str
    """Key of its ground."""
    regime: Regime
    """head: from features; backbone: on workers of its own."""
    seed: int
    """Of weights, order and augmentation."""


@dataclass
class _Course:
    """What is known of a trial under way."""

    rows: dict[float, Row] = field(default_factory=dict)
    """By samples seen: what an attempt tells again counts once."""
    seconds: dict[float, float] = field(default_factory=dict)
    """Wall seconds, likewise."""
    error: str | None = None
    """Why it failed."""


class Desk:
    """Gives Tune the trials of a source, and takes what it hears of them."""

    def __init__(
        self,
        source: Source,
        describe: Callable[[Configuration], Job],
        ledger: Ledger,
        board: Board,
        metric: Metric,
        begun: int = 0,
    ) -> None:
        """Open.

        Args:
            source: of configurations.
            describe: what a configuration's trial is.
            ledger: keeps records.
            board: shows them.
            metric: what trials are compared by.
            begun: trials that began in earlier attempts.
        """
        self._source = source
        self._describe = describe
        self._ledger = ledger
        self._board = board
        self._metric = metric
        self._begun = begun
        self._courses: dict[str, _Course] = {}
        self._doomed: list[str] = []
        earlier = ledger.records().values()
        self._top = next(iter(ranked(list(earlier), metric)), None)

    def next(self) -> Job | None:
        """The next trial; None where there are no more."""
        configuration = self._source.ask()
        if configuration is None:
            return None
        job = self._describe(configuration)
        self._ledger.begin(configuration, self._begun)
        self._begun += 1
        self._courses[job.trial] = _Course()
        return job

    def moved(self, job: Job, told: Mapping[str, Any]) -> None:
        """A trial was evaluated.

        Args:
            job: the trial.
            told: what `Session.step` gave.
        """
        course = self._courses[job.trial]
        for row, seconds in zip(told["rows"], told["seconds"], strict=True):
            course.rows[row["samples"]] = row
            course.seconds[row["samples"]] = seconds
        course.error = told["error"]
        self._board.moved(job.configuration, told["share"], told["value"])

    def ended(self, job: Job, stopped: bool, died: str | None, passing: bool = False) -> None:
        """A trial ended; its record is kept from here on.

        Args:
            job: the trial.
            stopped: the scheduler ended it.
            died: what its process died of; None where it did not.
            passing: what it died of may pass: a sweep that goes on runs it again.
        """
        course = self._courses.pop(job.trial)
        error = died or course.error
        status: Status = "failed" if error else "stopped" if stopped else "done"
        record = TrialRecord.ended(
            job.configuration,
            self._metric,
            regime=job.regime,
            status=status,
            seed=job.seed,
            seconds=sum(course.seconds.values()),
            curve=[course.rows[samples] for samples in sorted(course.rows)],
            reason=error or (STOPPED if stopped else None),
        )
        self._close(record, keep=not passing)

    def refused(self, configuration: Configuration, reason: str, passing: bool = False) -> None:
        """A configuration cannot be tried.

        Args:
            configuration: which.
            reason: why, in one line.
            passing: the reason may pass: a sweep that goes on tries it again.
        """
        try:
            job = self._describe(configuration)
        except InputError:
            job = None
        record = TrialRecord.ended(
            configuration,
            self._metric,
            regime=None if job is None else job.regime,
            status="failed",
            seed=None if job is None else job.seed,
            seconds=0.0,
            curve=(),
            reason=reason,
        )
        self._close(record, keep=not passing)

    def _close(self, record: TrialRecord, keep: bool) -> None:
        if keep:
            self._ledger.end(record)
            self._tidy(record)
        self._board.ended(record)
        failed = record.status == "failed"
        self._source.tell(
            record.configuration, -math.inf if failed else self._metric.worth(record.best)
        )

    def _tidy(self, record: TrialRecord) -> None:
        """Give up the checkpoints of all but the best: those of backbones are large.

        One trial late, since what ended a trial may still be ending its workers.
        """
        for trial in self._doomed:
            self._ledger.give_up(trial)
        self._doomed = []
        order = ranked([record, *([self._top] if self._top else [])], self._metric)
        self._top = order[0]
        self._doomed = [one.id for one in order[1:] if one.regime == "backbone"]
