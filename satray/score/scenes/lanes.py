"""Bilinear, antialiased resampling of a part of an image, as if the whole had been resampled.

The weights are those of `torch.nn.functional.interpolate(mode="bilinear", antialias=True)`, taken
from where a px lies on the whole axis: parts that meet agree to the last digit.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

WHOLE = 1 - 1e-5
"""Share of a filter's weight at and above which it is taken for all of it."""
HALF = 0.5
"""Share of a filter's weight from which on a px is measured enough to count as data."""


def mostly(measured: NDArray[Any]) -> NDArray[np.bool_]:
    """Where all bands are measured: shares (C, H, W) of `HALF` at least, or (H, W) for all."""
    enough: NDArray[np.bool_] = measured >= HALF
    if measured.ndim == 3:
        enough = np.asarray(enough.all(axis=0))
    return enough


@dataclass(frozen=True)
class Lane:
    """Part of one axis: which source px it needs, and how much of each."""

    first: int
    """First source px."""
    stop: int
    """Source px after the last."""
    matrix: Any
    """Sparse (n, stop - first), rows sum to 1; float64."""

    @property
    def count(self) -> int:
        """Source px."""
        return self.stop - self.first


def lane(start: int, stop: int, size: int, wanted: int) -> Lane:
    """The px `start` to `stop` of an axis of `size` px resampled to `wanted` px.

    Args:
        start: first px of the part, of the resampled axis.
        stop: px after the last; beyond `start`.
        size: px of the source's axis.
        wanted: px of the whole axis when resampled.
    """
    scale = size / wanted
    support = max(scale, 1.0)
    centre_n = (np.arange(start, stop) + 0.5) * scale
    low_n = np.floor(centre_n - support).astype(np.int64)
    taps = int(np.ceil(2 * support)) + 2
    at_nT = low_n[:, None] + np.arange(taps)[None, :]
    weight_nT = np.maximum(1 - np.abs(at_nT + 0.5 - centre_n[:, None]) / support, 0)
    weight_nT[(at_nT < 0) | (at_nT >= size)] = 0
    weight_nT /= weight_nT.sum(axis=1, keepdims=True)
    used_nT = weight_nT > 0
    used = at_nT[used_nT]
    first, end = int(used.min()), int(used.max()) + 1
    edges = np.concatenate([[0], np.cumsum(used_nT.sum(axis=1))])
    matrix = csr_array((weight_nT[used_nT], used - first, edges), shape=(stop - start, end - first))
    return Lane(first, end, matrix)


def resampled(
    x_CHW: NDArray[Any], valid_CHW: NDArray[np.bool_], rows: Lane, columns: Lane
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Resample what two lanes need: each px is the mean over the valid px under its filter.

    Args:
        x_CHW: source px, `rows.count` x `columns.count`, any integer or float dtype.
        valid_CHW: which of them count; a first axis of 1 holds for all bands.
        rows: vertical part.
        columns: horizontal part.

    Returns:
        Values (float32; float64 of 64-bit and of 32-bit whole numbers), 0 where nothing counts; and
        the share of the filter's weight that counts, (C or 1, h, w).
    """
    working = np.float32 if x_CHW.dtype.itemsize <= 2 or x_CHW.dtype == np.float32 else np.float64
    down, across = rows.matrix.astype(working), columns.matrix.astype(working)

    def part(x_HW: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray((across @ (down @ x_HW).T).T)

    shape = (down.shape[0], across.shape[0])
    y_CHW = np.empty((len(x_CHW), *shape), working)
    weight_CHW = np.ones((len(valid_CHW), *shape), working)
    for place, valid_HW in enumerate(valid_CHW):
        if not valid_HW.all():
            weight_CHW[place] = part(valid_HW.astype(working))
    # rounding must not tell a part that has all its px from its neighbour
    weight_CHW[weight_CHW >= WHOLE] = 1
    for place, x_HW in enumerate(x_CHW):
        which = place if len(valid_CHW) > 1 else 0
        weight_HW, valid_HW = weight_CHW[which], valid_CHW[which]
        clean_HW = x_HW.astype(working)
        if not valid_HW.all():
            clean_HW[~valid_HW] = 0
        y_CHW[place] = part(clean_HW) / np.where(weight_HW > 0, weight_HW, 1)
    return y_CHW, weight_CHW
