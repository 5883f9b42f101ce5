"""A training as pictures: its curves, and its range tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from satray.report.style import (
    INK,
    MUTED,
    PALETTE,
    TRAIN,
    VAL,
    calm,
    figure,
    logarithmic,
    png,
    styled,
)

Row = Mapping[str, Any]
"""One evaluation: `samples_seen`, `train_loss`, `val_loss` and metrics."""

NAMES = {"map": "mAP", "auc": "AUC"}
SCORE = "#5b8c5a"
SHOWN = 1.5
"""Height of a range test's loss axis, in falls of the smoothed loss from its start to its lowest:
the burst at the end would flatten all before it."""


def curves(
    rows: Sequence[Row],
    metric: str,
    title: str,
    best: int | None,
    trace: Sequence[tuple[int, float]],
    stages: Sequence[tuple[int, int]],
) -> bytes:
    """Draw losses and the headline metric on twin axes, and below them the learning rate.

    Args:
        rows: the history, one row an evaluation.
        metric: column of the right-hand axis (`map`, `accuracy`, `auc`).
        title: one line above all.
        best: `samples_seen` of the evaluation that made the bundle, to be marked; None: none did.
        trace: (samples seen, learning rate) along the run.
        stages: (samples seen when it begins, number, 0 for the first) of each stage.

    Returns:
        a PNG, everything against samples seen. Changes of stage are dashed lines.
    """
    made = figure(4.6)
    name = NAMES.get(metric, metric)
    with styled():
        losses, rates = made.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        right = losses.twinx()
        seen = [row["samples_seen"] for row in rows]
        style: dict[str, Any] = {"marker": "o" if len(rows) < 40 else None, "ms": 2.5, "lw": 1.3}
        lines = []
        for axis, column, colour, label in (
            (losses, "train_loss", TRAIN, "train loss"),
            (losses, "val_loss", VAL, "val. loss"),
            (right, metric, SCORE, f"val. {name}"),
        ):
            values = [float(row[column]) for row in rows]
            lines += axis.plot(seen, values, color=colour, label=label, **style)
        losses.set_ylabel("loss")
        right.set_ylabel(name, color=SCORE)
        right.tick_params(axis="y", colors=SCORE, length=2)
        right.spines[["top", "left"]].set_visible(False)
        if metric == "accuracy":
            base = rows[-1]["baseline_accuracy"]
            lines.append(right.axhline(base, color=SCORE, lw=0.8, ls=":", label="majority class"))
        rates.plot(*zip(*trace, strict=True), color=INK, lw=1.2)
        logarithmic(rates)
        rates.set(xlabel="samples seen", ylabel="learning rate")
        rates.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        for where, number in stages:
            if where > 0:
                for panel in (losses, rates):
                    panel.axvline(where, color=MUTED, lw=0.9, ls="--")
                place = rates.get_xaxis_transform()
                words = f" stage {number + 1}"
                rates.text(where, 0.05, words, transform=place, color=MUTED, size=7.5)
        if best is not None:
            for panel in (losses, rates):
                panel.axvline(best, color=SCORE, lw=1, alpha=0.5)
            late = best > seen[-1] / 2
            side, place = "right" if late else "left", losses.get_xaxis_transform()
            losses.text(best, 0.02, " bundle ", transform=place, color=SCORE, size=7.5, ha=side)
        for panel in (losses, rates):
            calm(panel)
        made.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False)
        made.suptitle(title, x=0.01, ha="left", fontsize=9, color=INK)
    return png(made)


@dataclass(frozen=True)
class Panel:
    """One range test."""

    title: str
    """One line above it."""
    curves: Sequence[tuple[Sequence[float], Sequence[float], Sequence[float]]]
    """One a seed: learning rates, losses, smoothed losses."""
    suggestions: Mapping[str, float]
    """Learning rate by name."""
    chosen: float
    """The learning rate that is taken."""


def landscape(panels: Sequence[Panel], title: str) -> bytes:
    """Draw range tests, loss against learning rate, one below the other; returns a PNG."""
    with styled():
        made = figure(0.4 + 2.9 * len(panels), width=6.4)
        axes = made.subplots(len(panels), 1, squeeze=False)[:, 0]
        for axis, panel in zip(axes, panels, strict=True):
            _draw(axis, panel)
        axes[-1].set_xlabel("learning rate")
        made.suptitle(title, x=0.01, ha="left", fontsize=9.5, color=INK)
    return png(made)


def _draw(axis: Any, panel: Panel) -> None:
    for rates, losses, smoothed in panel.curves:
        axis.plot(rates, losses, color=TRAIN, lw=0.6, alpha=0.3)
        axis.plot(rates, smoothed, color=VAL, lw=1.3, alpha=0.9)
    batch, smooth = axis.lines[:2]  # those of other seeds look alike
    batch.set_label("a batch")
    smooth.set_label("smoothed")
    axis.set_xscale("log")
    # plain numbers: the house style has no mathematics in its texts
    axis.xaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
    axis.xaxis.set_minor_formatter(lambda _, __: "")
    starts = [smoothed[0] for _, _, smoothed in panel.curves]
    lowest = min(min(smoothed) for _, _, smoothed in panel.curves)
    span = max(max(starts) - lowest, 0.05 * abs(lowest), 1e-6)
    axis.set_ylim(lowest - 0.25 * span, lowest + SHOWN * span)
    axis.set_ylabel("loss")
    axis.set_title(panel.title, loc="left", color=INK)
    axis.axvline(panel.chosen, color=INK, lw=3, alpha=0.25, label=f"taken {panel.chosen:.2g}")
    for (name, rate), colour in zip(panel.suggestions.items(), PALETTE[1:], strict=False):
        axis.axvline(rate, color=colour, lw=1, ls="--", label=f"{name} {rate:.2g}")
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), labelcolor=INK)
    calm(axis)
