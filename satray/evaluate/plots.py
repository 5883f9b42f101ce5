"""The plots of a measured split, by file name.

Shapes: N tiles, K classes, B bins, T thresholds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from satray.evaluate.quality import Quality
from satray.metrics.ranking import FloatArray, divided
from satray.report.style import (
    GRID,
    INK,
    MUTED,
    PALETTE,
    TRAIN,
    VAL,
    WIDTH,
    calm,
    figure,
    logarithmic,
    most_frequent,
    png,
    short,
    styled,
)

NAN = float("nan")
COLUMNS = 4
"""Small panels in a row."""
NUMBERS_MOST = 20
"""A matrix of more classes has no numbers in its cells."""


@dataclass(frozen=True)
class Line:
    """One class's curve."""

    name: str
    """Class name."""
    x: FloatArray
    """Abscissae, 0 to 1."""
    y: FloatArray
    """Ordinates, 0 to 1."""
    figure: float
    """The figure that stands in the label (AP, AUC); NaN where undefined."""
    chance: float
    """Ordinate of a curve without skill where that is constant (prevalence); NaN: the diagonal."""


def draw(quality: Quality, classes: Sequence[str], thresholds: Sequence[float]) -> dict[str, bytes]:
    """The plots of `plots/`, name without ending -> PNG.

    Curves and bars show the classes with most positives where there are more than fit.
    """
    scored, calibrated, document = quality.scored, quality.calibrated, quality.document
    shown = most_frequent([int(n) for n in scored.labels.sum(axis=0)])
    rows = {classes[k]: document["by_class"][classes[k]] for k in shown}
    found = document["reliability"]
    one_threshold = len(classes) == 1 and scored.task != "multiclass"
    return {
        "average_precision": bars(rows, quality.metrics["map"]),
        "precision_recall": lines(
            _curves(quality, classes, shown, "ap"), "recall", "precision", "AP", steps=True
        ),
        "roc": lines(
            _curves(quality, classes, shown, "auc"),
            "false positive rate",
            "true positive rate",
            "AUC",
        ),
        "reliability": reliability(
            found["edges"], found["all"], f"ECE {quality.metrics['ece']:.4f} (mean of classes)"
        ),
        "scores": histogram(
            calibrated.scores[calibrated.labels],
            calibrated.scores[~calibrated.labels],
            [thresholds[0]] if one_threshold else [],
        ),
        "tail_accuracy": tails(document["tail"], "score threshold"),
        "tail_quantiles": tails(
            document["tail_quantiles"], "share of the class's tiles at or below the threshold"
        ),
        "errors": _errors(quality, classes, shown),
    }


def bars(rows: Mapping[str, Mapping[str, Any]], mean: float) -> bytes:
    """Average precision by class, with intervals and the prevalence that chance would reach.

    Args:
        rows: class name -> `ap` (NaN where undefined), `ap_interval` (`low`, `high`, NaN for
            none; or None) and `prevalence`.
        mean: mAP.
    """
    made = figure(max(1.6, 0.9 + 0.2 * len(rows)))
    with styled():
        axis = made.subplots()
        y = np.arange(len(rows))
        value_K = np.array([row["ap"] for row in rows.values()])
        axis.barh(y, np.nan_to_num(value_K), color=VAL, height=0.62, alpha=0.85)
        for k, row in enumerate(rows.values()):
            ends = row["ap_interval"]
            if not np.isfinite(row["ap"]):
                axis.text(0.01, k, "undefined: all tiles alike", va="center", color=MUTED, size=7)
            elif ends and np.isfinite(ends["low"]):
                axis.hlines(k, ends["low"], ends["high"], color=INK, lw=1.1)
        chance_K = [row["prevalence"] for row in rows.values()]
        axis.plot(chance_K, y, "|", color=TRAIN, ms=7, mew=1.6, label="chance (prevalence)")
        if np.isfinite(mean):
            axis.axvline(mean, color=MUTED, lw=0.9, ls="--", label=f"mean {mean:.3f}")
        axis.set_yticks(y, [short(name) for name in rows], color=INK)
        axis.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5), xlabel="average precision")
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


def tails(found: Mapping[str, Sequence[float]], x_label: str) -> bytes:
    """Tail accuracy (precision above a threshold): in the paper's form, or at quantiles.

    Args:
        found: the fields of `satray.evaluate.tail.Tail`.
        x_label: what the thresholds are.
    """
    at, alive = found["at"], found["classes"]
    made = figure(3.8)
    with styled():
        axis, below = made.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        style = {"marker": "o", "ms": 2.5, "lw": 1.3}
        axis.plot(at, found["mean"], color=VAL, label="mean of classes", **style)
        axis.plot(at, found["fixed"], color=TRAIN, label="same classes throughout", **style)
        axis.plot(at, found["micro"], color=MUTED, label="all decisions", **style)
        axis.set_ylabel("right above threshold")
        made.legend(loc="outside upper center", ncols=3, frameon=False)
        below.step(at, alive, where="mid", color=INK, lw=1.1)
        below.fill_between(at, alive, step="mid", color=GRID)
        below.set(ylabel="classes", xlabel=x_label)
        below.set_ylim(0, max([*alive, 1]) * 1.15)
        for panel in (axis, below):
            calm(panel)
    return png(made)


def reliability(edges: Sequence[float], found: Mapping[str, Sequence[float]], said: str) -> bytes:
    """What scores promise against what came true.

    Args:
        edges: B + 1 edges of the bins.
        found: `counts`, `mean_score` and `mean_label`, each B; NaN for the means of empty bins.
        said: a line inside (`ECE 0.012`).
    """
    counts = np.asarray(found["counts"])
    made = figure(3.8)
    with styled():
        axis, below = made.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        axis.plot((0, 1), (0, 1), color=MUTED, lw=0.9, ls=":")
        known = counts > 0
        x, y = (np.asarray(found[name])[known] for name in ("mean_score", "mean_label"))
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


def histogram(positive: FloatArray, negative: FloatArray, marks: Sequence[float]) -> bytes:
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
    values_KK: FloatArray,
    names: Sequence[str],
    x_label: str,
    y_label: str,
    texts: Sequence[Sequence[str]] | None = None,
) -> bytes:
    """A matrix of shares as a heat map.

    Args:
        values_KK: shares, 0 to 1; NaN where undefined. Row: `y_label`, column: `x_label`.
        names: K names.
        x_label: what the columns are.
        y_label: what the rows are.
        texts: what to write into the cells; None: the shares in percent, but for 0.
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
                    percent = f"{100 * shown[i, j]:.0f}" if shown[i, j] >= 0.005 else ""
                    text = percent if texts is None else texts[i][j]
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
    return png(made)


def row_shares(counts_KK: FloatArray) -> FloatArray:
    """Of the tiles of each class (row), the share that is given each; NaN without tiles."""
    return divided(counts_KK, counts_KK.sum(axis=1, keepdims=True))


def _curves(quality: Quality, classes: Sequence[str], shown: list[int], what: str) -> list[Line]:
    """Precision against recall (`ap`), or true- against false-positive rate (`auc`)."""
    from sklearn.metrics import precision_recall_curve, roc_curve  # a second that few need

    found = []
    for k in shown:
        row = quality.document["by_class"][classes[k]]
        labels_N, ranks_N = quality.scored.labels[:, k], quality.scored.ranks[:, k]
        x, y = np.empty(0), np.empty(0)
        if np.isfinite(row[what]) and what == "ap":
            y, x, _ = precision_recall_curve(labels_N, ranks_N, drop_intermediate=True)
            y[-1] = y[-2]  # scikit-learn draws the curve to precision 1
            x, y = x[::-1], y[::-1]
        elif np.isfinite(row[what]):
            x, y, _ = roc_curve(labels_N, ranks_N)
        chance = row["prevalence"] if what == "ap" else NAN
        found.append(Line(classes[k], x, y, row[what], chance))
    return found


def _errors(quality: Quality, classes: Sequence[str], shown: list[int]) -> bytes:
    document, picked = quality.document, np.ix_(shown, shown)
    names = [classes[k] for k in shown]
    if "errors_together" in document:
        together_KK = np.array(document["errors_together"], dtype=float)
        return matrix(together_KK[picked], names, "falsely given", "missed")
    counts_KK = np.array(document["confusion"], dtype=float)
    shares_KK = row_shares(counts_KK)
    if len(classes) == 1:
        names = [f"no {classes[0]}", classes[0]]
    else:
        counts_KK, shares_KK = counts_KK[picked], shares_KK[picked]
    texts = [[f"{int(n):,}" if n else "" for n in row] for row in counts_KK]
    return matrix(shares_KK, names, "said", "is", texts)
