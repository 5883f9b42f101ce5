"""Which scenes a place holds: prefixes, Items, lists; what is hostile in them."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scoring.scenes.scene_material import STORE, noise, write

from satray.errors import InputError
from satray.scoring.scenes.find import find_scenes
from satray.scoring.scenes.scene import BandSource
from satray.storage import Entry


def touch(path: Path, data: bytes = b"x") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def item(name, assets, **more):
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": name,
        "geometry": None,
        "properties": {"datetime": "2026-01-02T03:04:05Z"},
        "links": [{"rel": "self", "href": "x"}],
        "assets": assets,
        **more,
    }


def put(path: Path, document) -> str:
    return touch(path, json.dumps(document).encode())


def asset(href, *names, roles=("data",), kind="image/tiff; application=geotiff", key="eo:bands"):
    bands = [{"name": name, "common_name": common} for name, common in names]
    return {"href": href, "type": kind, "roles": list(roles), key: bands}


def names_of(found):
    return [scene.scene for scene in found.scenes]


def test_prefix_of_rasters(tmp_path):
    odd = ["a b.tif", "b/é 海.TIF", "c..d/e...tif", "d#1?x%20.jp2", "e.PNG", "f.jpeg"]
    for name in odd:
        touch(tmp_path / name, name.encode())
    touch(tmp_path / "notes.txt")
    touch(tmp_path / ".hidden.tif")
    touch(tmp_path / "g.json", b"{}")
    found = find_scenes(str(tmp_path), STORE)
    assert names_of(found) == sorted(odd)
    assert not found.failures
    assert names_of(find_scenes(str(tmp_path), STORE, extensions=("tif",))) == sorted(odd[:3])
    for scene in found.scenes:
        entry = STORE.head(str(tmp_path / scene.scene))
        assert (scene.uri, scene.bands, scene.item) == (entry.uri, None, None)
        assert (scene.etag, scene.size) == (entry.etag, entry.size)
        assert scene.modified == entry.modified


def test_overwritten_scene_has_another_etag(tmp_path):
    touch(tmp_path / "a.tif", b"one")
    (before,) = find_scenes(str(tmp_path), STORE).scenes
    touch(tmp_path / "a.tif", b"another")
    (after,) = find_scenes(str(tmp_path), STORE).scenes
    assert before.etag != after.etag
    assert find_scenes(str(tmp_path / "a.tif"), STORE).scenes == (after,)


def test_vrt_is_refused(tmp_path):
    touch(tmp_path / "a.tif")
    touch(tmp_path / "b.vrt", b"<VRTDataset/>")
    found = find_scenes(str(tmp_path), STORE)
    assert names_of(found) == ["a.tif"]
    assert [(f.scene, f.error.split(";")[0]) for f in found.failures] == [
        ("b.vrt", "a VRT may lead anywhere and is not read")
    ]
    with pytest.raises(InputError, match=r"b\.vrt: a VRT may lead anywhere"):
        find_scenes(str(tmp_path / "b.vrt"), STORE)


@pytest.mark.parametrize("place", ["empty", "absent.tif", "texts"])
def test_nothing_there(tmp_path, place):
    (tmp_path / "empty").mkdir()
    touch(tmp_path / "texts" / "a.txt")
    with pytest.raises(InputError, match=r"scenes=.*found .*accepted: GeoTIFF"):
        find_scenes(str(tmp_path / place), STORE)


def test_items_with_a_file_a_band(tmp_path):
    for name in ("B04", "B08", "TCI", "AOT"):
        touch(tmp_path / "s2" / "img" / f"{name}.jp2", name.encode())
    touch(tmp_path / "alone.tif")
    assets = {
        "visual": asset(
            "img/TCI.jp2", ("B04", "red"), ("B03", "green"), roles=("visual",), kind="image/jp2"
        ),
        "B04": asset("./img/B04.jp2", ("B04", "red"), kind="image/jp2"),
        "nir": asset("../s2/img/B08.jp2", ("B08", "NIR"), kind="image/jp2"),
        "thumb": asset("thumb.jpg", roles=("thumbnail",), kind="image/jpeg"),
        "meta": {"href": "meta.xml", "type": "application/xml"},
        "aot": {"href": "img/AOT.jp2"},
    }
    put(tmp_path / "s2" / "item.json", item("S2A é/..", assets))
    found = find_scenes(str(tmp_path), STORE)
    assert names_of(found) == ["S2A é/..", "alone.tif"]
    scene = found.scenes[0]
    folder = str(tmp_path / "s2" / "img")
    assert scene.uri == str(tmp_path / "s2" / "item.json")
    assert set(scene.bands) == {
        BandSource("red", f"{folder}/B04.jp2", 1),
        BandSource("B04", f"{folder}/B04.jp2", 1),
        BandSource("nir", f"{folder}/B08.jp2", 1),
        BandSource("B08", f"{folder}/B08.jp2", 1),
        BandSource("green", f"{folder}/TCI.jp2", 2),
        BandSource("B03", f"{folder}/TCI.jp2", 2),
        BandSource("aot", f"{folder}/AOT.jp2", 1),
    }
    assert scene.item["id"] == "S2A é/.."
    assert not scene.item.keys() & {"assets", "links"}
    assert scene.size == 12


def test_only_wanted_files_make_the_etag(tmp_path):
    for name in ("r", "n"):
        touch(tmp_path / f"{name}.tif", name.encode())
    assets = {k: asset(f"{k}.tif", (k, c)) for k, c in (("r", "red"), ("n", "nir"))}
    put(tmp_path / "i.json", item("i", assets))
    place = str(tmp_path)

    def etags():
        (whole,) = find_scenes(place, STORE).scenes
        (part,) = find_scenes(place, STORE, wanted=["red"]).scenes
        assert [band.name for band in part.bands] == ["red"]
        (fallback,) = find_scenes(place, STORE, wanted=["red", "swir16"]).scenes
        assert fallback == whole
        return whole.etag, part.etag

    before = etags()
    touch(tmp_path / "n.tif", b"changed")
    after = etags()
    assert before[0] != after[0]
    assert before[1] == after[1]


@pytest.mark.parametrize("name", ["a.json", "a.tif.json"])
def test_item_beside_its_raster(tmp_path, name):
    touch(tmp_path / "a.tif")
    put(tmp_path / name, item("whatever", {"image": asset("a.tif", ("b1", "red"))}))
    found = find_scenes(str(tmp_path), STORE)
    (scene,) = found.scenes
    assert (scene.scene, scene.bands, scene.item["id"]) == ("a.tif", None, "whatever")


def test_new_bands_field_and_collections_of_items(tmp_path):
    touch(tmp_path / "a.tif")
    new = {"href": "a.tif", "bands": [{"name": "B1", "eo:common_name": "blue"}, {"name": "B2"}]}
    members = [item("one", {"x": new}), item("two", {"x": new})]
    put(tmp_path / "all.json", {"type": "FeatureCollection", "features": members})
    for place in (tmp_path, tmp_path / "all.json"):
        found = find_scenes(str(place), STORE)
        assert names_of(found) == ["one", "two"]
        assert {(b.name, b.band) for b in found.scenes[0].bands} == {
            ("blue", 1),
            ("B1", 1),
            ("B2", 2),
        }


def test_bad_items_are_rows(tmp_path):
    touch(tmp_path / "good.tif")
    lost = {
        "no id": ({"x": asset("good.tif")}, {"id": ""}, "id is ''"),
        "no assets": (None, {}, "no assets"),
        "no raster": (
            {"m": {"href": "m.xml", "type": "text/xml"}},
            {},
            "no asset that is a raster",
        ),
        "absent": ({"x": asset("gone.tif")}, {}, "does not exist"),
        "ftp": ({"x": asset("ftp://h/a.tif")}, {}, "accepted: relative paths"),
        "vsi": ({"x": asset("/vsicurl/http://h/a.tif")}, {}, "not a path of this disk"),
        "nul": ({"x": asset("a\0.tif")}, {}, "accepted: a path or URI"),
        "number": ({"x": {"href": 7, "type": "image/tiff"}}, {}, "accepted: a path or URI"),
    }
    for number, (name, (assets, more, _)) in enumerate(lost.items()):
        put(tmp_path / f"i{number}.json", item(name, assets, **more))
    touch(tmp_path / "deep.json", b"[" * 100_000)
    touch(tmp_path / "latin.json", b'{"a": "\xff"}')
    put(tmp_path / "collection.json", {"type": "Collection", "stac_version": "1.0.0"})
    found = find_scenes(str(tmp_path), STORE)
    assert names_of(found) == ["good.tif"]
    told = {failure.scene: failure.error for failure in found.failures}
    assert told.keys() == {"i0.json", *list(lost)[1:]}
    for number, (name, (*_, reason)) in enumerate(lost.items()):
        said = told[name if number else "i0.json"]
        assert reason in said
        assert "\n" not in said


def test_twice_one_name(tmp_path):
    touch(tmp_path / "a.tif")
    for name in ("x", "y"):
        put(tmp_path / f"{name}.json", item("same", {"i": asset("a.tif", ("b", "red"))}))
    found = find_scenes(str(tmp_path), STORE)
    assert names_of(found) == ["same"]
    (failure,) = found.failures
    assert failure.uri.endswith("y.json")
    assert "another scene has this name" in failure.error


def test_single_json_that_is_no_item(tmp_path):
    with pytest.raises(InputError, match="no STAC Item"):
        find_scenes(put(tmp_path / "a.json", {"type": "Catalog"}), STORE)


def test_list_of_files(tmp_path):
    for name in ("a.tif", "b4.tif", "b8.tif"):
        touch(tmp_path / "in" / name, name.encode())
    rows = [
        {"scene": "whole/../é.tif", "uri": "in/a.tif", "band": None, "index": None},
        {"scene": "split", "uri": str(tmp_path / "in/b4.tif"), "band": "Red", "index": None},
        {"scene": "split", "uri": "in/b8.tif", "band": "nir", "index": 2},
        {"scene": "gone", "uri": "in/gone.tif", "band": None, "index": None},
        {"scene": "none", "uri": None, "band": None, "index": None},
        {"scene": "zero", "uri": "in/a.tif", "band": "red", "index": 0},
        {"scene": "twice", "uri": "in/a.tif", "band": "red", "index": 1},
        {"scene": "twice", "uri": "in/a.tif", "band": "red", "index": 2},
        {"scene": "vague", "uri": "in/a.tif", "band": "red", "index": 1},
        {"scene": "vague", "uri": "in/a.tif", "band": None, "index": None},
        {"scene": " ", "uri": "in/a.tif", "band": None, "index": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "list.parquet")
    found = find_scenes(str(tmp_path / "list.parquet"), STORE)
    whole, split = found.scenes
    assert (whole.scene, whole.bands) == ("whole/../é.tif", None)
    folder = str(tmp_path / "in")
    assert split.bands == (
        BandSource("red", f"{folder}/b4.tif", 1),
        BandSource("nir", f"{folder}/b8.tif", 2),
    )
    assert {failure.scene for failure in found.failures} == {
        *("gone", "none", "zero", "twice", "vague", "")
    }


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({"uri": ["a"]}, "no column scene among uri"),
        ({"scene": ["a"], "uri": [1]}, "column uri is int64"),
        ({"scene": ["a"], "uri": ["a"], "index": ["1"]}, "column index is string"),
        ({"scene": [], "uri": []}, "column scene is null"),
    ],
)
def test_bad_lists(tmp_path, table, match):
    pq.write_table(pa.table(table), tmp_path / "list.parquet")
    with pytest.raises(InputError, match=match):
        find_scenes(str(tmp_path / "list.parquet"), STORE)


def test_list_that_is_no_parquet(tmp_path):
    with pytest.raises(InputError, match="no Parquet file"):
        find_scenes(touch(tmp_path / "list.parquet"), STORE)


def test_listed_files_cost_no_request(tmp_path, monkeypatch):
    """10,000 scenes of a schedule: what the listing told is not asked again."""
    for name in ("r", "n"):
        touch(tmp_path / f"{name}.tif")
    put(tmp_path / "i.json", item("i", {k: asset(f"{k}.tif", (k, k)) for k in ("r", "n")}))
    asked = []
    monkeypatch.setattr(type(STORE), "head", lambda self, uri: asked.append(uri))
    assert names_of(find_scenes(str(tmp_path), STORE)) == ["i"]
    assert asked == []


def test_etag_of_a_store_without_etags():
    from datetime import UTC, datetime

    from satray.scoring.scenes.scene import made_ref

    day = datetime(2026, 1, 1, tzinfo=UTC)
    parts = [Entry("u", "k", size, None, day) for size in (1, 2)]
    one, two = (made_ref("s", "u", None, [part]) for part in parts)
    assert one.etag != two.etag
    assert made_ref("s", "u", None, parts).etag not in (one.etag, two.etag)


@pytest.mark.s3
def test_prefix_and_windows_on_s3(s3, tmp_path):
    from satray.scoring.scenes.open import open_scene

    bucket = s3.bucket()
    values = noise(1)
    keys = ["in/a b#é?%20.tif", "in/de..ep/x..y.tif"]
    for key in keys:
        path = write(tmp_path / "x.tif", values + len(key), ("red",))
        STORE.upload(Path(path), f"{bucket}/{key}")
    put(tmp_path / "i.json", item("item", {"x": asset("../in/de..ep/x..y.tif", ("b", "red"))}))
    STORE.upload(tmp_path / "i.json", f"{bucket}/items/i.json")
    found = find_scenes(f"{bucket}/in", STORE)
    assert names_of(found) == ["a b#é?%20.tif", "de..ep/x..y.tif"]
    found_items = find_scenes(f"{bucket}/items", STORE)
    assert found_items.scenes[0].etag == found.scenes[1].etag
    for scene, key in zip([*found.scenes, *found_items.scenes], [*keys, keys[1]], strict=True):
        with open_scene(scene, ("red",), None, STORE) as source:
            x_CHW, valid_HW = source.read(10, 20, 30, 40)
        np.testing.assert_array_equal(x_CHW, values[:, 10:40, 20:60] + len(key))
        assert valid_HW.all()


def test_names_that_are_no_text(tmp_path):
    """A name in another encoding costs one scene, when it is opened."""
    from satray.errors import DecodeError
    from satray.scoring.scenes.open import open_scene

    os.link(write(tmp_path / "in" / "a.tif", noise(1), ("red",)), tmp_path / "b.tif")
    os.rename(os.fsencode(tmp_path / "b.tif"), os.fsencode(tmp_path / "in") + b"/\xff.tif")
    found = find_scenes(str(tmp_path / "in"), STORE)
    assert len(found.scenes) == 2
    with pytest.raises(DecodeError, match="cannot be opened"):
        open_scene(found.scenes[1], ("red",), None, STORE)
