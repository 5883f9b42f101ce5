"""Metrics of a whole split, from raw logits gathered over all workers.

Never average them over shards: an average precision of parts is not that of the whole.

Shapes: N tiles, K classes, D rows of weights, B bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.metrics.decisions import Counts
from satray.metrics.ranking import FloatArray, divided, mean_of_defined
from satray.metrics.scored import BINS, PLAIN, Rule, Scored

Metrics = dict[str, Any]
"""Metric name -> float; those of `PER_CLASS` are dicts, class name -> float."""

Figures = dict[str, FloatArray]
"""Name -> (D,) values of D rows of weights; those of `PER_CLASS` are (D, K)."""

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


def figures(scored: Scored, w_DN: FloatArray) -> Figures:
    """Every figure of `compute_metrics`, for each row of weights.

    Args:
        scored: the split.
        w_DN: float64, weight of each tile, 0 or more; ones give the split's own figures.

    Returns:
        name -> values; `recall_of` is there for every task.
    """
    areas = [ranking.areas(w_DN) for ranking in scored.rankings]
    ap_DK = np.stack([ap_D for ap_D, _ in areas], axis=1)
    auc_DK = np.stack([auc_D for _, auc_D in areas], axis=1)
    total_D = w_DN.sum(axis=1)
    w_ND = np.ascontiguousarray(w_DN.T)
    counts = _counts(scored, w_ND, total_D)
    tiles = {name: divided(w_DN @ values_N, total_D) for name, values_N in scored.by_tile.items()}

    def macro(values_DK: FloatArray) -> FloatArray:
        # Over the classes that occur; one that is never given counts 0 there, or silence would pay.
        return mean_of_defined(np.where(counts.support > 0, np.nan_to_num(values_DK), np.nan))

    return {
        "map": mean_of_defined(ap_DK),
        # as scikit-learn has it: 0 for a class that is nowhere, 1 for one that is everywhere
        "map_paper": np.where(np.isnan(ap_DK), counts.support > 0, ap_DK).mean(axis=1),
        "baseline_map": mean_of_defined(np.where(np.isnan(ap_DK), np.nan, counts.prevalence())),
        "classes_counted": np.isfinite(ap_DK).sum(axis=1).astype(np.float64),
        "ap": ap_DK,
        "auc": mean_of_defined(auc_DK),
        "accuracy": tiles["accuracy"],
        **_shares(scored, counts),
        "precision_macro": macro(counts.precision()),
        "recall_macro": macro(counts.recall()),
        "f1_macro": macro(counts.f_beta(1)),
        "f2_macro": macro(counts.f_beta(2)),
        "f1_samples": tiles["f1_samples"],
        "f2_samples": tiles["f2_samples"],
        "recall_of": counts.recall(),
        "log_loss": tiles["log_loss"],
        "ece": _ece(scored, w_ND, total_D).mean(axis=1),
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


def _counts(scored: Scored, w_ND: FloatArray, total_D: FloatArray) -> Counts:
    """`Counts.of` given and labels, from what is kept of them."""
    hits_DK, given_DK, support_DK = np.split((scored.tallies @ w_ND).T, 3, axis=1)
    false_DK, missed_DK = given_DK - hits_DK, support_DK - hits_DK
    return Counts(hits_DK, false_DK, missed_DK, total_D[:, None] - hits_DK - false_DK - missed_DK)


def _shares(scored: Scored, counts: Counts) -> Figures:
    prevalence_DK, given_DK = counts.prevalence(), counts.given_rate()
    if scored.task == "multiclass":
        return {
            "baseline_accuracy": prevalence_DK.max(axis=1),
            "balanced_accuracy": mean_of_defined(counts.recall()),
            "predicted_positive_rate": given_DK.max(axis=1),
        }
    return {
        "baseline_accuracy": np.maximum(prevalence_DK, 1 - prevalence_DK).mean(axis=1),
        "balanced_accuracy": mean_of_defined((counts.recall() + counts.specificity()) / 2),
        "predicted_positive_rate": given_DK.mean(axis=1),
    }


def _ece(scored: Scored, w_ND: FloatArray, total_D: FloatArray) -> FloatArray:
    gaps_KBD = (scored.gaps @ w_ND).reshape(scored.labels.shape[1], BINS, len(total_D))
    return divided(np.abs(gaps_KBD).sum(axis=1).T, total_D[:, None])
