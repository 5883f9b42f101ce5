import io
import threading

import numpy as np
import pytest
import rasterio
from data.hostile import numbers, photo, pillow, png, tiff, tiff_header
from PIL import Image

from satray.data.decode import MAX_PIXELS, decode, read_pixels
from satray.errors import DecodeError


def rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def same_by_both(data: bytes, **names) -> np.ndarray:
    """Decode, check that the hot path gives the same pixels, and return them.

    What is not measured has each band's mean in its place there.
    """
    tile = decode(data, **names)
    h = tile.header
    take = tuple(range(len(h.bands)))
    want = tile.pixels.copy()
    for band in want:
        band[~tile.valid] = np.round(band[tile.valid].mean(dtype=np.float64))
    again = read_pixels(data, take, h.height, h.width, h.dtype)
    np.testing.assert_array_equal(again, want)
    assert again.flags.c_contiguous
    assert again.flags.writeable
    last = read_pixels(data, (take[-1], 0), h.height, h.width, h.dtype)
    np.testing.assert_array_equal(last, want[[take[-1], 0]])
    assert tile.pixels.dtype == h.dtype
    assert tile.pixels.shape == (len(h.bands), h.height, h.width)
    assert tile.valid.shape == (h.height, h.width)
    return tile.pixels


# -- what is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int32", "int8"])
@pytest.mark.parametrize("count", [1, 3, 4, 8])
def test_tiff_integers_are_read_as_stored(dtype, count):
    x_CHW = numbers(count, dtype=dtype)
    # GDAL tags the fourth of four uint8 bands alpha unless told what they are
    data = tiff(x_CHW, photometric="MINISBLACK", alpha="NO")
    np.testing.assert_array_equal(same_by_both(data), x_CHW)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tiff_floats_are_read_as_stored(dtype):
    x_CHW = numbers(dtype=dtype)
    np.testing.assert_array_equal(same_by_both(tiff(x_CHW)), x_CHW)


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"interleave": "pixel"},
        {"interleave": "band"},
        {"interleave": "pixel", "blockysize": 5},
        {"interleave": "band", "blockysize": 7},
        {"tiled": True, "blockxsize": 16, "blockysize": 16},
        {"compress": "deflate"},
        {"compress": "lzw", "predictor": 2},
        {"compress": "zstd"},
        {"ENDIANNESS": "BIG"},
        {"ENDIANNESS": "BIG", "compress": "deflate"},
        {"BIGTIFF": "YES"},
        {"photometric": "RGB"},
        {"photometric": "MINISWHITE"},
        {"crs": "EPSG:32631", "transform": rasterio.Affine(3, 0, 5e5, 0, -3, 5e6)},
        {"SPARSE_OK": "TRUE"},
        {"NBITS": "12"},
    ],
)
@pytest.mark.parametrize("count", [1, 4])
def test_tiff_layouts_all_give_the_same(layout, count):
    if count == 1 and layout.get("photometric") == "RGB":
        pytest.skip("RGB takes three bands")
    x_CHW = numbers(count) // 20
    data = tiff(x_CHW, **layout)
    with rasterio.MemoryFile(data) as memory, memory.open() as source:
        np.testing.assert_array_equal(source.read(), x_CHW)
    np.testing.assert_array_equal(same_by_both(data), x_CHW)


def test_header_of_a_georeferenced_tile():
    transform = (3.0, 0.0, 593270.0, 0.0, -3.0, 5747657.0)
    data = tiff(numbers(), crs="EPSG:32631", transform=rasterio.Affine(*transform), nodata=0)
    header = decode(data, bands=("blue", "green", "red", "nir")).header
    assert header.crs == "EPSG:32631"
    assert header.transform == transform
    assert header.bands == ("blue", "green", "red", "nir")
    assert (header.height, header.width, header.dtype, header.nodata) == (24, 32, "uint16", 0.0)


def test_without_georeference_there_is_none():
    header = decode(pillow(photo(), "PNG")).header
    assert header.crs is None
    assert header.transform is None


def test_a_crs_without_authority_comes_as_wkt():
    crs = rasterio.CRS.from_proj4("+proj=aea +lat_1=1 +lat_2=7 +lat_0=3 +lon_0=9 +datum=WGS84")
    header = decode(tiff(numbers(), crs=crs, transform=rasterio.Affine(3, 0, 0, 0, -3, 0))).header
    assert header.crs is not None
    assert rasterio.CRS.from_wkt(header.crs).to_dict()["proj"] == "aea"


def test_jpeg_equals_pillow_closely():
    data = pillow(photo(), "JPEG", quality=95)
    x_CHW = same_by_both(data)
    want = rgb(Image.open(io.BytesIO(data)))
    assert np.abs(x_CHW.astype(int) - want).mean() < 2  # chroma upsampling differs a little


def test_a_name_says_nothing_png_bytes_are_png():
    assert decode(pillow(photo(), "PNG")).header.bands == ("red", "green", "blue")


def test_gray_jpeg_is_one_band():
    assert decode(pillow(photo().convert("L"), "JPEG")).header.bands == ("gray",)


def test_cmyk_jpeg_is_read_as_colours():
    x_CHW = same_by_both(pillow(photo().convert("CMYK"), "JPEG", quality=98))
    assert np.abs(x_CHW.astype(int) - rgb(photo())).mean() < 4


def test_cmyk_tiff_is_read_as_colours():
    x_CHW = same_by_both(pillow(photo().convert("CMYK"), "TIFF"))
    assert np.abs(x_CHW.astype(int) - rgb(photo())).mean() < 2


def test_cmyk_has_three_names():
    with pytest.raises(DecodeError, match=r"3 bands .CMYK read as colours., .* names 4"):
        decode(pillow(photo().convert("CMYK"), "TIFF"), bands=("a", "b", "c", "d"))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_palette_is_read_as_colours(kind):
    image = photo().quantize(16)
    tile = decode(pillow(image, kind))
    assert tile.header.bands == ("red", "green", "blue")
    np.testing.assert_array_equal(same_by_both(pillow(image, kind)), rgb(image))
    assert tile.valid.all()


def test_transparent_palette_entries_are_not_valid():
    image = photo().quantize(16)
    index_HW = np.asarray(image)
    one = decode(pillow(image, "PNG", transparency=3))
    np.testing.assert_array_equal(one.valid, index_HW != 3)
    some = decode(pillow(image, "PNG", transparency=bytes([255, 0, 128, 0])))
    np.testing.assert_array_equal(some.valid, (index_HW != 1) & (index_HW != 3))
    np.testing.assert_array_equal(some.pixels, rgb(image))


@pytest.mark.parametrize(("mode", "bands"), [("RGBA", 3), ("LA", 1)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_alpha_is_validity_not_data(mode, bands, kind):
    image = photo().convert(mode)
    alpha_HW = np.where(np.arange(60) < 20, 0, 99).astype(np.uint8)[None].repeat(40, axis=0)
    image.putalpha(Image.fromarray(alpha_HW))
    tile = decode(pillow(image, kind))
    assert len(tile.header.bands) == bands
    np.testing.assert_array_equal(tile.valid, alpha_HW > 0)
    same_by_both(pillow(image, kind))


def test_names_make_data_of_a_band_tagged_alpha():
    """Planet's 4-band TIFFs tag the NIR band as alpha."""
    x_CHW = numbers()
    x_CHW[3, :4] = 0
    data = tiff(x_CHW, photometric="RGB", alpha="PREMULTIPLIED")
    with rasterio.MemoryFile(data) as memory, memory.open() as source:
        assert source.colorinterp[3].name == "alpha"
    named = decode(data, bands=("blue", "green", "red", "nir"))
    np.testing.assert_array_equal(named.pixels, x_CHW)
    assert named.valid.all()
    read = read_pixels(data, (3,), 24, 32, "uint16", named=4)
    np.testing.assert_array_equal(read[0], x_CHW[3])
    assert not named.header.alpha
    plain = decode(data)
    assert plain.header.alpha
    assert plain.header.bands == ("red", "green", "blue")
    np.testing.assert_array_equal(plain.valid, x_CHW[3] > 0)


def test_alpha_may_stand_before_data():
    x_CHW = numbers()
    x_CHW[1, :5] = 0
    data = tiff(x_CHW, photometric="MINISBLACK", alpha="YES")
    np.testing.assert_array_equal(decode(data).pixels, x_CHW[[0, 2, 3]])
    np.testing.assert_array_equal(decode(data).valid, x_CHW[1] > 0)
    same_by_both(data)
    assert decode(data, bands=("b", "g", "r", "n")).pixels.shape[0] == 4


def test_png_of_16_bits():
    x_HW = numbers(1)[0]
    np.testing.assert_array_equal(same_by_both(pillow(Image.fromarray(x_HW), "PNG"))[0], x_HW)


def test_png_of_one_bit_is_0_and_255():
    image = photo().convert("1")
    x_CHW = same_by_both(pillow(image, "PNG"))
    np.testing.assert_array_equal(x_CHW[0], np.asarray(image) * np.uint8(255))


def test_band_descriptions_name_bands():
    data = tiff(numbers(2), descriptions=("NIR", "thermal"))
    assert decode(data).header.bands == ("nir", "thermal")


@pytest.mark.parametrize(
    "data",
    [
        tiff(np.full((2, 8, 8), np.nan, np.float32)),
        tiff(np.zeros((2, 8, 8), np.uint8), nodata=0),
        pillow(Image.new("RGBA", (8, 8), (9, 9, 9, 0)), "PNG"),
    ],
    ids=["nan", "nodata", "transparent"],
)
def test_nothing_valid_is_an_error(data):
    header = decode(data).header
    with pytest.raises(DecodeError, match="no valid pixels"):
        read_pixels(data, tuple(range(len(header.bands))), 8, 8, header.dtype)


# -- what is refused ------------------------------------------------------------------------------

PHOTO_PNG, PHOTO_JPEG = pillow(photo(), "PNG"), pillow(photo(), "JPEG")
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
        (b"<OGRVRTDataSource/>", "not an image"),
        (b"/vsicurl/http://127.0.0.1/x.tif", "not an image"),
        (pillow(photo(), "WEBP"), "not an image"),
        (PHOTO_JPEG[:3], "JPEG"),
        (PHOTO_JPEG[: len(PHOTO_JPEG) // 2], "JPEG cannot be read"),
        (PHOTO_JPEG[:-40], "JPEG cannot be read.*[Pp]remature end"),
        (b"\xff\xd8\xff" + b"\0" * 500, "JPEG"),
        (PHOTO_PNG[:8], "PNG cut short"),
        (PHOTO_PNG[: len(PHOTO_PNG) // 2], "PNG cut short"),
        (PHOTO_PNG[:-1], "PNG cut short"),
        (PHOTO_PNG[:60] + b"\x55" + PHOTO_PNG[61:], "PNG damaged"),
        (png(40, 60, bytes(181 * 20)), "PNG cannot be read"),
        (PLAIN[: len(PLAIN) // 2], "TIFF cannot be read"),
        (PLAIN[:-1], "TIFF cannot be read"),
        (PLAIN[:4], "TIFF cannot be read"),
        (DEFLATE[: len(DEFLATE) * 3 // 4], "TIFF cannot be read"),
        (tiff(numbers().astype("complex64")), "complex64"),
        (tiff_header(100_000, 100_000), "too large.*100000 x 100000"),
        (png(100_000, 100_000, b"\0" * 100), "too large.*100000 x 100000"),
        (tiff_header(8000, 8000, samples=60000), "TIFF|too large"),
        (tiff_header(2000, 2000), "TIFF cannot be read"),
    ],
)
def test_bad_files_are_refused_with_a_reason(data, reason):
    with pytest.raises(DecodeError, match=reason) as caught:
        decode(data)
    assert "\n" not in str(caught.value)
    assert "vsimem" not in str(caught.value)
    if not data.startswith(b"\x89PNG") or "PNG cannot" not in reason:
        with pytest.raises(DecodeError):
            read_pixels(data, (0,), 24, 32, "uint16")


def test_every_cut_of_a_file_is_refused():
    """No prefix of a file decodes, but for a JPEG that lacks its two closing bytes only."""
    for whole in (PHOTO_PNG, PHOTO_JPEG, PLAIN, DEFLATE):
        for cut in range(0, len(whole) - 2, max(1, len(whole) // 60)):
            with pytest.raises(DecodeError):
                decode(whole[:cut])


def test_the_limit_is_inclusive():
    assert MAX_PIXELS == 8192 * 8192


def test_metadata_cannot_make_it_read_another_file(tmp_path):
    secret = tmp_path / "secret.tif"
    secret.write_bytes(tiff(np.full((1, 8, 8), 99, np.uint8)))
    item = f'<Item name="OVERVIEW_FILE" domain="OVERVIEWS">{secret}</Item>'
    data = tiff_header(32, 32, f"<GDALMetadata>{item}</GDALMetadata>".encode())
    with rasterio.MemoryFile(data) as memory, memory.open() as source:
        assert (source.read(out_shape=(1, 8, 8)) == 99).all(), "GDAL no longer follows it: fine"
    assert (decode(data).pixels == 7).all()
    assert (read_pixels(data, (0,), 8, 8, "uint8") == 7).all()


# -- the hot path ---------------------------------------------------------------------------------


def test_hot_path_refuses_other_dtypes_and_missing_bands():
    for data in (PLAIN, DEFLATE):
        with pytest.raises(DecodeError, match="dtype is uint16, the archive's is uint8"):
            read_pixels(data, (0,), 24, 32, "uint8")
        with pytest.raises(DecodeError, match="has 4 bands, band 5"):
            read_pixels(data, (0, 4), 24, 32, "uint16")


def test_hot_path_resamples_other_sizes():
    ramp = np.arange(64, dtype=np.uint16) * 100
    data = tiff(np.broadcast_to(ramp, (2, 48, 64)).copy())
    y_CHW = read_pixels(data, (0, 1), 24, 32, "uint16")
    assert y_CHW.shape == (2, 24, 32)
    assert y_CHW.dtype == np.uint16
    np.testing.assert_allclose(y_CHW[0, 3, 2:-2], (ramp[0::2] + ramp[1::2])[2:-2] / 2, atol=1)


def test_threads_share_nothing():
    want = decode(DEFLATE).pixels
    failures = []

    def read():
        got = [read_pixels(DEFLATE, (0, 1, 2, 3), 24, 32, "uint16") for _ in range(20)]
        failures.extend(x for x in got if not np.array_equal(x, want))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# -- real files -----------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "bands", "dtype", "valid"),
    [
        ("worldview_rotterdam_ms1_rgbnir.tif", ("b1", "b2", "b3", "b4"), "float64", 1.0),
        ("rasterio_RGB.byte.tif", ("red", "green", "blue"), "uint8", 0.6746),
        ("sfbay_1.png", ("red", "green", "blue"), "uint8", 1.0),
    ],
)
def test_scenes(data, name, bands, dtype, valid):
    content = (data / "scenes" / name).read_bytes()
    tile = decode(content)
    assert tile.header.bands == bands
    assert tile.header.dtype == dtype
    assert tile.valid.mean() == pytest.approx(valid, abs=1e-4)
    same_by_both(content)


@pytest.mark.data
def test_landsat(data):
    tile = decode((data / "scenes" / "landsat7_19991118_8band.tif").read_bytes())
    assert tile.header.bands[0] == "band 1 reflectance"
    assert (len(tile.header.bands), tile.header.dtype) == (8, "int16")
    assert tile.header.nodata == -9999
    assert tile.header.crs == "EPSG:32615"
