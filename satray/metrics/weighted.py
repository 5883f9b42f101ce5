"""All figures of a split under weights of its tiles, many rows of weights at once.

Shapes: N tiles, K classes, D rows of weights, B bins.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from satray.metrics.calibration import BINS, bin_of
from satray.metrics.decisions import Counts, f_beta_by_tile
from satray.metrics.ranking import FloatArray, divided, mean_of_defined
from satray.metrics.scored import Scored

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
    counts = Counts.of(scored.given, scored.labels, w_DN)

    def tiles(values_N: FloatArray) -> FloatArray:
        return divided(w_DN @ values_N, total_D)

    def macro(values_DK: FloatArray) -> FloatArray:
        # Over the classes that occur; one that is never given counts 0 there, or silence would pay.
        return mean_of_defined(np.where(counts.support > 0, np.nan_to_num(values_DK), np.nan))

    return {
        "map": mean_of_defined(ap_DK),
        "map_paper": np.nan_to_num(ap_DK).mean(axis=1),
        "baseline_map": macro(counts.prevalence()),
        "classes_counted": np.isfinite(ap_DK).sum(axis=1).astype(np.float64),
        "ap": ap_DK,
        "auc": mean_of_defined(auc_DK),
        **_shares(scored, counts, tiles),
        "precision_macro": macro(counts.precision()),
        "recall_macro": macro(counts.recall()),
        "f1_macro": macro(counts.f_beta(1)),
        "f2_macro": macro(counts.f_beta(2)),
        "f1_samples": tiles(f_beta_by_tile(scored.given, scored.labels, 1)),
        "f2_samples": tiles(f_beta_by_tile(scored.given, scored.labels, 2)),
        "recall_of": counts.recall(),
        "log_loss": tiles(scored.losses),
        "ece": _ece(scored, w_DN).mean(axis=1),
    }


def _shares(scored: Scored, counts: Counts, tiles: Callable[[FloatArray], FloatArray]) -> Figures:
    prevalence_DK, given_DK = counts.prevalence(), counts.given_rate()
    if scored.task == "multiclass":
        top1_N: FloatArray = (scored.given & scored.labels).sum(axis=1, dtype=np.float64)
        return {
            "accuracy": tiles(top1_N),
            "baseline_accuracy": prevalence_DK.max(axis=1),
            "balanced_accuracy": mean_of_defined(counts.recall()),
            "predicted_positive_rate": given_DK.max(axis=1),
        }
    right_N: FloatArray = (scored.given == scored.labels).mean(axis=1, dtype=np.float64)
    return {
        "accuracy": tiles(right_N),
        "baseline_accuracy": np.maximum(prevalence_DK, 1 - prevalence_DK).mean(axis=1),
        "balanced_accuracy": mean_of_defined((counts.recall() + counts.specificity()) / 2),
        "predicted_positive_rate": given_DK.mean(axis=1),
    }


def _ece(scored: Scored, w_DN: FloatArray) -> FloatArray:
    total_D = w_DN.sum(axis=1)
    rows = np.arange(len(scored.labels))
    ece_DK = np.empty((len(w_DN), scored.labels.shape[1]))
    for k in range(ece_DK.shape[1]):
        score_N = scored.scores[:, k]
        gap_NB = np.zeros((len(rows), BINS))
        gap_NB[rows, bin_of(score_N, BINS)] = score_N - scored.labels[:, k]
        ece_DK[:, k] = divided(np.abs(w_DN @ gap_NB).sum(axis=1), total_D)
    return ece_DK
