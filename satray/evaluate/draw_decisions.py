"""Plots of scores as probabilities and of decisions: reliability, histogram, matrices."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from satray.report.style import (
    INK,
    MUTED,
    TRAIN,
    VAL,
    WIDTH,
    calm,
    figure,
    logarithmic,
    png,
    short,
    styled,
)

Floats = NDArray[np.float64]
NUMBERS_MOST = 20
"""A matrix of more classes has no numbers in its cells."""


def reliability(
    edges: Sequence[float],
    counts: Sequence[int],
    mean_score: Sequence[float],
    mean_label: Sequence[float],
    said: str,
) -> bytes:
    """What scores promise against what came true.

    Args:
        edges: B + 1 edges of the bins.
        counts: B numbers of decisions.
        mean_score: B means of the scores; NaN for empty bins.
        mean_label: B shares of positives; NaN for empty bins.
        said: a line inside (`ECE 0.012`).
    """
    made = figure(3.8)
    with styled():
        axis, below = made.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        axis.plot((0, 1), (0, 1), color=MUTED, lw=0.9, ls=":")
        known = np.asarray(counts) > 0
        x, y = np.asarray(mean_score)[known], np.asarray(mean_label)[known]
        axis.vlines(x, x, y, color=TRAIN, lw=1.2, alpha=0.7)
        axis.plot(x, y, "o-", color=VAL, ms=3.5, lw=1.2)
        axis.text(0.03, 0.93, said, transform=axis.transAxes, va="top")
        axis.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share of positives")
        width = np.diff(edges)
        below.bar(edges[:-1], counts, width=width, align="edge", color=VAL, alpha=0.85, ec="white")
        logarithmic(below)
        below.set_ylim(0.7, max([*counts, 1]) * 2)
        below.set(xlabel="score", ylabel="decisions")
        for panel in (axis, below):
            calm(panel)
    return png(made)


def histogram(positive: Floats, negative: Floats, marks: Sequence[float]) -> bytes:
    """Scores of true positives-to-be and negatives, on a logarithmic count.

    Args:
        positive: scores whose label is 1.
        negative: scores whose label is 0.
        marks: thresholds to mark (few).
    """
    made = figure(2.9)
    with styled():
        axis = made.subplots()
        edges = np.linspace(0, 1, 41)
        for values, color, label in ((negative, TRAIN, "label 0"), (positive, VAL, "label 1")):
            counts, _ = np.histogram(values, edges)
            axis.stairs(counts, edges, color=color, fill=True, alpha=0.35)
            axis.stairs(counts, edges, color=color, lw=1.2, label=f"{label}: {len(values):,}")
        for value in marks:
            axis.axvline(value, color=INK, lw=0.9, ls="--")
        logarithmic(axis)
        axis.set(xlim=(0, 1), xlabel="score", ylabel="decisions")
        calm(axis)
        made.legend(loc="outside upper center", ncols=2, frameon=False)
    return png(made)


def matrix(
    values_KK: NDArray[np.float64],
    names: Sequence[str],
    x_label: str,
    y_label: str,
    *,
    percent: bool,
    title: str = "",
    texts: Sequence[Sequence[str]] | None = None,
) -> bytes:
    """A matrix of shares as a heat map.

    Args:
        values_KK: shares, 0 to 1; NaN where undefined. Row: `y_label`, column: `x_label`.
        names: K names.
        x_label: what the columns are.
        y_label: what the rows are.
        percent: write the shares in percent into the cells, where no `texts` are given.
        title: one line above.
        texts: what to write into the cells.
    """
    count = len(names)
    made = figure(WIDTH * (0.95 if count > 4 else 0.8))
    with styled():
        axis = made.subplots()
        shown = np.nan_to_num(values_KK)
        axis.imshow(shown, cmap="Blues", vmin=0, vmax=1, aspect="equal")
        size = max(4.0, min(8.5, 92 / max(count, 1)))
        if count <= NUMBERS_MOST:
            for i in range(count):
                for j in range(count):
                    text = texts[i][j] if texts is not None else _cell(values_KK[i, j], percent)
                    color = "white" if shown[i, j] > 0.55 else INK
                    axis.text(j, i, text, ha="center", va="center", color=color, fontsize=size)
        labels = [short(name, 16) for name in names]
        label_size = max(4.5, min(7.5, 150 / max(count, 1)))
        places = range(count)
        axis.set_xticks(places, labels, rotation=90 if count > 4 else 0, fontsize=label_size)
        axis.set_yticks(places, labels, fontsize=label_size)
        axis.set(xlabel=x_label, ylabel=y_label)
        axis.tick_params(length=0, colors=INK)
        axis.spines[:].set_visible(False)
        if title:
            axis.set_title(title, loc="left")
    return png(made)


def _cell(value: float, percent: bool) -> str:
    if not np.isfinite(value):
        return ""
    if percent:
        return f"{100 * value:.0f}" if value >= 0.005 else ""
    return f"{value:.2f}"
