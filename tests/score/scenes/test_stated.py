"""Nodata, scale and offset that Items and files state: applied per band, in the bundle's unit."""

import json

import numpy as np
import pytest
import rasterio
from rasters import UTM
from score.scenes.scene_material import STORE, noise, write

from satray.data.values import Unit
from satray.errors import MisfitError
from satray.score.scenes.find import find_scenes
from satray.score.scenes.open import Conversion, Scene

AS_STATED, OLD, NEW = Conversion(), Unit(1e-4, 0.0), Unit(1e-4, -0.1)
DN = noise(2) + 900
"""Numbers of red and nir in the new baseline: some lie below the offset."""
BEFORE = np.maximum(DN.astype(int) - 1000, 0).astype(np.uint16)
"""The same ground in the old one."""
FLOATS = (DN * 1e-4 - 0.1).astype(np.float32)
WANTED = ("red", "nir")
SHIFTED, PREFIXED = (
    {f"{prefix}scale": 0.0001, f"{prefix}offset": -0.1} for prefix in ("", "raster:")
)
DONE = {"earthsearch:boa_offset_applied": True}
SILENT = "the bundle's tiles state none: taken for the same scale without offset"
VALUES = "the bundle's tiles state none: taken for the values themselves"


def item(folder, assets, properties=None, collection=False):
    """An Item of red.tif and nir.tif, or both.tif, with fields of its assets."""
    doc = {"type": "Feature", "stac_version": "1.0.0", "id": "scene", "geometry": None}
    doc["properties"] = {"datetime": "2026-01-02T03:04:05Z", **(properties or {})}
    doc["assets"] = {
        key: {"href": f"./{key}.tif", "type": "image/tiff", "roles": ["data"], **more}
        for key, more in assets.items()
    }
    if collection:
        doc = {"type": "FeatureCollection", "features": [doc]}
    (folder / "item.json").write_text(json.dumps(doc))


def files(folder, values=DN, stated=False, **more):
    """A file a band, and one of both; they state the new baseline themselves where asked."""
    for name, x_CHW in zip((*WANTED, "both"), (values[:1], values[1:], values), strict=True):
        with rasterio.open(write(folder / f"{name}.tif", x_CHW, **more), "r+") as target:
            if stated:
                target.scales, target.offsets = (1e-4,) * len(x_CHW), (-0.1,) * len(x_CHW)


def read(folder, conversion=AS_STATED, dtype="uint16", wanted=WANTED):
    """Pixels of a folder's scene with an Item, where they are data, and notes."""
    found = find_scenes(str(folder), STORE, wanted=wanted)
    ref = next(one for one in found.scenes if one.item)
    assert not found.failures
    with Scene(ref, wanted, None, STORE, dtype=dtype, conversion=conversion) as scene:
        return (*scene.read(0, 0, 90, 120), scene.facts.notes)


def both(*bands):
    return {"both": {"eo:bands": [{"name": n} for n in WANTED], "raster:bands": list(bands)}}


def each(**asset):
    return dict.fromkeys(WANTED, asset)


CASES = {
    # where an Item may state it: name -> assets, the bundle's units, pixels, note
    "raster:bands": (each(**{"raster:bands": [SHIFTED]}), (), BEFORE, SILENT),
    "bands of STAC 1.1": (each(bands=[PREFIXED]), (), BEFORE, SILENT),
    "of the asset": (each(**PREFIXED), (), BEFORE, SILENT),
    "of a band before its asset's": (
        each(**{"raster:bands": [SHIFTED], "raster:scale": 3, "raster:offset": 7}),
        (), BEFORE, SILENT,
    ),
    "scale of the asset, offset of its bands": (
        each(**{"raster:scale": 1e-4, "bands": [{"raster:offset": -0.1}]}), (), BEFORE, SILENT,
    ),
    "several bands": (both(SHIFTED, SHIFTED), (), BEFORE, SILENT),
    "texts": (each(**{"raster:scale": "1e-4", "raster:offset": "-0.1"}), (), BEFORE, SILENT),
    "offset in numbers": (each(**{"raster:offset": -1000}), (), BEFORE, SILENT),
    "with names": (each(bands=[{**SHIFTED, "unit": "reflectance"}]), (), BEFORE, SILENT),
    "one band only": (both({"scale": 1e-4}, SHIFTED), (), [DN[0], BEFORE[1]],
                      "red: stored * 1 + 0; nir: stored * 1 - 1000"),
    # what the bundle's tiles stated
    "the bundle's own": (each(**SHIFTED), (NEW, NEW), DN, None),
    "the old one": (each(**SHIFTED), (OLD, OLD), BEFORE, "the bundle's: scale 0.0001"),
    "to the new": (each(scale=1e-4, offset=0), (NEW, NEW), DN + 1000, "brought"),
    "another scale": (each(scale=2e-4), (OLD, OLD), DN * 2, "brought"),
    "a band of the bundle's": (each(**SHIFTED), (NEW, None), [DN[0], BEFORE[1]], "brought"),
    "without offset": (each(scale=1e-4, offset=0), (), DN, None),
    "nothing stated": (each(), (NEW, NEW), DN,
                       "states no scale or offset: taken for scale 0.0001, offset -0.1"),
    "floats": (each(**PREFIXED), (), FLOATS, VALUES),
    "another dtype": (each(**PREFIXED), (OLD, OLD), DN.astype(np.int32) - 1000, "brought"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_scale_and_offset_of_an_item(tmp_path, case):
    assets, units, expected, note = CASES[case]
    files(tmp_path)
    item(tmp_path, assets, collection=case == "texts")
    dtype = str(np.asarray(expected).dtype)
    x_CHW, valid_CHW, notes = read(tmp_path, Conversion(units=units), dtype)
    np.testing.assert_allclose(x_CHW, expected, rtol=0, atol=1e-6 if dtype == "float32" else 0)
    assert valid_CHW.all()
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]
    # whatever is stated, what is asked for goes before it, and is said
    for mode, wanted in (("scale", DN * 2 + 1), ("none", DN)):
        x_CHW, _, notes = read(tmp_path, Conversion(mode, (2.0,), (1.0,), units))
        np.testing.assert_array_equal(x_CHW, wanted)
        said = f"convert={mode} goes before what it states ("
        assert [note[: len(said)] for note in notes] == [said] * (case != "nothing stated")


@pytest.mark.parametrize(
    ("of_files", "stated", "properties", "expected", "count"),
    [
        # an Item's properties speak for all assets; its provider may have taken the offset off
        (False, {}, PREFIXED, BEFORE, 1), (False, PREFIXED, {"raster:offset": 5}, BEFORE, 1),
        (False, PREFIXED, dict.fromkeys(DONE, False), BEFORE, 1), (False, PREFIXED, DONE, DN, 0),
        # where an Item is silent its files speak
        (True, {"raster:scale": 1e-4}, {}, BEFORE, 1), (True, {"raster:offset": 0}, {}, DN, 0),
        (True, {"raster:offset": -0.1}, {}, BEFORE, 1), (True, {}, {}, BEFORE, 1),
        (True, {}, DONE, DN, 0), (True, PREFIXED, DONE, DN, 0),
        # a scale alone says nothing of an offset
        (False, {}, {}, DN, 0), (False, {"raster:scale": 1e-4}, {}, DN, 0),
    ],
)  # fmt: skip
def test_items_properties_and_files(tmp_path, of_files, stated, properties, expected, count):
    files(tmp_path, stated=of_files)
    item(tmp_path, each(**stated), properties)
    x_CHW, _, notes = read(tmp_path)
    np.testing.assert_array_equal(x_CHW, expected)
    assert len(notes) == count


def test_an_item_beside_its_raster_speaks_before_it(tmp_path):
    files(tmp_path, stated=True)
    (tmp_path / "both.tif").rename(tmp_path / "item.tif")
    with rasterio.open(tmp_path / "item.tif", "r+") as target:
        target.descriptions = WANTED
    item(tmp_path, {"item": both({"scale": 1e-4, "offset": 0.1}, {"offset": 0})["both"]})
    np.testing.assert_array_equal(read(tmp_path)[0], [DN[0] + 1000, DN[1]])


def test_what_cannot_be_meant_costs_its_scene(tmp_path):
    files(tmp_path)
    for assets, match in (
        (each(**{"raster:scale": 0}), "band red states scale 0; accepted: a finite number other"),
        (each(**{"raster:offset": "Infinity"}), "band red states offset 'Infinity'"),
        (each(nodata="none"), "states nodata 'none'; accepted: a number, nan, inf or -inf"),
        (both(SHIFTED), "band nir states scale 'for 1 of 2 bands only'"),
        (each(**{"raster:scale": 0.1, "unit": "K"}), "values in K where degC is wanted; convert="),
    ):
        item(tmp_path, assets)
        with pytest.raises(MisfitError, match=match) as error:
            read(tmp_path, Conversion(units=(Unit(0.1, 0.0, "degC"),) * 2))
        assert "\n" not in str(error.value)
    # but not of other bands
    item(tmp_path, {"red": PREFIXED, "nir": {"raster:scale": 0}})
    np.testing.assert_array_equal(read(tmp_path, wanted=("red",))[0], BEFORE[:1])
    item(tmp_path, each())
    with pytest.raises(MisfitError, match="dtype is uint16, the bundle's is float32; convert=sc"):
        read(tmp_path, dtype="float32")


@pytest.mark.parametrize(
    ("dtype", "declared", "stated", "rows"),
    [
        ("uint16", None, "0", [0]), ("uint16", 0, 0, [0]), ("uint16", None, -9999, []),
        ("uint16", None, "nan", []), ("int16", None, -9999, [8]), ("int16", -9999, 0, [0, 8]),
        ("float32", None, "nan", [16, 24]), ("float32", np.nan, -9999.0, [8, 16, 24]),
        ("float32", None, "-inf", [16, 24]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("coarse", [1, 2])
def test_nodata_of_items_hides_besides_the_files(tmp_path, dtype, declared, stated, rows, coarse):
    values = np.full((2, 90, 120), 3000, dtype)
    values[:, :8] = 0
    if np.dtype(dtype).kind != "u":
        values[:, 8:16] = -9999
    if np.dtype(dtype).kind == "f":
        values[:, 16:24], values[:, 24:32] = np.nan, -np.inf
    files(tmp_path, values, nodata=declared)
    grid = UTM @ rasterio.Affine.scale(coarse)
    coarser = values[1:, ::coarse, ::coarse]
    write(tmp_path / "nir.tif", coarser, nodata=declared, transform=grid)
    item(tmp_path, each(nodata=stated, **PREFIXED))
    x_CHW, valid_CHW, _ = read(tmp_path, Conversion(units=(OLD, OLD)), dtype)
    expected = np.ones((90, 120), bool)
    for row in rows:
        expected[row : row + 8] = False
    # the edge of a coarser band's hole is a matter of half a px
    inner = [n for n in range(90) if coarse == 1 or 0 < n % 8 < 7]
    np.testing.assert_array_equal(valid_CHW.all(0)[inner], expected[inner])
    np.testing.assert_allclose(x_CHW[:, 40:], 2000, rtol=1e-5)


@pytest.mark.parametrize(
    ("red", "nir", "hidden"),
    [
        # what uint8 cannot hold is no nodata, and has no say in that of others
        ({"nodata": 0}, {"nodata": -9999}, [100, 0]), ({"nodata": 0.5}, {"nodata": 0}, [0, 100]),
        ({"nodata": "-inf"}, {"nodata": 255}, [0, 0]),
        # of the file extension
        ({"file:nodata": 0}, {"bands": [{"file:nodata": 0}]}, [100, 100]),
    ],
)  # fmt: skip
def test_nodata_of_bytes(tmp_path, red, nir, hidden):
    values = np.full((2, 90, 120), 50, np.uint8)
    values[:, :5, :20] = 0
    files(tmp_path, values)
    item(tmp_path, {"red": red, "nir": nir})
    _, valid_CHW, _ = read(tmp_path, dtype="uint8")
    assert (~valid_CHW).sum(axis=(1, 2)).tolist() == hidden


def test_a_scene_is_another_once_its_item_states_something_else(tmp_path):
    files(tmp_path)

    def etag(**more):
        item(tmp_path, each(**more))
        return find_scenes(str(tmp_path / "item.json"), STORE).scenes[0].etag

    assert etag() != etag(**PREFIXED) != etag(**{**PREFIXED, "raster:offset": 0})
    assert etag(**PREFIXED) == etag(**PREFIXED, title="red")
