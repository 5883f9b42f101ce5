"""Which scenes a place holds: prefixes, Items, lists; what is hostile in them."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from score.scenes.scene_material import STORE, noise, write

from satray.errors import DecodeError, InputError
from satray.score.scenes.find import BandSource, SceneRef, etag_of, find_scenes, resolved
from satray.score.scenes.open import Scene
from satray.storage import Entry


def touch(path: Path, data: bytes = b"x") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def put(path: Path, document) -> str:
    return touch(path, json.dumps(document).encode())


def item(name, assets, **more):
    top = {"type": "Feature", "stac_version": "1.1.0", "id": name, "geometry": None}
    return {**top, "properties": {}, "links": [{}], "assets": assets, **more}


def asset(href, *names, roles=("data",), kind="image/tiff; application=geotiff"):
    bands = [{"name": name, "common_name": common} for name, common in names]
    return {"href": href, "type": kind, "roles": list(roles), "eo:bands": bands}


def names_of(found):
    return [scene.scene for scene in found.scenes]


def test_prefix_of_rasters(tmp_path):
    odd = ["a b.tif", "b/é 海.TIF", "c..d/e...tif", "d#1?x%20.jp2", "e.PNG", "f.jpeg"]
    odd += ["g.gtiff", "h.GeoTIFF", "i.gtif", "j.jpe"]
    for name in (*odd, "notes.txt", ".hidden.tif"):
        touch(tmp_path / name, name.encode())
    touch(tmp_path / "g.json", b"{}")
    found = find_scenes(str(tmp_path), STORE)
    assert (names_of(found), found.failures) == (sorted(odd), ())
    touch(tmp_path / "other" / "b.nc")
    for place in ("other", "other/b.nc"):
        (failure,) = find_scenes(str(tmp_path / place), STORE).failures
        assert (failure.scene, failure.error[:15]) == ("b.nc", ".nc is not read")
    (tmp_path / "other" / "b.nc").unlink()
    assert names_of(find_scenes(str(tmp_path), STORE, extensions=("tif",))) == sorted(odd[:3])
    for scene in found.scenes:
        entry = STORE.head(str(tmp_path / scene.scene))
        assert (scene.uri, scene.bands, scene.item) == (entry.uri, None, None)
        assert (scene.etag, scene.size) == (entry.etag, entry.size)
        assert scene.modified == entry.modified
    before = find_scenes(str(tmp_path / "a b.tif"), STORE).scenes
    assert before == found.scenes[:1]
    touch(tmp_path / "a b.tif", b"another")
    assert find_scenes(str(tmp_path), STORE).scenes[0].etag != before[0].etag


def test_nothing_there(tmp_path):
    (tmp_path / "empty").mkdir()
    pq.write_table(pa.table({"scene": [], "uri": []}), tmp_path / "none.parquet")
    for place in ("empty", "absent.tif", "none.parquet"):
        with pytest.raises(InputError, match=r"scenes=.*found nothing; accepted: GeoTIFF"):
            find_scenes(str(tmp_path / place), STORE)
        assert find_scenes(str(tmp_path / place), STORE, none_yet=True).scenes == ()


def test_items_with_a_file_a_band(tmp_path):
    for name in ("B04", "B08", "TCI", "AOT"):
        touch(tmp_path / "s2" / "img" / f"{name}.jp2", name.encode())
    touch(tmp_path / "alone.tif")
    jp2 = {"kind": "image/jp2"}
    assets = {
        "visual": asset("img/TCI.jp2", ("B04", "red"), ("B03", "green"), roles=("visual",), **jp2),
        "B04": asset("./img/B04.jp2", ("B04", "red"), **jp2),
        "nir": asset("../s2/img/B08.jp2", ("B08", "NIR"), **jp2),
        "thumb": asset("thumb.jpg", roles=("thumbnail",), kind="image/jpeg"),
        "meta": {"href": "meta.xml", "type": "application/xml"},
        "aot": {"href": "img/AOT.jp2"},
    }
    put(tmp_path / "s2" / "item.json", item("S2A é/..", assets))
    found = find_scenes(str(tmp_path), STORE)
    assert names_of(found) == ["S2A é/..", "alone.tif"]
    scene, folder = found.scenes[0], tmp_path / "s2" / "img"
    assert scene.uri == str(tmp_path / "s2" / "item.json")
    wanted = [("red", "B04", 1), ("B04", "B04", 1), ("nir", "B08", 1), ("B08", "B08", 1)]
    wanted += [("green", "TCI", 2), ("B03", "TCI", 2), ("aot", "AOT", 1)]
    assert set(scene.bands) == {BandSource(n, f"{folder}/{file}.jp2", b) for n, file, b in wanted}
    assert scene.item["id"] == "S2A é/.."
    assert not scene.item.keys() & {"assets", "links"}
    assert scene.size == 12


def test_only_wanted_files_make_the_etag(tmp_path):
    for name in ("r", "n"):
        touch(tmp_path / f"{name}.tif", name.encode())
    assets = {k: asset(f"{k}.tif", (k, c)) for k, c in (("r", "red"), ("n", "nir"))}
    put(tmp_path / "i.json", item("i", assets))

    def etags():
        (whole,) = find_scenes(str(tmp_path), STORE).scenes
        (part,) = find_scenes(str(tmp_path), STORE, wanted=["red"]).scenes
        assert [band.name for band in part.bands] == ["red"]
        assert find_scenes(str(tmp_path), STORE, wanted=["red", "swir16"]).scenes == (whole,)
        return whole.etag, part.etag

    before = etags()
    touch(tmp_path / "n.tif", b"changed")
    assert [a == b for a, b in zip(before, etags(), strict=True)] == [False, True]
    day = datetime(2026, 1, 1, tzinfo=UTC)  # a store that gives none
    parts = [Entry("u", "k", size, None, day) for size in (1, 2)]
    whole = SceneRef("u", "u", None)
    assert len({etag_of(some, whole) for some in (parts[:1], parts[1:], parts)}) == 3


@pytest.mark.parametrize("swapped", ["assets", "bands"])
def test_a_scene_is_another_once_its_bands_lie_elsewhere(tmp_path, swapped):
    for name in ("r.tif", "n.tif", "both.tif"):
        touch(tmp_path / name, name.encode())
    names = [("r", "red"), ("n", "nir")]

    def etag(right: bool, **more):
        order = names if right else names[::-1]
        assets = {"both": asset("both.tif", *order)}
        if swapped == "assets":
            assets = {f: asset(f"{f}.tif", n) for f, n in zip("rn", order, strict=True)}
        put(tmp_path / "i.json", item("i", assets, **more))
        (scene,) = find_scenes(str(tmp_path / "i.json"), STORE, wanted=["red", "nir"]).scenes
        return scene.etag

    assert etag(True) != etag(False)
    assert etag(True) == etag(True, title="the same")


def test_a_list_may_name_its_files_by_addresses_that_change(tmp_path):
    """As signed ones do each hour; the files are the same."""

    def etag(folder):
        rows = [{"scene": "a", "uri": f"{folder}/{n}.tif", "band": n} for n in ("red", "nir")]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "list.parquet")
        return find_scenes(str(tmp_path / "list.parquet"), STORE).scenes[0].etag

    for name in ("red.tif", "nir.tif"):
        touch(tmp_path / "in" / name, name.encode())
    (tmp_path / "signed").symlink_to(tmp_path / "in")
    assert etag("in") == etag("signed")


@pytest.mark.parametrize("name", ["a.json", "a.tif.json"])
def test_item_beside_its_raster(tmp_path, name):
    touch(tmp_path / "a.tif")
    put(tmp_path / name, item("whatever", {"image": asset("a.tif", ("b1", "red"))}))
    (scene,) = find_scenes(str(tmp_path), STORE).scenes
    assert (scene.scene, scene.item["id"]) == ("a.tif", "whatever")
    assert {(band.name, band.band) for band in scene.bands} == {("red", 1), ("b1", 1), ("image", 1)}


def test_new_bands_field_and_collections_of_items(tmp_path):
    touch(tmp_path / "a.tif")
    new = {"href": "a.tif", "bands": [{"name": "B1", "eo:common_name": "blue"}, {"name": "B2"}]}
    members = [item(name, {"x": new}) for name in ("one", "two", "two")]
    put(tmp_path / "all.json", {"type": "FeatureCollection", "features": members})
    for place in (tmp_path, tmp_path / "all.json"):
        found = find_scenes(str(place), STORE)
        assert names_of(found) == ["one", "two"]
        bands = {(band.name, band.band) for band in found.scenes[0].bands}
        assert bands == {("blue", 1), ("B1", 1), ("B2", 2)}
        (failure,) = found.failures
        assert "another scene has this name" in failure.error


def test_bad_items_are_rows(tmp_path):
    touch(tmp_path / "good.tif")
    refused = "a path within the store"
    lost = {
        "no id": ({"x": asset("good.tif")}, {"id": ""}, "id is ''"),
        "no assets": (None, {}, "no assets"),
        "text": ({"m": {"href": "m.xml", "type": "text/xml"}}, {}, "no asset that is a raster"),
        "absent": ({"x": asset("gone.tif")}, {}, "does not exist"),
        "ftp": ({"x": asset("ftp://h/a.tif")}, {}, refused),
        "host": ({"x": asset("file://nas/x.tif")}, {}, refused),
        "number": ({"x": {"href": 7, "type": "image/tiff"}}, {}, refused),
    }
    for number, (name, (assets, more, _)) in enumerate(lost.items()):
        put(tmp_path / f"i{number}.json", item(name, assets, **more))
    touch(tmp_path / "deep.json", b"[" * 100_000)
    touch(tmp_path / "latin.json", b'{"a": "\xff"}')
    put(tmp_path / "collection.json", {"type": "Collection", "stac_version": "1.0.0"})
    for name in ("vectors.geojson", "large.json"):
        os.truncate(touch(tmp_path / name), 17 << 20)
    found = find_scenes(str(tmp_path), STORE)
    assert names_of(found) == ["good.tif"]
    said = {failure.scene: failure.error for failure in found.failures}
    assert "17,825,792 bytes are not looked at for Items" in said.pop("large.json")
    assert said.keys() == {"i0.json", *list(lost)[1:]}
    for name, error in said.items():
        assert lost.get(name, lost["no id"])[2] in error
        assert "\n" not in error


def test_lists_of_files(tmp_path):
    place = tmp_path / "list.parquet"
    for name in ("a.tif", "b4.tif", "b8.tif"):
        touch(tmp_path / "in" / name, name.encode())
    rows = [
        ("whole/../é.tif", "in/a.tif", None, None), ("split", f"{tmp_path}/in/b4.tif", "Red", None),
        ("split", "in/b8.tif", "nir", 2), ("gone", "in/gone.tif", None, None),
        ("none", None, None, None), ("zero", "in/a.tif", "red", 0), ("twice", "in/a.tif", "red", 1),
        ("twice", "in/a.tif", "red", 2), ("vague", "in/a.tif", "red", None),
        ("vague", "in/a.tif", None, None), (" ", "in/a.tif", None, None),
        ("third", "in/a.tif", None, 3),
    ]  # fmt: skip
    keys = ("scene", "uri", "band", "index")
    pq.write_table(pa.Table.from_pylist([dict(zip(keys, row, strict=True)) for row in rows]), place)
    found = find_scenes(str(place), STORE)
    whole, split = found.scenes
    assert (whole.scene, whole.bands) == ("whole/../é.tif", None)
    files = [str(tmp_path / "in" / name) for name in ("b4.tif", "b8.tif")]
    assert split.bands == (BandSource("red", files[0]), BandSource("nir", files[1], 2))
    lost = {"gone", "none", "zero", "twice", "vague", "third", ""}
    assert {one.scene for one in found.failures} == lost
    for table in ({"uri": ["a"]}, {"scene": ["a"], "uri": [[1]]}, None):
        if table:
            pq.write_table(pa.table(table), place)
        else:
            touch(place)
        with pytest.raises(InputError, match=r"scenes=\S+list\.parquet: \w+: .*accepted: ") as said:
            find_scenes(str(place), STORE)
        assert "\n" not in str(said.value)


@pytest.mark.s3
def test_prefix_and_windows_on_s3(s3, tmp_path):
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
    for scene, key in zip([*found.scenes, *found_items.scenes], [*keys, keys[1]], strict=True):
        with Scene(scene, ("red",), None, STORE) as source:
            x_CHW, valid_HW = source.read(10, 20, 30, 40)
        np.testing.assert_array_equal(x_CHW, values[:, 10:40, 20:60] + len(key))
        assert valid_HW.all()


def test_names_that_are_no_text(tmp_path):
    """A name in another encoding costs one scene, when it is opened."""
    os.link(write(tmp_path / "in" / "a.tif", noise(1), ("red",)), tmp_path / "b.tif")
    os.rename(os.fsencode(tmp_path / "b.tif"), os.fsencode(tmp_path / "in") + b"/\xff.tif")
    found = find_scenes(str(tmp_path / "in"), STORE)
    assert len(found.scenes) == 2
    with pytest.raises(DecodeError, match="cannot be opened"):
        Scene(found.scenes[1], ("red",), None, STORE)


@pytest.mark.parametrize(
    ("base", "leads"),
    [
        ("/d/e/i.json", {
            "b.tif": "/d/e/b.tif", "./x/../b c.tif": "/d/e/b c.tif", "../b.tif": "/d/b.tif",
            "file:///abs/b%20c.tif": "/abs/b c.tif", "~x.tif": "/d/e/~x.tif",
            "S3://b/k#1.tif": "s3://b/k#1.tif", "": None, None: None, 7: None, "a\nb.tif": None,
            "a\0.tif": None, "/vsizip/a.zip/b.tif": None, "../../vsicurl/x": None,
            "file:///vsimem/x": None, "gopher://h/x.tif": None, "zip+s3://b/x.zip!a.tif": None,
            "s3://bucket": None,
        }),
        ("s3://b/d/i.json", {
            "b.tif": "s3://b/d/b.tif", "../b%20.tif": "s3://b/b%20.tif",
            "https://o/b.tif": "https://o/b.tif", "file:///etc/passwd": None, "../../x.tif": None,
            "..": None,
        }),
        ("https://h/i.json", {
            "/x/b.tif": "https://h/x/b.tif", "//evil/x.tif": None, "d/../../x.tif": None,
        }),
    ],
)  # fmt: skip
def test_references_lead_to_neighbours_and_public_addresses_only(base, leads):
    for href, wanted in leads.items():
        if wanted is not None:
            assert resolved(href, base) == wanted
            continue
        with pytest.raises(DecodeError) as error:
            resolved(href, base)
        assert "\n" not in str(error.value)


@settings(max_examples=60)
@given(st.text(max_size=30) | st.text("./a:s3", max_size=12))
def test_references_never_lead_out_of_a_store(href):
    try:
        found = resolved(href, "s3://bucket/a/b/item.json")
    except DecodeError:
        return
    assert found.startswith(("s3://", "http://", "https://"))
    if "://" not in href:
        assert found.startswith("s3://bucket/")
        assert not {"..", "."} & set(found.split("/"))
