"""Per-band statistics in one pass: parts merge to the same figures in any order and grouping.

8- and 16-bit integers: everything is exact, from counts of each value. Other dtypes: mean and
standard deviation from per-tile float64 sums that are added exactly (as fractions), so that
neither block size nor arrival order shows in the last digit; percentiles from counts of the upper
20 bits of float32, which makes bins of relative width 2**-11: an order statistic is off by at most
0.05 % of its value. Minimum and maximum are exact always.
"""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.data.index import BandStatistics
from satray.data.units import whole

PERCENTS = (1, 2, 5, 25, 50, 75, 95, 98, 99)
"""Percentiles that an index holds."""

FLOAT_SHIFT = 12
"""Bits of a float32 that its bin leaves out: sign, exponent and 11 of 23 mantissa bits stay."""


@dataclass(frozen=True)
class BandCounts:
    """What is known of one band after some pixels: a value to merge with others."""

    dtype: str
    """Stored dtype; only equal ones merge."""
    valid: int = 0
    """Pixels counted."""
    total: Fraction = Fraction(0)
    """Sum of the values."""
    squares: Fraction = Fraction(0)
    """Sum of the squared values."""
    low: float = float("inf")
    """Smallest value."""
    high: float = float("-inf")
    """Largest value."""
    bins: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Bin numbers that occur, ascending: values for 8 and 16 bits, else `_float_bins`."""
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Pixels in each of `bins`."""

    @property
    def exact(self) -> bool:
        """Whether bins are values."""
        return _is_exact(self.dtype)

    def __add__(self, other: "BandCounts") -> "BandCounts":
        """Merge two disjoint parts. Raises ValueError where their dtypes differ."""
        if other.dtype != self.dtype:
            raise ValueError(f"cannot merge {self.dtype} with {other.dtype}")
        bins, counts = _added(self, other)
        return BandCounts(
            self.dtype,
            self.valid + other.valid,
            self.total + other.total,
            self.squares + other.squares,
            min(self.low, other.low),
            max(self.high, other.high),
            bins,
            counts,
        )


def count_pixels(values: NDArray[Any]) -> BandCounts:
    """Count one band of one tile.

    Args:
        values: its valid pixels (n,), any integer or float dtype, all finite.
    """
    dtype = values.dtype.name
    if values.size == 0:
        return BandCounts(dtype)
    low, high = values.min(), values.max()
    if _is_exact(dtype):
        numbers = values.astype(np.int64)
        table = np.bincount(numbers - int(low))
        offsets = np.flatnonzero(table)
        bins, counts = offsets + int(low), table[offsets]
        # below 2**63: at most 2**26 pixels a tile, of at most 2**32 squared
        total, squares = Fraction(int(bins @ counts)), Fraction(int((bins * bins) @ counts))
    else:
        numbers = _float_bins(values)
        first = int(numbers.min())
        table = np.bincount(numbers - first)
        offsets = np.flatnonzero(table)
        bins, counts = offsets + first, table[offsets]
        # scaled by a power of two, which costs no digit: squares of 1e300 would overflow
        scale = Fraction(2) ** int(np.frexp(max(abs(float(low)), abs(float(high))))[1])
        scaled = values.astype(np.float64) / float(scale / 2) / 2
        mean = Fraction(float(scaled.mean()))
        deviations = Fraction(float(np.square(scaled - float(mean)).sum()))
        total = mean * values.size * scale
        squares = (deviations + mean**2 * values.size) * scale**2
    return BandCounts(
        dtype, values.size, total, squares, float(low), float(high), bins, counts.astype(np.int64)
    )


def count_tile(x_CHW: NDArray[Any], valid_CHW: NDArray[np.bool_] | None) -> tuple[BandCounts, ...]:
    """Count every band of a tile (C, H, W) over what is measured in it; None: all."""
    if valid_CHW is None:
        return tuple(count_pixels(x_HW.ravel()) for x_HW in x_CHW)
    return tuple(count_pixels(x_HW[v_HW]) for x_HW, v_HW in zip(x_CHW, valid_CHW, strict=True))


def merge(
    parts: list[tuple[BandCounts, ...]],
) -> tuple[BandCounts, ...]:
    """Merge disjoint parts, each a tuple with one entry a band; at least one part."""
    while len(parts) > 1:  # in pairs: a bin is copied log2(parts) times, not once a part
        pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
        parts = [
            tuple(a + b for a, b in zip(*pair, strict=True)) if len(pair) == 2 else pair[0]
            for pair in pairs
        ]
    return parts[0]


def changed(band: BandCounts, gain: float, shift: float) -> BandCounts:
    """Counts of a band whose every value v was v * gain + shift; as exact as they were.

    What does not fit an 8- or 16-bit dtype is clipped, as pixels are (`units.Change`).
    """
    if (gain, shift) == (1, 0) or band.valid == 0:
        return band
    if band.exact:
        values = whole(np.float64(gain) * band.bins + shift, np.dtype(band.dtype)).astype(np.int64)
        bins, at = np.unique(values, return_inverse=True)
        counts = np.bincount(at, weights=band.counts).astype(np.int64)
        sums = (
            sum(int(v) ** p * int(n) for v, n in zip(bins, counts, strict=True)) for p in (1, 2)
        )
        total, squares = (Fraction(number) for number in sums)
        return BandCounts(
            band.dtype, band.valid, total, squares, float(bins[0]), float(bins[-1]), bins, counts
        )
    by, plus = Fraction(gain), Fraction(shift)
    low, high = sorted((band.low * gain + shift, band.high * gain + shift))
    middles = np.add(*float_edges(band.bins)) / 2
    bins, at = np.unique(_float_bins(middles * gain + shift), return_inverse=True)
    return BandCounts(
        band.dtype,
        band.valid,
        by * band.total + plus * band.valid,
        by**2 * band.squares + 2 * by * plus * band.total + plus**2 * band.valid,
        low,
        high,
        bins,
        np.bincount(at, weights=band.counts).astype(np.int64),
    )


def summarise(name: str, band: BandCounts) -> BandStatistics:
    """Figures of one band; NaN throughout where no pixel was valid.

    Percentiles interpolate linearly between order statistics, as `numpy.percentile` does.
    """
    if band.valid == 0:
        nan = float("nan")
        return BandStatistics(name, nan, nan, nan, nan, {str(p): nan for p in PERCENTS}, 0)
    mean = band.total / band.valid
    variance = max(band.squares / band.valid - mean**2, Fraction(0))
    return BandStatistics(
        name=name,
        mean=float(mean),
        std=_root(variance),
        min=band.low,
        max=band.high,
        percentiles={str(p): _percentile(band, p) for p in PERCENTS},
        valid=band.valid,
    )


def _root(variance: Fraction) -> float:
    """Square root, also of what is too large for a float."""
    try:
        return math.sqrt(variance)
    except OverflowError:
        return math.ldexp(math.sqrt(variance / 4**512), 512)


def _added(a: BandCounts, b: BandCounts) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bins and counts of both; through a table of the whole range, at most 2**21 bins wide."""
    if a.bins.size == 0 or b.bins.size == 0:
        kept = b if a.bins.size == 0 else a
        return kept.bins, kept.counts
    first = min(a.bins[0], b.bins[0])
    table = np.zeros(max(a.bins[-1], b.bins[-1]) - first + 1, np.int64)
    table[a.bins - first] = a.counts
    table[b.bins - first] += b.counts
    offsets = np.flatnonzero(table)
    return offsets + first, table[offsets]


def _is_exact(dtype: str) -> bool:
    kind = np.dtype(dtype)
    return kind.kind in "iu" and kind.itemsize <= 2


def _float_bins(values: NDArray[Any]) -> NDArray[np.int64]:
    """Bin number of each value, ascending with the value; each sign has its own bins."""
    limit = np.finfo(np.float32).max
    # numpy's own clip keeps what float32 cannot hold within its range
    narrow = np.clip(values.astype(np.float64), -limit, limit).astype(np.float32)
    pattern = narrow.view(np.int32).astype(np.int64)
    magnitude = (pattern & 0x7FFFFFFF) >> FLOAT_SHIFT
    bins: NDArray[np.int64] = np.where(pattern < 0, -magnitude - 1, magnitude)
    return bins


def float_edges(bins: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper bound of each bin, as values."""
    magnitude = np.where(bins < 0, -bins - 1, bins)
    near, far = _magnitude(magnitude), _magnitude(magnitude + 1)
    return np.where(bins < 0, -far, near), np.where(bins < 0, -near, far)


def _magnitude(steps: NDArray[np.int64]) -> NDArray[np.float64]:
    pattern = np.minimum(steps << FLOAT_SHIFT, 0x7F7FFFFF).astype(np.int32)
    return np.asarray(pattern.view(np.float32), np.float64)


def _percentile(band: BandCounts, percent: float) -> float:
    position = percent / 100 * (band.valid - 1)
    below = int(np.floor(position))
    share = position - below
    low = _order_statistic(band, below)
    high = _order_statistic(band, min(below + 1, band.valid - 1)) if share else low
    # numpy.percentile's own way of interpolating, to the last digit
    return high - (high - low) * (1 - share) if share >= 0.5 else low + (high - low) * share


def _order_statistic(band: BandCounts, rank: int) -> float:
    """The value of 0-based rank; within a bin of several values, linear in the rank."""
    ends = np.cumsum(band.counts)
    at = int(np.searchsorted(ends, rank, side="right"))
    if band.exact:
        return float(band.bins[at])
    low, high = float_edges(band.bins[at : at + 1])
    inside = (rank - int(ends[at] - band.counts[at]) + 0.5) / int(band.counts[at])
    value = float(low[0] + (high[0] - low[0]) * inside)
    return min(max(value, band.low), band.high)
