"""The hot path hands no sentinel to the network, by GDAL and without it, resampled or not."""

import numpy as np
import pytest
import rasterio
from PIL import Image
from tiles.hostile import numbers, photo, pillow, tiff

from satray.tiles.decode import decode, read_pixels
from satray.tiles.statistics import count_tile
from satray.tiles.tiff import read_plain

WAYS = pytest.mark.parametrize("way", [{}, {"compress": "deflate"}], ids=["fast", "gdal"])
H, W = 24, 32


def made(x_CHW: np.ndarray, way: dict[str, str], nodata: float, **profile) -> bytes:
    """A TIFF that goes the wanted way."""
    profile = {"photometric": "MINISBLACK", "alpha": "NO", "nodata": nodata} | profile
    data = tiff(x_CHW, **profile, **way)
    assert (read_plain(data) is None) == bool(way)
    return data


def means(data: bytes) -> np.ndarray:
    """Each band's mean as the statistics have it."""
    tile = decode(data)
    return np.array([float(b.total / b.valid) for b in count_tile(tile.pixels, tile.valid)])


def expected(data: bytes, x_CHW: np.ndarray, bad_CHW: np.ndarray) -> np.ndarray:
    mean_C = means(data)
    if x_CHW.dtype.kind != "f":
        mean_C = np.rint(mean_C)
    return np.where(bad_CHW, mean_C[:, None, None], x_CHW).astype(x_CHW.dtype)


@WAYS
@pytest.mark.parametrize("interleave", ["band", "pixel"])
@pytest.mark.parametrize("sentinel", [-9999.0, np.nan])
def test_a_float_sentinel_in_any_band(way, interleave, sentinel):
    x_CHW = numbers(3, dtype="float32")
    x_CHW[0, :5] = sentinel
    x_CHW[1, 10, 10] = sentinel
    x_CHW[2, 20, 20] = np.inf  # not finite is not valid either
    data = made(x_CHW, way, sentinel, interleave=interleave)
    bad_CHW = ~np.isfinite(x_CHW) | (x_CHW == -9999)
    want = expected(data, x_CHW, bad_CHW)
    y_CHW = read_pixels(data, (0, 1, 2), H, W, "float32")
    np.testing.assert_allclose(y_CHW, want, rtol=1e-6)
    np.testing.assert_array_equal(y_CHW[~bad_CHW], x_CHW[~bad_CHW])
    # the valid pixels are those of all bands, whichever are taken
    np.testing.assert_array_equal(read_pixels(data, (1,), H, W, "float32")[0], y_CHW[1])
    np.testing.assert_array_equal(read_pixels(data, (2, 0), H, W, "float32"), y_CHW[[2, 0]])


@WAYS
def test_a_uint8_collar(way):
    x_CHW = numbers(3, dtype="uint8") // 2 + np.uint8(100)
    collar_HW = np.ones((H, W), bool)
    collar_HW[4:-4, 4:-4] = False
    x_CHW[:, collar_HW] = 0
    x_CHW[1, 12, 12] = 0  # beside other values 0 is a measurement
    data = made(x_CHW, way, 0)
    want = expected(data, x_CHW, np.broadcast_to(collar_HW, x_CHW.shape))
    y_CHW = read_pixels(data, (0, 1, 2), H, W, "uint8")
    np.testing.assert_array_equal(y_CHW, want)
    assert y_CHW[1, 12, 12] == 0
    np.testing.assert_array_equal(read_pixels(data, (1,), H, W, "uint8"), want[[1]])


@WAYS
@pytest.mark.parametrize(("dtype", "nodata"), [("float32", -9999.0), ("uint8", 0)])
def test_nothing_of_it_is_resampled_in(way, dtype, nodata):
    x_CHW = np.full((2, 2 * H, 2 * W), 100, dtype)
    x_CHW[:, :, :7] = nodata
    x_CHW[:, 30:32] = nodata
    y_CHW = read_pixels(made(x_CHW, way, nodata), (0, 1), H, W, dtype)
    assert y_CHW.shape == (2, H, W)
    np.testing.assert_allclose(y_CHW, 100, rtol=1e-5)


@WAYS
@pytest.mark.parametrize(("dtype", "nodata"), [("float32", -9999.0), ("uint8", 7)])
def test_nothing_valid_is_zero(way, dtype, nodata):
    data = made(np.full((2, H, W), nodata, dtype), way, nodata)
    assert not read_pixels(data, (0, 1), H, W, dtype).any()


@WAYS
@pytest.mark.parametrize(
    ("dtype", "nodata"), [("int16", -32768), ("uint16", 65535), ("int64", -1), ("float64", -9e99)]
)
def test_other_dtypes(way, dtype, nodata):
    x_CHW = np.abs(numbers(2, dtype=dtype) // 4)
    x_CHW[:, :5] = nodata
    data = made(x_CHW, way, nodata)
    bad_CHW = np.broadcast_to((np.arange(H) < 5)[:, None], x_CHW.shape)
    want = expected(data, x_CHW, bad_CHW)
    np.testing.assert_allclose(read_pixels(data, (0, 1), H, W, dtype), want, rtol=1e-12)


@WAYS
def test_a_tile_without_holes_is_as_stored(way):
    x_CHW = numbers(2) + np.uint16(1)
    y_CHW = read_pixels(made(x_CHW, way, 0), (0, 1), H, W, "uint16")
    np.testing.assert_array_equal(y_CHW, x_CHW)
    assert y_CHW.flags.writeable


def test_big_endian_too():
    x_CHW = numbers(2, dtype="float32")
    x_CHW[:, 3] = -9999
    data = made(x_CHW, {}, -9999, ENDIANNESS="BIG")
    want = expected(data, x_CHW, x_CHW == -9999)
    np.testing.assert_allclose(read_pixels(data, (0, 1), H, W, "float32"), want, rtol=1e-6)


@pytest.mark.parametrize("nodata", [-3.40282346638529e38, 0.1])
def test_values_that_a_float32_lacks_go_to_gdal(nodata):
    x_CHW = numbers(2, dtype="float32")
    x_CHW[:, 3] = nodata
    data = tiff(x_CHW, nodata=nodata)
    assert read_plain(data) is None
    tile = decode(data)
    np.testing.assert_array_equal(~tile.valid, (np.arange(H) == 3)[:, None].repeat(W, axis=1))
    want = expected(data, x_CHW, np.broadcast_to(~tile.valid, x_CHW.shape))
    np.testing.assert_allclose(read_pixels(data, (0, 1), H, W, "float32"), want, rtol=1e-6)


def test_beside_alpha():
    """As decode was told: without names alpha is no data, with names it is."""
    x_CHW = numbers(4) // 2 + np.uint16(1)
    x_CHW[:3, :5] = 0
    x_CHW[3, 10:] = 0
    data = tiff(x_CHW, photometric="RGB", alpha="YES", nodata=0)
    assert read_plain(data) is None
    bad_CHW = np.broadcast_to((np.arange(H) < 5)[:, None], (3, H, W))
    want = expected(data, x_CHW[:3], bad_CHW)
    np.testing.assert_array_equal(read_pixels(data, (0, 1, 2), H, W, "uint16"), want)
    assert decode(data, bands=("b", "g", "r", "n")).valid.all()
    np.testing.assert_array_equal(read_pixels(data, (2, 3), H, W, "uint16"), x_CHW[2:])


def test_a_transparent_index_and_a_transparent_gray():
    image = photo().quantize(16)
    holes_HW = np.asarray(image) == 3
    data = pillow(image, "PNG", transparency=3)
    with rasterio.MemoryFile(data) as memory, memory.open() as source:
        assert source.nodata == 3
    tile = decode(data)
    want = expected(data, tile.pixels, np.broadcast_to(holes_HW, tile.pixels.shape))
    np.testing.assert_array_equal(read_pixels(data, (0, 1, 2), 40, 60, "uint8"), want)

    gray_HW = np.asarray(photo().convert("L")).copy()
    gray_HW[:5] = 255
    data = pillow(Image.fromarray(gray_HW), "PNG", transparency=255)
    want = expected(data, gray_HW[None], (gray_HW == 255)[None])
    np.testing.assert_array_equal(read_pixels(data, (0,), 40, 60, "uint8"), want)
