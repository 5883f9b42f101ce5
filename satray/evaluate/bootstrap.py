"""Bootstrap intervals: what the figures of another sample of tiles like these might have been.

Tiles are drawn with replacement, all classes of a tile together. Intervals are percentiles of the
draws (Efron and Tibshirani, 1993) moved by their bias, since a draw's repeated tiles raise average
precision and calibration error: unmoved, 95 % intervals of the calibration error held the true one
in a third of trials on 483 tiles, moved in three quarters; those of mAP in 93 % either way. A draw
is a row of weights, so that nothing is sorted twice.

Shapes: N tiles, K classes, D draws.
"""

from collections.abc import Callable, Sequence

import numpy as np

from satray.metrics.scored import FloatArray, Scored
from satray.metrics.summary import figures, flat, metrics_of

CHUNK = 1_000_000
"""Weights at a time: 8 MB."""
MOST = 200_000_000
"""Weights of all draws: about two minutes for 17 classes on one core."""
LEAST = 100
"""Draws however many tiles there are; many tiles make narrow intervals, and ends matter less."""


def affordable(draws: int, tiles: int) -> int:
    """So many of the draws asked for as a large split leaves time for: MOST / N, 100 at least."""
    return min(draws, max(LEAST, MOST // max(tiles, 1)))


def bootstrap(
    scored: Scored,
    classes: Sequence[str],
    draws: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, dict[str, float]]:
    """95 % intervals of every figure of `compute_metrics`.

    A class whose labels are alike in a draw is left out of its means, as it is of the figures.

    Args:
        scored: the split.
        classes: K names.
        draws: D, one at least; 1,000 of 483 tiles of 17 classes take about a second.
        seed: of the draws; the same seed and N draw the same tiles.
        progress: told how many draws are measured, and how many there will be.

    Returns:
        by name, as in a flat row (`map`, `accuracy`, ..., `ap_<class>`): `low` and `high`, the ends
        of the interval, which holds the figure itself; `sd`, the standard deviation of the draws;
        and `draws`, those in which the figure was defined: a rare class may be absent from some.
        Without one the others are NaN.
    """
    tiles = len(scored.labels)
    rng = np.random.default_rng(seed)
    at_once = max(1, CHUNK // tiles)
    parts = []
    for start in range(0, draws, at_once):
        rows = min(at_once, draws - start)
        chosen_DN = rng.integers(0, tiles, (rows, tiles)) + tiles * np.arange(rows)[:, None]
        counts = np.bincount(chosen_DN.ravel(), minlength=rows * tiles)
        w_DN = counts.reshape(rows, tiles).astype(np.float64)
        parts.append(flat(figures(scored, classes, w_DN)))
        progress(start + rows, draws)
    return {
        name: _interval(name, value, np.concatenate([part[name] for part in parts]))
        for name, value in flat(metrics_of(scored, classes)).items()
        if name != "classes_counted"
    }


def _interval(name: str, value: float, drawn_D: FloatArray) -> dict[str, float]:
    defined = drawn_D[np.isfinite(drawn_D)]
    if not len(defined):
        return {"low": np.nan, "high": np.nan, "sd": np.nan, "draws": 0}
    bias = float(defined.mean()) - value if np.isfinite(value) else 0.0
    low, high = (float(end) - bias for end in np.quantile(defined, [0.025, 0.975]))
    top = np.inf if name == "log_loss" else 1.0  # shares stay shares
    low, high = max(min(low, value), 0.0), min(max(high, value), top)
    return {"low": low, "high": high, "sd": float(defined.std()), "draws": len(defined)}
