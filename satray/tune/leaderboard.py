"""The leaderboard and the curves as tables."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from satray.tune.records import Metric, TrialRecord, ranked
from satray.tune.space import text
from satray.tune.trials import label

FIRST = (
    ("rank", pa.int64()),
    ("trial", pa.string()),
    ("label", pa.string()),
    ("status", pa.string()),
    ("regime", pa.string()),
)
LAST = (
    ("train_loss", pa.float64()),
    ("val_loss", pa.float64()),
    ("best_samples", pa.int64()),
    ("samples", pa.int64()),
    ("seconds", pa.float64()),
    ("seed", pa.int64()),
    ("reason", pa.string()),
)


def leaderboard(records: Sequence[TrialRecord], metric: Metric) -> pa.Table:
    """`leaderboard.parquet`: trials, best first.

    Columns: `rank` (null for failed trials and those without a value), `trial`, `label`, `status`,
    `regime`, the metric's best value under its name (loss: `loss`), one column a key of the
    configurations (numbers where all its values are, else text; null where it does not apply),
    `train_loss` and `val_loss` at the best evaluation, `best_samples`, `samples`, `seconds`,
    `seed`, `reason`.
    """
    order = ranked(records, metric)
    rows = [_row(one, place, metric) for place, one in enumerate(order, 1)]
    keys = list(dict.fromkeys(key for one in order for key in one.configuration))
    columns: dict[str, pa.Array] = {}
    for name, kind in (*FIRST, (metric.name, pa.float64())):
        columns[name] = pa.array([row[name] for row in rows], kind)
    for key in keys:
        columns[key] = _column([one.configuration.get(key, _ABSENT) for one in order])
    for name, kind in LAST:
        columns[name] = pa.array([row[name] for row in rows], kind)
    return pa.table(columns)


def curves(records: Sequence[TrialRecord]) -> pa.Table:
    """`trials.parquet`: every evaluation of every trial, in the order of the trials' ids.

    Columns: `trial`, `evaluation` (0 for the first), `samples`, and what rows of a curve hold.
    """
    order = sorted(records, key=lambda one: one.id)
    told = [(one.id, place, row) for one in order for place, row in enumerate(one.curve)]
    names = list(dict.fromkeys(["samples", *(name for _, _, row in told for name in row)]))
    columns = {
        "trial": pa.array([trial for trial, _, _ in told], pa.string()),
        "evaluation": pa.array([place for _, place, _ in told], pa.int64()),
    }
    for name in names:
        kind = pa.int64() if name == "samples" else pa.float64()
        columns[name] = pa.array([row.get(name) for _, _, row in told], kind)
    return pa.table(columns)


def parquet(table: pa.Table) -> bytes:
    """A table as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def at_best(record: TrialRecord) -> dict[str, float]:
    """The evaluation at which a trial was best; empty where there is none."""
    found = [row for row in record.curve if row["samples"] == record.best_samples]
    return found[0] if found else {}


def _row(one: TrialRecord, place: int, metric: Metric) -> dict[str, Any]:
    top = at_best(one)
    return {
        "rank": place if one.best is not None else None,
        "trial": one.id,
        "label": label(one.configuration),
        "status": one.status,
        "regime": one.regime,
        metric.name: one.best,
        "train_loss": top.get("train_loss"),
        "val_loss": top.get("val_loss"),
        "best_samples": one.best_samples,
        "samples": one.samples,
        "seconds": one.seconds,
        "seed": one.seed,
        "reason": one.reason,
    }


def _column(values: Sequence[Any]) -> pa.Array:
    """Numbers where all are, else text as it would be typed."""
    there = [value for value in values if value is not _ABSENT]
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in there)
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in there)
    if numbers:
        kind = pa.int64() if whole else pa.float64()
        return pa.array([None if value is _ABSENT else value for value in values], kind)
    return pa.array([None if value is _ABSENT else text(value) for value in values], pa.string())


_ABSENT = object()
