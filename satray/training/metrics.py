"""Metrics of a whole split, from raw logits gathered over all workers.

Never average them over shards: an average precision of parts is not that of the whole.

Shapes: N tiles, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

Metrics = dict[str, Any]
"""Metric name -> float; `ap` alone is a dict, class name -> float."""

FloatArray = NDArray[np.float64]
NAN = float("nan")


def compute_metrics(
    logits_NK: NDArray[Any], labels_NK: NDArray[Any], classes: Sequence[str], task: str
) -> Metrics:
    """All metrics of one split.

    Args:
        logits_NK: raw logits, float32 or float64, one row a tile (each tile once).
        labels_NK: 0 or 1; one-hot where the task is `multiclass`.
        classes: K names.
        task: `binary`, `multilabel` or `multiclass`.

    Returns:
        `ap`: average precision by class, NaN for a class without positives (scikit-learn's 0.0
            would silently lower the mean). Ranked by logits, since sigmoids saturate into ties.
        `map`: mean of `ap` over the classes that have one; NaN if none has.
        `classes_counted`: how many classes entered `map`.
        `map_paper`: mean over all classes, 0 for those without positives.
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
        `log_loss`: cross-entropy in nats, averaged over decisions (`multiclass`: over tiles).

        Decisions are score >= 0.5, which is logit >= 0. All in float64.

    Raises:
        ValueError: no tile, shapes that do not fit, or a logit that is not finite.
    """
    z_NK = np.asarray(logits_NK, dtype=np.float64)
    y_NK = np.asarray(labels_NK).astype(bool)
    if z_NK.shape != y_NK.shape or z_NK.ndim != 2 or z_NK.shape[1] != len(classes):
        raise ValueError(f"logits {z_NK.shape}, labels {y_NK.shape}, {len(classes)} classes")
    if not len(z_NK):
        raise ValueError("no tile to measure")
    if not np.isfinite(z_NK).all():
        raise ValueError("logits that are not finite")
    if task == "multiclass":
        rank_NK, decisions = _one_against_rest(z_NK), _top1_metrics(z_NK, y_NK)
    else:
        rank_NK, decisions = z_NK, _threshold_metrics(z_NK, y_NK)
    columns = range(len(classes))
    ap = {classes[k]: average_precision(rank_NK[:, k], y_NK[:, k]) for k in columns}
    values = np.array(list(ap.values()))
    return {
        "map": _nanmean(values),
        "map_paper": float(np.nan_to_num(values).mean()),
        "classes_counted": float(np.isfinite(values).sum()),
        "ap": ap,
        "auc": _nanmean(np.array([roc_auc(rank_NK[:, k], y_NK[:, k]) for k in columns])),
        **decisions,
    }


def average_precision(scores_N: FloatArray, labels_N: NDArray[np.bool_]) -> float:
    """Sum of (R_n - R_{n-1}) P_n over falling thresholds, ties as one; NaN without positives."""
    if not labels_N.any():
        return NAN
    return float(average_precision_score(labels_N, scores_N))


def roc_auc(scores_N: FloatArray, labels_N: NDArray[np.bool_]) -> float:
    """Area under the ROC curve; NaN where the labels are all of one kind."""
    if labels_N.all() or not labels_N.any():
        return NAN
    return float(roc_auc_score(labels_N, scores_N))


def _threshold_metrics(z_NK: FloatArray, y_NK: NDArray[np.bool_]) -> dict[str, float]:
    p_NK = z_NK >= 0
    positive_K = y_NK.mean(axis=0)
    recall_K = _share(p_NK & y_NK, y_NK)
    specificity_K = _share(~p_NK & ~y_NK, ~y_NK)
    return {
        "accuracy": float((p_NK == y_NK).mean()),
        "baseline_accuracy": float(np.maximum(positive_K, 1 - positive_K).mean()),
        "balanced_accuracy": _nanmean((recall_K + specificity_K) / 2),
        "predicted_positive_rate": float(p_NK.mean()),
        "log_loss": float((np.logaddexp(0, z_NK) - z_NK * y_NK).mean()),
    }


def _top1_metrics(z_NK: FloatArray, y_NK: NDArray[np.bool_]) -> dict[str, float]:
    p_NK = np.arange(z_NK.shape[1]) == z_NK.argmax(axis=1)[:, None]
    log_p_NK = z_NK - np.logaddexp.reduce(z_NK, axis=1, keepdims=True)
    return {
        "accuracy": float((p_NK & y_NK).any(axis=1).mean()),
        "baseline_accuracy": float(y_NK.mean(axis=0).max()),
        "balanced_accuracy": _nanmean(_share(p_NK & y_NK, y_NK)),
        "predicted_positive_rate": float(p_NK.mean(axis=0).max()),
        "log_loss": float(-(log_p_NK * y_NK).sum(axis=1).mean()),
    }


def _one_against_rest(z_NK: FloatArray) -> FloatArray:
    """log(p / (1 - p)) of the softmax: ranks tiles as p does, without its ties near 1."""
    rest_NK = np.empty_like(z_NK)
    for k in range(z_NK.shape[1]):
        rest_NK[:, k] = np.logaddexp.reduce(np.delete(z_NK, k, axis=1), axis=1)
    # With one class there is no rest, and every tile ranks the same.
    return z_NK - rest_NK if z_NK.shape[1] > 1 else np.zeros_like(z_NK)


def _share(hits_NK: NDArray[np.bool_], of_NK: NDArray[np.bool_]) -> FloatArray:
    """Hits of each class over its cases; NaN where there are none."""
    of_K = of_NK.sum(axis=0).astype(np.float64)
    share_K = np.full(len(of_K), NAN)
    np.divide(hits_NK.sum(axis=0), of_K, out=share_K, where=of_K > 0)
    return share_K


def _nanmean(values: FloatArray) -> float:
    finite = values[~np.isnan(values)]
    return float(finite.mean()) if len(finite) else NAN
