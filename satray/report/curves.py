"""Training curves as a picture."""

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
"""One evaluation: `samples_seen`, `train_loss`, `val_loss`, `learning_rate`, `stage`, metrics."""

INK, MUTED, TRAIN, VAL = "#22272e", "#8a929c", "#c2703d", "#2f6f8f"


def curves(
    rows: Sequence[Row],
    metric: str,
    title: str,
    best: int | None = None,
    trace: Sequence[tuple[int, float]] = (),
) -> bytes:
    """Draw losses, the headline metric and the learning rate against samples seen.

    Args:
        rows: the history, one row an evaluation.
        metric: column of the middle panel (`map`, `accuracy`, `auc`).
        title: one line above all.
        best: `samples_seen` of the evaluation that made the bundle; marked where given.
        trace: (samples seen, learning rate) along the run; default that of the rows.

    Returns:
        a PNG. Changes of stage are dashed lines.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    losses, middle, rates = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 2])
    seen = [row["samples_seen"] for row in rows]
    mark = "o" if len(rows) < 40 else None
    losses.plot(seen, _column(rows, "train_loss"), color=TRAIN, marker=mark, ms=3, label="train")
    losses.plot(seen, _column(rows, "val_loss"), color=VAL, marker=mark, ms=3, label="validation")
    losses.set_ylabel("loss")
    losses.legend(frameon=False)
    middle.plot(seen, _column(rows, metric), color=VAL, marker=mark, ms=3)
    if metric == "accuracy":
        middle.axhline(rows[-1]["baseline_accuracy"], color=MUTED, lw=1)
        middle.annotate(
            "majority class",
            (0.99, rows[-1]["baseline_accuracy"]),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            color=MUTED,
            fontsize=8,
        )
    middle.set_ylabel({"map": "mAP", "auc": "AUC"}.get(metric, metric))
    trace = trace or list(zip(seen, _column(rows, "learning_rate"), strict=True))
    rates.plot(*zip(*trace, strict=True), color=INK)
    rates.set_yscale("log")
    rates.set_ylabel("learning rate")
    rates.set_xlabel("samples seen")
    _marks((losses, middle, rates), rows, best)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    sink = io.BytesIO()
    figure.savefig(sink, format="png", metadata={"Software": None})
    return sink.getvalue()


def _column(rows: Sequence[Row], name: str) -> list[float]:
    return [float(row[name]) for row in rows]


def _marks(panels: Sequence[Any], rows: Sequence[Row], best: int | None) -> None:
    changes = [
        (before["samples_seen"], after["stage"])
        for before, after in itertools.pairwise(rows)
        if before["stage"] != after["stage"]
    ]
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="#e6e8eb", lw=0.8)
        panel.set_axisbelow(True)
        for where, _ in changes:
            panel.axvline(where, color=MUTED, lw=1, ls="--")
        if best is not None:
            panel.axvline(best, color=VAL, lw=1, alpha=0.35)
    for where, stage in changes:
        panels[0].annotate(
            f"stage {stage + 1}",
            (where, 0.98),
            xycoords=("data", "axes fraction"),
            xytext=(3, 0),
            textcoords="offset points",
            va="top",
            color=MUTED,
            fontsize=8,
        )
    if best is not None and math.isfinite(best):
        panels[1].annotate(
            "bundle",
            (best, 0.02),
            xycoords=("data", "axes fraction"),
            xytext=(3, 0),
            textcoords="offset points",
            color=VAL,
            fontsize=8,
        )
