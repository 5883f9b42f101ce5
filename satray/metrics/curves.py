"""Precision-recall and ROC curves of one class, as few points as a picture needs.

Shapes: N tiles, P points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.metrics.ranking import FloatArray, Ranking

MOST = 200


@dataclass(frozen=True)
class Curve:
    """Points of a curve by falling threshold."""

    x: FloatArray
    """(P,) recall, or false-positive rate; rising, 0 to 1."""

    y: FloatArray
    """(P,) precision, or true-positive rate; 0 to 1."""

    thresholds: FloatArray
    """(P,) score at and above which the class is given at that point; inf where nothing is."""


def precision_recall(
    scores_N: NDArray[Any], labels_N: NDArray[Any], most: int = MOST
) -> Curve | None:
    """Precision against recall, from the highest score to all tiles given.

    It starts at recall 0 with the precision of the highest score. Draw it as steps: average
    precision is the sum of (R_n - R_{n-1}) P_n, not the area under straight lines.

    Args:
        scores_N: scores or logits, finite.
        labels_N: 0 or 1.
        most: points to keep, 2 at least, evenly spread along the curve, both ends among them.

    Returns:
        None for a class whose labels are all of one kind.
    """
    labels_N = np.asarray(labels_N).astype(bool)
    if labels_N.all() or not labels_N.any():
        return None
    hits_G, false_G, scores_G = _cumulated(scores_N, labels_N)
    precision_G = hits_G / (hits_G + false_G)
    return _thinned(
        np.append(0.0, hits_G / hits_G[-1]),
        np.append(precision_G[0], precision_G),
        np.append(np.inf, scores_G),
        most,
    )


def roc(scores_N: NDArray[Any], labels_N: NDArray[Any], most: int = MOST) -> Curve | None:
    """True-positive rate against false-positive rate, from (0, 0) to (1, 1).

    Args:
        scores_N: scores or logits, finite.
        labels_N: 0 or 1.
        most: points to keep, 2 at least, evenly spread along the curve, both ends among them.

    Returns:
        None for a class whose labels are all of one kind.
    """
    labels_N = np.asarray(labels_N).astype(bool)
    if labels_N.all() or not labels_N.any():
        return None
    hits_G, false_G, scores_G = _cumulated(scores_N, labels_N)
    return _thinned(
        np.append(0.0, false_G / false_G[-1]),
        np.append(0.0, hits_G / hits_G[-1]),
        np.append(np.inf, scores_G),
        most,
    )


def _cumulated(
    scores_N: NDArray[Any], labels_N: NDArray[np.bool_]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    scores_N = np.asarray(scores_N, dtype=np.float64)
    ranking = Ranking.of(scores_N, labels_N)
    hits_DG, false_DG = ranking.cumulated(np.ones((1, len(scores_N))))
    return hits_DG[0], false_DG[0], scores_N[ranking.order[ranking.ends]]


def _thinned(x: FloatArray, y: FloatArray, thresholds: FloatArray, most: int) -> Curve:
    """Points at even steps of the way along the curve (|dx| + |dy|)."""
    if len(x) > most:
        way = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
        kept = np.unique(np.searchsorted(way, np.linspace(0, way[-1], most - 1)))
        kept = np.unique(np.append(kept, len(x) - 1))
        x, y, thresholds = x[kept], y[kept], thresholds[kept]
    return Curve(x, y, thresholds)
