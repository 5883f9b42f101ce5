"""Training curves as a picture."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from satray.report.style import INK, MUTED, TRAIN, VAL, calm, figure, logarithmic, png, styled

Row = Mapping[str, Any]
"""One evaluation: `samples_seen`, `train_loss`, `val_loss`, `learning_rate`, `stage`, metrics."""

NAMES = {"map": "mAP", "auc": "AUC"}
SCORE = "#5b8c5a"


def curves(
    rows: Sequence[Row],
    metric: str,
    title: str,
    best: int | None = None,
    trace: Sequence[tuple[int, float]] = (),
    stages: Sequence[tuple[int, int]] | None = None,
) -> bytes:
    """Draw losses and the headline metric on twin axes, and below them the learning rate.

    Args:
        rows: the history, one row an evaluation.
        metric: column of the right-hand axis (`map`, `accuracy`, `auc`).
        title: one line above all.
        best: `samples_seen` of the evaluation that made the bundle; marked where given.
        trace: (samples seen, learning rate) along the run; default that of the rows.
        stages: (samples seen when it begins, number, 0 for the first) of each stage; default what
            the rows tell, which know nothing of a stage that no evaluation ended in.

    Returns:
        a PNG, everything against samples seen. Changes of stage are dashed lines.
    """
    made = figure(4.6)
    with styled():
        losses, rates = made.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        right = losses.twinx()
        seen = [row["samples_seen"] for row in rows]
        style = {"marker": "o" if len(rows) < 40 else None, "ms": 2.5, "lw": 1.3}
        lines = [
            *losses.plot(
                seen, _column(rows, "train_loss"), color=TRAIN, label="train loss", **style
            ),
            *losses.plot(seen, _column(rows, "val_loss"), color=VAL, label="val. loss", **style),
            *right.plot(
                seen,
                _column(rows, metric),
                color=SCORE,
                label=f"val. {NAMES.get(metric, metric)}",
                **style,
            ),
        ]
        losses.set_ylabel("loss")
        right.set_ylabel(NAMES.get(metric, metric), color=SCORE)
        right.tick_params(axis="y", colors=SCORE, length=2)
        right.spines[["top", "left"]].set_visible(False)
        if metric == "accuracy":
            base = rows[-1]["baseline_accuracy"]
            lines.append(right.axhline(base, color=SCORE, lw=0.8, ls=":", label="majority class"))
        made.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False)
        trace = trace or list(zip(seen, _column(rows, "learning_rate"), strict=True))
        rates.plot(*zip(*trace, strict=True), color=INK, lw=1.2)
        logarithmic(rates)
        rates.set_ylabel("learning rate")
        rates.set_xlabel("samples seen")
        rates.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        _marks((losses, rates), rows, best, told_by(rows) if stages is None else stages)
        made.suptitle(title, x=0.01, ha="left", fontsize=9, color=INK)
    return png(made)


def _column(rows: Sequence[Row], name: str) -> list[float]:
    return [float(row[name]) for row in rows]


def told_by(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """Where stages begin and their numbers, as far as a history tells."""
    return [
        (after.get("stage_began", before["samples_seen"]), after["stage"])
        for before, after in itertools.pairwise(rows)
        if before["stage"] != after["stage"]
    ]


def _marks(
    panels: Sequence[Any],
    rows: Sequence[Row],
    best: int | None,
    stages: Sequence[tuple[int, int]],
) -> None:
    changes = [(where, number) for where, number in stages if where > 0]
    for panel in panels:
        calm(panel)
        for where, _ in changes:
            panel.axvline(where, color=MUTED, lw=0.9, ls="--")
        if best is not None and math.isfinite(best):
            panel.axvline(best, color=SCORE, lw=1, alpha=0.5)
    for where, stage in changes:
        _note(panels[1], f"stage {stage + 1}", where, 0.05, "bottom", MUTED)
    if best is not None and math.isfinite(best):
        _note(
            panels[0],
            "bundle",
            best,
            0.02,
            "bottom",
            SCORE,
            left=best > rows[-1]["samples_seen"] / 2,
        )


def _note(
    panel: Any, text: str, x: float, y: float, va: str, color: str, left: bool = False
) -> None:
    panel.annotate(
        text,
        (x, y),
        xycoords=("data", "axes fraction"),
        xytext=(-3 if left else 3, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va=va,
        color=color,
        fontsize=7.5,
    )
