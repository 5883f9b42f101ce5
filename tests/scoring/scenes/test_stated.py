"""Nodata, scale and offset that Items and files state: applied per band, in the bundle's unit."""

import json

import numpy as np
import pytest
import rasterio
from scoring.scenes.scene_material import STORE, noise, write

from satray.data.values import Unit
from satray.scoring.reading import MisfitError
from satray.scoring.scenes.find import find_scenes
from satray.scoring.scenes.open import Conversion, open_scene

OLD, NEW = Unit(1e-4, 0.0), Unit(1e-4, -0.1)
DN = noise(2) + 900
"""Numbers of red and nir in the new baseline: some lie below the offset."""
BEFORE = np.maximum(DN.astype(int) - 1000, 0).astype(np.uint16)
"""The same ground in the old one."""
WANTED = ("red", "nir")
SHIFTED = {"scale": 0.0001, "offset": -0.1}
PREFIXED = {"raster:scale": 0.0001, "raster:offset": -0.1}
DONE = {"earthsearch:boa_offset_applied": True}


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


def files(folder, values=DN, **more):
    """A file a band, and one of both."""
    for name, x_HW in zip(WANTED, values, strict=True):
        write(folder / f"{name}.tif", x_HW[None], **more)
    write(folder / "both.tif", values, **more)


def read(folder, conversion=None, dtype="uint16", wanted=WANTED):
    """A folder's scene with an Item, else its one: pixels, where they are data, and notes."""
    found = find_scenes(str(folder), STORE, wanted=wanted)
    ref = next((one for one in found.scenes if one.item), found.scenes[0])
    assert not found.failures
    more = {} if conversion is None else {"conversion": conversion}
    with open_scene(ref, wanted, None, STORE, dtype=dtype, **more) as scene:
        return (*scene.read(0, 0, 90, 120), scene.facts.notes)


def both(bands, **asset):
    return {
        "both": {"eo:bands": [{"name": name} for name in WANTED], "raster:bands": bands, **asset}
    }


def each(**asset):
    return dict.fromkeys(WANTED, asset)


ITEMS = {
    "raster:bands": ({n: {"raster:bands": [SHIFTED]} for n in WANTED}, {}),
    "bands of STAC 1.1": ({n: {"bands": [{"name": n, **PREFIXED}]} for n in WANTED}, {}),
    "of the asset": (each(**PREFIXED), {}),
    "of the asset, no prefix": (each(**SHIFTED), {}),
    "of all assets": (each(), PREFIXED),
    "of a band before its asset's": (
        {n: {"raster:bands": [SHIFTED], "raster:scale": 3, "raster:offset": 7} for n in WANTED},
        {"raster:offset": 5},
    ),
    "scale of the asset, offset of its bands": (
        {n: {"raster:scale": 1e-4, "bands": [{"name": n, "raster:offset": -0.1}]} for n in WANTED},
        {},
    ),
    "offset of the asset": (
        {n: {"raster:bands": [{"scale": 1e-4}], "raster:offset": -0.1} for n in WANTED},
        {},
    ),
    "several bands": (both([SHIFTED, SHIFTED]), {}),
    "texts": (each(**{"raster:scale": "0.0001", "raster:offset": "-0.1"}), {}),
    "offset in numbers": (each(**{"raster:offset": -1000}), {}),
    "with names": ({n: {"raster:bands": [{**SHIFTED, "unit": "reflectance"}]} for n in WANTED}, {}),
    "not taken off": (each(**PREFIXED), {"earthsearch:boa_offset_applied": False}),
}


@pytest.mark.parametrize("case", ITEMS)
def test_offset_of_an_item(tmp_path, case):
    files(tmp_path)
    assets, properties = ITEMS[case]
    item(tmp_path, assets, properties, collection=case == "texts")
    x_CHW, valid_HW, notes = read(tmp_path)
    np.testing.assert_array_equal(x_CHW, BEFORE)
    assert valid_HW.all()
    assert len(notes) == 1
    assert notes[0].startswith("brought to the bundle's unit (stored * 1 - 1000): states scale ")
    assert notes[0].endswith(
        "the bundle's tiles state none: taken for the same scale without offset"
    )
    # whatever is stated, what is asked for goes before it, and is said
    x_CHW, _, notes = read(tmp_path, Conversion("none"))
    np.testing.assert_array_equal(x_CHW, DN)
    assert [note[:39] for note in notes] == ["convert=none goes before what it states"]
    x_CHW, _, notes = read(tmp_path, Conversion("scale", (2.0,), (1.0,)))
    np.testing.assert_array_equal(x_CHW, DN * 2 + 1)
    assert [note[:40] for note in notes] == ["convert=scale goes before what it states"]


UNITS = {
    "the bundle's own": ((NEW, NEW), SHIFTED, DN, 0),
    "the old one": ((OLD, OLD), SHIFTED, BEFORE, 1),
    "to the new": ((NEW, NEW), {"scale": 1e-4, "offset": 0}, DN + 1000, 1),
    "another scale": ((OLD, OLD), {"scale": 2e-4}, DN * 2, 1),
    "a band of the bundle's": ((NEW, None), SHIFTED, np.stack([DN[0], BEFORE[1]]), 1),
    "without offset": ((), {"scale": 1e-4, "offset": 0}, DN, 0),
    "nothing stated": ((NEW, NEW), {"data_type": "uint16"}, DN, 1),
}


@pytest.mark.parametrize("case", UNITS)
def test_the_bundles_unit(tmp_path, case):
    units, said, expected, count = UNITS[case]
    files(tmp_path)
    item(tmp_path, {name: {"raster:bands": [said]} for name in WANTED})
    x_CHW, _, notes = read(tmp_path, Conversion(units=units))
    np.testing.assert_array_equal(x_CHW, expected)
    assert len(notes) == count
    if case == "nothing stated":
        assert notes == ("states no scale or offset: taken for scale 0.0001, offset -0.1",)


def test_one_band_only(tmp_path):
    files(tmp_path)
    item(tmp_path, both([{"scale": 1e-4}, SHIFTED]))
    x_CHW, _, (note,) = read(tmp_path)
    np.testing.assert_array_equal(x_CHW, [DN[0], BEFORE[1]])
    assert "red: stored * 1 + 0; nir: stored * 1 - 1000" in note


def test_files_state_their_own(tmp_path):
    files(tmp_path)
    with rasterio.open(tmp_path / "both.tif", "r+") as target:
        target.descriptions = WANTED
        target.scales, target.offsets = (1e-4, 1e-4), (-0.1, -0.1)
    (tmp_path / "red.tif").unlink()
    (tmp_path / "nir.tif").unlink()
    np.testing.assert_array_equal(read(tmp_path)[0], BEFORE)
    # the Item's word goes before the file's; here an Item beside its raster
    (tmp_path / "both.tif").rename(tmp_path / "item.tif")
    item(tmp_path, {"item": both([{"scale": 1e-4, "offset": 0.1}] * 2)["both"]})
    np.testing.assert_array_equal(read(tmp_path)[0], DN + 1000)


@pytest.mark.parametrize(
    ("stated", "properties", "expected", "count"),
    [
        ({"raster:scale": 1e-4}, {}, BEFORE, 1),
        ({"raster:offset": -0.1}, {}, BEFORE, 1),
        ({}, {"s2:processing_baseline": "05.09"}, BEFORE, 1),
        ({"raster:offset": 0}, {}, DN, 0),
        ({}, DONE, DN, 0),
        (PREFIXED, DONE, DN, 0),
    ],
)
def test_where_an_item_is_silent_its_file_speaks(tmp_path, stated, properties, expected, count):
    """Its provider may have taken the offset off, whatever is stated."""
    files(tmp_path)
    item(tmp_path, each(**stated), properties)
    if properties == DONE:
        for units in ((), (OLD, OLD)):
            np.testing.assert_array_equal(read(tmp_path, Conversion(units=units))[0], DN)
    for name in WANTED:
        with rasterio.open(tmp_path / f"{name}.tif", "r+") as target:
            target.scales, target.offsets = (1e-4,), (-0.1,)
    x_CHW, _, notes = read(tmp_path)
    np.testing.assert_array_equal(x_CHW, expected)
    assert len(notes) == count


@pytest.mark.parametrize(("baseline", "count"), [("05.09", 1), ("02.14", 0), ("x", 0)])
def test_a_baseline_without_an_offset_is_said(tmp_path, baseline, count):
    files(tmp_path)
    for stated in ({}, {"raster:scale": 1e-4}):  # a scale alone says nothing of an offset
        item(tmp_path, each(**stated), {"s2:processing_baseline": baseline})
        x_CHW, _, notes = read(tmp_path)
        np.testing.assert_array_equal(x_CHW, DN)
        assert len(notes) == count


@pytest.mark.parametrize(
    ("assets", "match"),
    [
        (each(**{"raster:scale": 0}), "band red states scale 0; accepted: a finite number other"),
        (each(**{"raster:scale": "nan"}), "band red states scale 'nan'"),
        (each(**{"raster:offset": "Infinity"}), "band red states offset 'Infinity'"),
        (
            each(nodata="none"),
            "states nodata 'none'; accepted: a number, nan, inf or -inf",
        ),
        (both([SHIFTED]), "band nir states scale 'for 1 of 2 bands only'"),
    ],
)
def test_what_cannot_be_meant_costs_its_scene(tmp_path, assets, match):
    files(tmp_path)
    item(tmp_path, assets)
    with pytest.raises(MisfitError, match=match) as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


def test_what_is_wrong_of_other_bands_does_not_matter(tmp_path):
    files(tmp_path)
    item(tmp_path, {"red": PREFIXED, "nir": {"raster:scale": 0}})
    np.testing.assert_array_equal(read(tmp_path, wanted=("red",))[0], BEFORE[:1])
    item(tmp_path, each(**{"raster:scale": 0.1, "unit": "K"}))
    with pytest.raises(MisfitError, match="values in K where degC is wanted; convert=scale"):
        read(tmp_path, Conversion(units=(Unit(0.1, 0.0, "degC"),) * 2))


@pytest.mark.parametrize(
    ("dtype", "declared", "stated", "hidden"),
    [
        ("uint16", None, 0, "zero"),
        ("uint16", None, "0", "zero"),
        ("uint16", 0, 0, "zero"),
        ("uint16", None, -9999, None),
        ("uint16", None, "nan", None),
        ("int16", None, -9999, "low"),
        ("int16", -9999, 0, "both"),
        ("float32", None, "nan", "nan"),
        ("float32", np.nan, -9999.0, "low and nan"),
        ("float32", None, "-inf", "infinite"),
    ],
)
@pytest.mark.parametrize("coarse", [1, 2])
def test_nodata_of_items_hides_besides_the_files(tmp_path, dtype, declared, stated, hidden, coarse):
    values = np.full((2, 90, 120), 3000, dtype)
    values[:, :8] = 0
    if np.dtype(dtype).kind != "u":
        values[:, 8:16] = -9999
    if np.dtype(dtype).kind == "f":
        values[:, 16:24] = np.nan
        values[:, 24:32] = -np.inf
    files(tmp_path, values, nodata=declared)
    if coarse > 1:
        grid = rasterio.Affine(20, 0, 448000, 0, -20, 5411000)
        write(tmp_path / "nir.tif", values[1:, ::2, ::2], nodata=declared, transform=grid)
    item(tmp_path, each(nodata=stated, **PREFIXED))
    x_CHW, valid_CHW, _ = read(tmp_path, Conversion(units=(OLD, OLD)), dtype)
    rows = {
        "zero": [0], "low": [8], "both": [0, 8], "nan": [16, 24], "low and nan": [8, 16, 24],
        "infinite": [16, 24], None: [],
    }[hidden]  # fmt: skip
    expected = np.ones((90, 120), bool)
    for row in rows:
        expected[row : row + 8] = False
    # the edge of a coarser band's hole is a matter of half a px
    inner = [n for n in range(90) if coarse == 1 or 0 < n % 8 < 7]
    np.testing.assert_array_equal(valid_CHW.all(0)[inner], expected[inner])
    good = x_CHW[:, 40:]
    np.testing.assert_allclose(good, 2000, rtol=1e-5)


def test_numbers_of_another_dtype(tmp_path):
    files(tmp_path)
    item(tmp_path, each(**PREFIXED))
    x_CHW, _, (note,) = read(tmp_path, Conversion(), "float32")
    np.testing.assert_allclose(x_CHW, DN * 1e-4 - 0.1, atol=1e-6)
    assert note.endswith("the bundle's tiles state none: taken for the values themselves")
    x_CHW, _, _ = read(tmp_path, Conversion(units=(OLD, OLD)), "int32")
    np.testing.assert_array_equal(x_CHW, DN.astype(int) - 1000)
    item(tmp_path, each())
    with pytest.raises(
        MisfitError, match="dtype is uint16, the bundle's is float32; convert=scale"
    ):
        read(tmp_path, Conversion(), "float32")


def test_a_scene_is_another_once_its_item_states_something_else(tmp_path):
    files(tmp_path)

    def etag(**more):
        item(tmp_path, each(**more))
        return find_scenes(str(tmp_path / "item.json"), STORE).scenes[0].etag

    assert etag() != etag(**PREFIXED) != etag(**{**PREFIXED, "raster:offset": 0})
    assert etag(**PREFIXED) == etag(**PREFIXED, title="red")


def test_all_bands_of_a_file_have_a_say(tmp_path):
    """A 0 in one band of several is a measurement, though only that band is wanted."""
    values = DN.copy()
    values[0, :8], values[:, 8:16] = 0, 0
    files(tmp_path, values)
    item(tmp_path, both([{"nodata": 0}, {"nodata": 0}]))
    _, valid_CHW, _ = read(tmp_path, wanted=("red",))
    assert valid_CHW[0, :8].all()
    assert not valid_CHW[0, 8:16].any()
