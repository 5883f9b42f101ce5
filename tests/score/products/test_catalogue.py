"""STAC: valid by pystac against core and extensions, without a network; times; names."""

import json
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

import pyproj
import pystac
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pystac.validation import JsonSchemaSTACValidator, set_validator
from score.scenes.scene_material import spec

from satray.errors import InputError
from satray.score.outlines import SceneExtent
from satray.score.predictions import Layout
from satray.score.products.catalogue import (
    ItemProduct,
    Moment,
    collection_of,
    item_of,
    model_item,
    moment_of,
    parse,
    stamp,
    time_pattern,
    to_bytes,
)
from satray.score.products.names import (
    cam_name,
    cam_path,
    collection_name,
    detections_name,
    encoded,
    item_name,
    link_between,
    model_name,
    page_name,
    quicklook_name,
)

SCHEMAS = Path(__file__).parent / "schemas"
UTM = (10.0, 0.0, 448000.0, 0.0, -10.0, 5411000.0)
BOX = [448000.0, 5407160.0, 452800.0, 5411000.0]
TAKEN = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
LAEA = pyproj.CRS("+proj=laea +lat_0=10 +lon_0=20 +datum=WGS84").to_wkt("WKT2_2019")
NOW = datetime(2026, 5, 1, 10, tzinfo=UTC)
SHA = "ab" * 32
MADE_BY = Layout(("ship",), ("rgb",), "0123456789ab", "r1")


class Offline(JsonSchemaSTACValidator):
    """Vendored schemas only: an unknown one is an error, not a download."""

    def __init__(self) -> None:
        super().__init__()
        for path in SCHEMAS.glob("*.json"):
            schema = json.loads(path.read_bytes())
            self.schema_cache[schema["$id"].rstrip("#")] = schema

    def _get_schema(self, schema_uri: str):
        assert schema_uri in self.schema_cache, f"{schema_uri} is not vendored"
        return self.schema_cache[schema_uri]


@pytest.fixture(autouse=True)
def _offline():
    set_validator(Offline())
    yield
    set_validator(JsonSchemaSTACValidator())


def products(scene: str, towers: tuple[str, ...] = ()) -> list[ItemProduct]:
    cams = [
        ItemProduct("cam", cam_name(scene, tower), 1234, SHA, tower, ("ship", "haze & fog"),
                    (12, 15), (80.0, 0.0, 447995.0, 0.0, -80.0, 5411005.0))
        for tower in (towers or (None,))
    ]  # fmt: skip
    return [
        *cams,
        ItemProduct("quicklook", quicklook_name(scene), 10, SHA),
        ItemProduct("tiles", "predictions/r1.parquet"),
        ItemProduct("detections", "detections/a.gpkg", 10, SHA),
        ItemProduct("detections_parquet", "detections/a.parquet", 10, SHA),
        ItemProduct("detections_geojson", "detections/a.geojson", 10, SHA),
    ]


def made(ground: SceneExtent, **more) -> pystac.Item:
    values = {
        "extent": ground,
        "moment": Moment(TAKEN, "pattern"),
        "created": NOW,
        "files": ("s3://bucket/in/a.tif",),
        "made_by": MADE_BY,
        "products": products(ground.scene),
    }
    return item_of(**(values | more))


def scene(crs="EPSG:32631", affine=UTM, name: str = "a/b.tif") -> SceneExtent:
    return SceneExtent(name, 384, 480, crs, affine)


@pytest.mark.parametrize(
    "ground",
    [
        scene(), scene(affine=(8.0, 6.0, 448000.0, 6.0, -8.0, 5411000.0)),
        scene("EPSG:4326", (1e-4, 0.0, 2.3, 0.0, -1e-4, 48.8)), scene(None, None),
        scene(LAEA, (10.0, 0.0, 5.0, 0.0, -10.0, 7.0)), scene('LOCAL_CS["x",UNIT["m",1]]'),
        scene(name="../é b\u202e<script>.tif"),
        SceneExtent("p", 5000, 5000, "EPSG:32601", (100.0, 0.0, 1e4, 0.0, -100.0, 1107000.0)),
    ],
)  # fmt: skip
def test_items_are_valid_and_read_back(tmp_path, ground: SceneExtent) -> None:
    path = tmp_path / "item.json"
    path.write_bytes(to_bytes(made(ground)))
    back = pystac.Item.from_file(str(path))
    checked = back.validate()
    assert len(checked) == 1 + len(back.stac_extensions)
    assert json.loads(path.read_bytes())["stac_version"] == "1.1.0"
    assert back.datetime == TAKEN
    assert back.properties["satray:datetime_source"] == "pattern"
    assert back.properties["satray:scene"] == ground.scene
    assert "/" not in back.id


def test_ground_products_model_and_sources() -> None:
    item = made(scene(), item="s3://bucket/in/a.json", notes={"satray:drift": 0.25})
    item.validate()
    said = item.properties
    assert (said["proj:code"], said["proj:shape"]) == ("EPSG:32631", [384, 480])
    assert (said["proj:transform"], said["proj:bbox"]) == (list(UTM), BOX)
    west, south, east, north = item.bbox
    assert 2.29 < west < east < 2.36
    assert 48.8 < south < north < 48.86
    assert item.geometry["type"] == "Polygon"
    assert (said["satray:model_id"], said["satray:classes"]) == ("0123456789ab", ["ship"])
    assert not [name for name in said if name.startswith("mlm:") or name == "bands"]
    assert (said["satray:drift"], said["satray:run_id"]) == (0.25, "r1")
    derived = {link.title: link.target for link in item.get_links("derived_from")}
    assert derived == {
        "a file of the scene": "s3://bucket/in/a.tif", "the scene's Item": "s3://bucket/in/a.json",
        "the model": "../../models/0123456789ab.json",
    }  # fmt: skip
    assets, kinds = item.assets, pystac.MediaType
    assert {name: asset.media_type for name, asset in assets.items()} == {
        "cam": kinds.COG, "quicklook": kinds.PNG, "tiles": "application/vnd.apache.parquet",
        "detections": kinds.GEOPACKAGE, "detections_parquet": "application/vnd.apache.parquet",
        "detections_geojson": kinds.GEOJSON,
    }  # fmt: skip
    assert all(asset.roles for asset in assets.values())
    more = assets["cam"].extra_fields
    assert (more["proj:shape"], more["file:checksum"]) == ([12, 15], "1220" + SHA)
    assert [band["name"] for band in more["bands"]] == ["ship", "haze & fog"]


def test_no_ground_no_geometry_no_box() -> None:
    tree = json.loads(to_bytes(made(scene(None, None))))
    assert tree["geometry"] is None
    assert "bbox" not in tree
    assert not [name for name in tree["properties"] if name.startswith("proj:")]
    assert tree["properties"]["satray:georeferenced"] is False
    assert "proj:shape" not in tree["assets"]["cam"]


def test_a_stretch_of_time() -> None:
    end = datetime(2024, 6, 6, tzinfo=UTC)
    item = made(scene(), moment=Moment(None, "item", TAKEN, end))
    item.validate()
    assert item.datetime is None
    assert item.properties["end_datetime"] == "2024-06-06T00:00:00Z"


def model(weights: str = "s3://bucket/bundle/model.safetensors") -> pystac.Item:
    return model_item(spec(), "0123456789ab", weights, SHA)


def test_the_model_is_an_item_of_its_own() -> None:
    item = model()
    assert len(item.validate()) == 3
    assert to_bytes(item) == to_bytes(model())
    said = item.properties
    assert said["mlm:name"] == "satray-0123456789ab"
    assert said["mlm:input"][0]["bands"] == ["red", "green", "blue"]
    assert (said["satray:classes"], said["satray:thresholds"]) == (["ship"], [0.5])
    assert item.assets["model"].href == "s3://bucket/bundle/model.safetensors"
    assert item.assets["model"].extra_fields["file:checksum"] == "1220" + SHA
    assert model("/b/model.safetensors").assets["model"].href == "/b/model.safetensors"


def test_from_a_run_to_its_items_and_on_to_the_model(tmp_path) -> None:
    scenes = [scene(), scene(name="x y/é#1.tif"), scene(None, None, "plain.png")]
    items = [made(each) for each in scenes]
    names = [each.scene for each in scenes]
    boxes = [item.bbox for item in items if item.bbox]
    times = ["2024-05-06T07:08:09.5Z", "2024-05-06T07:08:09Z", "2024-05-06T07:08:10Z"]
    run = collection_of(MADE_BY, names, boxes, times, {"satray:mode": ["dense"]})
    for name, document in [
        (collection_name("r1"), run),
        (model_name("0123456789ab"), model()),
        *((item_name(item.properties["satray:scene"]), item) for item in items),
    ]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(to_bytes(document))
    back = pystac.Collection.from_file(str(tmp_path / collection_name("r1")))
    assert len(back.validate()) == 1
    assert (back.id, back.license) == ("r1", "other")
    assert back.extent.spatial.bboxes == [boxes[0]]
    ((first, last),) = back.extent.temporal.intervals
    assert (first, last) == (TAKEN, TAKEN.replace(second=10))
    assert back.summaries.lists == {"satray:model_id": ["0123456789ab"], "satray:mode": ["dense"]}
    there = list(back.get_items())
    maps = there[1].assets["cam"].get_absolute_href()
    assert Path(maps).resolve() == tmp_path / cam_name("x y/é#1.tif")
    assert [item.properties["satray:scene"] for item in there] == names
    for each in (back, *there):
        (link,) = (link for link in each.get_links("derived_from") if link.title == "the model")
        assert link.resolve_stac_object().target.properties["mlm:name"] == "satray-0123456789ab"
    for item in there:
        alone = pystac.Item.from_file(item.get_self_href())
        assert alone.collection_id == alone.get_collection().id == "r1"


def test_a_run_without_ground_is_anywhere() -> None:
    run = collection_of(MADE_BY, ["a"], [], ["2024-05-06T07:08:09Z"], {})
    run.validate()
    assert run.extent.spatial.bboxes == [[-180, -90, 180, 90]]


# ---- times

STORED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ITEM = {"properties": {"datetime": "2024-05-06T07:08:09.5Z"}}
AT = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("pattern", "scene", "expected"),
    [
        (r"_(?P<datetime>\d{8}T\d{6})_", "S2A_20240506T070809_R1.tif", AT),
        (r"(?P<datetime>\d{8})", "x/20240506.tif", datetime(2024, 5, 6, tzinfo=UTC)),
        (r"(?P<datetime>\d{4}-\d\d-\d\dT\d\d:\d\d)", "2024-05-06T07:08",
         datetime(2024, 5, 6, 7, 8, tzinfo=UTC)),
        (r"(?P<year>\d{4})(?P<doy>\d{3})", "LC8_2024127", datetime(2024, 5, 6, tzinfo=UTC)),
        (r"(?P<year>\d\d)-(?P<month>\d\d)", "24-05.tif", datetime(2024, 5, 1, tzinfo=UTC)),
        (r"(?P<year>\d{4})/(?P<month>\d+)/(?P<day>\d+)/(?P<hour>\d+)h(?P<minute>\d+)"
         r"(?:m(?P<second>\d+))?", "2024/5/6/7h8", datetime(2024, 5, 6, 7, 8, tzinfo=UTC)),
        # what does not match, or is no time, leaves it to the Item
        (r"(?P<year>\d{4})", "other", None),
        (r"(?P<datetime>\d{8})", "20241399", None),
        (r"(?P<year>\d{4})(?P<doy>\d{3})", "2023366", None),
        (r"(?P<year>\d{4})-(?P<month>\d\d)", "2024-13", None),
        (r"(?P<year>0)", "٢٠٢٤x", None),
    ],
)  # fmt: skip
def test_patterns(pattern: str, scene: str, expected: datetime | None) -> None:
    found = moment_of(scene, STORED, time_pattern(pattern), ITEM, "2020:01:01 00:00:00")
    assert found.source == ("pattern" if expected else "item")
    assert expected is None or found.at == expected


def test_order_of_sources() -> None:
    found = moment_of("a", STORED, None, ITEM, "2020:01:01 00:00:00")
    assert (found.source, stamp(found.at)) == ("item", "2024-05-06T07:08:09.500000Z")
    found = moment_of("a", STORED, None, {"properties": {"datetime": 5}}, "2020:01:02 03:04:05\x00")
    assert (found.source, found.at) == ("tiff", datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC))
    for item in (None, {}, {"properties": None}, {"properties": {"datetime": "soon"}}):
        found = moment_of("a", STORED, None, item, "    :  :  ")
        assert (found.source, found.at) == ("modified", STORED)


def test_an_item_may_say_a_stretch() -> None:
    item = {
        "properties": {
            "datetime": None,
            "start_datetime": "2024-05-01T00:00:00Z",
            "end_datetime": "2024-05-31T00:00:00+02:00",
        }
    }
    found = moment_of("a", STORED, None, item)
    assert (found.at, found.source) == (None, "item")
    assert found.end == datetime(2024, 5, 30, 22, tzinfo=UTC)
    del item["properties"]["end_datetime"]
    assert moment_of("a", STORED, None, item).source == "modified"


@pytest.mark.parametrize(
    ("text", "word"),
    [("(", "expression"), (r"\d+", "neither"), (r"(?P<year>\d+)(?P<moon>.)", "'moon'")],
)
def test_wrong_patterns_are_one_line(text: str, word: str) -> None:
    with pytest.raises(InputError, match=word) as caught:
        time_pattern(text)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=30), st.datetimes(timezones=st.just(UTC)))
def test_any_text_is_a_time_or_none_and_stamps_read_back(text: str, at: datetime) -> None:
    found = parse(text)
    assert found is None or found.tzinfo is not None
    assert parse(stamp(at)) == at
    assert stamp(at).endswith("Z")


# ---- names


def test_paths_are_safe_and_kinds_have_their_folders() -> None:
    for scene, path in (
        ("a/b-1.tif", "a/b-1.tif"),
        ("haze & fog/é.jp2", "haze%20%26%20fog/%C3%A9.jp2"),
        ("../../etc", "%2E./%2E./etc"),
        ("/x", "%2E%2E/x"),
        ("a//b", "a/%2E%2E/b"),
        ('a"<b>?.100%', "a%22%3Cb%3E%3F.100%25"),
        (".hidden", "%2Ehidden"),
    ):
        assert encoded(scene) == path
        assert cam_name(scene) == f"cam/{path}.tif"
        assert cam_name(scene, "nir", "argmax") == f"argmax/{path}__nir.tif"
        assert cam_path(scene, "rgb") == f"cam/{path}__rgb.tif"
        assert item_name(scene) == f"items/{path}.json"
        assert detections_name(scene, "gpkg") == f"detections/{path}.gpkg"
    page, picture = page_name("r"), quicklook_name("x y/#1.tif")
    assert page == "runs/r.html"
    href = link_between(page, picture, url=True)
    assert href == "../quicklooks/x%2520y/%25231.tif.png"
    assert unquote(href) == f"../{picture}"
    href = link_between(item_name("a/b.tif"), cam_name("a/b.tif"), url=False)
    assert href == "../../cam/a/b.tif.tif"


@given(st.text(min_size=1, max_size=200), st.text(min_size=1, max_size=200))
def test_no_name_leaves_its_folder_and_two_are_two(one: str, other: str) -> None:
    parts = encoded(one).split("/")
    assert all(0 < len(part) <= 180 and not part.startswith(".") for part in parts)
    assert len(parts) == one.count("/") + 1
    assert all(c.isascii() and (c.isalnum() or c in "-._~%/") for c in encoded(one))
    assert (encoded(one) == encoded(other)) == (one == other)
    assert encoded(one + "é" * 60 + "a") != encoded(one + "é" * 60 + "b")
