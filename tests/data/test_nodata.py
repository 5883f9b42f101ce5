"""What is no measurement never counts and never reaches the network, however it is said."""

import struct

import numpy as np
import pytest
import rasterio
from data.hostile import numbers, paged, photo, pillow, tiff
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.io import MemoryFile
from scoring.scenes.scene_material import opened

from satray.data.decode import decode, read_pixels
from satray.data.statistics import count_tile, summarise
from satray.data.tiff import read_plain
from satray.errors import DecodeError

H, W = 24, 32
PLAIN, PACKED = {}, {"compress": "deflate", "tiled": True, "blockxsize": 16, "blockysize": 16}
LAYOUTS = pytest.mark.parametrize("layout", [PLAIN, PACKED], ids=["plain", "packed"])
WAYS = ("tag", "mask", "msk", "alpha", "premultiplied")

FILLS = [
    ("uint8", 0),
    ("uint8", 255),
    ("uint8", 7),
    ("int8", -128),
    ("uint16", 0),
    ("uint16", 65535),
    ("int16", -9999),
    ("int16", 32767),
    ("int16", -32768),
    ("uint32", 2**32 - 1),
    ("int32", -(2**31)),
    ("int64", -(2**50) - 1),
    ("float32", 0.0),
    ("float32", -9999.0),
    ("float32", 9.969209968386869e36),
    ("float32", 1e20),
    ("float32", 3.4028234663852886e38),
    ("float32", -3.4028234663852886e38),
    ("float32", -np.inf),
    ("float32", np.nan),
    ("float32", 0.1),
    ("float64", 9.969209968386869e36),
    ("float64", -1.7976931348623157e308),
    ("float64", np.nan),
]


def values(count: int, dtype: str) -> np.ndarray:
    """Measurements, none of them a fill."""
    return (np.abs(numbers(count, H, W, "int16")) % 90 + 20).astype(dtype)


def said(way: str, x_CHW: np.ndarray, nodata: float, shown_HW: np.ndarray, **more):
    """The file that says where there is no data, and the mask beside it."""
    profile = {"photometric": "MINISBLACK", **more}
    byte_HW = np.where(shown_HW, 255, 0).astype(np.uint8)
    if way == "tag":
        return tiff(x_CHW, nodata=nodata, alpha="NO", **profile), None
    if way == "mask":
        return tiff(x_CHW, mask=byte_HW, alpha="NO", **profile), None
    if way == "msk":
        return tiff(x_CHW, alpha="NO", **profile), tiff(byte_HW[None], compress="deflate")
    top = 1 if x_CHW.dtype.kind == "f" else np.iinfo(x_CHW.dtype).max
    alpha_HW = np.where(shown_HW, top, 0).astype(x_CHW.dtype)
    data = tiff(np.concatenate([x_CHW, alpha_HW[None]]), alpha="NO", **profile)
    return last_as_alpha(data, 2 if way == "alpha" else 1), None


def last_as_alpha(data: bytes, kind: int) -> bytes:
    """A little-endian TIFF whose last band is tagged alpha: 1 premultiplied, 2 not."""
    found = bytearray(data)
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    for at in range(start + 2, start + 2 + 12 * entries, 12):
        tag, field, n, place = struct.unpack_from("<HHII", data, at)
        if tag == 338:
            assert field == 3
            struct.pack_into("<H", found, (at + 8 if n <= 2 else place) + 2 * (n - 1), kind)
    return bytes(found)


def figures(data: bytes, mask: bytes | None, **names) -> list[dict]:
    tile = decode(data, mask=mask, **names)
    return [vars(summarise("b", band)) for band in count_tile(tile.pixels, tile.measured)]


def expected(x_CHW: np.ndarray, bad_CHW: np.ndarray) -> np.ndarray:
    y_CHW = x_CHW.copy()
    for y_HW, bad_HW in zip(y_CHW, bad_CHW, strict=True):
        mean = y_HW[~bad_HW].mean(dtype=np.float64)
        y_HW[bad_HW] = mean if x_CHW.dtype.kind == "f" else round(mean)
    return y_CHW


def same(found: list[dict], wanted: list[dict]) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert a == pytest.approx(b, nan_ok=True)


@LAYOUTS
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("dtype", "fill"), FILLS)
def test_however_it_is_said(way, dtype, fill, layout):
    """One ground, one figure and one input, for any count of bands and in any order."""
    if dtype == "int8" and way in ("alpha", "premultiplied"):
        pytest.skip("alpha of signed bytes: no writer makes them")
    shown_HW = np.ones((H, W), bool)
    shown_HW[:, :9] = shown_HW[12, 20] = False
    for count in (1, 2, 3, 4, 8):
        x_CHW = values(count, dtype)
        x_CHW[:, ~shown_HW] = fill if way == "tag" else 77
        data, mask = said(way, x_CHW, fill, shown_HW, **layout)
        bad_CHW = np.broadcast_to(~shown_HW, x_CHW.shape)
        want = expected(x_CHW, bad_CHW)
        measured = [x_HW[shown_HW].astype(np.float64) for x_HW in x_CHW]
        same(
            [
                {"mean": f["mean"], "max": f["max"], "valid": f["valid"]}
                for f in figures(data, mask)
            ],
            [{"mean": m.mean(), "max": m.max(), "valid": m.size} for m in measured],
        )
        for take in (tuple(range(count)), (count - 1,), tuple(range(count))[::-1]):
            y_CHW = read_pixels(data, take, H, W, dtype, mask=mask)
            np.testing.assert_allclose(y_CHW.astype(float), want[list(take)].astype(float), 1e-6)
            small_CHW = read_pixels(data, take, H // 2, W // 2, dtype, mask=mask)
            assert small_CHW.max() <= 110
            assert small_CHW.min() >= 20


@LAYOUTS
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(("dtype", "fill"), FILLS)
def test_a_value_in_one_band(dtype, fill, place, layout):
    """It holds band by band; of 8 bits, and 0 of whole numbers, it is a measurement there."""
    x_CHW = values(3, dtype)
    x_CHW[:, :4] = fill
    x_CHW[place, 10:14] = fill
    together = dtype in ("uint8", "int8") or (fill == 0 and dtype != "float32")
    bad_CHW = np.zeros(x_CHW.shape, bool)
    bad_CHW[:, :4] = True
    bad_CHW[place, 10:14] = not together
    data = tiff(x_CHW, nodata=fill, photometric="MINISBLACK", alpha="NO", **layout)
    assert (read_plain(data, named=0) is None) == (layout is PACKED)
    tile = decode(data)
    np.testing.assert_array_equal(tile.measured, ~bad_CHW)
    np.testing.assert_array_equal(tile.valid, ~bad_CHW.any(axis=0))
    assert [f["valid"] for f in figures(data, None)] == [int((~b).sum()) for b in bad_CHW]
    want = expected(x_CHW, bad_CHW).astype(float)
    for take in ((0, 1, 2), (place,), ((place + 1) % 3, place)):
        y_CHW = read_pixels(data, take, H, W, dtype)
        np.testing.assert_allclose(y_CHW.astype(float), want[list(take)], rtol=1e-6)


@LAYOUTS
@pytest.mark.parametrize(
    ("dtype", "written", "text", "fill"),
    [
        ("float32", 123456789012, "3.4028235e38", 3.4028234663852886e38),
        ("float32", 1234567890123, "-3.4028235e38", -3.4028234663852886e38),
        ("float32", 123, "nan", np.nan),
        ("float32", 1234, "-inf", -np.inf),
        ("float32", 1234, "1e39", None),
        ("uint16", 12345, "65536", None),
        ("uint16", 12345, "-9999", None),
        ("int16", 123, "0.5", None),
        ("uint8", 123, "nan", None),
        ("uint8", 123, "256", None),
    ],
)
def test_as_the_tag_spells_it(dtype, written, text, fill, layout):
    """A value that the dtype lacks is nowhere; rounded digits of the largest are the largest."""
    x_CHW = values(2, dtype)
    if fill is not None:
        x_CHW[0, :4] = fill
    data = tiff(x_CHW, nodata=written, photometric="MINISBLACK", alpha="NO", **layout)
    spelt = f"{written}\0".encode()
    assert len(text) == len(spelt) - 1
    assert data.count(spelt) == 1
    data = data.replace(spelt, f"{text}\0".encode())
    bad_CHW = np.zeros(x_CHW.shape, bool)
    bad_CHW[0, :4] = fill is not None
    tile = decode(data)
    measured = np.ones(x_CHW.shape, bool) if tile.measured is None else tile.measured
    np.testing.assert_array_equal(measured, ~bad_CHW)
    y_CHW = read_pixels(data, (0, 1), H, W, dtype)
    np.testing.assert_allclose(y_CHW, expected(x_CHW, bad_CHW), rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "text", "fill"),
    [
        ("float32", "-3.40282e+38", -3.4028234663852886e38),
        ("float64", "-1.79769313486232e+308", -1.7976931348623157e308),
        ("float64", "3.40282346639e+38", 3.4028234663852886e38),
        ("float64", "9.96921e+36", 9.969209968386869e36),
        ("float32", "100000000000000000000", 1e20),
        ("float32", "-nan", 0),
        ("uint64", "18446744073709551615", 2**64 - 1),
        ("int64", "9223372036854775807", 2**63 - 1),
        ("int64", "-9007199254740993", -(2**53) - 1),
    ],
)
def test_as_other_writers_spell_it(tmp_path, dtype, text, fill):
    """Rounded digits, and numbers of 64 bits: in one band, for decode, training and scenes."""
    x_CHW = values(2, dtype)
    x_CHW[0, :4] = fill
    data = paged((x_CHW, {42113: text}))
    measured = np.ones(x_CHW.shape, bool)
    measured[0, :4] = False
    tile = decode(data)
    np.testing.assert_array_equal(tile.measured, measured)
    y_CHW = read_pixels(data, (0, 1), H, W, dtype)
    np.testing.assert_allclose(y_CHW, expected(x_CHW, ~measured), rtol=1e-6)
    (tmp_path / "t.tif").write_bytes(data)
    with opened(str(tmp_path / "t.tif"), tile.header.bands) as scene:
        np.testing.assert_array_equal(scene.read(0, 0, H, W)[1], measured)


@pytest.mark.parametrize("way", ["alpha", "premultiplied"])
@LAYOUTS
def test_alpha_hides_where_data_bands_are_named(tmp_path, way, layout):
    shown_HW = np.arange(W) >= np.zeros((H, 1)) + 9
    x_CHW = values(4, "uint16")
    x_CHW[:, ~shown_HW] = 65535
    data, _ = said(way, x_CHW, 0, shown_HW, **layout)
    names = ("b", "g", "r", "n")
    tile = decode(data, bands=names)
    assert (tile.header.bands, tile.header.alpha) == (names, True)
    np.testing.assert_array_equal(tile.valid, shown_HW)
    assert read_pixels(data, (3, 0), H, W, "uint16", named=4).max() < 200
    (tmp_path / "t.tif").write_bytes(data)
    with opened(str(tmp_path / "t.tif"), names, names) as scene:
        np.testing.assert_array_equal(scene.read(0, 0, H, W)[1], [shown_HW] * 4)
    with pytest.raises(DecodeError, match=r"has 5 bands, bands=\[...\] names 3"):
        decode(data, bands=names[1:])


@settings(max_examples=25)
@given(
    st.sampled_from(WAYS[1:]),
    st.sampled_from(["uint8", "uint16", "int16", "float32"]),
    st.integers(1, 5),
    st.booleans(),
    st.integers(0, 2**32 - 1),
    st.data(),
)
def test_what_lies_below_a_mask_does_not_matter(way, dtype, count, packed, seed, data):
    rng = np.random.default_rng(seed)
    take = tuple(data.draw(st.permutations(range(count)))[: data.draw(st.integers(1, count))])
    shown_HW = rng.random((H, W)) < rng.random()
    shown_HW[0, 0] = True
    found = []
    wild = [0, 255, 7] if dtype == "uint8" else [0, 9999, 32767, 7]
    wild += [np.nan, np.inf, 3e38, -9999] if dtype == "float32" else []
    for value in wild:
        x_CHW = values(count, dtype)
        x_CHW[:, ~shown_HW] = value
        file, mask = said(way, x_CHW, 0, shown_HW, **(PACKED if packed else PLAIN))
        pixels = [read_pixels(file, take, h, w, dtype, mask=mask) for h, w in ((H, W), (9, 7))]
        found.append((figures(file, mask), pixels))
    for others, pixels in found[1:]:
        assert others == found[0][0]
        for a, b in zip(pixels, found[0][1], strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_mask_and_nodata_both_hide():
    x_CHW = values(2, "uint16")
    x_CHW[1, :3] = 65535
    mask_HW = np.full((H, W), 255, np.uint8)
    mask_HW[-3:] = 0
    tile = decode(tiff(x_CHW, nodata=65535, mask=mask_HW))
    assert tile.measured is not None
    np.testing.assert_array_equal(tile.measured[0], mask_HW > 0)
    np.testing.assert_array_equal(tile.measured[1], (mask_HW > 0) & (x_CHW[1] < 65535))


def test_names_make_data_of_alpha_beside_nodata():
    """Planet's TIFFs tag their nir alpha: without names it hides, with names it is a band."""
    x_CHW = values(4, "uint16")
    x_CHW[:3, :5] = 0
    x_CHW[3, 10:] = 0
    data = tiff(x_CHW, photometric="RGB", alpha="YES", nodata=0)
    hidden_HW = (np.arange(H) < 5) | (np.arange(H) >= 10)
    want = expected(x_CHW[:3], np.broadcast_to(hidden_HW[:, None], (3, H, W)))
    np.testing.assert_array_equal(read_pixels(data, (0, 1, 2), H, W, "uint16"), want)
    assert decode(data, bands=("b", "g", "r", "n")).valid.all()
    for take in ((2, 3), (0, 1)):
        y_CHW = read_pixels(data, take, H, W, "uint16", named=4)
        np.testing.assert_array_equal(y_CHW, x_CHW[list(take)])


def test_a_transparent_index_a_transparent_gray_and_a_transparent_colour():
    image = photo().quantize(16)
    holes_HW = np.asarray(image) == 3
    data = pillow(image, "PNG", transparency=3)
    with rasterio.MemoryFile(data) as memory, memory.open() as source:
        assert source.nodata == 3
    tile = decode(data)
    want = expected(tile.pixels, np.broadcast_to(holes_HW, tile.pixels.shape))
    np.testing.assert_array_equal(read_pixels(data, (0, 1, 2), 40, 60, "uint8"), want)

    gray_HW = np.asarray(photo().convert("L")).copy()
    gray_HW[:5] = 255
    data = pillow(Image.fromarray(gray_HW), "PNG", transparency=255)
    want = expected(gray_HW[None], (gray_HW == 255)[None])
    np.testing.assert_array_equal(read_pixels(data, (0,), 40, 60, "uint8"), want)

    rgb_HWC = np.asarray(photo()).copy()
    rgb_HWC[:5] = (1, 2, 3)
    rgb_HWC[8, :, 0] = 1
    rgb_CHW = rgb_HWC.transpose(2, 0, 1)
    bad_CHW = np.broadcast_to((np.arange(40) < 5)[:, None], rgb_CHW.shape)
    key = pillow(Image.fromarray(rgb_HWC), "PNG", transparency=(1, 2, 3))
    np.testing.assert_array_equal(decode(key).measured, ~bad_CHW)
    want = expected(rgb_CHW, bad_CHW)
    np.testing.assert_array_equal(read_pixels(key, (0, 1, 2), 40, 60, "uint8"), want)
    # the same, as GDAL's tools say it of a TIFF
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", count=3, height=40, width=60, dtype="uint8", photometric="RGB"
        ) as target:
            target.write(rgb_CHW)
            target.update_tags(NODATA_VALUES="1 2 3")
        np.testing.assert_array_equal(
            read_pixels(bytes(memory.read()), (0, 1, 2), 40, 60, "uint8"), want
        )


def test_a_mask_beside_must_fit_and_may_be_a_band_each():
    x_CHW = values(2, "uint8")
    data = tiff(x_CHW, photometric="MINISBLACK", alpha="NO")
    with pytest.raises(DecodeError, match=r"its \.msk is 5 x 6 px, the image 24 x 32"):
        read_pixels(data, (0,), H, W, "uint8", mask=tiff(np.ones((1, 5, 6), np.uint8)))
    with pytest.raises(DecodeError, match=r"its \.msk: not an image"):
        decode(data, mask=b"<html>")
    each_CHW = np.full((2, H, W), 255, np.uint8)
    each_CHW[1, :6] = 0
    mask = tiff(each_CHW, tags={"INTERNAL_MASK_FLAGS_1": "0", "INTERNAL_MASK_FLAGS_2": "0"})
    np.testing.assert_array_equal(decode(data, mask=mask).measured, each_CHW > 0)
    want = expected(x_CHW, each_CHW == 0)
    np.testing.assert_array_equal(read_pixels(data, (1,), H, W, "uint8", mask=mask), want[1:])


def test_a_tile_without_holes_is_as_stored():
    for layout in (PLAIN, PACKED):
        x_CHW = values(2, "uint16")
        y_CHW = read_pixels(tiff(x_CHW, nodata=0, **layout), (0, 1), H, W, "uint16")
        np.testing.assert_array_equal(y_CHW, x_CHW)
        assert y_CHW.flags.writeable


def test_big_endian_too():
    x_CHW = values(2, "float32")
    x_CHW[:, 3] = -9999
    data = tiff(x_CHW, nodata=-9999, ENDIANNESS="BIG")
    want = expected(x_CHW, x_CHW == -9999)
    np.testing.assert_allclose(read_pixels(data, (0, 1), H, W, "float32"), want, rtol=1e-6)


def test_a_band_without_a_measurement_is_named():
    x_CHW = values(2, "int16")
    x_CHW[1] = -9999
    data = tiff(x_CHW, nodata=-9999)
    with pytest.raises(DecodeError, match="band 2 of those taken holds no data"):
        read_pixels(data, (0, 1), H, W, "int16")
    np.testing.assert_array_equal(read_pixels(data, (0,), H, W, "int16"), x_CHW[:1])
