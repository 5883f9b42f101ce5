"""How far windows and tiles differ on a bundle: the same tiles scored both ways."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from satray.scoring.predictions import Numbers


@dataclass(frozen=True)
class Agreement:
    """Two ways of scoring the same N tiles, for one class."""

    name: str
    """The class's."""

    tiles: int
    """N: tiles that have scores both ways."""

    rank_correlation: float | None
    """Spearman's, of the logits, -1 to 1; None where one of them is constant or N < 2."""

    logit_median: float
    """Median of |difference|, in logit units; 0 without tiles."""

    logit_most: float
    """Largest |difference|, in logit units; 0 without tiles."""

    decisions: float
    """Share of tiles that are decided alike, 0 to 1; 1 without tiles."""

    def line(self) -> str:
        """For a person."""
        rho = "none" if self.rank_correlation is None else f"{self.rank_correlation:.3f}"
        return (
            f"{self.name}: {self.tiles} tiles in windows and one by one: rank correlation {rho}, "
            f"logits differ by {self.logit_median:.3g} (median), {self.logit_most:.3g} (most), "
            f"{self.decisions:.1%} decided alike"
        )


def compare(one: Numbers, other: Numbers, classes: Sequence[str]) -> tuple[Agreement, ...]:
    """Compare class by class.

    Args:
        one: N tiles; logits that are not finite are left out.
        other: the same tiles in the same order.
        classes: K names.
    """
    return tuple(
        _agreement(name, one.logits[:, k], other.logits[:, k], one.preds[:, k] == other.preds[:, k])
        for k, name in enumerate(classes)
    )


def _agreement(
    name: str, one_N: NDArray[np.float32], other_N: NDArray[np.float32], same_N: NDArray[np.bool_]
) -> Agreement:
    both_N = np.isfinite(one_N) & np.isfinite(other_N)
    a, b = one_N[both_N].astype(np.float64), other_N[both_N].astype(np.float64)
    if not len(a):
        return Agreement(name, 0, None, 0.0, 0.0, 1.0)
    gaps = np.abs(a - b)
    return Agreement(
        name,
        len(a),
        _spearman(a, b),
        float(np.median(gaps)),
        float(gaps.max()),
        float(same_N[both_N].mean()),
    )


def _spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])
