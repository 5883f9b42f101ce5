"""Figures of bands, exact or within the stated error, whatever the order; and fills."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satray.data.statistics import (
    PERCENTS,
    BandCounts,
    count_pixels,
    counts_of,
    counts_table,
    fill_lines,
    merge,
    summarise,
)

EXACT = ("uint8", "int8", "uint16", "int16")
OTHERS = ("float32", "float64", "int32", "uint32")


def values(dtype: str, seed: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return (rng.normal(0, 1, n) * 10.0 ** rng.integers(-3, 4)).astype(kind)
    limits = np.iinfo(kind)
    return rng.integers(limits.min, limits.max, n, dtype=kind, endpoint=True)


@settings(max_examples=40)
@given(
    dtype=st.sampled_from(EXACT + OTHERS),
    seed=st.integers(0, 10**6),
    cuts=st.lists(st.integers(0, 400), max_size=6),
    order=st.randoms(use_true_random=False),
)
def test_any_order_and_grouping_of_tiles_gives_the_same(dtype, seed, cuts, order):
    x = values(dtype, seed, 400)
    tiles = [(count_pixels(part),) for part in np.split(x, sorted(cuts))]
    want = summarise("b", merge(tiles)[0])
    order.shuffle(tiles)
    half = len(tiles) // 2
    grouped = [{"k": merge(part)} for part in (tiles[:half], tiles[half:]) if part]
    # as they travel
    got = summarise("b", counts_of([counts_table(part) for part in grouped])["k"][0])
    assert got == want  # to the last digit
    wide = x.astype(np.float64)
    assert (got.valid, got.min, got.max) == (400, wide.min(), wide.max())
    assert got.mean == pytest.approx(wide.mean(), rel=1e-9, abs=1e-9 * wide.std())
    assert got.std == pytest.approx(wide.std(), rel=1e-9)
    for percent in PERCENTS if dtype in EXACT else ():
        assert got.percentiles[str(percent)] == pytest.approx(np.percentile(wide, percent))


@pytest.mark.parametrize("dtype", OTHERS)
@pytest.mark.parametrize("offset", [0, 290])
def test_percentiles_of_others_within_the_stated_error(dtype, offset):
    x = (np.random.default_rng(3).gamma(3, 40, 50_000) + offset).astype(dtype)
    got = summarise("b", merge([(count_pixels(part),) for part in np.split(x, 10)])[0])
    for percent in PERCENTS:
        wanted = np.percentile(x.astype(np.float64), percent)
        assert got.percentiles[str(percent)] == pytest.approx(wanted, rel=2**-11)


@pytest.mark.parametrize(
    "tiles",
    [
        np.random.default_rng(0).normal(1e9, 1.0, (4, 10_000)),  # a large offset cancels nothing
        np.array([[-1e19, -1.0, 0.0], [-0.0, 2.0, 1e19]]),
        np.zeros((2, 9)),
        np.full((2, 9), 7, np.uint16),
    ],
)
def test_extremes(tiles):
    got = summarise("b", merge([(count_pixels(tile),) for tile in tiles])[0])
    assert (got.min, got.max) == (tiles.min(), tiles.max())
    assert got.std == pytest.approx(tiles.std(), rel=1e-6)
    assert got.percentiles["50"] == pytest.approx(np.median(tiles), rel=2**-11, abs=1e-30)


def test_nothing_valid_is_nan_and_dtypes_do_not_merge():
    got = summarise("b", BandCounts("uint8"))
    assert got.valid == 0
    assert np.isnan([got.mean, got.std, got.min, *got.percentiles.values()]).all()
    x = count_pixels(np.array([3, 4], np.uint8))
    assert summarise("b", merge([(x,), (BandCounts("uint8"),)])[0]) == summarise("b", x)
    with pytest.raises(ValueError, match="uint16 and uint8"):
        merge([(BandCounts("uint8"),), (BandCounts("uint16"),)])


# -- fills that no file declares ------------------------------------------------------------------


def band(dtype: str, low: float, high: float, fill: float, share: float = 0.1):
    """Pixels between two values, some of them a fill."""
    values = np.random.default_rng(5).uniform(low, high, 20_000).astype(dtype)
    values[: int(share * values.size)] = fill
    return count_pixels(values)


@pytest.mark.parametrize(
    ("dtype", "low", "high", "fill", "text"),
    [
        ("uint16", 300, 12_000, 65535, "65535"),
        ("uint16", 1200, 9_000, 0, "0"),
        ("int16", -50, 16_000, -9999, "-9999"),
        ("int16", 0, 9_000, -32768, "-32768"),
        ("int16", 0, 9_000, 32767, "32767"),
        ("int32", 0, 9_000, -(2**31), "-2147483648"),
        ("uint32", 0, 9_000, 2**32 - 1, "4294967295"),
        ("uint8", 10, 180, 255, "255"),
        ("float32", 0, 1, -9999, "-9999"),
    ],
)
def test_what_looks_like_a_fill(dtype, low, high, fill, text):
    counts = [band(dtype, low, high, low + 1), band(dtype, low, high, fill)]
    (line,) = fill_lines(("red", "nir"), counts, ())
    assert f"{text} (nir in 10.00% of pixels)" in line
    assert f"--nodata {text} FILE" in line
    assert "that no file declares" in line
    assert "JPEG, PNG: a mask FILE.msk" in line
    both = [band(dtype, low, high, fill, share) for share in (0.2, 0.5)]
    assert "red in 20.00%, nir in 50.00%" in fill_lines(("red", "nir"), both, ())[0]
    assert fill_lines(("red", "nir"), counts, {fill}) == []


@pytest.mark.parametrize(
    ("dtype", "low", "high", "fill", "share"),
    [
        ("uint8", 0, 256, 255, 0.3),  # clouds
        ("uint8", 0, 200, 0, 0.3),  # shadows
        ("uint8", 10, 180, 255, 0.002),  # a few letters
        ("uint16", 100, 65_000, 65535, 0.2),  # saturated
        ("uint16", 20, 3_000, 0, 0.2),
        ("uint16", 0, 3_000, 65535, 0.0),
        ("float32", -20_000, 20_000, -9999, 0.2),
        ("float32", 0, 1, 0, 0.4),
        ("uint16", 7, 8, 65535, 0.3),  # a drawing
    ],
)
def test_what_does_not(dtype, low, high, fill, share):
    assert fill_lines(("red",), [band(dtype, low, high, fill, share)], ()) == []
