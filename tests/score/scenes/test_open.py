"""Opening scenes: bands, dtypes, masks, files that fit together, and files that mean harm."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from data.hostile import png
from PIL import Image
from rasters import UTM
from score.scenes.scene_material import STORE, noise, opened, ref, write

from satray.data.decode import decode
from satray.errors import DecodeError, InputError, MisfitError
from satray.score.scenes.find import BandSource, SceneRef, etag_of, find_scenes
from satray.score.scenes.open import Conversion, Scene, source_names

RGN = ("red", "green", "nir")
BGRN = ("blue", "green", "red", "nir")
FILL = 9.969209968386869e36  # of NetCDF


def whole(scene):
    """All px, and where all bands are measured."""
    with scene:
        x_CHW, valid_CHW = scene.read(0, 0, scene.facts.extent.height, scene.facts.extent.width)
        return x_CHW, valid_CHW.all(axis=0)


def opened_as(band, *wanted):
    """A scene of one file, as a list or an Item names its band."""
    return Scene(ref("s", band), wanted, None, STORE)


@pytest.mark.parametrize("driver", ["GTiff", "COG", "PNG", "JPEG", "JP2OpenJPEG"])
def test_any_window_of_any_format_whatever_its_name(tmp_path, driver):
    values = noise(3, 150, 130, "uint8" if driver in ("PNG", "JPEG") else "uint16")
    more = {"QUALITY": 100, "REVERSIBLE": "YES"} if driver == "JP2OpenJPEG" else {}
    for name in ("a b.png", "é 海", "a#b?c%20d&e", "zip:x!y", "'\"`$(x)"):
        path = write(tmp_path / name / "..x" / name, values, driver=driver, **more)
        with rasterio.open(path) as back:
            expected = back.read()
        with opened(path, ("blue", "red"), ("red", "green", "blue")) as scene:
            for row, column, height, width in ((0, 0, 150, 130), (100, 7, 50, 9), (3, 120, 1, 10)):
                x_CHW, valid_CHW = scene.read(row, column, height, width)
                part = expected[[2, 0], row : row + height, column : column + width]
                np.testing.assert_array_equal(x_CHW, part)
                assert valid_CHW.all()
        assert scene.facts.extent.scene == name


READS_AND_WRITES = """
import sys
from pathlib import Path
import numpy as np
from rasterio.env import get_gdal_config
from score.scenes.scene_material import opened, write
with opened(sys.argv[1], ("gray",)) as scene:
    scene.read(0, 0, 9, 9)
write(Path(sys.argv[1] + ".tif"), np.ones((1, 9, 9), "uint8"))
print(get_gdal_config("GDAL_CACHEMAX"))
"""


def test_what_gdal_keeps_is_bounded_after_a_scene_was_read(tmp_path):
    """Where a process of 16 on a machine writes what it has read: not 5 % of its memory each."""
    path = write(tmp_path / "a.tif", noise(1))
    around = {k: v for k, v in os.environ.items() if k != "GDAL_CACHEMAX"}
    around["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", READS_AND_WRITES, path]
    done = subprocess.run(command, capture_output=True, text=True, env=around, timeout=120)
    assert done.stdout.split() == [str(256 << 20)], done.stderr


def test_bands_by_name_number_and_description(tmp_path):
    values = noise(4)
    path = write(tmp_path / "a.tif", values, BGRN)
    for names, wanted, found in (
        (None, ("red", "nir"), [3, 4]),
        (("a", "b", "c", "d"), ("d", "a"), [4, 1]),
        ({"x": 2, "y": "Nir", "z": "RED"}, ("x", "y", "z", "blue"), [2, 4, 3, 1]),
    ):
        x_CHW, _ = whole(opened(path, wanted, names))
        np.testing.assert_array_equal(x_CHW, values[[n - 1 for n in found]])
        assert source_names(wanted, names) == (None if names and "x" in names else wanted)
    for names, wanted, match in (
        (None, ("red", "swir16"), "no band swir16; the scene has blue, green, red, nir"),
        (("a", "b", "c"), ("a",), r"has 4 bands, bands=\[...\] names 3"),
        ({"x": 5}, ("x",), r"no band 5 \(for x\)"),
        ({"x": 0}, ("x",), r"no band 0 \(for x\)"),
        ({"x": "mud"}, ("x",), r"no band mud \(for x\)"),
    ):
        with pytest.raises(MisfitError, match=match):
            opened(path, wanted, names)
    assert source_names(("red", "nir"), {"red": "B04"}) == ("B04", "nir")
    # a list or an Item names bands of its files
    two = BandSource("red", path, 2)
    np.testing.assert_array_equal(whole(opened_as(two, "red"))[0], values[1:2])
    np.testing.assert_array_equal(whole(opened_as(two, "nir"))[0], values[3:])  # the file's name
    for names, band in ((("red", "x", "y", "z"), 1), ({"red": 4}, 4), ({"red": "green"}, 2)):
        scene = Scene(ref("s", two), ("red",), names, STORE)  # what the recipe says goes first
        np.testing.assert_array_equal(whole(scene)[0], values[band - 1 : band])
    other = BandSource("nir", write(tmp_path / "b.tif", values))
    for bands, names, match in (
        ([two, other], {"x": 1}, r"no band 1 \(for x\); the scene has 2 files, whose bands"),
        ([two, other], ("x", "y"), r"has 2 files; bands=\[...\] names the bands of one file"),
        ([BandSource("x", path, 7)], None, "has 4 bands; no band 7"),
    ):
        with pytest.raises(MisfitError, match=match):
            Scene(ref("s", *bands), ("x",), names, STORE)


@pytest.mark.parametrize("dtype", ["uint16", "uint8", "float32"])
def test_dtype_must_fit_or_be_converted(tmp_path, dtype):
    values = noise(1, dtype="int16") - 100
    path = write(tmp_path / "a.tif", values, ("red",))
    with pytest.raises(MisfitError, match=f"dtype is int16, the bundle's is {dtype}; convert=sc"):
        opened(path, ("red",), dtype=dtype)
    convert = Conversion("scale", (2.0,), (50.4,))
    x_CHW, valid_HW = whole(opened(path, ("red",), dtype=dtype, conversion=convert))
    assert x_CHW.dtype == dtype
    expected = values.astype(float) * 2 + 50.4
    if dtype != "float32":
        expected = np.clip(np.rint(expected), 0, np.iinfo(dtype).max)
    np.testing.assert_array_equal(x_CHW, expected.astype(dtype))
    assert valid_HW.all()
    with pytest.raises(InputError, match="scale: found 2 numbers; accepted: one, or one for each"):
        Conversion("scale", (1.0, 2.0)).check(("red",))


# ---- files of one scene


def split(tmp_path, values, nodata=(None, None, None)):
    """A file a band."""
    parts = zip(RGN, values, nodata, strict=True)
    paths = [(n, write(tmp_path / f"{n}.tif", x[None], nodata=fill)) for n, x, fill in parts]
    return [BandSource(name, path) for name, path in paths]


@pytest.mark.parametrize("nodata", [0, -5, None])
def test_files_of_a_band_equal_one_file(tmp_path, nodata):
    values = noise(3, dtype="int16")
    values[:, :9] = values[1, 20:25] = nodata or 0
    one = write(tmp_path / "one.tif", values, RGN, nodata=nodata)
    absent = BandSource("swir16", str(tmp_path / "gone.tif"))  # only wanted files are opened
    wanted = ("nir", "red", "green")
    many = ref("many", *split(tmp_path, values, (nodata,) * 3), absent)
    found = whole(Scene(many, wanted, None, STORE))
    for a, b in zip(found, whole(opened(one, wanted)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("ratio", [2, 3])
def test_coarser_band_is_brought_to_the_finest_grid(tmp_path, ratio):
    """A plane stays a plane inside, windows agree, and holes stay where they are."""
    row, column = np.mgrid[:90, :120].astype(np.float32) + 0.5
    values = np.stack([row, column, 3 * row + 2 * column])
    sources = split(tmp_path, values)
    coarse = values[2].reshape(90 // ratio, ratio, 120 // ratio, ratio).mean((1, 3))
    coarse[:4, :4] = np.nan
    write(tmp_path / "nir.tif", coarse[None], transform=UTM @ Affine.scale(ratio))
    with Scene(ref("many", *sources), ("nir", "red"), None, STORE) as scene:
        x_CHW, valid_CHW = scene.read(0, 0, 90, 120)
        assert (scene.facts.extent.height, scene.facts.extent.transform) == (90, UTM[:6])
        part_CHW, there_CHW = scene.read(11, 17, 31, 43)
    inner = (slice(8 * ratio, 90 - ratio), slice(8 * ratio, 120 - ratio))
    np.testing.assert_allclose(x_CHW[0][inner], values[2][inner], rtol=1e-5)
    np.testing.assert_array_equal(x_CHW[1], values[0])
    assert not valid_CHW[0, : 4 * ratio - 1, : 4 * ratio - 1].any()
    assert valid_CHW[0, 4 * ratio + 1 :].all()
    assert valid_CHW[1].all()
    np.testing.assert_array_equal(part_CHW, x_CHW[:, 11:42, 17:60])
    np.testing.assert_array_equal(there_CHW, valid_CHW[:, 11:42, 17:60])


def test_files_that_do_not_fit(tmp_path):
    sources = split(tmp_path, noise(3))
    for more, match in (
        ({"shape": (45, 61)}, r"nir.tif is 45 x 61 px, red.tif 90 x 120; accepted: one size"),
        ({"shape": (45, 40)}, "whole multiples"),
        ({"crs": "EPSG:32632"}, "in EPSG:32632, red.tif in EPSG:32631"),
        ({"crs": None}, "in no CRS"),
        ({"move": 0.5}, "corners of nir.tif and red.tif lie 0.5 px apart"),
        ({"dtype": "float32"}, "files of dtypes float32, uint16"),
    ):
        values = noise(1, *more.get("shape", (90, 120)), more.get("dtype", "uint16"))
        affine = UTM @ Affine.translation(more.get("move", 0), 0)
        write(tmp_path / "nir.tif", values, crs=more.get("crs", "EPSG:32631"), transform=affine)
        with pytest.raises(DecodeError, match=match) as error:
            Scene(ref("many", *sources), ("red", "nir"), None, STORE)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize(
    ("dtype", "nodata", "hole"),
    [
        ("uint16", (65535, 0, None), lambda x: [x[0] == 65535,
                                                (x[0] == 65535) & (x[1] == 0), x[2] < 0]),
        ("uint16", (0, 0, None), lambda x: [(x[:2] == 0).all(0)] * 2 + [x[2] < 0]),
        ("uint16", (0, None, None), lambda x: [x[0] == 0, x[1] < 0, x[2] < 0]),
        ("uint8", (255, 0, 255), lambda x: [(x == [[[255]], [[0]], [[255]]]).all(0)] * 3),
        ("float32", (FILL, -9999, None), lambda x: [x[0] > 1e36, x[1] == -9999, x[2] < -1e4]),
        ("int16", (None, None, None), lambda x: list(x < -1e5)),
    ],
)  # fmt: skip
def test_each_file_declares_its_own_nodata(tmp_path, dtype, nodata, hole, coarse):
    """A band that declares none has no say; what is nodata together needs all that declare one."""
    values = np.minimum(noise(3, dtype=dtype), 200).astype(dtype)
    for band, fill in enumerate(nodata):
        values[band, :20] = values[band, 30 + 10 * band : 34 + 10 * band] = fill or 0
    values = values.repeat(2, 1).repeat(2, 2) if coarse else values
    sources = split(tmp_path, values, nodata)
    if coarse:
        grid = {"transform": UTM @ Affine.scale(2), "nodata": nodata[0]}
        write(tmp_path / "red.tif", values[:1, ::2, ::2], **grid)
    with Scene(ref("many", *sources), RGN, None, STORE) as scene:
        x_CHW, valid_CHW = scene.read(0, 0, *values.shape[1:])
    holes = np.stack(hole(values))
    # a coarse band's holes have soft rims
    inner = np.ones(values.shape[1], bool)
    if coarse:
        edges = np.flatnonzero(np.diff(holes[:, :, 0], axis=1).any(axis=0))
        inner[np.clip((edges[:, None] + [-1, 0, 1, 2]).ravel(), 0, len(inner) - 1)] = False
    np.testing.assert_array_equal(valid_CHW[:, inner], ~holes[:, inner])
    if not coarse:
        np.testing.assert_array_equal(x_CHW[valid_CHW], values[valid_CHW])


def test_all_bands_of_a_file_have_their_say(tmp_path):
    """As for a tile, whichever bands are wanted; and a window need not hold the others' rows."""
    values = noise(4)
    values[:, :9] = 0
    values[:3, 20:30] = 0  # dark, but nir was measured
    path = write(tmp_path / "a.tif", values, BGRN, nodata=0)
    tile = decode((tmp_path / "a.tif").read_bytes())
    with opened(path, ("red", "blue")) as scene:
        _, valid_CHW = scene.read(5, 0, 40, 120)
    np.testing.assert_array_equal(valid_CHW, tile.measured[[2, 0], 5:45])
    assert valid_CHW[:, 15:25].all()


def test_alpha_alone_is_no_scene(tmp_path):
    path = write(tmp_path / "a.tif", noise(1, dtype="uint8"))
    with rasterio.open(path, "r+") as target:
        target.colorinterp = [rasterio.enums.ColorInterp.alpha]
    for names, match in ((None, "the scene has no band but alpha"), ({"red": 1}, "no band but")):
        with pytest.raises(MisfitError, match=match):
            opened(path, ("green",), names)
    x_CHW, _ = whole(opened(path, ("red",), {"red": 1}))  # but by its number
    np.testing.assert_array_equal(x_CHW, noise(1, dtype="uint8"))


# ---- what lies beside


def test_a_world_file_beside_places_a_scene_and_belongs_to_it(tmp_path):
    path = write(tmp_path / "a.tif", noise(1), ("red",), transform=None)
    etags = set()
    for place, east in enumerate((448005, 448015)):
        world = tmp_path / ("a.tfw", "a.TFW")[place]
        world.write_text(f"10\n0\n0\n-10\n{east}\n5410995\n")
        (found,) = find_scenes(str(tmp_path), STORE).scenes
        assert find_scenes(path, STORE).scenes == (found,)
        with Scene(found, ("red",), None, STORE) as scene:
            assert scene.facts.extent.transform == (10, 0, east - 5, 0, -10, 5411000)
        etags.add(found.etag)
        world.unlink()
    assert len(etags) == 2


@pytest.mark.parametrize("kind", ["one file", "a file a band"])
def test_a_mask_beside(tmp_path, kind):
    """`.msk` hides the bands of its file; GDAL's own writer makes it."""
    values, names = noise(2, dtype="uint8"), ("red", "green")
    shown = np.full((90, 120), 255, np.uint8)
    shown[:30, :50] = 0
    several = kind == "a file a band"
    uri = write(tmp_path / "red.tif", values[:1] if several else values, () if several else names)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(uri, "r+") as target:
        target.write_mask(shown)
    if several:
        item = {"type": "Feature", "stac_version": "1.1.0", "id": "a", "properties": {}}
        green = write(tmp_path / "g.tif", values[1:])
        item["assets"] = {"red": {"href": uri}, "green": {"href": green}}
        (tmp_path / "a.json").write_text(json.dumps(item))
    (found,) = find_scenes(str(tmp_path), STORE).scenes
    assert f"{uri}.msk" in found.files
    # as a schedule asks before it publishes
    assert etag_of([STORE.head(file) for file in found.files], found) == found.etag
    with Scene(found, names, None, STORE) as scene:
        _, valid_CHW = scene.read(10, 10, 60, 100)
    want = shown[10:70, 10:110] > 0
    np.testing.assert_array_equal(valid_CHW[0], want)
    np.testing.assert_array_equal(valid_CHW[1], want | several)
    # it belongs to the scene: another mask is another scene
    write(tmp_path / "x.tif", np.ones((1, 5, 6), np.uint8))
    (tmp_path / "x.tif").rename(f"{uri}.msk")
    (again,) = find_scenes(str(tmp_path), STORE).scenes
    assert again.etag != found.etag
    with pytest.raises(DecodeError, match=r"\.msk is 5 x 6 px, the image 90 x 120"):
        Scene(again, names, None, STORE)


def test_other_neighbours_are_not_looked_at(tmp_path):
    """A mask that no listing told of, overviews and metadata may be anything, from anybody."""
    values = noise(1, 200, 200)
    path = write(tmp_path / "a.tif", values, ("b1",))
    for name in ("a.tif.msk", "a.tif.ovr"):
        write(tmp_path / "x.tif", np.zeros((1, 200, 200), np.uint8))
        (tmp_path / "x.tif").rename(tmp_path / name)
    (tmp_path / "a.tif.aux.xml").write_bytes(b"<PAMDataset><SRS>EPSG:4326</SRS></PAMDataset>")
    (tmp_path / "a.tfw").write_bytes(b"1\n0\n0\n1\n0\n0\n")
    with rasterio.open(path, "r+") as target:
        target.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=str(tmp_path / "a.tif.ovr"))
    with opened(path, ("b1",)) as scene:
        extent = scene.facts.extent
        assert (extent.crs, extent.transform) == ("EPSG:32631", UTM[:6])
        x_CHW, valid_HW = scene.read(100, 100, 50, 50)
    np.testing.assert_array_equal(x_CHW[0], values[0, 100:150, 100:150])
    assert valid_HW.all()


# ---- files that are damaged or mean harm: one line each


def refused(path, match, wanted=("gray",), names=None):
    with pytest.raises(DecodeError, match=match) as error:
        whole(opened(str(path), wanted, names))
    assert "\n" not in str(error.value)
    return str(error.value)


def sparse(path, side, block, count=1):
    """Tiles that are not there cost no byte, so the file is small and whole."""
    profile = {"driver": "GTiff", "dtype": "uint8", "count": count, "transform": UTM}
    size = {"height": side, "width": side, "blockxsize": block, "blockysize": block}
    with rasterio.open(path, "w", **profile, **size, tiled=True, SPARSE_OK=True, BIGTIFF=True):
        pass
    return str(path)


def test_a_vrt_by_another_name(tmp_path):
    secret = write(tmp_path / "secret.tif", noise(1))
    (tmp_path / "a.tif").write_text(
        '<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand dataType="UInt16" band="1">'
        f"<SimpleSource><SourceFilename>{secret}</SourceFilename><SourceBand>1</SourceBand>"
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    refused(tmp_path / "a.tif", "not an image that is read here")


def test_what_a_file_declares(tmp_path):
    path = sparse(tmp_path / "b.tif", 40_000, 32_768)
    refused(path, r"in blocks of 32,768 x 32,768 px that must be decoded whole \(1,024 MiB\)")
    # what is decoded together counts
    refused(sparse(tmp_path / "c.tif", 30_000, 16_384, 3), r"\(768 MiB\)", ("b1",))
    with opened(sparse(tmp_path / "plausible.tif", 100_000, 256), ("gray",)) as scene:
        x_CHW, _ = scene.read(99_000, 99_000, 1000, 1000)
    assert not x_CHW.any()
    (tmp_path / "a.png").write_bytes(png(2**31 - 1, 2**31 - 1, b"\0" * 100))
    refused(tmp_path / "a.png", "declares|cannot be opened", ("red",))
    path = write(tmp_path / "a.tif", np.ones((1, 8, 8), np.complex64))
    refused(path, "dtype complex64; accepted: one integer or float dtype")
    Image.new("LA", (8, 8)).save(tmp_path / "a.png")
    with opened(str(tmp_path / "a.png"), ("gray",)) as scene:
        assert not scene.read(0, 0, 8, 8)[1].any()
    refused(tmp_path / "a.png", "no band red; the scene has gray", ("red",))


@pytest.mark.parametrize("driver", ["GTiff", "COG", "PNG", "JPEG", "JP2OpenJPEG"])
def test_cut_short_and_damaged_inside(tmp_path, driver):
    ending = {"PNG": "png", "JPEG": "jpg", "JP2OpenJPEG": "jp2"}.get(driver, "tif")
    path = Path(write(tmp_path / f"a b.{ending}", noise(3, 500, 300, "uint8"), driver=driver))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    said = refused(path, "cannot be opened|cannot be read", ("a", "c"), ("a", "b", "c"))
    if "cannot be read" in said:
        assert said.startswith(f"a b.{ending}: rows 0 to 500, columns 0 to 300 cannot be read: ")
    path = Path(write(tmp_path / "d.tif", noise(1, 600, 600), compress="deflate", tiled=True))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = b"\xaa" * 2000
    path.write_bytes(data)
    refused(path, "d.tif: rows 0 to 600, columns 0 to 600 cannot be read: ")


def test_what_is_not_there_or_in_another_store(tmp_path):
    path = write(tmp_path / "a.tif", noise(1))
    gone = ref(path)
    Path(path).unlink()
    elsewhere = (SceneRef("a", f"{store}://b/a.tif", None) for store in ("gs", "az", "ftp"))
    for scene in (gone, *elsewhere):
        with pytest.raises(DecodeError, match=r"cannot be opened|windows of .* are not read"):
            Scene(scene, ("b1",), None, STORE)
