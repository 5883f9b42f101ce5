"""The plots of a measured split, by file name.

Shapes: N tiles, K classes, B bins, T thresholds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from satray.evaluate.quality import Quality
from satray.metrics.scored import FloatArray, Ranking, divided
from satray.report.style import (
    GRID,
    INK,
    MUTED,
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

COLUMNS = 4
"""Most small panels in a row."""
NUMBERS_MOST = 20
"""A matrix of more classes has no numbers in its cells."""

Rows = Mapping[str, Mapping[str, Any]]
"""Class name -> its figures, as `metrics.json` has them by class."""


def draw(quality: Quality, classes: Sequence[str]) -> dict[str, bytes]:
    """The plots of `plots/`, name without ending -> PNG.

    Curves and bars show the classes with most positives where there are more than fit.
    """
    scored, document = quality.scored, quality.document
    shown = most_frequent([int(n) for n in scored.labels.sum(axis=0)])
    rows = {classes[k]: document["by_class"][classes[k]] for k in shown}
    return {
        "average_precision": _bars(rows, document["metrics"]["map"]),
        "precision_recall": _curves(quality, shown, rows, "ap"),
        "roc": _curves(quality, shown, rows, "auc"),
        "reliability": _reliability(document),
        "tail_accuracy": _tails(document["tail"], "score threshold"),
        "tail_quantiles": _tails(
            document["tail_quantiles"], "share of the class's tiles at or below the threshold"
        ),
        "errors": _errors(document, classes, shown),
    }


def _bars(rows: Rows, mean: float) -> bytes:
    """Average precision by class, with intervals and the prevalence that chance would reach."""
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


def _curves(quality: Quality, shown: Sequence[int], rows: Rows, what: str) -> bytes:
    """A panel a class: precision against recall (`ap`), or true- against false-positive rate."""
    columns = min(COLUMNS, len(shown))
    lines = -(-len(shown) // columns)
    made = figure(0.5 + 4.6 / columns * lines)
    with styled():
        panels = made.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for axis, k, (name, row) in zip(panels.flat, shown, rows.items(), strict=False):
            chance = [row["prevalence"]] * 2 if what == "ap" else [0, 1]
            axis.plot((0, 1), chance, color=MUTED, lw=0.8, ls=":")
            said = f"no {what.upper()}"
            if np.isfinite(row[what]):
                said = f"{what.upper()} {row[what]:.3f}"
                x, y = corners(quality.scored.rankings[k], what)
                # steps of precision, whose area is the average precision
                style = "steps-post" if what == "ap" else "default"
                axis.plot(x, y, color=VAL, lw=1.2, drawstyle=style)
            axis.set_title(f"{short(name, 15 if columns > 2 else 30)}\n{said}", fontsize=7)
            axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
            calm(axis, "both")
        for axis in panels.flat[len(shown) :]:
            axis.set_visible(False)
        labels = ("recall", "precision") if what == "ap" else (
            "false positive rate", "true positive rate"
        )  # fmt: skip
        made.supxlabel(labels[0], fontsize=8)
        made.supylabel(labels[1], fontsize=8)
    return png(made)


def corners(ranking: Ranking, what: str) -> tuple[FloatArray, FloatArray]:
    """Where the curve of a class turns that has tiles of both kinds.

    As scikit-learn's `precision_recall_curve` and `roc_curve` have it without intermediate points,
    whose import takes half a second; but theirs of precision ends at 1, whatever was found.

    Args:
        ranking: the class's tiles.
        what: `ap` or `auc`.

    Returns:
        x and y: recall, falling, and precision; or false- and true-positive rate, rising.
    """
    unit_1N = np.ones((1, len(ranking.order)))
    hits_G, false_G = (found_1G[0] for found_1G in ranking.cumulated(unit_1N))
    kept_G = np.ones(len(hits_G), dtype=bool)
    if what == "ap":
        kept_G[1:-1] = (np.diff(hits_G[:-1]) != 0) | (np.diff(hits_G[1:]) != 0)
        hits, false = hits_G[kept_G], false_G[kept_G]
        precision = hits / (hits + false)
        recall = hits / hits[-1]
        return np.append(recall[::-1], 0.0), np.append(precision[::-1], precision[0])
    kept_G[1:-1] = (np.diff(hits_G, 2) != 0) | (np.diff(false_G, 2) != 0)
    x, y = (np.insert(one_G[kept_G], 0, 0.0) / one_G[-1] for one_G in (false_G, hits_G))
    return x, y


def _tails(found: Mapping[str, Sequence[float]], x_label: str) -> bytes:
    """Tail accuracy (`tail_accuracy`), and how many classes it is a mean of."""
    at, alive = found["at"], found["classes"]
    made = figure(3.8)
    with styled():
        axis, below = made.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        for name, color, label in (
            ("mean", VAL, "mean of classes"),
            ("fixed", TRAIN, "same classes throughout"),
            ("micro", MUTED, "all decisions"),
        ):
            axis.plot(at, found[name], color=color, label=label, marker="o", ms=2.5, lw=1.3)
        axis.set_ylabel("right above threshold")
        made.legend(loc="outside upper center", ncols=3, frameon=False)
        below.step(at, alive, where="mid", color=INK, lw=1.1)
        below.fill_between(at, alive, step="mid", color=GRID)
        below.set(ylabel="classes", xlabel=x_label)
        below.set_ylim(0, max([*alive, 1]) * 1.15)
        for panel in (axis, below):
            calm(panel)
    return png(made)


def _reliability(document: Mapping[str, Any]) -> bytes:
    """What scores promise against what came true."""
    found = document["reliability"]
    edges, counts = (np.asarray(found[name]) for name in ("edges", "counts"))
    made = figure(3.8)
    with styled():
        axis, below = made.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        axis.plot((0, 1), (0, 1), color=MUTED, lw=0.9, ls=":")
        x, y = (np.asarray(found[name])[counts > 0] for name in ("mean_score", "mean_label"))
        axis.vlines(x, x, y, color=TRAIN, lw=1.2, alpha=0.7)
        axis.plot(x, y, "o-", color=VAL, ms=3.5, lw=1.2)
        said = f"ECE {document['metrics']['ece']:.4f} (mean of classes)"
        axis.text(0.03, 0.93, said, transform=axis.transAxes, va="top")
        axis.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share of positives")
        width = np.diff(edges)
        below.bar(edges[:-1], counts, width=width, align="edge", color=VAL, alpha=0.85, ec="white")
        logarithmic(below)
        below.set_ylim(0.7, counts.max() * 2)
        below.set(xlabel="score", ylabel="decisions")
        for panel in (axis, below):
            calm(panel)
    return png(made)


def _errors(document: Mapping[str, Any], classes: Sequence[str], shown: list[int]) -> bytes:
    """The confusion matrix; of `multilabel` what is falsely given where a class is missed."""
    names, picked = [classes[k] for k in shown], np.ix_(shown, shown)
    if "errors_together" in document:
        shares_KK = np.array(document["errors_together"])[picked]
        return _matrix(shares_KK, names, "falsely given", "missed")
    counts_KK = np.array(document["confusion"], dtype=float)
    shares_KK = divided(counts_KK, counts_KK.sum(axis=1, keepdims=True))  # of all tiles of a class
    if len(classes) == 1:
        return _matrix(shares_KK, [f"no {classes[0]}", classes[0]], "said", "is", counts_KK)
    return _matrix(shares_KK[picked], names, "said", "is", counts_KK[picked])


def _matrix(
    shares_KK: FloatArray,
    names: Sequence[str],
    x_label: str,
    y_label: str,
    counts_KK: FloatArray | None = None,
) -> bytes:
    """Shares (0 to 1; NaN: undefined) as a heat map; in its cells the counts, or percents."""
    count, shown_KK = len(names), np.nan_to_num(shares_KK)
    said_KK, form = (shown_KK, ".0%") if counts_KK is None else (counts_KK, ",.0f")
    made = figure(WIDTH * (0.95 if count > 4 else 0.8))
    with styled():
        axis = made.subplots()
        image = axis.imshow(shown_KK, "Blues", interpolation="nearest", vmin=0, vmax=1)
        if count <= NUMBERS_MOST:
            pale, dark = image.cmap(0), image.cmap(1.0)
            middle = (shown_KK.max() + shown_KK.min()) / 2
            for i, j in np.ndindex(shown_KK.shape):
                said = f"{said_KK[i, j]:{form}}"
                color = dark if shown_KK[i, j] < middle else pale
                size = max(4.0, min(8.5, 92 / count))
                axis.text(j, i, said, ha="center", va="center", color=color, fontsize=size)
        labels = [short(name, 16) for name in names]
        axis.set_xticks(range(count), labels, rotation="vertical" if count > 4 else "horizontal")
        axis.set_yticks(range(count), labels)
        axis.set(xlabel=x_label, ylabel=y_label)
        axis.tick_params(length=0, colors=INK, labelsize=max(4.5, min(7.5, 150 / count)))
        axis.spines[:].set_visible(False)
    return png(made)
