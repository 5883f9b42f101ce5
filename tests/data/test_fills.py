"""A fill that no file declares draws a line; saturated, dark and drawn pixels draw none."""

import numpy as np
import pytest

from satray.data.statistics import count_pixels, fill_lines


def band(dtype: str, low: float, high: float, fill: float, share: float = 0.1):
    """Pixels between two values, some of them a fill."""
    rng = np.random.default_rng(5)
    values = rng.uniform(low, high, 20_000).astype(dtype)
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
        ("float32", 0, 1, 1e20, "1.00000002e+20"),
        ("float32", 0, 1, 9.969209968386869e36, "9.96920997e+36"),
        ("float32", 0, 1, -3.4028234663852886e38, "-3.40282347e+38"),
        ("float64", 200, 320, 1e300, "1e+300"),
    ],
)
def test_what_looks_like_a_fill(dtype, low, high, fill, text):
    counts = [band(dtype, low, high, low + 1), band(dtype, low, high, fill)]
    (line,) = fill_lines(("red", "nir"), counts, ())
    assert f"{text} (nir in 10.00% of pixels)" in line
    assert f"--nodata {text} FILE" in line
    assert "that no file declares" in line
    assert "JPEG, PNG: a mask FILE.msk" in line
    # nodata of 8 bits, and 0, may well be measured in one band; another is not, where it is said
    told = fill_lines(("red", "nir"), counts, {float(np.dtype(dtype).type(fill))})
    if dtype == "uint8" or fill == 0:
        assert told == []
    else:
        assert "that some files do not declare" in told[0]


def test_one_value_of_several_bands_is_one_line():
    counts = [band("float32", 0, 1, 1e20, share) for share in (0.2, 0.00005, 0.5)]
    (line,) = fill_lines(("a", "b", "c"), counts, ())
    assert "a in 20.00%, b in 0.01%, c in 50.00%" in line


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
