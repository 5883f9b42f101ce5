"""STAC: valid by pystac against core and extensions, without a network; times; names."""

import json
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

import pyproj
import pystac
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from pystac.validation import JsonSchemaSTACValidator, set_validator
from score.scenes.scene_material import spec

from satray.errors import InputError
from satray.runs.run import Product
from satray.score.outlines import SceneExtent
from satray.score.predictions import Layout
from satray.score.products import names
from satray.score.products.catalogue import (
    MadeFile,
    Moment,
    collection_of,
    item_of,
    map_fields,
    model_item,
    moment_of,
    parse,
    stamp,
    time_pattern,
    to_bytes,
)

SCHEMAS = Path(__file__).parent / "schemas"
UTM = (10.0, 0.0, 448000.0, 0.0, -10.0, 5411000.0)
BOX = [448000.0, 5407160.0, 452800.0, 5411000.0]
TAKEN = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
LAEA = pyproj.CRS("+proj=laea +lat_0=10 +lon_0=20 +datum=WGS84").to_wkt("WKT2_2019")
NOW = datetime(2026, 5, 1, 10, tzinfo=UTC)
SHA, MODEL = "ab" * 32, "0123456789ab"
MADE_BY = Layout(("ship",), ("rgb",), MODEL, "r1")


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


def made(ground: SceneExtent, towers: tuple[str | None, ...] = (None,), **more) -> pystac.Item:
    cells = Affine(80, 0, 447995, 0, -80, 5411005) if ground.georeferenced else None
    fields = map_fields(("ship", "haze & fog"), (12, 15), cells)
    files = [MadeFile("cam", b"", None, tower, fields) for tower in towers]
    kinds = ("quicklook", "detections", "detections_parquet", "detections_geojson", "tiles")
    files += [MadeFile(kind, b"") for kind in kinds]
    products = [
        (file, Product(names.product_path(file.kind, ground.scene, file.tower), 9, SHA))
        for file in files
    ]
    moment = more.pop("moment", Moment(TAKEN, "pattern"))
    return item_of(ground, moment, NOW, ["s3://bucket/in/a.tif"], MADE_BY, products, **more)


def scene(crs="EPSG:32631", affine=UTM, name: str = "a/b.tif") -> SceneExtent:
    return SceneExtent(name, 384, 480, crs, affine)


def model(weights: str = "s3://bucket/bundle/model.safetensors") -> pystac.Item:
    return model_item(spec(), MODEL, weights, SHA)


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
    back, tree = pystac.Item.from_file(str(path)), json.loads(path.read_bytes())
    assert len(back.validate()) == 1 + len(back.stac_extensions)
    assert tree["stac_version"] == "1.1.0"
    assert back.datetime == TAKEN
    assert back.properties["satray:datetime_source"] == "pattern"
    assert back.properties["satray:scene"] == ground.scene
    assert "/" not in back.id
    assert tree["properties"]["satray:georeferenced"] == ground.georeferenced
    placed = [name for name in tree["properties"] if name.startswith("proj:")]
    for there in ("proj:shape" in tree["assets"]["cam"], bool(placed)):
        assert there == ground.georeferenced
    assert ("bbox" in tree) == (tree["geometry"] is not None) == (ground.outline() is not None)


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
    assert (said["satray:model_id"], said["satray:classes"]) == (MODEL, ["ship"])
    assert not [name for name in said if name.startswith("mlm:") or name == "bands"]
    assert (said["satray:drift"], said["satray:run_id"]) == (0.25, "r1")
    derived = {link.title: link.target for link in item.get_links("derived_from")}
    assert derived == {
        "a file of the scene": "s3://bucket/in/a.tif", "the scene's Item": "s3://bucket/in/a.json",
        "the model": f"../../models/{MODEL}.json",
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


def test_the_model_is_an_item_of_its_own() -> None:
    item = model()
    assert len(item.validate()) == 3
    assert to_bytes(item) == to_bytes(model())
    said = item.properties
    assert said["mlm:name"] == f"satray-{MODEL}"
    assert said["mlm:input"][0]["bands"] == ["red", "green", "blue"]
    assert (said["satray:classes"], said["satray:thresholds"]) == (["ship"], [0.5])
    assert item.assets["model"].href == "s3://bucket/bundle/model.safetensors"
    assert item.assets["model"].extra_fields["file:checksum"] == "1220" + SHA
    assert model("/b/model.safetensors").assets["model"].href == "/b/model.safetensors"


def test_a_run_without_any_ground_is_somewhere_in_the_world() -> None:
    nowhere = collection_of(MADE_BY, ["a"], [], ["2024-05-06T07:08:09Z"], {})
    nowhere.validate()
    assert nowhere.extent.spatial.bboxes == [[-180, -90, 180, 90]]


# ---- times

STORED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ITEM = {"properties": {"datetime": "2024-05-06T07:08:09.5Z"}}


@pytest.mark.parametrize(
    ("pattern", "scene", "expected"),
    [
        (r"_(?P<datetime>\d{8}T\d{6})_", "S2A_20240506T070809_R1.tif", TAKEN),
        (r"(?P<datetime>\d{8})", "x/20240506.tif", datetime(2024, 5, 6, tzinfo=UTC)),
        (r"(?P<datetime>\d{4}-\d\d-\d\dT\d\d:\d\d)", "2024-05-06T07:08", TAKEN.replace(second=0)),
        (r"\.(?P<datetime>\d{7}T\d{6})\.", "HLS.T33UUB.2024127T070809.v2", TAKEN),
        (r"A(?P<datetime>\d{7})", "MOD_A2024127", datetime(2024, 5, 6, tzinfo=UTC)),
        (r"A(?P<datetime>\d+)", "A2024127070809.hdf", TAKEN),
        (r"A(?P<datetime>\d+)", "A20241270708.hdf", TAKEN.replace(second=0)),
        (r"A(?P<datetime>\d+)", "A20240506070809.hdf", TAKEN),
        (r"(?P<datetime>\d{7}T.*)", "2024127T090809+02:00", TAKEN),
        (r"(?P<datetime>\d{8}T.*)", "20240507T010809+1800", TAKEN),
        # what does not match, or is no time, leaves it to the Item
        (r"(?P<datetime>\d{4})", "other", None),
        (r"(?P<datetime>\d{8})", "20241399", None),
        (r"(?P<datetime>\d{7})", "2023366", None),
    ],
)  # fmt: skip
def test_patterns(pattern: str, scene: str, expected: datetime | None) -> None:
    found = moment_of(scene, STORED, time_pattern(pattern), ITEM, "2020:01:01 00:00:00")
    assert found.source == ("pattern" if expected else "item")
    assert expected is None or found.at == expected


def test_order_of_sources_and_stretches() -> None:
    found = moment_of("a", STORED, None, ITEM, "2020:01:01 00:00:00")
    assert (found.source, stamp(found.at)) == ("item", "2024-05-06T07:08:09.500000Z")
    found = moment_of("a", STORED, None, {"properties": {"datetime": 5}}, "2020:01:02 03:04:05\x00")
    assert (found.source, found.at) == ("tiff", datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC))
    for item in (None, {}, {"properties": None}, {"properties": {"datetime": "soon"}}):
        found = moment_of("a", STORED, None, item, "    :  :  ")
        assert (found.source, found.at) == ("modified", STORED)
    said = {"start_datetime": "2024-05-01T00:00:00Z", "end_datetime": "2024-05-31T00:00:00+02:00"}
    found = moment_of("a", STORED, None, {"properties": said})
    assert (found.at, found.source) == (None, "item")
    assert found.span == tuple(datetime(2024, 5, *at, tzinfo=UTC) for at in ((1,), (30, 22)))
    item = made(scene(), moment=found)
    item.validate()
    assert item.datetime is None
    assert item.properties["end_datetime"] == "2024-05-30T22:00:00Z"
    del said["end_datetime"]
    assert moment_of("a", STORED, None, {"properties": said}).source == "modified"


def test_wrong_patterns_are_one_line() -> None:
    for text, word in (
        ("(", "unterminated"), (r"\d+", "no such group"), (r"(?P<year>\d+)", "no such group"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"{word}.* accepted: a regular exp") as caught:
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
        ("a//b", "a/%2E%2E/b"),
        ('a"<b>?.100%', "a%22%3Cb%3E%3F.100%25"),
        (".hidden", "%2Ehidden"),
    ):
        assert names.encoded(scene) == path
        assert names.product_path("cam", scene) == f"cam/{path}.tif"
        assert names.product_path("argmax", scene, "nir") == f"argmax/{path}__nir.tif"
        assert names.product_path("detections", scene) == f"detections/{path}.gpkg"
    picture = names.product_path("quicklook", "x y/#1.tif")
    href = names.link_between(names.page_path("r"), picture, url=True)
    assert href == "../quicklooks/x%2520y/%25231.tif.png"
    assert unquote(href) == "../quicklooks/x%20y/%231.tif.png"


@given(st.text(min_size=1, max_size=200), st.text(min_size=1, max_size=200))
def test_no_name_leaves_its_folder_and_two_are_two(one: str, other: str) -> None:
    parts = names.encoded(one).split("/")
    assert all(0 < len(part) <= 180 and not part.startswith(".") for part in parts)
    assert len(parts) == one.count("/") + 1
    assert all(c.isascii() and (c.isalnum() or c in "-._~%") for c in "".join(parts))
    assert (names.encoded(one) == names.encoded(other)) == (one == other)
    assert names.encoded(one + "é" * 60 + "a") != names.encoded(one + "é" * 60 + "b")
