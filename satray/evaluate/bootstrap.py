"""Bootstrap intervals: what the figures of another sample of tiles like these might have been.

Tiles are drawn with replacement, all classes of a tile together. Intervals are percentiles of the
draws (Efron and Tibshirani, 1993) moved by their bias, since a draw's repeated tiles raise average
precision and calibration error: unmoved, 95 % intervals of the calibration error held the true one
in a third of trials on 483 tiles, moved in three quarters; those of mAP in 93 % either way. A draw
is a row of weights, so that nothing is sorted twice.

Shapes: N tiles, K classes, D draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.metrics.ranking import FloatArray
from satray.metrics.scored import PLAIN, Rule, Scored
from satray.metrics.summary import Figures, figures, flat_figures

CHUNK = 1_000_000
"""Weights at a time: 8 MB."""

MOST = 200_000_000
"""Weights of all draws: about two minutes for 17 classes on one core."""
LEAST = 100
"""Draws however many tiles there are; many tiles make narrow intervals, and ends matter less."""


@dataclass(frozen=True)
class Interval:
    """A figure and how far it may be off by the choice of tiles."""

    value: float
    """The figure on the split itself."""

    low: float
    """Lower end of the 95 % interval; never above `value`."""

    high: float
    """Upper end of the 95 % interval; never below `value`."""

    sd: float
    """Standard deviation of the draws."""

    draws: int
    """Draws in which the figure was defined: a rare class may be absent from some. Without one,
    `low`, `high` and `sd` are NaN."""


Progress = Callable[[int, int], None]
"""Told how many draws are measured, and how many there will be."""


def affordable(draws: int, tiles: int) -> int:
    """So many of the draws asked for as a large split leaves time for: MOST / N, 100 at least."""
    return min(draws, max(LEAST, MOST // max(tiles, 1)))


def bootstrap(
    logits_NK: NDArray[Any],
    labels_NK: NDArray[Any],
    classes: Sequence[str],
    task: str,
    draws: int = 1000,
    seed: int = 0,
    rule: Rule = PLAIN,
    progress: Progress = lambda *_: None,
) -> dict[str, Interval]:
    """95 % intervals of every figure of `compute_metrics`.

    A class whose labels are alike in a draw is left out of its means, as it is of the figures.

    Args:
        logits_NK: raw logits.
        labels_NK: 0 or 1; one-hot for `multiclass`.
        classes: K names.
        task: `binary`, `multilabel` or `multiclass`.
        draws: D; 1,000 of 483 tiles of 17 classes take about a second. See `affordable`.
        seed: of the draws; the same seed and N draw the same tiles.
        rule: temperature and thresholds.
        progress: told after each stretch of draws.

    Returns:
        by name, as in a flat row: `map`, `accuracy`, ..., `ap_<class>`, `recall_of_<class>`
        (of every task).

    Raises:
        ValueError: see `compute_metrics`; no draw.
    """
    if draws < 1:
        raise ValueError(f"{draws} draws")
    scored = Scored.of(logits_NK, labels_NK, len(classes), task, rule)
    tiles = len(scored.labels)

    def measure(w_DN: FloatArray) -> Figures:
        return flat_figures(figures(scored, w_DN), classes)

    whole = measure(np.ones((1, tiles)))
    parts, done = [], 0
    for w_DN in _weights(tiles, draws, seed):
        parts.append(measure(w_DN))
        done += len(w_DN)
        progress(done, draws)
    return {
        name: _interval(
            float(value[0]),
            np.concatenate([part[name] for part in parts]),
            top=np.inf if name == "log_loss" else 1.0,
        )
        for name, value in whole.items()
        if name != "classes_counted"
    }


def _weights(tiles: int, draws: int, seed: int) -> Iterator[FloatArray]:
    """How often each draw has each tile, some draws at a time."""
    rng = np.random.default_rng(seed)
    at_once = max(1, CHUNK // tiles)
    for start in range(0, draws, at_once):
        rows = min(at_once, draws - start)
        chosen_DN = rng.integers(0, tiles, (rows, tiles)) + tiles * np.arange(rows)[:, None]
        counts = np.bincount(chosen_DN.ravel(), minlength=rows * tiles)
        yield counts.reshape(rows, tiles).astype(np.float64)


def _interval(value: float, drawn_D: FloatArray, top: float) -> Interval:
    defined = drawn_D[np.isfinite(drawn_D)]
    if not len(defined):
        return Interval(value, np.nan, np.nan, np.nan, 0)
    bias = float(defined.mean()) - value if np.isfinite(value) else 0.0
    low, high = (float(end) - bias for end in np.quantile(defined, [0.025, 0.975]))
    low, high = max(min(low, value), 0.0), min(max(high, value), top)  # shares stay shares
    return Interval(value, low, high, float(defined.std()), len(defined))
