"""How good yes-or-no decisions are, class by class, tile by tile, and which errors go together.

Shapes: N tiles, K classes, `...` leading axes (none, or one row of weights each).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from satray.metrics.ranking import BoolArray, FloatArray, divided


@dataclass(frozen=True)
class Counts:
    """Tiles of each class by decision and truth; weights, where tiles have some."""

    hits: FloatArray
    """(..., K) given and true."""

    false: FloatArray
    """(..., K) given, not true."""

    missed: FloatArray
    """(..., K) true, not given."""

    rest: FloatArray
    """(..., K) neither."""

    @staticmethod
    def of(given_NK: BoolArray, labels_NK: BoolArray) -> Counts:
        """Count tiles, each once, by decisions and truth."""
        cells = ((given_NK, labels_NK), (given_NK, ~labels_NK), (~given_NK, labels_NK),
                 (~given_NK, ~labels_NK))  # fmt: skip
        return Counts(*((a & b).sum(axis=0, dtype=np.float64) for a, b in cells))

    @property
    def support(self) -> FloatArray:
        """(..., K) tiles that have the class."""
        return self.hits + self.missed

    @property
    def total(self) -> FloatArray:
        """(..., K) all tiles."""
        return self.support + self.false + self.rest

    def precision(self) -> FloatArray:
        """Share of the given that is true; NaN where the class is never given."""
        return divided(self.hits, self.hits + self.false)

    def recall(self) -> FloatArray:
        """Share of the true that is given; NaN where no tile has the class."""
        return divided(self.hits, self.support)

    def specificity(self) -> FloatArray:
        """Share of the tiles without the class that is not given it; NaN where all have it."""
        return divided(self.rest, self.rest + self.false)

    def given_rate(self) -> FloatArray:
        """Predicted-positive rate: share of all tiles that is given the class."""
        return divided(self.hits + self.false, self.total)

    def prevalence(self) -> FloatArray:
        """Share of all tiles that has the class."""
        return divided(self.support, self.total)

    def f_beta(self, beta: float) -> FloatArray:
        """(1 + b^2) TP / ((1 + b^2) TP + b^2 FN + FP); NaN where neither given nor true."""
        square = beta * beta
        hits_K = (1 + square) * self.hits
        return divided(hits_K, hits_K + square * self.missed + self.false)


def f_beta_by_tile(given_NK: BoolArray, labels_NK: BoolArray, beta: float) -> FloatArray:
    """F-beta of each tile's set of classes; its mean is the samples average.

    Nothing given where nothing is true counts 1.0 (scikit-learn's `zero_division=1`): the tile
    was judged rightly. Where a tile has always one class (and for one class) it is 0 or 1.
    """
    square = beta * beta
    hits_N = (given_NK & labels_NK).sum(axis=1)
    below_N = given_NK.sum(axis=1) + square * labels_NK.sum(axis=1)
    return np.where(below_N > 0, divided((1 + square) * hits_N, below_N), 1.0)
