"""Figures of bands, exact or within the stated error, whatever the order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satray.data.statistics import (
    PERCENTS,
    BandCounts,
    count_pixels,
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
    got = summarise("b", merge([merge(part) for part in (tiles[:half], tiles[half:]) if part])[0])
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


def test_nothing_valid_is_nan_and_changes_nothing():
    got = summarise("b", BandCounts("uint8"))
    assert got.valid == 0
    assert np.isnan([got.mean, got.std, got.min, *got.percentiles.values()]).all()
    x = count_pixels(np.array([3, 4], np.uint8))
    assert summarise("b", merge([(x,), (BandCounts("uint8"),)])[0]) == summarise("b", x)
