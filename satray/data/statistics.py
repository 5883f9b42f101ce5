"""Per-band statistics in one pass: parts merge to the same figures in any order and grouping.

8- and 16-bit integers are counted value by value: all figures are exact. Of other dtypes the sums
by each tile's mean and variance are added as fractions, without rounding, so that neither block
size nor arrival order shows in the last digit (`math.fsum` would too, but only of all tiles' sums
at once: two floats a tile and band to keep); percentiles come from counts of the upper 20 bits of
float32, bins of relative width 2**-11: an order statistic is off by at most 0.05 % of its value.
Minimum and maximum are exact always.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.data.index import BandStatistics
from satray.data.values import whole

PERCENTS = (1, 2, 5, 25, 50, 75, 95, 98, 99)
"""Percentiles that an index holds."""

FLOAT_SHIFT = 12
"""Bits of a float32 that its bin leaves out: sign, exponent and 11 of 23 mantissa bits stay."""


@dataclass(frozen=True)
class BandCounts:
    """What is known of one band after some tiles: a value to merge with others."""

    dtype: str
    """Stored dtype; only equal ones merge."""
    bins: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    """Bin numbers that occur, ascending: values for 8 and 16 bits, else see `_float_edges`."""
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Pixels in each of `bins`."""
    ends: tuple[float, float] = (math.inf, -math.inf)
    """Smallest and largest value; not kept where bins are values."""
    sums: tuple[Fraction, Fraction] = (Fraction(0), Fraction(0))
    """Sums of the values and of their squares; likewise."""

    @property
    def exact(self) -> bool:
        """Whether bins are values."""
        kind = np.dtype(self.dtype)
        return kind.kind in "iu" and kind.itemsize <= 2

    @property
    def valid(self) -> int:
        """Pixels counted."""
        return int(self.counts.sum())


def count_pixels(values: NDArray[Any]) -> BandCounts:
    """Count one band of one tile.

    Args:
        values: its valid pixels (n,), below `values.HUGE`.
    """
    empty = BandCounts(values.dtype.name)
    if values.size == 0:
        return empty
    if empty.exact:
        return BandCounts(empty.dtype, *_counted(values))
    wide = values.astype(np.float64)
    mean = wide.mean(keepdims=True)
    total = Fraction(mean.item()) * wide.size
    squares = Fraction(wide.var(mean=mean).item()) * wide.size + Fraction(mean.item()) * total
    ends = wide.min().item(), wide.max().item()
    return BandCounts(empty.dtype, *_counted(_float_bins(values)), ends, (total, squares))


def count_tile(
    x_CHW: NDArray[Any], valid_CHW: NDArray[np.bool_] | None = None
) -> tuple[BandCounts, ...]:
    """Count every band of a tile (C, H, W) over what is measured in it; None: all."""
    if valid_CHW is None:
        return tuple(count_pixels(x_HW.ravel()) for x_HW in x_CHW)
    return tuple(count_pixels(x_HW[v_HW]) for x_HW, v_HW in zip(x_CHW, valid_CHW, strict=True))


def merge(parts: Sequence[Sequence[BandCounts]]) -> tuple[BandCounts, ...]:
    """Merge disjoint parts of one dtype, each with one entry a band; at least one part."""
    return tuple(map(_merged, zip(*parts, strict=True)))


def changed(band: BandCounts, gain: float, shift: float) -> BandCounts:
    """Counts of a band whose every value v was v * gain + shift; as exact as they were.

    What does not fit an 8- or 16-bit dtype is clipped, as pixels are (`values.Change`).
    """
    if (gain, shift) == (1, 0) or band.valid == 0:
        return band
    if band.exact:
        values = whole(np.float64(gain) * band.bins + shift, np.dtype(band.dtype)).astype(np.int64)
        return BandCounts(band.dtype, *_counted(values, band.counts))
    middles = np.add(*_float_edges(band.bins)) / 2
    binned = _counted(_float_bins(middles * gain + shift), band.counts)
    low, high = sorted(end * gain + shift for end in band.ends)
    by, more = Fraction(gain), Fraction(shift)
    total = by * band.sums[0] + more * band.valid
    squares = by**2 * band.sums[1] + more * (by * band.sums[0] + total)
    return BandCounts(band.dtype, *binned, (low, high), (total, squares))


def summarise(name: str, band: BandCounts) -> BandStatistics:
    """Figures of one band; NaN throughout where no pixel was valid.

    Percentiles interpolate linearly between order statistics, as `numpy.percentile` does.
    """
    valid, texts = band.valid, [str(percent) for percent in PERCENTS]
    if valid == 0:
        nan = math.nan
        return BandStatistics(name, nan, nan, nan, nan, dict.fromkeys(texts, nan), 0)
    ends, sums = band.ends, band.sums
    if band.exact:
        values = band.bins.astype(object)  # Python's integers do not overflow
        ends = float(values[0]), float(values[-1])
        sums = Fraction(band.counts @ values), Fraction(band.counts @ values**2)
    mean, mean_square = (each / valid for each in sums)
    deviation = math.sqrt(mean_square - mean**2)
    places = np.array(PERCENTS) / 100 * (valid - 1)
    below, above = np.floor(places).astype(np.int64), np.ceil(places).astype(np.int64)
    low, high = _order_statistics(band, below), _order_statistics(band, above)
    percentiles = (low + (high - low) * (places - below)).tolist()
    by_percent = dict(zip(texts, percentiles, strict=True))
    return BandStatistics(name, float(mean), deviation, *ends, by_percent, valid)


def _merged(bands: Sequence[BandCounts]) -> BandCounts:
    """One band of disjoint parts, through a table of the whole range: at most 2**21 bins wide."""
    some = [band for band in bands if band.counts.size]
    if len(some) < 2:
        return some[0] if some else bands[0]
    first = min(int(band.bins[0]) for band in some)
    table = np.zeros(max(int(band.bins[-1]) for band in some) - first + 1, np.int64)
    for band in some:
        table[band.bins - first] += band.counts
    offsets = np.flatnonzero(table)
    bins, counts = (offsets + first).astype(np.int32), table[offsets]
    lows, highs = zip(*(band.ends for band in some), strict=True)
    totals, squares = zip(*(band.sums for band in some), strict=True)
    sums = sum(totals, Fraction(0)), sum(squares, Fraction(0))
    return BandCounts(some[0].dtype, bins, counts, (min(lows), max(highs)), sums)


def _counted(
    numbers: NDArray[Any], weights: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Whole numbers that occur, ascending, and how often; at least one."""
    first = 0
    if numbers.dtype.kind == "i":
        first, numbers = int(numbers.min()), numbers.astype(np.int64)
        numbers = numbers - first if first else numbers
    table = np.bincount(numbers, weights=weights)
    offsets = np.flatnonzero(table)
    return (offsets + first).astype(np.int32), table[offsets].astype(np.int64)


def _float_bins(values: NDArray[Any]) -> NDArray[np.int64]:
    """Bin number of each value, ascending with the value; each sign has its own bins."""
    pattern = values.astype(np.float32).view(np.int32).astype(np.int64)
    magnitude = (pattern & 0x7FFFFFFF) >> FLOAT_SHIFT
    bins: NDArray[np.int64] = np.where(pattern < 0, -magnitude - 1, magnitude)
    return bins


def _float_edges(bins: NDArray[np.int32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper bound of each bin of floats, as values."""
    magnitude = np.where(bins < 0, -bins - 1, bins).astype(np.int64)
    near, far = (
        (steps << FLOAT_SHIFT).astype(np.int32).view(np.float32).astype(np.float64)
        for steps in (magnitude, magnitude + 1)
    )
    return np.where(bins < 0, -far, near), np.where(bins < 0, -near, far)


def _order_statistics(band: BandCounts, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """The values of 0-based ranks; within a bin of several values, linear in the rank."""
    ends = np.cumsum(band.counts)
    at = np.searchsorted(ends, ranks, side="right")
    if band.exact:
        return band.bins[at].astype(np.float64)
    low, high = _float_edges(band.bins[at])
    inside = (ranks - (ends[at] - band.counts[at]) + 0.5) / band.counts[at]
    return np.clip(low + (high - low) * inside, *band.ends)
