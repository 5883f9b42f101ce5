"""Scenes that are damaged or meant to harm: one line each, and nothing else is opened."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import rasterio
from data.hostile import png, tiff_header
from PIL import Image
from score.scenes.scene_material import STORE, UTM, noise, opened, ref, write

from satray.errors import DecodeError
from satray.score.scenes.drift import BandReference, drift
from satray.score.scenes.open import open_scene
from satray.score.scenes.scene import SceneRef


def put(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def read_through(path, wanted, names=None):
    with opened(path, wanted, names) as scene:
        height, width = scene.facts.extent.height, scene.facts.extent.width
        for row in range(0, height, 1000):
            scene.read(row, 0, min(1000, height - row), min(width, 1000))


def refused(path, match, wanted=("gray",), names=None):
    with pytest.raises(DecodeError, match=match) as error:
        read_through(path, wanted, names)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jp2", "a.jpg", "a"])
@pytest.mark.parametrize("data", [b"", b"GIF89a", b"<VRTDataset/>", b"\0" * 5000])
def test_no_image(tmp_path, name, data):
    refused(put(tmp_path / name, data), "not an image that is read here|cannot be opened")


def test_vrt_by_another_name(tmp_path):
    secret = write(tmp_path / "secret.tif", noise(1))
    vrt = (
        '<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand dataType="UInt16" band="1">'
        f"<SimpleSource><SourceFilename>{secret}</SourceFilename><SourceBand>1</SourceBand>"
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    refused(put(tmp_path / "a.tif", vrt.encode()), "not an image that is read here")


def sparse(path, side, block, count=1):
    """Tiles that are not there cost no byte, so the file is small and whole."""
    profile = {"driver": "GTiff", "dtype": "uint8", "count": count, "transform": UTM}
    size = {"height": side, "width": side, "blockxsize": block, "blockysize": block}
    with rasterio.open(path, "w", **profile, **size, tiled=True, SPARSE_OK=True, BIGTIFF=True):
        pass
    return str(path)


def test_a_small_file_that_is_large_when_decoded(tmp_path):
    path = sparse(tmp_path / "a.tif", 10**6, 16384)
    refused(path, r"declares 1,000,000 x 1,000,000 px, 1 bands of uint8, 931 GiB, in a file of")
    path = sparse(tmp_path / "b.tif", 40_000, 32_768)
    refused(path, r"in blocks of 32,768 x 32,768 px that must be decoded whole \(1,024 MiB\)")
    # what is decoded together counts
    refused(sparse(tmp_path / "c.tif", 30_000, 16_384, 3), r"\(768 MiB\)", ("b1",))
    with opened(sparse(tmp_path / "plausible.tif", 100_000, 256), ("gray",)) as scene:
        x_CHW, _ = scene.read(99_000, 99_000, 1000, 1000)
    assert not x_CHW.any()


@pytest.mark.parametrize(
    "data", [png(2**31 - 1, 2**31 - 1, b"\0" * 100), tiff_header(10**6, 10**6)]
)
def test_files_that_declare_much(tmp_path, data):
    refused(put(tmp_path / "a.png", data), "declares|cannot be opened", ("red",))


@pytest.mark.parametrize("driver", ["GTiff", "COG", "PNG", "JPEG", "JP2OpenJPEG"])
def test_cut_short(tmp_path, driver):
    ending = {"PNG": "png", "JPEG": "jpg", "JP2OpenJPEG": "jp2"}.get(driver, "tif")
    values = noise(3, 1500, 900, "uint8")
    path = Path(write(tmp_path / f"a b.{ending}", values, driver=driver))
    data = path.read_bytes()
    if driver == "GTiff":
        assert len(data) > 2_000_000
    path.write_bytes(data[: len(data) * 6 // 10])
    said = refused(str(path), "cannot be opened|cannot be read", ("a", "c"), ("a", "b", "c"))
    if "cannot be read" in said:
        assert said.startswith(f"a b.{ending}: rows ")
        assert "columns 0 to 900" in said


def test_damaged_inside(tmp_path):
    path = Path(write(tmp_path / "a.tif", noise(1, 600, 600), compress="deflate", tiled=True))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = b"\xaa" * 2000
    path.write_bytes(data)
    said = refused(str(path), "cannot be read")
    assert said.startswith("a.tif: rows 0 to 600, columns 0 to 600 cannot be read: ")


def test_complex_numbers_and_gray_that_is_transparent(tmp_path):
    path = write(tmp_path / "a.tif", np.ones((1, 8, 8), np.complex64))
    refused(path, "dtype complex64; accepted: one integer or float dtype")
    image = io.BytesIO()
    Image.new("LA", (8, 8)).save(image, "PNG")
    path = put(tmp_path / "a.png", image.getvalue())
    with opened(path, ("gray",)) as scene:
        assert not scene.read(0, 0, 8, 8)[1].any()
    refused(path, "no band red; the scene has gray", ("red",))


def test_neighbours_are_not_looked_at(tmp_path):
    """A mask, overviews and metadata beside a scene may be anything, from anybody."""
    values = noise(1, 2000, 2000)
    path = write(tmp_path / "a.tif", values, ("b1",))
    for name in ("a.tif.msk", "a.tif.ovr", "other.tif"):
        write(tmp_path / "x.tif", np.full((1, 2000, 2000), 255 * (name == "other.tif"), np.uint8))
        (tmp_path / "x.tif").rename(tmp_path / name)
    put(tmp_path / "a.tif.aux.xml", b"<PAMDataset><SRS>EPSG:4326</SRS></PAMDataset>")
    put(tmp_path / "a.tfw", b"1\n0\n0\n1\n0\n0\n")
    # GDAL follows what a TIFF itself says, too, as soon as a read is decimated
    led = write(tmp_path / "led.tif", values, ("b1",))
    with rasterio.open(led, "r+") as target:
        target.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=str(tmp_path / "other.tif"))
    for uri in (path, led):
        with opened(uri, ("b1",)) as scene:
            extent = scene.facts.extent
            assert (extent.crs, extent.transform) == ("EPSG:32631", UTM[:6])
            x_CHW, valid_HW = scene.read(100, 100, 50, 50)
            found = drift(scene, [BandReference("b1", float(values.mean()), float(values.std()))])
        np.testing.assert_array_equal(x_CHW[0], values[0, 100:150, 100:150])
        assert valid_HW.all()
        assert found.score < 0.01


def test_names_as_strange_as_they_come(tmp_path):
    values = noise(1)
    for number, name in enumerate(("a b", "é 海", "..", "a#b?c%20d&e", "zip:x!y", "'\"`$(x)")):
        path = write(tmp_path / f"{name}.x{number}" / f"{name}.tif", values + number, ("b1",))
        with opened(path, ("b1",)) as scene:
            x_CHW, _ = scene.read(0, 0, 90, 120)
            assert scene.facts.extent.scene == f"{name}.tif"
        np.testing.assert_array_equal(x_CHW, values + number)


def test_what_is_not_there_or_in_another_store(tmp_path):
    path = write(tmp_path / "a.tif", noise(1))
    gone = ref(path)
    Path(path).unlink()
    elsewhere = (SceneRef("a", f"{store}://b/a.tif", None) for store in ("gs", "az", "ftp"))
    for scene in (gone, *elsewhere):
        with pytest.raises(DecodeError, match=r"cannot be opened|windows of .* are not read"):
            open_scene(scene, ("b1",), None, STORE)


def test_tiff_directory_in_a_circle(tmp_path):
    data = bytearray(tiff_header(64, 64))
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    struct.pack_into("<I", data, start + 2 + 12 * entries, start)
    path = put(tmp_path / "a.tif", bytes(data))
    with opened(path, ("gray",)) as scene:
        assert scene.read(0, 0, 64, 64)[0].shape == (1, 64, 64)
