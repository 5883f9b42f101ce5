"""Fills that no file declares: what bands' values say of them, in lines for a person. Pure."""

from collections.abc import Collection, Sequence

import numpy as np

from satray.data.nodata import HUGE, together
from satray.data.statistics import BandCounts, float_edges

USUAL = frozenset((-9999.0, -99999.0, -999.0, -32768.0, -32767.0, 32767.0, 65535.0))
"""Fills of one dtype that are found in others."""

LEAST = 0.001
"""Share of a band's pixels from which on a value stands out; of 8 bits ten times as much."""

APART = 1 / 8
"""A fill lies as far from the nearest other value, over the range of the others: saturated
measurements have neighbours."""

OTHERS = 16
"""Least number of other values, or bins of them: a drawing of two colours has no fill."""


def fill_lines(
    names: Sequence[str], counts: Sequence[BandCounts], declared: Collection[float]
) -> list[str]:
    """A line for each value that looks like a fill, naming its bands and what to do.

    Args:
        names: of the bands.
        counts: of their measured pixels.
        declared: nodata values of the files. Those that count only where all bands hold theirs
            are no news; another that is counted lies in a file that does not declare it.
    """
    found: dict[float, list[tuple[str, float]]] = {}
    for name, band in zip(names, counts, strict=True):
        for value, share in suspects(band):
            if value not in declared or not together(np.dtype(band.dtype), value):
                found.setdefault(value, []).append((name, share))
    lines = []
    for value, bands in found.items():
        text = f"{value:.9g}" if abs(value) >= HUGE else f"{value:.0f}"
        told = ", ".join(f"{name} in {share:.2%}" for name, share in bands[:6])
        more = f" and {len(bands) - 6} more bands" if len(bands) > 6 else ""
        lines.append(
            f"fill? {text} ({told} of pixels{more}) looks like a fill that "
            f"{'some files do not declare' if value in declared else 'no file declares'}: it "
            f"counts as a measurement; declare it (TIFF: rio edit-info --nodata {text} FILE, or "
            f"gdal_edit.py -a_nodata {text} FILE; JPEG, PNG: a mask FILE.msk) and prepare again"
        )
    return lines


def suspects(band: BandCounts) -> list[tuple[float, float]]:
    """Values at a band's ends that look like a fill, and their shares of its pixels, 0 to 1."""
    if band.valid == 0:
        return []
    dtype = np.dtype(band.dtype)
    if dtype.kind == "f":
        usual: Collection[float] = USUAL
        low, high = float_edges(band.bins)
    else:
        limits = np.iinfo(dtype)
        usual = USUAL | {float(limits.min), float(limits.max)}
        values = band.bins.astype(np.float64)
        low, high = (values, values) if band.exact else float_edges(band.bins)
    found = []
    for value, end, inner in ((band.low, 0, slice(1, None)), (band.high, -1, slice(0, -1))):
        rest_low, rest_high = low[inner], high[inner]
        if dtype.kind == "f" and abs(value) >= HUGE:
            beyond = high >= HUGE if value > 0 else low <= -HUGE
            found.append((float(value), int(band.counts[beyond].sum()) / band.valid))
            continue
        share = int(band.counts[end]) / band.valid
        least = LEAST * (10 if dtype.itemsize == 1 else 1)
        if float(value) not in usual or share < least or len(rest_low) < OTHERS:
            continue
        gap = rest_low[0] - value if end == 0 else value - rest_high[-1]
        if gap > APART * (rest_high[-1] - rest_low[0]):
            found.append((float(value), share))
    return found
