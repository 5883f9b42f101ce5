import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satray.data.statistics import (
    PERCENTS,
    BandCounts,
    count_pixels,
    count_tile,
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


@settings(max_examples=60, deadline=None)
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
    grouped = [merge(part) for part in (tiles[:half], tiles[half:]) if part]
    got = summarise("b", merge(grouped)[0])
    assert got == want  # to the last digit
    assert got.valid == 400


@settings(max_examples=40, deadline=None)
@given(dtype=st.sampled_from(EXACT), seed=st.integers(0, 10**6), n=st.integers(1, 500))
def test_small_integers_equal_numpy(dtype, seed, n):
    x = values(dtype, seed, n)
    got = summarise("b", merge([(count_pixels(x[: n // 3]),), (count_pixels(x[n // 3 :]),)])[0])
    wide = x.astype(np.float64)
    assert got.mean == pytest.approx(wide.mean(), rel=1e-12, abs=1e-12)
    assert got.std == pytest.approx(wide.std(), rel=1e-12, abs=1e-9)
    assert (got.min, got.max) == (wide.min(), wide.max())
    for percent in PERCENTS:
        assert got.percentiles[str(percent)] == pytest.approx(np.percentile(wide, percent))


@pytest.mark.parametrize("dtype", OTHERS)
@pytest.mark.parametrize("offset", [0, 290])
def test_others_equal_numpy_within_the_stated_error(dtype, offset):
    rng = np.random.default_rng(3)
    x = (rng.gamma(3, 40, 50_000) + offset).astype(dtype)
    got = summarise("b", merge([(count_pixels(part),) for part in np.split(x, 10)])[0])
    wide = x.astype(np.float64)
    assert got.mean == pytest.approx(wide.mean(), rel=1e-12)
    assert got.std == pytest.approx(wide.std(), rel=1e-10)
    assert (got.min, got.max) == (wide.min(), wide.max())
    for percent in PERCENTS:
        assert got.percentiles[str(percent)] == pytest.approx(
            np.percentile(wide, percent), rel=2**-11
        )


def test_a_large_offset_does_not_cancel():
    x = np.random.default_rng(0).normal(1e9, 1.0, (4, 10_000))
    got = summarise("b", merge([(count_pixels(row),) for row in x])[0])
    assert got.std == pytest.approx(x.std(), rel=1e-6)


def test_floats_beyond_float32_keep_their_range():
    got = summarise("b", count_pixels(np.array([-1e300, -1.0, 0.0, -0.0, 2.0, 1e300])))
    assert (got.min, got.max) == (-1e300, 1e300)
    assert got.percentiles["50"] == pytest.approx(0.0, abs=1e-30)


def test_only_valid_pixels_count():
    x_CHW = np.arange(2 * 4 * 5, dtype=np.uint16).reshape(2, 4, 5)
    valid_HW = np.zeros((4, 5), bool)
    valid_HW[1, 2:4] = True
    bands = count_tile(x_CHW, np.stack([valid_HW, valid_HW]))
    assert [summarise("b", b).mean for b in bands] == [7.5, 27.5]
    assert bands[0].valid == 2


def test_nothing_valid_is_nan():
    got = summarise("b", BandCounts("uint8"))
    assert got.valid == 0
    assert np.isnan([got.mean, got.std, got.min, *got.percentiles.values()]).all()
    x = count_pixels(np.array([3, 4], np.uint8))
    assert summarise("b", merge([(x,), (BandCounts("uint8"),)])[0]) == summarise("b", x)


def test_dtypes_do_not_merge():
    with pytest.raises(ValueError, match="uint16 and uint8"):
        merge([(BandCounts("uint8"),), (BandCounts("uint16"),)])
