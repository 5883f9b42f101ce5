"""Plots of how well scores rank tiles: average precision by class, PR and ROC curves, tails."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.report.style import (
    GRID,
    INK,
    MUTED,
    PALETTE,
    TRAIN,
    VAL,
    calm,
    figure,
    png,
    short,
    styled,
)

Floats = NDArray[np.float64]
COLUMNS = 4


@dataclass(frozen=True)
class Line:
    """One class's curve."""

    name: str
    """Class name."""
    x: Floats
    """Abscissae, 0 to 1."""
    y: Floats
    """Ordinates, 0 to 1."""
    figure: float
    """The figure that stands in the label (AP, AUC); NaN where undefined."""
    chance: float
    """Ordinate of a curve without skill where that is constant (prevalence); NaN: the diagonal."""


def bars(
    names: Sequence[str],
    values: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    chance: Sequence[float],
    mean: float,
) -> bytes:
    """Average precision by class, with intervals and the prevalence that chance would reach.

    Args:
        names: K class names.
        values: K average precisions; NaN for a class without one.
        low: K lower ends; NaN for none.
        high: K upper ends; NaN for none.
        chance: K prevalences.
        mean: mAP.
    """
    made = figure(max(1.6, 0.9 + 0.2 * len(names)))
    with styled():
        axis = made.subplots()
        y = np.arange(len(names))
        value_K, low_K, high_K = (np.asarray(v, dtype=float) for v in (values, low, high))
        axis.barh(y, np.nan_to_num(value_K), color=VAL, height=0.62, alpha=0.85)
        known = np.isfinite(value_K) & np.isfinite(low_K) & np.isfinite(high_K)
        axis.hlines(y[known], low_K[known], high_K[known], color=INK, lw=1.1)
        axis.plot(chance, y, "|", color=TRAIN, ms=7, mew=1.6, label="chance (prevalence)")
        for k in np.flatnonzero(~np.isfinite(value_K)):
            axis.text(0.01, k, "undefined: all tiles alike", va="center", color=MUTED, fontsize=7)
        if np.isfinite(mean):
            axis.axvline(mean, color=MUTED, lw=0.9, ls="--", label=f"mean {mean:.3f}")
        axis.set_yticks(y, [short(name) for name in names], color=INK)
        axis.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5), xlabel="average precision")
        calm(axis, "x")
        axis.tick_params(axis="y", length=0)
        made.legend(loc="outside upper center", ncols=2, frameon=False)
    return png(made)


def lines(
    curves: Sequence[Line], x_label: str, y_label: str, what: str, *, steps: bool = False
) -> bytes:
    """Curves of classes: together where there are few, else a small panel each.

    Args:
        curves: one a class.
        x_label: below.
        y_label: beside.
        what: the figure in the labels (`AP`, `AUC`).
        steps: draw steps, whose area is the average precision, not straight lines.
    """
    style = {"drawstyle": "steps-pre" if steps else "default"}
    if len(curves) <= len(PALETTE):
        return _together(curves, x_label, y_label, what, style)
    columns = COLUMNS
    rows = -(-len(curves) // columns)
    made = figure(0.5 + 1.15 * rows)
    with styled():
        panels = made.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axis, curve in zip(panels.flat, curves, strict=False):
            calm(axis, "both")
            _chance(axis, curve, MUTED)
            axis.plot(curve.x, curve.y, color=VAL, lw=1.2, **style)
            axis.set_title(f"{short(curve.name, 15)}\n{_figure(what, curve)}", fontsize=7)
            axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        for axis in panels.flat[len(curves) :]:
            axis.set_visible(False)
        made.supxlabel(x_label, fontsize=8)
        made.supylabel(y_label, fontsize=8)
    return png(made)


def _together(
    curves: Sequence[Line], x_label: str, y_label: str, what: str, style: dict[str, Any]
) -> bytes:
    made = figure(3.6)
    with styled():
        axis = made.subplots()
        calm(axis, "both")
        handles, labels = [], []  # given apart: a label that begins with _ would be left out
        for curve, color in zip(curves, PALETTE, strict=False):
            _chance(axis, curve, color)
            handles += axis.plot(curve.x, curve.y, color=color, lw=1.5, **style)
            labels.append(f"{short(curve.name)}, {_figure(what, curve)}")
        axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x_label, ylabel=y_label)
        made.legend(handles, labels, loc="outside upper left", frameon=False)
    return png(made)


def _chance(axis: Any, curve: Line, color: str) -> None:
    ends = (curve.chance, curve.chance) if np.isfinite(curve.chance) else (0, 1)
    axis.plot((0, 1), ends, color=color, lw=0.8, ls=":")


def _figure(what: str, curve: Line) -> str:
    return f"{what} {curve.figure:.3f}" if np.isfinite(curve.figure) else f"no {what}"


def tails(
    thresholds: Sequence[float],
    mean: Sequence[float],
    fixed: Sequence[float],
    micro: Sequence[float],
    alive: Sequence[int],
    x_label: str = "score threshold",
) -> bytes:
    """Tail accuracy (precision above a threshold): in the paper's form, or at quantiles.

    Args:
        thresholds: T of them; for quantiles, shares of the tiles below.
        mean: over the classes that have a score above it.
        fixed: over the classes that have one above every threshold.
        micro: over all decisions above it.
        alive: how many classes have a score above it.
        x_label: what the thresholds are.
    """
    made = figure(3.8)
    with styled():
        axis, below = made.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        style = {"marker": "o", "ms": 2.5, "lw": 1.3}
        axis.plot(thresholds, mean, color=VAL, label="mean of classes", **style)
        axis.plot(thresholds, fixed, color=TRAIN, label="same classes throughout", **style)
        axis.plot(thresholds, micro, color=MUTED, label="all decisions", **style)
        axis.set_ylabel("right above threshold")
        made.legend(loc="outside upper center", ncols=3, frameon=False)
        below.step(thresholds, alive, where="mid", color=INK, lw=1.1)
        below.fill_between(thresholds, alive, step="mid", color=GRID)
        below.set(ylabel="classes", xlabel=x_label)
        below.set_ylim(0, max([*alive, 1]) * 1.15)
        for panel in (axis, below):
            calm(panel)
    return png(made)
