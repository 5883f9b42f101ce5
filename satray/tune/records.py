"""What is kept of a trial, and the metric that trials are compared by."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from satray.config.tune import TuneRecipe
from satray.runs.run import finite
from satray.train.setup import best_metric
from satray.tune.trials import dotted, trial_id

Status = Literal["done", "stopped", "failed"]
STATUSES: tuple[Status, ...] = get_args(Status)
Row = dict[str, float]
"""One evaluation: `samples` seen, `learning_rate`, `train_loss`, `val_loss`, metrics by name."""

NAMES = {"map": "mAP", "auc": "AUC", "accuracy": "accuracy", "loss": "validation loss"}
KEPT = ("map", "accuracy", "auc", "balanced_accuracy", "f1_macro")
"""Metrics of an evaluation that a record keeps, beside the one that trials are compared by."""


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


def metric_of(recipe: TuneRecipe, task: str) -> Metric:
    """The metric of a sweep: its own, else that of base, else `train`'s for the task."""
    if recipe.metric != "auto":
        return Metric(recipe.metric)
    return Metric(best_metric(str(dotted(recipe.base).get("best", "auto")), task))


@dataclass(frozen=True)
class TrialRecord:
    """One trial, ended."""

    id: str
    """`trial_id` of its configuration."""
    configuration: dict[str, Any]
    """Dotted key of train -> value; what base says is not in it."""
    regime: Literal["head", "backbone"] | None
    """head: trained from features; backbone: through the whole network; None: it never began."""
    status: Status
    """done; stopped: ended early by the scheduler; failed."""
    reason: str | None
    """Why it failed or was stopped, in one line; None where it is done."""
    seed: int | None
    """Of weights, order and augmentation; None: it never began."""
    seconds: float
    """Its own wall seconds, over all attempts; what trials share (features) is in none."""
    samples: int
    """Samples seen."""
    curve: tuple[Row, ...]
    """One row an evaluation, in order."""
    best: float | None
    """Best value of the metric along the curve; None where there is none."""
    best_samples: int | None
    """Samples seen at that evaluation."""

    @classmethod
    def ended(
        cls,
        configuration: Mapping[str, Any],
        metric: Metric,
        *,
        regime: Literal["head", "backbone"] | None,
        status: Status,
        seed: int | None,
        seconds: float,
        curve: Sequence[Mapping[str, float]],
        reason: str | None = None,
    ) -> TrialRecord:
        """The record of a trial that ended, its best found along the curve."""
        rows = tuple(dict(row) for row in curve)
        # A trial that failed has shown nothing that can be had again.
        told = [row for row in rows if not math.isnan(metric.of(row))] if status != "failed" else []
        top = max(told, key=lambda row: metric.worth(metric.of(row)), default=None)
        return cls(
            id=trial_id(configuration),
            configuration=dict(configuration),
            regime=regime,
            status=status,
            reason=reason,
            seed=seed,
            seconds=seconds,
            samples=int(rows[-1]["samples"]) if rows else 0,
            curve=rows,
            best=None if top is None else metric.of(top),
            best_samples=None if top is None else int(top["samples"]),
        )

    def to_json(self) -> bytes:
        """UTF-8 JSON; what is not finite becomes null."""
        return json.dumps(finite(vars(self)), ensure_ascii=False, allow_nan=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> TrialRecord:
        """Undo `to_json`; null in a curve is NaN.

        Raises:
            ValueError: it is no such record (a file cut short, say).
        """
        try:
            tree = json.loads(data)
            rows = [
                {name: math.nan if value is None else value for name, value in row.items()}
                for row in tree.pop("curve")
            ]
            return cls(curve=tuple(rows), **tree)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"no record of a trial: {error}") from None


def curve_row(row: Mapping[str, Any], metric: Metric) -> Row:
    """What a record keeps of an evaluation (`EpochReport.row`)."""
    names = ("learning_rate", "train_loss", "val_loss", *KEPT, metric.column)
    found = {"samples": row["samples_seen"]}
    return found | {name: float(row[name]) for name in names if name in row}


def ranked(records: Sequence[TrialRecord], metric: Metric) -> list[TrialRecord]:
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
    return {status: found[status] for status in STATUSES}


def ended_words(numbers: Mapping[Status, int]) -> str:
    """`12 done, 3 stopped`, leaving out what there is none of."""
    return ", ".join(f"{number:,} {status}" for status, number in numbers.items() if number)
