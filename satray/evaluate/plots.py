"""Which plots a measured split gets, by file name."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.evaluate.curves import precision_recall, roc
from satray.evaluate.draw_decisions import histogram, matrix, reliability
from satray.evaluate.draw_ranking import Line, bars, lines, tails
from satray.evaluate.quality import Quality
from satray.metrics.ranking import divided
from satray.report.style import most_frequent

NAN = float("nan")


def draw(quality: Quality, classes: Sequence[str], thresholds: Sequence[float]) -> dict[str, bytes]:
    """The plots of `plots/`, name without ending -> PNG.

    Curves and bars show the classes with most positives where there are more than fit.
    """
    scored, calibrated, document = quality.scored, quality.calibrated, quality.document
    shown = most_frequent([int(n) for n in scored.labels.sum(axis=0)])
    rows = [document["by_class"][classes[k]] for k in shown]
    ends = [row["ap_interval"] or {"low": NAN, "high": NAN} for row in rows]
    found = document["reliability"]
    tail, quantiles = document["tail"], document["tail_quantiles"]
    one_threshold = len(classes) == 1 and scored.task != "multiclass"
    return {
        "average_precision": bars(
            [classes[k] for k in shown],
            [row["ap"] for row in rows],
            [end["low"] for end in ends],
            [end["high"] for end in ends],
            [row["prevalence"] for row in rows],
            quality.metrics["map"],
        ),
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
            found["edges"],
            found["all"]["counts"],
            found["all"]["mean_score"],
            found["all"]["mean_label"],
            f"ECE {quality.metrics['ece']:.4f} (mean of classes)",
        ),
        "scores": histogram(
            calibrated.scores[calibrated.labels],
            calibrated.scores[~calibrated.labels],
            [thresholds[0]] if one_threshold else [],
        ),
        "tail_accuracy": tails(
            tail["at"], tail["mean"], tail["fixed"], tail["micro"], tail["classes"]
        ),
        "tail_quantiles": tails(
            quantiles["at"],
            quantiles["mean"],
            quantiles["fixed"],
            quantiles["micro"],
            quantiles["classes"],
            "share of the class's tiles at or below the threshold",
        ),
        "errors": _errors(quality, classes, shown),
    }


def _curves(quality: Quality, classes: Sequence[str], shown: list[int], what: str) -> list[Line]:
    scored, found = quality.scored, []
    for k in shown:
        make = precision_recall if what == "ap" else roc
        curve = make(scored.ranks[:, k], scored.labels[:, k])
        row = quality.document["by_class"][classes[k]]
        found.append(
            Line(
                classes[k],
                curve.x if curve else np.empty(0),
                curve.y if curve else np.empty(0),
                row[what],
                row["prevalence"] if what == "ap" else NAN,
            )
        )
    return found


def _errors(quality: Quality, classes: Sequence[str], shown: list[int]) -> bytes:
    document: dict[str, Any] = quality.document
    if "errors_together" in document:
        together_KK = np.array(document["errors_together"], dtype=float)[np.ix_(shown, shown)]
        return matrix(
            together_KK,
            [classes[k] for k in shown],
            "falsely given",
            "missed",
            percent=True,
        )
    counts_KK = np.array(document["confusion"], dtype=float)
    names = [f"no {classes[0]}", classes[0]] if len(classes) == 1 else list(classes)
    shares_KK = row_shares(counts_KK)
    if len(names) > len(shown) > 1:
        places = np.ix_(shown, shown)
        counts_KK, shares_KK, names = (
            counts_KK[places],
            shares_KK[places],
            [names[k] for k in shown],
        )
    texts = [[f"{int(n):,}" if n else "" for n in row] for row in counts_KK]
    return matrix(shares_KK, names, "said", "is", percent=False, texts=texts)


def row_shares(counts_KK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the tiles of each class (row), the share that is given each; NaN without tiles."""
    return divided(counts_KK, counts_KK.sum(axis=1, keepdims=True))
