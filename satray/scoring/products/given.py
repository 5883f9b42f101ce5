"""Which tiles are given which class, asked by place: detections in tiles that have their class.

A peak is judged by its own cell. A tile is judged by all of its cells; where it takes the maximum
of each feature, evidence against a class counts wherever it lies, and most peaks in tiles that are
not given the class are false.

Legend: T x U tiles, K classes, N points.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from satray.scoring.dense.windows import AxisTiles


class GivenTiles:
    """The decisions of a scene's tiles."""

    def __init__(self, rows: AxisTiles, cols: AxisTiles, classes: int) -> None:
        """None is given anything yet."""
        self._axes = (rows, cols)
        self._given_TUK = np.zeros((len(rows), len(cols), classes), dtype=bool)

    def add(self, start: int, given_NK: NDArray[np.bool_]) -> None:
        """Take whole rows of tiles, from row `start` on, in row order."""
        down = len(given_NK) // len(self._axes[1])
        shape = (down, *self._given_TUK.shape[1:])
        self._given_TUK[start : start + down] = given_NK.reshape(shape)

    def holds(
        self, klass: Sequence[int], row: NDArray[np.float64], col: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Whether any tile around each point is given its class, (N,).

        Args:
            klass: (N,) places of classes.
            row: (N,) net px. The strip that no tile reaches counts as the last tile's.
            col: (N,) net px.
        """
        T, U, K = self._given_TUK.shape
        sums = np.zeros((T + 1, U + 1, K), dtype=np.int32)
        np.cumsum(self._given_TUK, axis=0, out=sums[1:, 1:])
        np.cumsum(sums[1:, 1:], axis=1, out=sums[1:, 1:])
        (top, bottom), (left, right) = (
            _around(axis, at) for axis, at in zip(self._axes, (row, col), strict=True)
        )
        k = np.asarray(klass, dtype=np.int64)
        to_stop = sums[bottom, right, k] - sums[bottom, left, k]
        count = to_stop - (sums[top, right, k] - sums[top, left, k])
        held: NDArray[np.bool_] = count > 0
        return held


def _around(
    axis: AxisTiles, at: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last + 1 of the tiles that cover each place along an axis."""
    origins = np.array(axis.origins, dtype=np.float64)
    inside = np.clip(at, 0, np.nextafter(origins[-1] + axis.size, 0))
    first = np.searchsorted(origins, inside - axis.size, side="right")
    stop = np.searchsorted(origins, inside, side="right")
    return first.astype(np.int64), stop.astype(np.int64)
