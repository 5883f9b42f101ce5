"""All figures of a split under weights of its tiles, many rows of weights at once.

Shapes: N tiles, K classes, D rows of weights, B bins.
"""

from __future__ import annotations

import numpy as np

from satray.metrics.decisions import Counts
from satray.metrics.ranking import FloatArray, divided, mean_of_defined
from satray.metrics.scored import BINS, Scored

Figures = dict[str, FloatArray]
"""Name -> (D,) values; `ap` and `recall_of` are (D, K)."""


def figures(scored: Scored, w_DN: FloatArray) -> Figures:
    """Every figure of `satray.metrics.summary.compute_metrics`, for each row of weights.

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
