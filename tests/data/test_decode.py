"""JPEG, PNG and TIFF as they are stored; whatever is damaged or meant to harm, with a reason."""

import io
import itertools

import numpy as np
import pytest
import rasterio
import torch
from data.hostile import numbers, photo, pillow, png, tiff, tiff_header
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from satray.data.bands import band_names, select
from satray.data.decode import PixelSpec, decode, read_pixels
from satray.data.tiff import read_plain
from satray.data.values import resample
from satray.errors import DecodeError, InputError


def rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def same_by_both(data: bytes) -> np.ndarray:
    """Decode, check that the hot path gives the same pixels in any order, and return them."""
    tile = decode(data)
    h = tile.header
    take = tuple(range(len(h.bands)))
    want = tile.pixels.copy()
    for band in want if tile.measured is not None else ():
        valid = tile.measured.all(axis=0)
        band[~valid] = np.round(band[valid].mean(dtype=np.float64))
    for some in (take, (take[-1], 0)):
        again = read_pixels(data, PixelSpec(some, h.height, h.width, h.dtype))
        np.testing.assert_array_equal(again, want[list(some)])
        assert again.flags.c_contiguous
        assert again.flags.writeable
    assert tile.pixels.dtype == h.dtype
    assert tile.pixels.shape == (len(h.bands), h.height, h.width)
    return tile.pixels


# -- what is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "int16", "uint32", "int8", "float32", "float64"]
)
def test_tiff_is_read_as_stored(dtype, count):
    x_CHW = numbers(count, dtype=dtype)
    # GDAL tags the fourth of four uint8 bands alpha unless told what they are
    data = tiff(x_CHW, photometric="MINISBLACK", alpha="NO")
    np.testing.assert_array_equal(same_by_both(data), x_CHW)


LAYOUTS = [
    {}, {"interleave": "band"}, {"interleave": "pixel", "blockysize": 5},
    {"interleave": "band", "blockysize": 7}, {"tiled": True, "blockxsize": 16, "blockysize": 16},
    {"compress": "lzw", "predictor": 2}, {"compress": "zstd"},
    {"ENDIANNESS": "BIG"}, {"ENDIANNESS": "BIG", "compress": "deflate"}, {"BIGTIFF": "YES"},
    {"photometric": "RGB"}, {"photometric": "MINISWHITE"}, {"SPARSE_OK": "TRUE"}, {"NBITS": "12"},
    {"crs": "EPSG:32631", "transform": rasterio.Affine(3, 0, 5e5, 0, -3, 5e6)},
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_tiff_layouts_all_give_the_same(layout):
    for count in (4,) if layout.get("photometric") == "RGB" else (1, 4):
        x_CHW = numbers(count) // 20
        data = tiff(x_CHW, **layout)
        with rasterio.MemoryFile(data) as memory, memory.open() as source:
            np.testing.assert_array_equal(source.read(), x_CHW)
        np.testing.assert_array_equal(same_by_both(data), x_CHW)


PHOTO, GRAY16 = photo(), Image.fromarray(numbers(1)[0])
JPEG = pillow(PHOTO, "JPEG", quality=95)
RGB3 = ("red", "green", "blue")
IMAGES = {  # file, bands, pixels, by how much they may be off on average
    "PNG": (pillow(PHOTO, "PNG"), RGB3, rgb(PHOTO), 0),
    # chroma upsampling differs a little
    "JPEG": (JPEG, RGB3, rgb(Image.open(io.BytesIO(JPEG))), 2),
    "gray JPEG": (pillow(PHOTO.convert("L"), "JPEG"), ("gray",), [PHOTO.convert("L")], 2),
    "CMYK JPEG": (pillow(PHOTO.convert("CMYK"), "JPEG", quality=98), RGB3, rgb(PHOTO), 4),
    "CMYK TIFF": (pillow(PHOTO.convert("CMYK"), "TIFF"), RGB3, rgb(PHOTO), 2),
    "16 bits": (pillow(GRAY16, "PNG"), ("gray",), [GRAY16], 0),
    "described": (tiff(numbers(2), descriptions=("NIR", "x")), ("nir", "x"), numbers(2), 0),
}


@pytest.mark.parametrize("case", IMAGES)
def test_images(case):
    """By content: no name says what a file is."""
    data, bands, want, off = IMAGES[case]
    assert decode(data).header.bands == bands
    found = same_by_both(data)
    assert np.abs(found.astype(float) - np.stack([np.asarray(band) for band in want])).mean() <= off
    assert decode(data).measured is None


@pytest.mark.parametrize(
    ("descriptions", "colours", "names"),
    [
        ([None] * 3, ["red", "green", "blue"], ("red", "green", "blue")),
        ([None], ["gray"], ("gray",)),
        ([None] * 4, ["gray", "undefined", "undefined", "undefined"], ("b1", "b2", "b3", "b4")),
        ([None] * 4, ["red", "green", "blue", "undefined"], ("red", "green", "blue", "b4")),
        ([None] * 4, ["blue", "green", "red", "nir"], ("blue", "green", "red", "nir")),
        (["Blue", "NIR "], ["gray", "undefined"], ("blue", "nir")),
        (["band 1 reflectance", None], ["gray", "undefined"], ("band 1 reflectance", "b2")),
        (["same", "same"], ["red", "green"], ("red", "green")),
        (["", " "], ["gray", "undefined"], ("b1", "b2")),
        ([None] * 2, ["red", "red"], ("b1", "b2")),
        ([None] * 2, ["gray", "alpha"], ("gray",)),
    ],
)
def test_names_come_from_descriptions_then_colours_then_numbers(descriptions, colours, names):
    assert band_names(descriptions, colours, len(names)) == names


def test_bands_are_found_by_name_or_what_there_is_is_said():
    assert select(("blue", "green", "red", "nir"), ("nir", "nir", "red")) == (3, 3, 2)
    with pytest.raises(InputError, match=r"no nir, swir16 among .* red, green, blue"):
        select(("red", "green", "blue"), ("nir", "red", "swir16", "nir"))


# -- what is refused ------------------------------------------------------------------------------

PHOTO_PNG, PHOTO_JPEG = pillow(PHOTO, "PNG"), pillow(PHOTO, "JPEG")
PLAIN, DEFLATE = tiff(numbers()), tiff(numbers(), compress="deflate")
VRT = b"""<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand dataType="Byte" band="1">
<SimpleSource><SourceFilename>/etc/passwd</SourceFilename></SimpleSource></VRTRasterBand>
</VRTDataset>"""


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\0" * 1000, "not an image"),
        (b"<html><body>404</body></html>", "not an image.*<html>.*JPEG, PNG, TIFF"),
        (VRT, "not an image"),
        (pillow(PHOTO, "WEBP"), "not an image"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "not an image.*HDF"),
        (PHOTO_JPEG[:-40], "JPEG cannot be read.*[Pp]remature end"),
        (PHOTO_PNG[:-1], "PNG cut short"),
        (PHOTO_PNG[:60] + b"\x55" + PHOTO_PNG[61:], "PNG damaged"),
        (png(40, 60, bytes(181 * 20)), "PNG cannot be read"),
        (PLAIN[:-1], "TIFF cannot be read"),
        (DEFLATE[: len(DEFLATE) * 3 // 4], "TIFF cannot be read"),
        (tiff(numbers().astype("complex64")), "complex64"),
        (tiff(numbers(dtype="int64")), "dtype int64; accepted: "),
        (pillow(PHOTO.quantize(16), "PNG"), "colours of a palette; accepted: a band for red"),
        (tiff_header(8193, 8192), r"too large.*8193 x 8192 px, 1 bands \(at most 64 Mpx"),
        (png(100_000, 100_000, b"\0" * 100), "too large.*100000 x 100000"),
        (tiff_header(8000, 8000, samples=60000), "TIFF|too large"),
        (tiff_header(8192, 8192), "TIFF cannot be read"),
    ],
    ids=itertools.count(),
)
def test_bad_files_are_refused_with_a_reason(data, reason):
    with pytest.raises(DecodeError, match=reason) as caught:
        decode(data)
    assert "\n" not in str(caught.value)
    assert "vsimem" not in str(caught.value)
    if not data.startswith(b"\x89PNG") or "PNG cannot" not in reason:
        with pytest.raises(DecodeError):
            read_pixels(data, PixelSpec((0,), 24, 32, "uint16"))


def test_every_cut_of_a_file_is_refused():
    """No prefix of a file decodes, but for a JPEG that lacks its two closing bytes only."""
    for whole in (PHOTO_PNG, PHOTO_JPEG, PLAIN, DEFLATE):
        for cut in range(0, len(whole) - 2, max(1, len(whole) // 60)):
            with pytest.raises(DecodeError):
                decode(whole[:cut])


@settings(max_examples=50)
@given(
    st.sampled_from([PHOTO_JPEG, PLAIN, DEFLATE, tiff(numbers(3), nodata=0, interleave="band")]),
    st.lists(st.tuples(st.integers(-400, 400), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damage_is_an_error_or_read_as_gdal_reads_it(data, damage):
    """Whatever a file's ends say: the reader without GDAL sees nothing that GDAL does not."""
    found = bytearray(data)
    for at, value in damage:
        found[at] = value
    plain = read_plain(bytes(found), named=9)
    try:
        tile = decode(bytes(found))
    except DecodeError:
        return
    if plain is not None and len(plain[0]) == len(tile.pixels):
        np.testing.assert_array_equal(plain[0], tile.pixels)


def test_metadata_cannot_make_it_read_another_file(tmp_path):
    secret = tmp_path / "secret.tif"
    secret.write_bytes(tiff(np.full((1, 8, 8), 99, np.uint8)))
    item = f'<Item name="OVERVIEW_FILE" domain="OVERVIEWS">{secret}</Item>'
    data = tiff_header(32, 32, f"<GDALMetadata>{item}</GDALMetadata>".encode())
    with rasterio.MemoryFile(data) as memory, memory.open() as source:
        assert (source.read(out_shape=(1, 8, 8)) == 99).all(), "GDAL no longer follows it: fine"
    assert (decode(data).pixels == 7).all()
    assert (read_pixels(data, PixelSpec((0,), 8, 8, "uint8")) == 7).all()


# -- the hot path ---------------------------------------------------------------------------------


def test_hot_path_refuses_other_dtypes_and_missing_bands_and_resamples_other_sizes():
    for data in (PLAIN, DEFLATE):
        with pytest.raises(DecodeError, match="dtype is uint16, the archive's is uint8"):
            read_pixels(data, PixelSpec((0,), 24, 32, "uint8"))
        with pytest.raises(DecodeError, match="has 4 bands, band 5"):
            read_pixels(data, PixelSpec((0, 4), 24, 32, "uint16"))
    ramp = np.arange(64, dtype=np.uint16) * 100
    data = tiff(np.broadcast_to(ramp, (2, 48, 64)).copy())
    y_CHW = read_pixels(data, PixelSpec((0, 1), 24, 32, "uint16"))
    assert (y_CHW.shape, y_CHW.dtype) == ((2, 24, 32), np.uint16)
    np.testing.assert_allclose(y_CHW[0, 3, 2:-2], (ramp[0::2] + ramp[1::2])[2:-2] / 2, atol=1)


@pytest.mark.parametrize("shape", [(13, 17), (40, 9), (7, 80)])
def test_resampling_equals_torchs(shape):
    x_CHW = np.random.default_rng(0).normal(0, 1, (3, 31, 22)).astype(np.float32)
    want = torch.nn.functional.interpolate(
        torch.from_numpy(x_CHW)[None], shape, mode="bilinear", antialias=True, align_corners=False
    )[0]
    np.testing.assert_allclose(resample(x_CHW, *shape), want.numpy(), atol=1e-5)
