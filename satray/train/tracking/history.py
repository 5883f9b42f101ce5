"""What a training run leaves to be read: history table, TensorBoard events, headline figures."""

import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from satray.metrics.summary import PER_CLASS

Row = dict[str, Any]
"""One evaluation (`EpochReport.row`)."""

COUNTS = (
    "pseudo_epoch",
    "stage",
    "stage_began",
    "step",
    "samples_seen",
    "unreadable",
    "val_unreadable",
    "classes_always",
    "classes_never",
)
BY_CLASS = (*PER_CLASS, "ppr")
"""Average precision, recall (multiclass), predicted-positive rate: columns like `ap_ship`."""


def table(rows: Sequence[Row]) -> pa.Table:
    """The history as a table: counts int64, all else float64, NaN kept."""
    columns = {}
    for name in rows[0]:
        kind = pa.int64() if name in COUNTS else pa.float64()
        columns[name] = pa.array([row[name] for row in rows], kind)
    return pa.table(columns)


def parquet(rows: Sequence[Row]) -> bytes:
    """`history.parquet`."""
    sink = io.BytesIO()
    pq.write_table(table(rows), sink, compression="zstd")
    return sink.getvalue()


def write_events(rows: Sequence[Row], folder: Path) -> Path:
    """Write TensorBoard events against samples seen; returns the file."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for row in rows:
            for tag, value in scalars(row):
                writer.add_scalar(tag, value, row["samples_seen"])
    (file,) = folder.iterdir()
    return file


def scalars(row: Row) -> Iterator[tuple[str, float]]:
    """What trackers plot: `loss/train`, `validation/map`, `ap/<class>`, ...; finite ones only."""
    groups = {"train_loss": "loss/train", "val_loss": "loss/val"}
    for name, value in row.items():
        if name in COUNTS or not math.isfinite(value):
            continue
        kind = _kind(name)
        group = kind or "validation"
        if name in ("learning_rate", "times_seen") or name.startswith("seconds"):
            group = "run"
        yield groups.get(name, f"{group}/{name.removeprefix(f'{kind}_')}"), value


def nested(row: Row) -> dict[str, Any]:
    """A row with its average precisions under `ap`, by class; predicted-positive rates: `ppr`."""
    plain = {name: value for name, value in row.items() if _kind(name) is None}
    groups = {kind: by_class(row, kind) for kind in BY_CLASS}
    return plain | {kind: group for kind, group in groups.items() if group}


def by_class(row: Row, kind: str) -> dict[str, float]:
    """One of `BY_CLASS`: class name -> value."""
    return {name[len(kind) + 1 :]: row[name] for name in row if _kind(name) == kind}


def _kind(name: str) -> str | None:
    return next((kind for kind in BY_CLASS if name.startswith(f"{kind}_")), None)


def seconds(rows: Sequence[Row]) -> dict[str, float]:
    """Seconds by activity over all evaluations, of the first worker."""
    return {
        "waiting for data": sum(row["seconds_data"] for row in rows),
        "training": sum(row["seconds_compute"] for row in rows),
        "evaluating": sum(row["seconds_evaluate"] for row in rows),
    }


def throughput(rows: Sequence[Row]) -> float:
    """Images trained on a second, evaluation left out, over the whole run."""
    spent = sum(row["seconds_data"] + row["seconds_compute"] for row in rows)
    return float(rows[-1]["samples_seen"] / spent) if spent else math.nan
