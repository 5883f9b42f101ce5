"""Precision-recall and ROC curves of one class, as few points as a picture needs.

Shapes: N tiles, P points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.metrics.ranking import FloatArray

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
    from sklearn.metrics import precision_recall_curve  # a second that few need

    if len(np.unique(labels_N)) < 2:
        return None
    y, x, thresholds = precision_recall_curve(np.asarray(labels_N, int), scores_N)
    y[-1] = y[-2]  # scikit-learn draws the curve to precision 1
    return _thinned(x[::-1], y[::-1], np.append(np.inf, thresholds[::-1]), most)


def roc(scores_N: NDArray[Any], labels_N: NDArray[Any], most: int = MOST) -> Curve | None:
    """True-positive rate against false-positive rate, from (0, 0) to (1, 1).

    Args:
        scores_N: scores or logits, finite.
        labels_N: 0 or 1.
        most: points to keep, 2 at least, evenly spread along the curve, both ends among them.

    Returns:
        None for a class whose labels are all of one kind.
    """
    from sklearn.metrics import roc_curve

    if len(np.unique(labels_N)) < 2:
        return None
    labels_N = np.asarray(labels_N, int)
    x, y, thresholds = roc_curve(labels_N, scores_N, drop_intermediate=False)
    return _thinned(x, y, thresholds, most)


def _thinned(x: FloatArray, y: FloatArray, thresholds: FloatArray, most: int) -> Curve:
    """Points at even steps of the way along the curve (|dx| + |dy|)."""
    if len(x) > most:
        way = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
        kept = np.unique(np.searchsorted(way, np.linspace(0, way[-1], most - 1)))
        kept = np.unique(np.append(kept, len(x) - 1))
        x, y, thresholds = x[kept], y[kept], thresholds[kept]
    return Curve(x, y, thresholds)
