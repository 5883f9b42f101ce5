"""The temperature and thresholds that make scores mean what they say.

Fit on one half of a split and measure on the other (`halves`); what was fitted on a tile says
nothing about it.

Shapes: N tiles, K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from satray.metrics.scored import BoolArray, FloatArray, Ranking, scores_of

COLDEST, HOTTEST = 0.05, 20.0
"""Bounds of a fitted temperature; what lies beyond is no temperature but another fault."""

PRIOR = 2.0
"""Weight, in tiles, of the belief that logits are right as they are: 1 / T is Gamma(2, 2), so that
log T is most likely 0 and a factor of two either way is a standard deviation. Without it
colder is always better for tiles told apart without error, until a first error beyond them costs
more than all that was won. It keeps the loss convex in 1 / T; its weight is our choice."""

DEFAULT = 0.5
"""Threshold of a class that has too few positives to fit one."""


def halves(ids: Iterable[object], seed: int = 0) -> BoolArray:
    """Which tiles are for fitting; the others are for measuring.

    The tiles with the lower hashes of (seed, id): the halves are equal (an odd tile is for
    fitting), whatever the order, and a tile more or less moves one other at most.

    Args:
        ids: tile ids or rows of the index, distinct.
        seed: draws other halves.

    Returns:
        bool (N,).
    """
    hashes = [hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).hexdigest() for name in ids]
    fit_N = np.zeros(len(hashes), dtype=bool)
    fit_N[np.argsort(np.array(hashes, dtype=str), kind="stable")[: (len(hashes) + 1) // 2]] = True
    return fit_N


def fit_temperature(logits_NK: NDArray[Any], labels_NK: NDArray[Any], task: str) -> float | None:
    """The temperature with the lowest log loss (Guo et al., 2017, section 4.2), and a weak prior.

    Minimises the tiles' summed losses + `PRIOR` (1 / T + log T), the mode of log T. Both are convex
    in 1 / T, so their slope there has one root. A tile counts once, however many classes it has.

    Args:
        logits_NK: raw logits.
        labels_NK: 0 or 1; one-hot for `multiclass`.
        task: `binary`, `multilabel` or `multiclass`.

    Returns:
        T between 0.05 and 20, 1 where logits say nothing; None where the best lies beyond: keep 1.

    Raises:
        ValueError: no tile, shapes that do not fit, or a logit that is not finite.
    """
    z_NK, y_NK = _checked(logits_NK, labels_NK)
    if not np.isfinite(z_NK).all():
        raise ValueError("logits that are not finite")

    classes = 1 if task == "multiclass" else z_NK.shape[1]  # as a tile's loss is a mean of theirs

    def slope(log_t: float) -> float:
        errors_NK = scores_of(z_NK, task, np.exp(log_t)) - y_NK
        return float((z_NK * errors_NK).sum() / classes + PRIOR * (1 - np.exp(log_t)))

    coldest, hottest = float(np.log(COLDEST)), float(np.log(HOTTEST))
    # The slope is that in 1 / T: it falls as T rises.
    if slope(coldest) <= 0 or slope(hottest) >= 0:
        return None
    return float(np.exp(brentq(slope, coldest, hottest, xtol=1e-10)))


def fit_thresholds(
    scores_NK: NDArray[Any],
    labels_NK: NDArray[Any],
    beta: float = 1.0,
    least_positives: int = 50,
) -> FloatArray:
    """The threshold of each class with the highest F-beta on these tiles.

    A threshold lies halfway between the lowest score that it lets in and the next one below, so
    that it does not hang on the last digit of a score.

    Args:
        scores_NK: probabilities, after the temperature that will be used with the thresholds.
        labels_NK: 0 or 1.
        beta: weight of recall against precision.
        least_positives: classes with fewer keep 0.5.

    Returns:
        float64 (K,), above 0 and at most 1; a class is given at scores >= its threshold.

    Raises:
        ValueError: no tile, or shapes that do not fit.
    """
    scores_NK, labels_NK = _checked(scores_NK, labels_NK)
    columns = zip(scores_NK.T, labels_NK.T, strict=True)
    return np.array([_threshold(*column, beta, least_positives) for column in columns])


def _threshold(scores_N: FloatArray, labels_N: FloatArray, beta: float, least: int) -> float:
    positives = float(labels_N.sum())
    if positives < max(1, least):
        return DEFAULT
    ranking = Ranking.of(scores_N, labels_N.astype(bool))
    distinct_G = scores_N[ranking.order[ranking.ends]]
    hits_DG, false_DG = ranking.cumulated(np.ones((1, len(scores_N))))
    square = beta * beta
    f_G = (1 + square) * hits_DG[0] / (hits_DG[0] + false_DG[0] + square * positives)
    below_G = np.append(distinct_G[1:], 0.0)
    halfway_G = (distinct_G + below_G) / 2
    # Between neighbouring floats half the way is one of them; never the one to be left out.
    t_G = np.where(halfway_G > below_G, halfway_G, distinct_G)
    # A threshold of 0 decides nothing; of equally good ones, the one nearest to the default.
    best_G = (t_G > 0) & (f_G == f_G[t_G > 0].max(initial=-1.0))
    if not best_G.any():
        return DEFAULT
    return float(min(t_G[best_G], key=lambda t: abs(t - DEFAULT)))


def _checked(values_NK: NDArray[Any], labels_NK: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
    values_NK = np.asarray(values_NK, dtype=np.float64)
    labels_NK = np.asarray(labels_NK).astype(bool).astype(np.float64)
    if values_NK.shape != labels_NK.shape or values_NK.ndim != 2:
        raise ValueError(f"values {values_NK.shape} beside labels {labels_NK.shape}")
    if not len(values_NK):
        raise ValueError("no tile to measure")
    return values_NK, labels_NK
