"""Logits and labels of a split made ready to be measured: ranks, scores, decisions, losses.

Weights count a tile several times or not at all, so that a bootstrap draw is one row of weights;
what draws have in common is made once, when first asked for, and kept. Unit weights give the
ordinary figures.

Shapes: N tiles, K classes, B bins, G distinct scores, D rows of weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

BINS = 15
"""Equal bins of scores."""


@dataclass(frozen=True)
class Rule:
    """How scores and decisions come from logits."""

    temperature: float = 1.0
    """Logits are divided by it before the sigmoid or softmax."""

    thresholds: tuple[float, ...] | None = None
    """(K,) scores at and above which a class is given, 0 to 1; None: 0.5 for all. Without effect
    on `multiclass`, where the class of the highest logit is given."""


PLAIN = Rule()


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
        """Sort tiles once by their scores (finite; only the order matters)."""
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
        ap_D = np.where(false_DG[:, -1] > 0, ap_D, np.nan)
        passed_DG = np.diff(false_DG, axis=1, prepend=0.0)
        won_D = (passed_DG * (hits_DG - gained_DG / 2)).sum(axis=1)
        return ap_D, divided(won_D, hits_DG[:, -1] * false_DG[:, -1])


@dataclass(frozen=True)
class Scored:
    """A split, each tile once."""

    task: str
    """`binary`, `multilabel` or `multiclass`."""

    labels: BoolArray
    """(N, K) whether the tile has the class; one-hot for `multiclass`."""

    ranks: FloatArray
    """(N, K) what tiles are ranked by: raw logits (sigmoids saturate into ties), for `multiclass`
    the log odds of the class against the rest; whatever the temperature."""

    scores: FloatArray
    """(N, K) probabilities after temperature."""

    predicted: BoolArray
    """(N, K) decisions."""

    losses: FloatArray
    """(N,) cross-entropy of each tile in nats; `binary`, `multilabel`: mean over its classes."""

    @staticmethod
    def of(
        logits_NK: NDArray[Any],
        labels_NK: NDArray[Any],
        classes: int,
        task: str,
        rule: Rule = PLAIN,
    ) -> Scored:
        """Apply the rule.

        Args:
            logits_NK: raw logits, float32 or float64.
            labels_NK: 0 or 1; one-hot where the task is `multiclass`.
            classes: K.
            task: `binary`, `multilabel` or `multiclass`.
            rule: temperature and thresholds.

        Raises:
            ValueError: no tile, shapes that do not fit, labels that are not one-hot for
                `multiclass`, or a logit that is not finite.
        """
        z_NK = np.asarray(logits_NK, dtype=np.float64)
        y_NK = np.asarray(labels_NK).astype(bool)
        if z_NK.shape != y_NK.shape or z_NK.ndim != 2 or z_NK.shape[1] != classes:
            raise ValueError(f"logits {z_NK.shape}, labels {y_NK.shape}, {classes} classes")
        if not len(z_NK):
            raise ValueError("no tile to measure")
        if not np.isfinite(z_NK).all():
            raise ValueError("logits that are not finite")
        if task == "multiclass" and (y_NK.sum(axis=1) != 1).any():
            raise ValueError("multiclass labels with another number of classes a tile than one")
        softmax, scaled_NK = task == "multiclass", z_NK / rule.temperature
        logs_NK = _log_scores(scaled_NK, task)
        losses_NK = -logs_NK * y_NK if softmax else np.logaddexp(0.0, scaled_NK) - scaled_NK * y_NK
        return Scored(
            task=task,
            labels=y_NK,
            ranks=one_against_rest(z_NK) if softmax else z_NK,
            scores=np.exp(logs_NK),
            predicted=decide(z_NK, task, rule),
            losses=losses_NK.sum(axis=1) / (1 if softmax else classes),
        )

    @cached_property
    def rankings(self) -> tuple[Ranking, ...]:
        """Each class's tiles in order."""
        columns = zip(self.ranks.T, self.labels.T, strict=True)
        return tuple(Ranking.of(ranks_N, labels_N) for ranks_N, labels_N in columns)

    @cached_property
    def tallies(self) -> csr_array:
        """(3 K, N) ones where tiles are given a class rightly, given it, have it: K rows each."""
        parts = (self.predicted & self.labels, self.predicted, self.labels)
        return csr_array(np.concatenate([part.T for part in parts]), dtype=np.float64)

    @cached_property
    def gaps(self) -> csr_array:
        """(K B, N) score - label of each tile, in the row of its class and bin of the score."""
        tiles, classes = self.scores.shape
        bins_NK = bin_of(self.scores) + BINS * np.arange(classes)
        starts = np.arange(0, tiles * classes + 1, classes)
        values_NK = self.scores - self.labels
        by_tile = csr_array((values_NK.ravel(), bins_NK.ravel(), starts), (tiles, classes * BINS))
        return by_tile.T.tocsr()

    @cached_property
    def by_tile(self) -> dict[str, FloatArray]:
        """Figures that are means over tiles: name -> (N,)."""
        if self.task == "multiclass":
            right_N = (self.predicted & self.labels).sum(axis=1, dtype=np.float64)
        else:
            right_N = (self.predicted == self.labels).mean(axis=1, dtype=np.float64)
        hits_N = (self.predicted & self.labels).sum(axis=1)
        below_N = self.predicted.sum(axis=1) + 4 * self.labels.sum(axis=1)  # beta is 2
        return {
            "accuracy": right_N,
            # nothing given where nothing is true is right (scikit-learn's `zero_division=1`)
            "f2_samples": np.where(below_N > 0, divided(5 * hits_N, below_N), 1.0),
            "log_loss": self.losses,
        }


def bin_of(scores: NDArray[Any]) -> NDArray[np.intp]:
    """Number of the bin (a, b] of [0, 1] that each score is in, 0 to `BINS` - 1."""
    return np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], scores, side="left")


def decide(logits_NK: NDArray[Any], task: str, rule: Rule = PLAIN) -> BoolArray:
    """Which classes are given: the one rule of metrics, tables and `satray.load`.

    Args:
        logits_NK: raw logits; whoever stores them decides on what is stored.
        task: `binary`, `multilabel` or `multiclass`.
        rule: temperature and thresholds.

    Returns:
        bool (N, K). Where the score reaches the class's threshold; for `multiclass` the class of
        the highest logit (the first of equal ones), whatever its score.

    Raises:
        ValueError: another number of thresholds than classes.
    """
    z_NK = np.asarray(logits_NK, dtype=np.float64) / rule.temperature
    if task == "multiclass":
        top1_NK: BoolArray = np.arange(z_NK.shape[1]) == z_NK.argmax(axis=1)[:, None]
        return top1_NK
    if rule.thresholds is None:
        return z_NK >= 0
    if len(rule.thresholds) != z_NK.shape[1]:
        raise ValueError(f"{len(rule.thresholds)} thresholds, {z_NK.shape[1]} classes")
    t_K = np.asarray(rule.thresholds, dtype=np.float64)
    with np.errstate(divide="ignore"):  # thresholds of 0 and 1 lie at logits of -inf and inf
        return z_NK >= np.log(t_K) - np.log1p(-t_K)


def scores_of(logits_NK: NDArray[Any], task: str, temperature: float = 1.0) -> FloatArray:
    """Probabilities: a sigmoid a class, or a softmax over classes for `multiclass`.

    Args:
        logits_NK: raw logits.
        task: `binary`, `multilabel` or `multiclass`.
        temperature: logits are divided by it first.

    Returns:
        float64 (N, K), 0 to 1.
    """
    return np.exp(_log_scores(np.asarray(logits_NK, dtype=np.float64) / temperature, task))


def one_against_rest(z_NK: FloatArray) -> FloatArray:
    """log(p / (1 - p)) of the softmax: ranks tiles as p does, without its ties near 1."""
    if z_NK.shape[1] == 1:  # no rest: every tile ranks the same
        return np.zeros_like(z_NK)
    all_N1 = np.logaddexp.reduce(z_NK, axis=1, keepdims=True)
    top_N1 = z_NK.argmax(axis=1)[:, None]
    others_NK = z_NK.copy(order="K")
    np.put_along_axis(others_NK, top_N1, -np.inf, axis=1)
    # Below the top p is 1/2 at the most; at the top 1 - p may vanish, so the rest is added up.
    rest_NK = all_N1 + np.log1p(-np.exp(others_NK - all_N1))
    rest_N1 = np.logaddexp.reduce(others_NK, axis=1, keepdims=True)
    np.put_along_axis(rest_NK, top_N1, rest_N1, axis=1)
    ranks_NK: FloatArray = z_NK - rest_NK
    return ranks_NK


def _log_scores(z_NK: FloatArray, task: str) -> FloatArray:
    if task == "multiclass":
        rest_N1: FloatArray = np.logaddexp.reduce(z_NK, axis=1, keepdims=True)
        return z_NK - rest_N1
    return -np.logaddexp(0.0, -z_NK)


def divided(upper: NDArray[Any], lower: NDArray[Any]) -> FloatArray:
    """The quotient; NaN where the divisor is 0."""
    shape = np.broadcast_shapes(upper.shape, lower.shape)
    quotient = np.full(shape, np.nan)
    np.divide(upper, lower, out=quotient, where=np.broadcast_to(lower != 0, shape))
    return quotient


def mean_of_defined(values: FloatArray) -> FloatArray:
    """Mean over the last axis without NaN; NaN where all are."""
    there = ~np.isnan(values)
    return divided(np.where(there, values, 0.0).sum(axis=-1), there.sum(axis=-1))
