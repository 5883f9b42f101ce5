"""Measures that look only at the order of the scores of one class.

Weights count a tile several times or not at all, so that a bootstrap draw is one row of weights
and all draws share one sort. Unit weights give the ordinary figures.

Shapes: N tiles, G distinct scores, D rows of weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
NAN = float("nan")


@dataclass(frozen=True)
class Ranking:
    """The tiles of one class by falling score, equal scores together."""

    order: NDArray[np.intp]
    """(N,) tiles by falling score."""

    labels: FloatArray
    """(N,) their labels in that order, 0 or 1."""

    ends: NDArray[np.intp]
    """(G,) where each distinct score ends in that order."""

    @staticmethod
    def of(scores_N: FloatArray, labels_N: BoolArray) -> Ranking:
        """Sort once.

        Args:
            scores_N: finite; only their order matters.
            labels_N: whether each tile has the class.
        """
        order_N = np.argsort(-scores_N, kind="stable")
        falling_N = scores_N[order_N]
        last = np.array([len(order_N) - 1], dtype=np.intp)
        ends_G = np.concatenate([np.flatnonzero(np.diff(falling_N)), last])
        return Ranking(order_N, labels_N[order_N].astype(np.float64), ends_G)

    def cumulated(self, w_DN: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Weight of the positives, and of the negatives, down to each distinct score.

        Args:
            w_DN: weight of each tile, 0 or more.

        Returns:
            two arrays (D, G) of true and false positives by falling threshold.
        """
        w_DN = w_DN[:, self.order]
        hits_DG = np.cumsum(w_DN * self.labels, axis=1)[:, self.ends]
        return hits_DG, np.cumsum(w_DN, axis=1)[:, self.ends] - hits_DG

    def areas(self, w_DN: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Average precision and area under the ROC curve for each row of weights.

        Args:
            w_DN: weight of each tile, 0 or more.

        Returns:
            `ap_D`: sum of (R_n - R_{n-1}) P_n over falling thresholds, ties as one; NaN where the
                labels are all of one kind (scikit-learn's 0.0 without positives, and its 1.0
                without negatives, would silently move a mean).
            `auc_D`: chance that a positive outranks a negative, ties a half (the trapezoids'
                area); NaN where the labels are all of one kind.
        """
        hits_DG, false_DG = self.cumulated(w_DN)
        gained_DG = np.diff(hits_DG, axis=1, prepend=0.0)
        above_DG = hits_DG + false_DG
        # Before the first weighted tile nothing is gained, whatever the precision there.
        precision_DG = hits_DG / np.where(above_DG > 0, above_DG, 1.0)
        ap_D = divided((gained_DG * precision_DG).sum(axis=1), hits_DG[:, -1])
        ap_D = np.where(false_DG[:, -1] > 0, ap_D, NAN)
        passed_DG = np.diff(false_DG, axis=1, prepend=0.0)
        won_D = (passed_DG * (hits_DG - gained_DG / 2)).sum(axis=1)
        return ap_D, divided(won_D, hits_DG[:, -1] * false_DG[:, -1])


def divided(upper: NDArray[Any], lower: NDArray[Any]) -> FloatArray:
    """The quotient; NaN where the divisor is 0."""
    shape = np.broadcast_shapes(upper.shape, lower.shape)
    quotient = np.full(shape, NAN)
    np.divide(upper, lower, out=quotient, where=np.broadcast_to(lower != 0, shape))
    return quotient


def mean_of_defined(values: FloatArray) -> FloatArray:
    """Mean over the last axis without NaN; NaN where all are."""
    there = ~np.isnan(values)
    return divided(np.where(there, values, 0.0).sum(axis=-1), there.sum(axis=-1))
