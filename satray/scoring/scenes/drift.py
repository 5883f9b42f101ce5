"""How far a scene's values lie from those that a bundle was trained on. Pure.

The score of a band is the larger of two standardised differences: of means, |m - M| / S (Cohen's d
with the training's deviation S), and of spreads, |ln(s / S)|. At 1 the scene's mean lies one
deviation of the training's pixels away, or it spreads e times as much or as little: the size of a
forgotten offset, of another scale, of two bands exchanged. One scene is always narrower than an
archive of many, so less than that says nothing.

Where percentiles of the training are known, the population stability index is told besides:
sum of (a - e) ln(a / e) over bins between percentiles, a the scene's shares and e the training's
(Siddiqi, Credit Risk Scorecards, 2006: from 0.25 on a population has changed). It is no score,
since a single scene of open sea passes 0.25 in any archive with land.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from satray.data.index import BandStatistics
from satray.data.statistics import BandCounts, float_edges, summarise

if TYPE_CHECKING:
    from satray.models.spec import BundleSpec  # torch

LIMIT = 1.0
"""Score from which on a scene is warned of."""
BINS = 64
"""Bins of a histogram."""
REACH = 4.0
"""Deviations of the training to both sides of its mean that a histogram shows."""
LEAST_SHARE = 1e-4
"""Smallest share of a bin, so that an empty one does not make the index infinite."""


@dataclass(frozen=True)
class BandReference:
    """One band of the training, in stored units."""

    name: str
    """Band name."""
    mean: float
    """Mean of its pixels."""
    std: float
    """Their deviation; above 0."""
    percentiles: dict[str, float] | None = None
    """Percent ("1" ... "99") -> value; None where only the bundle is known."""


@dataclass(frozen=True)
class BandDrift:
    """One band of a scene against its reference."""

    name: str
    """Band name."""
    mean: float
    """Mean of the scene's pixels, stored units; NaN where it has none."""
    std: float
    """Their deviation."""
    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    valid: int
    """Pixels looked at."""
    shift: float
    """(mean - reference mean) / reference deviation."""
    spread: float
    """ln(deviation / reference deviation)."""
    index: float | None
    """Population stability index; None without percentiles."""
    score: float
    """Larger of |shift| and |spread|; 0 where the scene has no pixels."""
    edges: tuple[float, float]
    """Where the histogram begins and ends, stored units."""
    counts: tuple[int, ...]
    """Pixels in each of `BINS` bins of one width; those beyond are in the first and last."""


@dataclass(frozen=True)
class Drift:
    """A scene against the training."""

    bands: tuple[BandDrift, ...]
    """One a band that has a reference."""
    score: float
    """The worst band's."""
    limit: float
    """From which on there is a warning."""

    @property
    def warning(self) -> str | None:
        """One line on the bands that lie far off; None where none does."""
        far = [band for band in self.bands if band.score >= self.limit]
        if not far:
            return None
        told = ", ".join(_told(band) for band in sorted(far, key=lambda band: -band.score)[:4])
        return (
            f"values unlike the training's (drift {self.score:.2f}, limit {self.limit:g}): {told}; "
            "look at band order, dtype, scale and offset"
        )


def references_of_bundle(spec: "BundleSpec") -> tuple[BandReference, ...]:
    """What a bundle says of its training's bands; nothing of PIL's levels, which mix bands."""
    if spec.radiometry.name == "pil_compat":
        return ()
    low, high = spec.radiometry.low, spec.radiometry.high
    if spec.radiometry.name == "stored":
        low, high = (0.0,) * len(spec.bands), (1.0,) * len(spec.bands)
    return tuple(
        BandReference(name, bottom + mean * (top - bottom), std * (top - bottom))
        for name, mean, std, bottom, top in zip(
            spec.bands, spec.mean, spec.std, low, high, strict=True
        )
        if std * (top - bottom) > 0
    )


def references_of_index(statistics: Sequence[BandStatistics]) -> tuple[BandReference, ...]:
    """What a tile index says of its bands."""
    return tuple(
        BandReference(band.name, band.mean, band.std, band.percentiles)
        for band in statistics
        if band.valid and band.std > 0
    )


def drift(
    names: Sequence[str],
    counts: Sequence[BandCounts],
    references: Sequence[BandReference],
    limit: float = LIMIT,
) -> Drift:
    """Compare a scene's pixels with the training's.

    Args:
        names: the scene's bands.
        counts: what was counted of each.
        references: the training's bands; a band without one is passed over.
        limit: from which on there is a warning.
    """
    by_name = {reference.name: reference for reference in references}
    bands = tuple(
        _band(counted, by_name[name])
        for name, counted in zip(names, counts, strict=True)
        if name in by_name
    )
    return Drift(bands, max((band.score for band in bands), default=0.0), limit)


def stability_index(counted: BandCounts, percentiles: dict[str, float]) -> float | None:
    """Population stability index of a band; None where either side has nothing to say."""
    percents = sorted(percentiles, key=float)
    values = np.array([percentiles[percent] for percent in percents])
    if counted.valid == 0 or not np.isfinite(values).all():
        return None
    bounds, first, times = np.unique(values, return_index=True, return_counts=True)
    # a value that several percentiles share is many px', how many they do not tell: no edge there
    bounds, first = bounds[times == 1], first[times == 1]
    if bounds.size == 0:
        return None
    expected = np.diff([0.0, *(float(percents[place]) / 100 for place in first), 1.0])
    bin_of = np.searchsorted(bounds, _values(counted), side="left")
    found = np.bincount(bin_of, weights=counted.counts, minlength=len(bounds) + 1) / counted.valid
    a, e = np.maximum(found, LEAST_SHARE), np.maximum(expected, LEAST_SHARE)
    return float(((a - e) * np.log(a / e)).sum())


def _band(counted: BandCounts, reference: BandReference) -> BandDrift:
    figures = summarise(reference.name, counted)
    low, high = (reference.mean + side * REACH * reference.std for side in (-1, 1))
    shift = spread = 0.0
    if counted.valid:
        shift = (figures.mean - reference.mean) / reference.std
        # a band of one value has the spread of its rounding
        spread = math.log(max(figures.std, reference.std * 1e-3) / reference.std)
    return BandDrift(
        reference.name,
        figures.mean,
        figures.std,
        figures.min,
        figures.max,
        counted.valid,
        shift,
        spread,
        stability_index(counted, reference.percentiles) if reference.percentiles else None,
        max(abs(shift), abs(spread)),
        (low, high),
        _histogram(counted, low, high),
    )


def _histogram(counted: BandCounts, low: float, high: float) -> tuple[int, ...]:
    place = (_values(counted) - low) / (high - low) * BINS
    bins = np.clip(np.floor(place), 0, BINS - 1).astype(np.int64)
    table = np.bincount(bins, weights=counted.counts, minlength=BINS)
    return tuple(int(count) for count in table)


def _values(counted: BandCounts) -> NDArray[np.float64]:
    """A value for each counted bin: itself, or the middle of what a float's bin holds."""
    if counted.exact or counted.bins.size == 0:
        return counted.bins.astype(np.float64)
    low, high = float_edges(counted.bins)
    return np.clip((low + high) / 2, counted.low, counted.high)


def _told(band: BandDrift) -> str:
    if abs(band.shift) >= abs(band.spread):
        return f"{band.name} mean {band.mean:.5g} is {band.shift:+.1f} deviations off"
    return f"{band.name} spreads {math.exp(band.spread):.2g} times as far"
