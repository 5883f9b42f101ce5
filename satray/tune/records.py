"""What is kept of trials: the metric, one record each, and the log that a sweep goes on from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from satray.report.style import short
from satray.runs.run import Run
from satray.storage import join
from satray.tune.space import canonical, text

Regime = Literal["head", "backbone"]
Status = Literal["running", "done", "stopped", "failed"]
ENDS: tuple[Status, ...] = ("done", "stopped", "failed")
Row = dict[str, float]
"""One evaluation: `samples` seen, `learning_rate`, `train_loss`, `val_loss`, metrics by name."""

NAMES = {"map": "mAP", "auc": "AUC", "accuracy": "accuracy", "loss": "validation loss"}
KEPT = ("map", "accuracy", "auc", "balanced_accuracy", "f1_macro")
"""Metrics of an evaluation that a record keeps, beside the one that trials are compared by."""
ID_DIGITS = 12
"""Of a trial's id: of a million trials no two are likely to share one."""
PLAIN = ("variant", "learning_rate", "name", "trainable")
"""Keys whose values say by themselves what they are; of others a label names the last part."""
WORDS = {"step": "every"}
"""What a label calls a key, where its own name would be read as something else (a schedule)."""
LABEL = 48
"""Letters of a label in a line."""
FAILURES = 5
"""Failed trials that are reported; of the others the leaderboard knows."""
LOG, FOLDERS = "ledger", "trials"
"""Below the run's state: one file a trial; checkpoints of backbones, one folder a trial."""


@dataclass(frozen=True)
class Metric:
    """What trials are compared by."""

    name: str
    """`map`, `accuracy`, `auc` or `loss`."""

    @property
    def mode(self) -> Literal["min", "max"]:
        """Whether less is better, in the words of Tune."""
        return "min" if self.name == "loss" else "max"

    @property
    def column(self) -> str:
        """Its name in a row of the curve."""
        return "val_loss" if self.name == "loss" else self.name

    @property
    def title(self) -> str:
        """For a person."""
        return NAMES.get(self.name, self.name)

    def of(self, row: Mapping[str, float]) -> float:
        """Its value in a row; NaN where it is undefined."""
        return float(row.get(self.column, math.nan))

    def worth(self, value: float | None) -> float:
        """A number that is larger the better; minus infinity for what is undefined."""
        if value is None or math.isnan(value):
            return -math.inf
        return -value if self.mode == "min" else value


@dataclass(frozen=True)
class TrialRecord:
    """One trial, under way or ended."""

    id: str
    """`trial_id` of its configuration."""
    configuration: dict[str, Any]
    """Dotted key of train -> value; what base says is not in it."""
    regime: Regime | None = None
    """head: trained from features; backbone: through the whole network; None: it never began."""
    seed: int | None = None
    """Of weights, order and augmentation; None: it never began."""
    status: Status = "running"
    """running; done; stopped: ended early by the scheduler; failed."""
    reason: str | None = None
    """Why it failed or was stopped, in one line; None where it did not."""
    seconds: float = 0.0
    """Its own wall seconds, over all attempts; what trials share (features) is in none."""
    samples: int = 0
    """Samples seen."""
    curve: tuple[Row, ...] = ()
    """One row an evaluation, in order."""
    best: float | None = None
    """Best value of the metric along the curve; None where there is none, and before it ended."""
    best_samples: int | None = None
    """Samples seen at that evaluation."""

    def evaluated(self, rows: Iterable[Row], seconds: Iterable[float]) -> TrialRecord:
        """With more evaluations and the seconds that each took; what is told again counts once."""
        both = zip(rows, seconds, strict=True)
        new = [(row, each) for row, each in both if row["samples"] > self.samples]
        curve = (*self.curve, *(row for row, _ in new))
        spent = self.seconds + sum(each for _, each in new)
        samples = int(curve[-1]["samples"]) if curve else 0
        return replace(self, curve=curve, seconds=spent, samples=samples)

    def ended(self, metric: Metric, status: Status, reason: str | None = None) -> TrialRecord:
        """As it ended, its best found along the curve."""
        # A trial that failed has shown nothing that can be had again.
        shown = () if status == "failed" else self.curve
        known = [row for row in shown if not math.isnan(metric.of(row))]
        top = max(known, key=lambda row: metric.worth(metric.of(row)), default=None)
        found = replace(self, status=status, reason=reason)
        if top is None:
            return found
        return replace(found, best=metric.of(top), best_samples=int(top["samples"]))

    @classmethod
    def from_json(cls, data: bytes) -> TrialRecord:
        """Undo `to_json`."""
        tree = json.loads(data)
        return cls(curve=tuple(tree.pop("curve")), **tree)

    def to_json(self) -> bytes:
        """JSON as Python writes it, with NaN for what is none."""
        return json.dumps(vars(self)).encode()


def curve_row(row: Mapping[str, Any], metric: Metric) -> Row:
    """What a record keeps of an evaluation (a row of `Loop.step`)."""
    names = ("learning_rate", "train_loss", "val_loss", *KEPT, metric.column)
    found = {"samples": row["samples_seen"]}
    return found | {name: float(row[name]) for name in names if name in row}


def ranked(records: Iterable[TrialRecord], metric: Metric) -> list[TrialRecord]:
    """Best first; of equals the one seen earlier, then by id; the failed last."""
    return sorted(
        records,
        key=lambda one: (
            one.status == "failed",
            -metric.worth(one.best),
            one.best_samples or 0,
            one.id,
        ),
    )


def by_status(records: Iterable[TrialRecord]) -> dict[Status, int]:
    """How many trials ended in each way."""
    found = Counter(one.status for one in records)
    return {status: found[status] for status in ENDS}


def ended_words(records: Iterable[TrialRecord]) -> str:
    """`12 done, 3 stopped`, leaving out what there is none of."""
    found = by_status(records)
    return ", ".join(f"{number:,} {status}" for status, number in found.items() if number)


def trial_id(configuration: Mapping[str, Any]) -> str:
    """Hexadecimal digits: the same configuration is the same trial, in whatever order."""
    return hashlib.sha256(canonical(configuration).encode()).hexdigest()[:ID_DIGITS]


def label(configuration: Mapping[str, Any]) -> str:
    """A configuration in a few words: `single3 1.0e-3 one_cycle`."""
    stages = {key.split(".")[1] for key in configuration if re.match(r"stages\.\d", key)}
    parts = []
    for key, value in configuration.items():
        *above, last = key.split(".")
        if len(stages) > 1 and above[:1] == ["stages"]:
            parts.append(f"[{above[1]}]")
        shown = short_value(key, value)
        parts.append(shown if last in PLAIN else f"{WORDS.get(last, last)} {shown}")
    return " ".join(parts) or "base"


def short_value(key: str, value: Any) -> str:
    """One value in few letters: rates as 1.0e-3, a variant of one's own by its towers."""
    if isinstance(value, float) and (key.endswith("learning_rate") or 0 < abs(value) < 0.01):
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    if isinstance(value, float):
        return f"{value:.3g}"
    if key == "variant" and isinstance(value, Mapping):
        return "+".join(str(tower.get("backbone", "?")) for tower in value.get("towers", ()))
    return text(value)


def trial_folder(state: str, trial: str) -> str:
    """Where a trial keeps what it needs to go on, below the state of its sweep's run."""
    return join(state, FOLDERS, trial)


class TrialLog:
    """The trials of a sweep: those under way, and the records of those that ended.

    One small file a trial below the run's state, written by the driver alone, when the trial begins
    and when it ends. An attempt that goes on skips the ended ones; of the others heads begin anew,
    and backbones go on from their checkpoints. The person sees where the sweep stands, and the
    first failures.
    """

    def __init__(self, run: Run, metric: Metric, planned: int) -> None:
        """Read what earlier attempts left.

        Args:
            run: of the sweep.
            metric: what trials are compared by.
            planned: how many trials there will be, those of earlier attempts included.
        """
        self._run, self._metric, self._planned = run, metric, planned
        self.records: dict[str, TrialRecord] = {}
        """By id."""
        self.unfinished: list[dict[str, Any]] = []
        """Configurations of trials that began in an earlier attempt and did not end."""
        self.running: dict[str, TrialRecord] = {}
        """Under way, by id."""
        self._best: TrialRecord | None = None
        self._doomed: list[str] = []
        self._failures = 0
        uris = [entry.uri for entry in run.storage.list(join(run.state, LOG))]
        for _, data in sorted(run.storage.read_many(uris), key=lambda one: one[0]):
            if isinstance(data, Exception):
                raise data
            record = TrialRecord.from_json(data)
            if record.status == "running":
                self.unfinished.append(record.configuration)
            else:
                self._add(record, keep=False)

    def begin(self, configuration: Mapping[str, Any], regime: Regime, seed: int) -> None:
        """A trial begins."""
        record = TrialRecord(trial_id(configuration), dict(configuration), regime, seed)
        self.running[record.id] = record
        self._write(record)

    def evaluated(self, trial: str, rows: Iterable[Row], seconds: Iterable[float]) -> None:
        """Evaluations of a trial under way, with the wall seconds that each took."""
        self.running[trial] = self.running[trial].evaluated(rows, seconds)
        self._run.progress(self.line())

    def end(
        self, trial: str, status: Status, reason: str | None = None, *, keep: bool = True
    ) -> TrialRecord:
        """A trial under way ended.

        Args:
            trial: its id.
            status: how.
            reason: why, where it is not done.
            keep: False where the reason may pass: a sweep that goes on runs it again.
        """
        record = self.running.pop(trial).ended(self._metric, status, reason)
        doomed, self._doomed = self._doomed, []
        if keep:
            self._write(record)
        self._add(record, keep)
        # One trial late, since what ended a trial may still be ending its workers.
        for each in doomed:
            with contextlib.suppress(OSError):  # else they go with the sweep's state
                self._run.storage.delete(trial_folder(self._run.state, each))
        if status == "failed":
            self._failures += 1
            if self._failures <= FAILURES:
                self._run.say(f"  trial {trial} ({label(record.configuration)}) failed: {reason}")
        self._run.progress(self.line())
        return record

    def refuse(self, configuration: Mapping[str, Any], reason: str, *, keep: bool = True) -> None:
        """A configuration cannot be tried; as `end`."""
        record = TrialRecord(trial_id(configuration), dict(configuration))
        self.running[record.id] = record
        self.end(record.id, "failed", reason, keep=keep)

    def line(self) -> str:
        """Where the sweep stands, for the person."""
        running = f"{len(self.running)} running" if self.running else ""
        ill = ended_words(one for one in self.records.values() if one.status != "done")
        besides = ", ".join(filter(None, [running, ill]))
        line = f"{len(self.records):,} of {self._planned:,} trials"
        line += f" ({besides})" if besides else ""
        if self._best is None or self._best.best is None:
            return line
        name = short(label(self._best.configuration), LABEL)
        return f"{line}, best {self._metric.title} {self._best.best:.4f} by {name}"

    def _add(self, record: TrialRecord, keep: bool) -> None:
        self.records[record.id] = record
        rivals = [record, *([self._best] if self._best is not None else [])]
        self._best, *others = ranked(rivals, self._metric)
        if keep:  # checkpoints of backbones are large: only the best trial's stay
            self._doomed += [one.id for one in others if one.regime == "backbone"]

    def _write(self, record: TrialRecord) -> None:
        uri = join(self._run.state, LOG, f"{record.id}.json")
        self._run.storage.write(uri, record.to_json())
