"""What scoring a scene leaves opens in other programs; none of our code reads it here."""

import json
from pathlib import Path
from urllib.parse import unquote

import geopandas
import maps_material as material
import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
import pyogrio
import pystac
import pytest
import rasterio
from page_checker import checked
from PIL import Image
from pystac.validation import JsonSchemaSTACValidator, set_validator
from rio_cogeo.cogeo import cog_validate
from score.products.test_catalogue import Offline

PLACES = ((104, 136), (232, 264))


@pytest.fixture(autouse=True)
def _offline():
    set_validator(Offline())
    yield
    set_validator(JsonSchemaSTACValidator())


@pytest.fixture(scope="module")
def out(bundle, tmp_path_factory):
    """A run over a scene in a folder and one without ground."""
    root = tmp_path_factory.mktemp("products")
    pixels = material.dotted(material.field(300, 400), *PLACES)
    tags = {"TIFFTAG_DATETIME": "2024:05:06 07:08:09"}
    path = material.write_scene(root / "scenes" / "x y" / "S2 é.tif", pixels)
    with rasterio.open(path, "r+") as target:
        target.update_tags(**tags)
    material.write_scene(root / "scenes" / "plain.tif", pixels[:, :150], crs=None)
    given = material.recipe(bundle(pooling="max"), root / "scenes", mode="dense", stride=0.5)
    run, _, _, _ = material.scored(given, root / "out")
    return Path(run.out)


NAME = "x%20y/S2%20%C3%A9.tif"


def test_rasters(out):
    for kind in ("cam", "argmax"):
        path = str(out / kind / f"{NAME}.tif")
        valid, errors, warnings = cog_validate(path, strict=True)
        assert (valid, errors, warnings) == (True, [], [])
        with rasterio.open(path) as source:
            assert source.dtypes == ("float32", "float32")
            assert source.descriptions == ("dot", "dark")
            assert source.crs.to_epsg() == 32631
            assert np.isnan(source.nodata)
            tags = source.tags()
            assert tags["kind"] == ("dense" if kind == "cam" else "argmax")
            assert tags["run_id"] == "abcdefabcdef"


def test_points(out):
    base = out / "detections" / NAME
    frames = [
        pyogrio.read_dataframe(f"{base}.gpkg", layer="detections"),
        geopandas.read_parquet(f"{base}.parquet"),
        geopandas.read_file(f"{base}.geojson"),
    ]
    for frame in frames:
        assert len(frame) == 2
        assert set(frame["class"]) == {"dot"}
        assert (frame.geometry.geom_type == "Point").all()
        there = frame.to_crs("EPSG:32631").geometry
        for row, col in PLACES:
            x, y = material.UTM @ (col, row)
            assert there.distance(geopandas.points_from_xy([x], [y])[0]).min() < 160
    assert frames[0].crs.to_epsg() == 32631
    text = json.loads(Path(f"{base}.geojson").read_text())
    assert "crs" not in text  # RFC 7946
    lon, lat = text["features"][0]["geometry"]["coordinates"]
    assert 2 < lon < 3
    assert 48 < lat < 49


def test_tiles(out):
    one = geopandas.read_parquet(out / "predictions" / f"{NAME}.parquet")
    assert one.crs.equals("OGC:CRS84")
    assert set(one["scene"]) == {"x y/S2 é.tif"}
    assert (one.geometry.geom_type == "Polygon").all()
    ground = one.to_crs("EPSG:32631").geometry
    assert ground.area.to_numpy() == pytest.approx(960**2, rel=1e-3)
    assert np.allclose(ground.total_bounds[[0, 3]], (448000, 5411000), atol=0.5)
    every = pyarrow.dataset.dataset(out / "predictions").to_table()
    plain = every.filter(pc.field("scene") == "plain.tif")
    assert len(every) == len(one) + len(plain)
    assert plain["geometry"].null_count == len(plain) > 0
    assert set(one["status"]) == {"ok"}


def test_catalogue(out):
    item = pystac.Item.from_file(str(out / "items" / f"{NAME}.json"))
    item.validate()
    assert unquote(item.id) == "x y/S2 é.tif"
    assert item.datetime.isoformat() == "2024-05-06T07:08:09+00:00"
    assert item.properties["satray:datetime_source"]
    for asset in item.assets.values():
        target = Path(asset.get_absolute_href())
        if str(target).startswith(str(out)):
            assert target.is_file()
    assert {"cam", "argmax", "quicklook", "tiles"} <= set(item.assets)
    plain = pystac.Item.from_file(str(out / "items" / "plain.tif.json"))
    plain.validate()
    assert plain.geometry is None
    assert plain.bbox is None
    run = pystac.Collection.from_file(str(out / "runs" / "abcdefabcdef.collection.json"))
    run.validate()
    assert run.extent.spatial.bboxes == [item.bbox]
    assert run.extent.temporal.intervals[0][0] == item.datetime
    assert run.summaries.get_list("satray:mode") == ["dense"]
    assert [one.id for one in run.get_items()] == [plain.id, item.id]
    (link,) = (link for link in item.get_links("derived_from") if link.title == "the model")
    model = link.resolve_stac_object().target
    model.validate()
    assert Path(model.assets["model"].href).is_file()
    assert item.get_collection().id == run.id == item.collection_id


def test_pictures_and_page(out):
    with Image.open(out / "quicklooks" / f"{NAME}.png") as picture:
        picture.load()
        assert max(picture.size) <= 1024
    page = out / "runs" / "abcdefabcdef.html"
    found = checked(page.read_bytes(), beside=("../quicklooks/",))
    links = {about["href"] for _, about in found.elements if "href" in about}
    assert len(links) >= 2
    for link in links:  # local, and there
        assert link[0] == "#" or (page.parent / unquote(link)).is_file()
    assert {"x y/S2 é.tif", "plain.tif"} <= set(found.text)


def test_each_says_what_computed(out):
    """Library, precision and mode: in each file of a scene, and of the run."""
    made = {"model_id", "run_id", "mode", "engine"}
    base, item = out / "detections" / NAME, json.loads((out / "items" / f"{NAME}.json").read_text())
    with (
        rasterio.open(out / "cam" / f"{NAME}.tif") as source,
        Image.open(out / "quicklooks" / f"{NAME}.png") as picture,
    ):
        told = [source.tags(), picture.text]
    told += [json.loads(Path(f"{base}.geojson").read_text())["features"][0]["properties"]]
    told += pyogrio.read_dataframe(f"{base}.gpkg").to_dict("records")
    told += pq.read_table(f"{base}.parquet").to_pylist()
    assert len(told) == 7
    (same,) = {tuple(one[name] for name in sorted(made)) for one in told}
    assert same == ("eager fp32", "dense", item["properties"]["satray:model_id"], "abcdefabcdef")
    engine = "eager fp32"
    table = pq.read_metadata(out / "predictions" / f"{NAME}.parquet").metadata
    assert table[b"satray:engine"] == engine.encode()
    assert item["properties"]["satray:engine"] == engine
    collection = json.loads((out / "runs" / "abcdefabcdef.collection.json").read_text())
    assert collection["summaries"]["satray:engine"] == [engine]
    assert set(pq.read_table(out / "scenes.parquet")["engine"].to_pylist()) == {engine}
    assert json.loads((out / "run.json").read_text())["metrics"]["engine"] == engine
    assert engine in (out / "runs" / "abcdefabcdef.html").read_text()
