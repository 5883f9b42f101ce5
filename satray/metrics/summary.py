"""Metrics of a whole split, from raw logits gathered over all workers.

Never average them over shards: an average precision of parts is not that of the whole.

Shapes: N tiles, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.metrics.scored import PLAIN, Rule, Scored
from satray.metrics.weighted import Figures, figures

Metrics = dict[str, Any]
"""Metric name -> float; those of `PER_CLASS` are dicts, class name -> float."""

PER_CLASS = ("ap", "recall_of")
"""Metrics that are dicts by class; in a flat row each entry is `<metric>_<class>`."""


def compute_metrics(
    logits_NK: NDArray[Any],
    labels_NK: NDArray[Any],
    classes: Sequence[str],
    task: str,
    rule: Rule = PLAIN,
) -> Metrics:
    """All metrics of one split.

    Args:
        logits_NK: raw logits, float32 or float64, one row a tile (each tile once).
        labels_NK: 0 or 1; one-hot where the task is `multiclass`.
        classes: K names.
        task: `binary`, `multilabel` or `multiclass`.
        rule: temperature and thresholds, those of a bundle; default 1 and 0.5.

    Returns:
        `ap`: average precision by class, NaN for a class that no tile has, or every tile
            (scikit-learn's 0.0 and 1.0 would silently move the mean). Ranked by logits, since
            sigmoids saturate into ties.
        `map`: mean of `ap` over the classes that have one; NaN if none has.
        `classes_counted`: how many classes entered `map`.
        `map_paper`: mean over all classes, 0 for those that no tile has, 1 for those that all have.
        `baseline_map`: the mAP of scores that say nothing: mean prevalence of the same classes.
        `accuracy`: share of right decisions (tile by class; `multiclass`: of tiles whose highest
            logit is the true class, top-1).
        `baseline_accuracy`: the accuracy of always deciding each class's majority in this split
            (`multiclass`: of always the most frequent class).
        `balanced_accuracy`: mean of true-positive and true-negative rate, averaged over the
            classes that have both kinds (`multiclass`: mean recall of the classes present).
        `auc`: area under the ROC curve, averaged over the classes that have both kinds
            (`multiclass`: one against the rest); NaN if none has.
        `predicted_positive_rate`: share of decisions that are positive (`multiclass`: share of
            tiles given to the class given most often). The majority trap shows as 0 or 1.
        `precision_macro, recall_macro, f1_macro, f2_macro`: means over the classes with
            positives; of these, one that is never given counts precision and F 0 (scikit-learn's
            `zero_division=0`). NaN if no class has positives.
        `f1_samples, f2_samples`: means over tiles; a tile without classes that is given none
            counts 1.0 (`zero_division=1`). With one class, or one a tile, that is the accuracy.
        `recall_of`: for `multiclass` only, by class, NaN for a class without tiles.
        `log_loss`: cross-entropy in nats, averaged over decisions (`multiclass`: over tiles).
        `ece`: expected calibration error in 15 equal bins (a, b], mean over all classes
            (`multiclass`: each against the rest).

        Decisions are score >= threshold (at 0.5: logit >= 0), for `multiclass` the highest logit.
        The temperature moves thresholds other than 0.5, `log_loss` and `ece`. All in float64.

    Raises:
        ValueError: no tile, shapes that do not fit, `multiclass` labels that are not one-hot, or
            a logit that is not finite.
    """
    scored = Scored.of(logits_NK, labels_NK, len(classes), task, rule)
    found = figures(scored, np.ones((1, len(scored.labels))))
    if task != "multiclass":
        del found["recall_of"]
    return {
        name: dict(zip(classes, values[0].tolist(), strict=True))
        if name in PER_CLASS
        else float(values[0])
        for name, values in found.items()
    }


def said(value: float, places: int = 4) -> str:
    """A figure for a person: `0.1234`, or `undefined` where it is none."""
    return f"{value:.{places}f}" if math.isfinite(value) else "undefined"


def flat(metrics: Mapping[str, Any]) -> dict[str, float]:
    """One level: `ap` of class c becomes `ap_c`, `recall_of` it `recall_of_c`."""
    row: dict[str, float] = {}
    for name, value in metrics.items():
        if name in PER_CLASS:
            row.update({f"{name}_{of}": number for of, number in value.items()})
        else:
            row[name] = value
    return row


def flat_figures(found: Figures, classes: Sequence[str]) -> Figures:
    """The same for many rows of weights: every entry (D,)."""
    row: Figures = {}
    for name, values in found.items():
        if name in PER_CLASS:
            row.update({f"{name}_{of}": values[:, k] for k, of in enumerate(classes)})
        else:
            row[name] = values
    return row
