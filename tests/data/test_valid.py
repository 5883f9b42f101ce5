"""What is no measurement never counts and never reaches the network, however it is said.

Every case goes to all who read pixels: statistics, training, scoring of tiles, windows of scenes.
"""

from dataclasses import replace

import numpy as np
import pytest
from data.hostile import numbers, paged, photo, pillow, tiff
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from score.scenes.scene_material import STORE, ref

from satray.data.decode import PixelSpec, decode, read_pixels
from satray.data.statistics import count_tile, summarise
from satray.data.tiff import read_plain
from satray.errors import DecodeError
from satray.score.predictions import TileFacts
from satray.score.scenes.open import Scene
from satray.score.tiles import Source, Wanted, read_tile

H, W = 24, 32
ROW, COLUMN = np.mgrid[:H, :W]
PLAIN, PACKED = {}, {"compress": "deflate", "tiled": True, "blockxsize": 16, "blockysize": 16}
LAYOUTS = pytest.mark.parametrize("layout", [PLAIN, PACKED], ids=["plain", "packed"])
BARE = {"photometric": "MINISBLACK", "alpha": "NO"}
SHOWN = (COLUMN >= 9) & ((ROW != 12) | (COLUMN != 20))
LARGEST = 3.4028234663852886e38

FILLS = [
    ("uint8", 0), ("int8", -128), ("uint16", 0), ("int16", -9999), ("uint32", 2**32 - 1),
    *[("float32", fill) for fill in (0.0, -LARGEST, 0.1, np.nan)],
    ("float64", -1.7976931348623157e308),
]  # fmt: skip


def values(count: int, dtype: str) -> np.ndarray:
    """Measurements, none of them a fill."""
    return (np.abs(numbers(count, H, W, "int16")) % 90 + 20).astype(dtype)


def expected(x_CHW: np.ndarray, valid_CHW: np.ndarray) -> np.ndarray:
    """Each band's mean where it is not measured."""
    y_CHW = x_CHW.copy()
    for y_HW, valid_HW in zip(y_CHW, valid_CHW, strict=True):
        mean = y_HW[valid_HW].mean(dtype=np.float64)
        y_HW[~valid_HW] = mean if x_CHW.dtype.kind == "f" else round(mean)
    return y_CHW


def read_by_all(folder, data, valid_CHW, x_CHW=None, *, mask=None, names=None):
    """Have all who read pixels find these values, measured there and nowhere else."""
    tile = decode(data, mask=mask, bands=names)
    x_CHW = tile.pixels if x_CHW is None else x_CHW
    valid_CHW = np.broadcast_to(valid_CHW, x_CHW.shape)
    bands, (count, height, width) = tile.header.bands, x_CHW.shape
    np.testing.assert_array_equal(tile.pixels, x_CHW)
    everywhere = np.ones(x_CHW.shape, bool)
    measured = everywhere if tile.measured is None else tile.measured
    np.testing.assert_array_equal(measured, valid_CHW)
    for band, x_HW, v_HW in zip(
        count_tile(tile.pixels, tile.measured), x_CHW, valid_CHW, strict=True
    ):
        found, good = summarise("b", band), x_HW[v_HW].astype(np.float64)
        assert (found.valid, found.min, found.max) == (good.size, good.min(), good.max())
        assert found.mean == pytest.approx(good.mean())

    want_CHW = expected(x_CHW, valid_CHW).astype(float)
    for take in {tuple(range(count)), (count - 1,), tuple(range(count))[::-1], (count - 1, 0)}:
        spec = PixelSpec(take, height, width, str(x_CHW.dtype), named=len(names or ()))
        y_CHW = read_pixels(data, spec, mask)
        assert y_CHW.flags.writeable
        assert y_CHW.flags.c_contiguous
        np.testing.assert_allclose(y_CHW.astype(float), want_CHW[list(take)], rtol=1e-6)
        small = replace(spec, height=height // 2, width=width // 2)
        small_CHW = read_pixels(data, small, mask)
        assert small_CHW.min() >= np.floor(want_CHW.min())
        assert small_CHW.max() <= np.ceil(want_CHW.max())

    source = Source(names, by_hand=names is not None)
    wanted = Wanted(bands, str(x_CHW.dtype), height, width, source, maps=True)
    scored = read_tile(data, TileFacts("t", "t"), wanted, mask)
    np.testing.assert_allclose(scored.pixels.astype(float), want_CHW, rtol=1e-6)
    shown = everywhere[0] if scored.valid is None else scored.valid
    np.testing.assert_array_equal(shown, valid_CHW.all(axis=0))

    kind = {b"\xff\xd8": "jpg", b"\x89P": "png"}.get(data[:2], "tif")
    path = folder / f"t.{kind}"
    path.write_bytes(data)
    scene = ref(str(path))
    if mask is not None:
        (folder / f"t.{kind}.msk").write_bytes(mask)
        scene = replace(scene, files=(str(path), f"{path}.msk"))
    with Scene(scene, bands, names, STORE) as scene:
        part = (slice(None), slice(2, height - 1), slice(3, width))
        y_CHW, there_CHW = scene.read(2, 3, height - 3, width - 3)
    np.testing.assert_array_equal(there_CHW, valid_CHW[part])
    np.testing.assert_array_equal(y_CHW[there_CHW], x_CHW[part][there_CHW])


def said(way: str, x_CHW: np.ndarray, shown_HW: np.ndarray, **more):
    """The file (gray or RGB) whose mask or alpha says where there is data, and the mask beside."""
    byte_HW = np.where(shown_HW, 255, 0).astype(np.uint8)
    more |= {"photometric": "RGB" if len(x_CHW) == 3 else "MINISBLACK"}
    if way == "mask":
        return tiff(x_CHW, mask=byte_HW, **more), None
    if way == "msk":
        return tiff(x_CHW, **more), tiff(byte_HW[None], compress="deflate")
    top = 1 if x_CHW.dtype.kind == "f" else np.iinfo(x_CHW.dtype).max
    alpha_1HW = np.where(shown_HW, top, 0).astype(x_CHW.dtype)[None]
    return tiff(np.concatenate([x_CHW, alpha_1HW]), alpha=way.upper(), **more), None


@LAYOUTS
@pytest.mark.parametrize(("dtype", "fill"), FILLS)
def test_nodata_holds_band_by_band(tmp_path, dtype, fill, layout):
    """Of 8 bits, and 0 of whole numbers, it is a measurement where another band has one."""
    together = dtype in ("uint8", "int8") or (fill == 0 and dtype != "float32")
    for count, place in ((1, 0), (3, 2)):
        x_CHW = values(count, dtype)
        valid_CHW = np.ones(x_CHW.shape, bool)
        x_CHW[:, :4], valid_CHW[:, :4] = fill, False
        if count > 1:
            x_CHW[place, 10:14], valid_CHW[place, 10:14] = fill, together
        data = tiff(x_CHW, nodata=fill, **BARE, **layout)
        assert (read_plain(data, named=0) is None) == (layout is PACKED)
        read_by_all(tmp_path, data, valid_CHW, x_CHW)


@LAYOUTS
@pytest.mark.parametrize("way", ["mask", "msk", "yes", "premultiplied"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_masks_and_alpha_hide_all_bands(tmp_path, way, dtype, layout):
    for count, names in ((1, None), (3, None), (3, ("r", "g", "b"))):
        x_CHW = values(count, dtype)
        x_CHW[:, ~SHOWN] = 77
        data, mask = said(way, x_CHW, SHOWN, **layout)
        read_by_all(tmp_path, data, SHOWN, x_CHW, mask=mask, names=names)


@pytest.mark.parametrize(
    ("dtype", "text", "fill"),
    [
        ("float32", "-3.4028235e38", -LARGEST),
        ("float32", "-3.40282e+38", -LARGEST),
        ("float64", "9.96921e+36", 9.969209968386869e36),
        ("float32", "-9.999e3", -9999),
        ("float32", "nan", np.nan),
        ("float32", "-nan", 0),
        ("float32", "1e39", None),
        ("uint16", "-9999", None),
        ("int16", "0.5", None),
        ("uint8", "nan", None),
    ],
)  # fmt: skip
def test_as_the_tag_spells_it(tmp_path, dtype, text, fill):
    """A value that the dtype lacks is nowhere; rounded digits of the largest are the largest."""
    x_CHW = values(2, dtype)
    valid_CHW = np.ones(x_CHW.shape, bool)
    if fill is not None:
        x_CHW[0, :4], valid_CHW[0, :4] = fill, False
    read_by_all(tmp_path, paged((x_CHW, {42113: text})), valid_CHW, x_CHW)


def transparent() -> dict[str, tuple[bytes, np.ndarray]]:
    """Images that say it by a gray level, a colour or alpha; and where they show."""
    gray_HW, rgb_HWC = np.asarray(photo().convert("L")).copy(), np.asarray(photo()).copy()
    gray_HW[:5], rgb_HWC[:5], rgb_HWC[8, :, 0] = 255, (1, 2, 3), 1
    rows = np.broadcast_to((np.arange(40) >= 5)[:, None], gray_HW.shape)
    gray, colour = Image.fromarray(gray_HW), Image.fromarray(rgb_HWC)
    colour_tiff = tiff(
        rgb_HWC.transpose(2, 0, 1), photometric="RGB", tags={"NODATA_VALUES": "1 2 3"}
    )
    hidden = photo().convert("RGBA")
    hidden.putalpha(Image.fromarray(np.where(rows, 99, 0).astype(np.uint8)))
    two = photo().convert("LA")
    two.putalpha(Image.fromarray(np.where(rows, 99, 0).astype(np.uint8)))
    return {
        "gray": (pillow(gray, "PNG", transparency=255), gray_HW != 255),
        "colour": (pillow(colour, "PNG", transparency=(1, 2, 3)), rows),
        "colour of a TIFF": (colour_tiff, rows),
        **{f"{i.mode} {k}": (pillow(i, k), rows) for i in (hidden, two) for k in ("PNG", "TIFF")},
    }


@pytest.mark.parametrize("case", transparent())
def test_transparent_colours(tmp_path, case):
    data, valid_HW = transparent()[case]
    read_by_all(tmp_path, data, valid_HW)


def test_several_ways_at_once(tmp_path):
    x_CHW, byte_HW = values(2, "uint16"), np.full((H, W), 255, np.uint8)
    x_CHW[1, :3], byte_HW[-3:] = 65535, 0
    valid_CHW = (byte_HW > 0) & (x_CHW < 65535)
    read_by_all(tmp_path, tiff(x_CHW, nodata=65535, mask=byte_HW), valid_CHW, x_CHW)
    # a mask beside may have a band each
    x_CHW, each_CHW = values(2, "uint8"), np.full((2, H, W), 255, np.uint8)
    each_CHW[1, :6] = 0
    mask = tiff(each_CHW, tags={f"INTERNAL_MASK_FLAGS_{n}": "0" for n in (1, 2)})
    read_by_all(tmp_path, tiff(x_CHW, **BARE), each_CHW > 0, x_CHW, mask=mask)
    x_CHW = values(2, "float32")
    x_CHW[:, 3] = -9999
    big = tiff(x_CHW, nodata=-9999, ENDIANNESS="BIG")
    read_by_all(tmp_path, big, x_CHW != -9999, x_CHW)


def test_names_make_data_of_a_band_tagged_alpha(tmp_path):
    """Planet's TIFFs tag their nir alpha: without names it hides, with names it is a band."""
    x_CHW, names = values(4, "uint16"), ("b", "g", "r", "n")
    x_CHW[:3, :5] = 0
    x_CHW[3, 10:] = 0
    data = tiff(x_CHW, photometric="RGB", alpha="YES", nodata=0)
    read_by_all(tmp_path, data, (ROW >= 5) & (ROW < 10), x_CHW[:3])
    read_by_all(tmp_path, data, np.ones((H, W), bool), x_CHW, names=names)
    assert (decode(data).header.alpha, decode(data, bands=names).header.alpha) == (True, False)
    second = tiff(x_CHW, **{**BARE, "alpha": "YES"})  # before data
    read_by_all(tmp_path, second, x_CHW[1] > 0, x_CHW[[0, 2, 3]])
    with pytest.raises(DecodeError, match=r"has 4 bands, bands=\[...\] names 2"):
        decode(data, bands=names[2:])


@settings(max_examples=8)
@given(
    st.sampled_from(["mask", "msk", "yes", "premultiplied"]),
    st.sampled_from(["uint8", "uint16", "int16", "float32"]),
    st.sampled_from([(0,), (0, 1, 2), (2, 0)]),
    st.sampled_from([PLAIN, PACKED]),
    st.integers(0, 2**32 - 1),
)
def test_what_lies_below_a_mask_does_not_matter(way, dtype, take, layout, seed):
    rng = np.random.default_rng(seed)
    shown_HW = rng.random((H, W)) < rng.random()
    shown_HW[0, 0] = True
    found = []
    wild = [0, 255, 7] if dtype == "uint8" else [0, 9999, 32767, 7]
    for value in wild + ([np.nan, np.inf, 3e38, -9999] if dtype == "float32" else []):
        x_CHW = values(1 if len(take) == 1 else 3, dtype)
        x_CHW[:, ~shown_HW] = value
        file, mask = said(way, x_CHW, shown_HW, **layout)
        tile = decode(file, mask=mask)
        figures = [summarise("b", band) for band in count_tile(tile.pixels, tile.measured)]
        pixels = [
            read_pixels(file, PixelSpec(take, h, w, dtype), mask=mask) for h, w in ((H, W), (9, 7))
        ]
        found.append((figures, [x.tolist() for x in pixels]))
    assert all(one == found[0] for one in found)


def test_a_band_without_a_measurement_and_masks_that_do_not_fit():
    x_CHW = values(2, "int16")
    x_CHW[1] = -9999
    data = tiff(x_CHW, nodata=-9999)
    with pytest.raises(DecodeError, match="band 2 of those taken holds no data"):
        read_pixels(data, PixelSpec((0, 1), H, W, "int16"))
    for nothing, dtype in (
        (tiff(np.full((2, 8, 8), np.nan, np.float32)), "float32"),
        (tiff(np.zeros((2, 8, 8), np.uint8), nodata=0), "uint8"),
        (pillow(Image.new("RGBA", (8, 8), (9, 9, 9, 0)), "PNG"), "uint8"),
    ):
        with pytest.raises(DecodeError, match="no valid pixels"):
            read_pixels(nothing, PixelSpec((0, 1), 8, 8, dtype))
    np.testing.assert_array_equal(read_pixels(data, PixelSpec((0,), H, W, "int16")), x_CHW[:1])
    with pytest.raises(DecodeError, match=r"its \.msk is 5 x 6 px, the image 24 x 32"):
        read_pixels(data, PixelSpec((0,), H, W, "int16"), mask=tiff(np.ones((1, 5, 6), np.uint8)))
    with pytest.raises(DecodeError, match=r"its \.msk: not an image"):
        decode(data, mask=b"<html>")
