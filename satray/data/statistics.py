"""Per-band statistics in one pass: parts merge to the same figures in any order and grouping.

8- and 16-bit integers are counted value by value: all figures are exact. Of other dtypes each
tile's pixels, mean and deviation are kept and added at the end without rounding in between
(`math.fsum`), so that neither block size nor arrival order shows in the last digit; percentiles
come from counts of the upper 20 bits of float32, bins of relative width 2**-11: an order statistic
is off by at most 0.05 % of its value. Minimum and maximum are exact always.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from satray.data.index import BandStatistics
from satray.data.values import whole
from satray.errors import listed

PERCENTS = (1, 2, 5, 25, 50, 75, 95, 98, 99)
"""Percentiles that an index holds."""

FLOAT_SHIFT = 12
"""Bits of a float32 that its bin leaves out: sign, exponent and 11 of 23 mantissa bits stay."""

COUNTS = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("dtype", pa.string(), nullable=False),
        pa.field("low", pa.float64(), nullable=False),
        pa.field("high", pa.float64(), nullable=False),
        pa.field("bins", pa.list_(pa.int32()), nullable=False),
        pa.field("counts", pa.list_(pa.int64()), nullable=False),
        pa.field("tiles", pa.list_(pa.float64()), nullable=False),
    ]
)
"""Columns of counts as a table: the fields of `BandCounts`, a band a row; the bands of one `kind`
of tiles follow one another in their order."""

USUAL = frozenset((-9999.0, -99999.0, -999.0, -32767.0))
"""Fills that are found in any dtype, beside the ends of what whole numbers can be."""

LEAST = 0.01
"""Share of a band's pixels from which on a value at its end may be a fill."""


@dataclass(frozen=True)
class BandCounts:
    """What is known of one band after some tiles: a value to merge with others."""

    dtype: str
    """Stored dtype; only equal ones merge."""
    low: float = math.inf
    """Smallest value."""
    high: float = -math.inf
    """Largest value."""
    bins: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    """Bin numbers that occur, ascending: values for 8 and 16 bits, else see `float_edges`."""
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Pixels in each of `bins`."""
    tiles: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    """(T, 3): pixels, mean and standard deviation of each tile; none where bins are values."""

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
    low, high = float(values.min()), float(values.max())
    bins, counts = _counted(values if empty.exact else _float_bins(values))
    tiles = empty.tiles
    if not empty.exact:
        wide = values.astype(np.float64)
        tiles = np.array([[wide.size, wide.mean(), wide.std()]])
    return BandCounts(empty.dtype, low, high, bins, counts, tiles)


def count_tile(
    x_CHW: NDArray[Any], valid_CHW: NDArray[np.bool_] | None = None
) -> tuple[BandCounts, ...]:
    """Count every band of a tile (C, H, W) over what is measured in it; None: all."""
    if valid_CHW is None:
        return tuple(count_pixels(x_HW.ravel()) for x_HW in x_CHW)
    return tuple(count_pixels(x_HW[v_HW]) for x_HW, v_HW in zip(x_CHW, valid_CHW, strict=True))


def merge(parts: Sequence[Sequence[BandCounts]]) -> tuple[BandCounts, ...]:
    """Merge disjoint parts, each with one entry a band; at least one part.

    Raises:
        ValueError: their dtypes differ.
    """
    return tuple(map(_merged, zip(*parts, strict=True)))


def counts_table(counts: dict[str, tuple[BandCounts, ...]]) -> pa.Table:
    """Counts of kinds of tiles as a table of `COUNTS`."""
    rows = [(kind, band) for kind, bands in counts.items() for band in bands]
    columns: dict[str, Any] = {"kind": [kind for kind, _ in rows]}
    for name in COUNTS.names[1:]:
        column = [getattr(band, name) for _, band in rows]
        columns[name] = [v.ravel() for v in column] if name == "tiles" else column
    return pa.table(columns, schema=COUNTS)


def counts_of(tables: Sequence[pa.Table]) -> dict[str, tuple[BandCounts, ...]]:
    """Merge tables of `COUNTS`, whose kinds may recur."""
    parts: dict[str, list[list[BandCounts]]] = {}
    for table in tables:
        here: dict[str, list[BandCounts]] = {}
        for kind, dtype, low, high, *arrays in zip(*table.columns, strict=True):
            bins, counts, tiles = (array.values.to_numpy(zero_copy_only=False) for array in arrays)
            band = BandCounts(
                dtype.as_py(), low.as_py(), high.as_py(), bins, counts, tiles.reshape(-1, 3)
            )
            here.setdefault(kind.as_py(), []).append(band)
        for kind, bands in here.items():
            parts.setdefault(kind, []).append(bands)
    return {kind: merge(bands) for kind, bands in sorted(parts.items())}


def changed(band: BandCounts, gain: float, shift: float) -> BandCounts:
    """Counts of a band whose every value v was v * gain + shift; as exact as they were.

    What does not fit an 8- or 16-bit dtype is clipped, as pixels are (`units.Change`).
    """
    if (gain, shift) == (1, 0) or band.valid == 0:
        return band
    if band.exact:
        values = whole(np.float64(gain) * band.bins + shift, np.dtype(band.dtype)).astype(np.int64)
        bins, counts = _counted(values, band.counts)
        return BandCounts(band.dtype, float(bins[0]), float(bins[-1]), bins, counts)
    low, high = sorted((band.low * gain + shift, band.high * gain + shift))
    middles = np.add(*float_edges(band.bins)) / 2
    bins, counts = _counted(_float_bins(middles * gain + shift), band.counts)
    tiles = band.tiles * (1, gain, abs(gain)) + (0, shift, 0)
    return BandCounts(band.dtype, low, high, bins, counts, tiles)


def summarise(name: str, band: BandCounts) -> BandStatistics:
    """Figures of one band; NaN throughout where no pixel was valid.

    Percentiles interpolate linearly between order statistics, as `numpy.percentile` does.
    """
    valid = band.valid
    if valid == 0:
        nan = math.nan
        return BandStatistics(name, nan, nan, nan, nan, {str(p): nan for p in PERCENTS}, 0)
    pixels, means, deviations = band.tiles.T
    if band.exact:
        pixels, means, deviations = band.counts, band.bins, np.zeros(1)
    mean = math.fsum(pixels * means) / valid
    variance = math.fsum(pixels * (deviations**2 + (means - mean) ** 2)) / valid
    return BandStatistics(
        name=name,
        mean=mean,
        std=math.sqrt(variance),
        min=band.low,
        max=band.high,
        percentiles={str(p): _percentile(band, p) for p in PERCENTS},
        valid=valid,
    )


def fill_lines(
    names: Sequence[str], counts: Sequence[BandCounts], declared: Collection[float]
) -> list[str]:
    """A line for each value that may be a fill that no file declares, naming its bands.

    Args:
        names: of the bands.
        counts: of their measured pixels; of 8 bits nothing is said.
        declared: nodata values of the files.
    """
    found: dict[float, list[str]] = {}
    for name, band in zip(names, counts, strict=True):
        kind, usual = np.dtype(band.dtype), set(USUAL)
        if kind.kind != "f":
            usual |= {float(np.iinfo(kind).min), float(np.iinfo(kind).max)}
        for value, end in ((band.low, 0), (band.high, -1)) if kind.itemsize > 1 else ():
            if value in usual - set(declared) and band.counts[end] >= LEAST * band.valid:
                share = band.counts[end] / band.valid
                found.setdefault(value, []).append(f"{name} in {share:.2%}")
    return [
        f"fill? {value:.0f} ({listed(bands, 6)} of pixels) counts as a measurement; if it is none, "
        f"declare it (TIFF: rio edit-info --nodata {value:.0f} FILE; PNG: a mask FILE.msk) and "
        "prepare again"
        for value, bands in found.items()
    ]


def float_edges(bins: NDArray[np.int32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper bound of each bin of floats, as values."""
    magnitude = np.where(bins < 0, -bins - 1, bins).astype(np.int64)
    near, far = _magnitude(magnitude), _magnitude(magnitude + 1)
    return np.where(bins < 0, -far, near), np.where(bins < 0, -near, far)


def _merged(bands: Sequence[BandCounts]) -> BandCounts:
    """One band of disjoint parts, through a table of the whole range: at most 2**21 bins wide."""
    dtypes = sorted({band.dtype for band in bands})
    if len(dtypes) > 1:
        raise ValueError(f"cannot merge counts of {' and '.join(dtypes)}")
    some = [band for band in bands if band.counts.size]
    if len(some) < 2:
        return some[0] if some else bands[0]
    first = min(int(band.bins[0]) for band in some)
    table = np.zeros(max(int(band.bins[-1]) for band in some) - first + 1, np.int64)
    for band in some:
        table[band.bins - first] += band.counts
    offsets = np.flatnonzero(table)
    return BandCounts(
        dtypes[0],
        min(band.low for band in some),
        max(band.high for band in some),
        (offsets + first).astype(np.int32),
        table[offsets],
        np.concatenate([band.tiles for band in some]),
    )


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


def _magnitude(steps: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray((steps << FLOAT_SHIFT).astype(np.int32).view(np.float32), np.float64)


def _percentile(band: BandCounts, percent: float) -> float:
    last = band.valid - 1
    below = int(np.floor(percent / 100 * last))
    share = percent / 100 * last - below
    low = _order_statistic(band, below)
    high = _order_statistic(band, min(below + 1, last)) if share else low
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
