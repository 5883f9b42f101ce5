"""The same scene, however it comes and whatever computes it; the classes that were asked for."""

import json
from pathlib import Path

import maps_material as material
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pytest
import rasterio
from affine import Affine
from by_hand import planned
from data.hostile import paged
from rasters import UTM

from satray.score import engines
from satray.score import job as score
from satray.score.scheduler import SMALL_PX
from satray.storage import Storage

DOTS = ((104, 136), (232, 200))


@pytest.fixture(scope="module")
def pixels():
    """Even numbers, so that a half of them is exact."""
    return material.dotted(material.field(300, 280), *DOTS) // 2 * 2


def logits_and_map(run, scene="a.tif"):
    names = ("tile_id", "logit_dot", "logit_dark", "row", "col")
    tiles = material.tiles_of(run)
    with rasterio.open(run.uri(f"cam/{scene}.tif")) as source:
        return [tuple(tile[name] for name in names[1:]) for tile in tiles], source.read()


@pytest.fixture(scope="module")
def plain(bundle, pixels, tmp_path_factory):
    """One file with its bands in order."""
    root = tmp_path_factory.mktemp("plain")
    material.write_scene(root / "scenes" / "a.tif", pixels)
    given = material.recipe(bundle(), root / "scenes", mode="dense", stride=0.5)
    run, outcome, _, _ = material.scored(given, root / "out")
    assert outcome.counts["detections"] == len(DOTS)
    return logits_and_map(run)


def as_list(root, pixels):
    rows = []
    for name, values in zip(material.BANDS, pixels, strict=True):
        path = material.write_scene(root / "files" / f"{name}.tif", values[None], names=None)
        rows.insert(0, {"scene": "a.tif", "uri": str(path), "band": name, "index": 1})
    pq.write_table(pa.Table.from_pylist(rows), root / "list.parquet")
    return root / "list.parquet", {}


def as_item(root, pixels, **stated):
    assets = {}
    for name, values in zip(material.BANDS, pixels, strict=True):
        material.write_scene(root / "item" / f"{name}.tif", values[None], names=None)
        assets[f"B_{name}"] = {
            "href": f"./{name}.tif",
            "type": "image/tiff; application=geotiff",
            "roles": ["data"],
            "eo:bands": [{"name": f"B_{name}", "common_name": name}],
            **stated,
        }
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": "a.tif", "geometry": None,
        "properties": {"datetime": "2024-05-06T07:08:09Z"}, "links": [], "assets": assets,
    }  # fmt: skip
    (root / "item" / "a.json").write_text(json.dumps(item))
    return root / "item", {}


def as_item_with_offset(root, pixels):
    return as_item(root, pixels + 1000, **{"raster:bands": [{"scale": 1e-4, "offset": -0.1}]})


def as_pages(root, pixels):
    path = root / "scenes" / "a.tif"
    path.parent.mkdir()
    grid = {33550: [10.0, 10.0, 0.0], 33922: [0.0, 0.0, 0.0, 448000.0, 5411000.0, 0.0]}
    named = zip(pixels, material.BANDS, strict=True)
    path.write_bytes(paged(*[(x_HW[None], {270: name, **grid}) for x_HW, name in named]))
    return path.parent, {"bands": tuple(material.BANDS)}


def as_other_order(root, pixels):
    path = material.write_scene(root / "scenes" / "a.tif", pixels[::-1], names=("x", "y", "z"))
    return path.parent, {"bands": {"red": 3, "green": "y", "blue": "x"}}


def as_halves(root, pixels):
    path = material.write_scene(root / "scenes" / "a.tif", pixels // 2)
    return path.parent, {"convert": "scale", "scale": 2.0}


def as_floats(root, pixels):
    values = (pixels.astype(np.float32) - 1000) / 16384
    path = material.write_scene(root / "scenes" / "a.tif", values)
    return path.parent, {"convert": "scale", "scale": 16384.0, "offset": 1000.0}


WAYS = (
    as_list,
    as_item,
    as_item_with_offset,
    as_pages,
    as_other_order,
    as_halves,
    as_floats,
)
SAID = {
    as_item_with_offset: "(stored * 1 - 1000): states scale 0.0001, offset -0.1; the bundle's",
    as_pages: "a.tif: 3 bands of 3 pages, pages taken as bands",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_scene_is_the_same_however_it_comes(bundle, inline, tmp_path, pixels, plain, way):
    scenes, keys = way(tmp_path, pixels)
    given = material.recipe(bundle(), scenes, mode="dense", stride=0.5, **keys)
    run, outcome, _, _ = material.scored(given, tmp_path / "out")
    assert outcome.failed == 0
    tiles, maps = logits_and_map(run)
    assert tiles == plain[0]
    np.testing.assert_array_equal(maps, plain[1])
    # what was made of its pages and numbers is said, and in its Item
    said = " ".join(
        json.loads(run.storage.read(run.uri("items/a.tif.json")))["properties"]["satray:notes"]
    )
    told = " ".join((*planned(score, given), *outcome.summary))
    for way_of, note in SAID.items():
        assert (note in said) is (note in told) is (way is way_of)


def test_a_run_that_goes_on_keeps_its_engine(bundle, inline, tmp_path, monkeypatch):
    """Chosen for all of its scenes, of which one is left."""
    for name in "ab":
        material.write_scene(tmp_path / "scenes" / f"{name}.tif", material.field(110, 120))
    given = material.recipe(bundle(backbone="mobilenetv2_100"), tmp_path / "scenes", stride=1.0)
    monkeypatch.setattr(engines, "PAYS", 3 * 110 * 120 // 2)

    def dies(number, part):
        if inline.done:
            raise KeyboardInterrupt

    inline.before = dies
    with pytest.raises(KeyboardInterrupt):
        material.scored(given, tmp_path / "out")
    inline.before = None
    run, _, _, _ = material.scored(given, tmp_path / "out")
    assert {row["engine"] for row in material.rows_of(run, "scenes.parquet")} == {"openvino fp32"}


@pytest.mark.parametrize("mode", ["dense", "tiles"])
def test_an_engine_gives_what_the_network_gives(bundle, inline, tmp_path, pixels, mode):
    material.write_scene(tmp_path / "scenes" / "a.tif", pixels)
    found = {}
    for engine in ("eager", "openvino"):
        given = material.recipe(
            bundle(backbone="mobilenetv2_100"), tmp_path / "scenes", mode=mode, engine=engine
        )
        run, _, _, said = material.scored(given, tmp_path / engine)
        line = f"{engine} fp32"
        assert f"engine: {line}" in said
        (item,) = (json.loads(run.storage.read(run.uri("items/a.tif.json"))),)
        assert item["properties"]["satray:engine"] == line
        with rasterio.open(run.uri("cam/a.tif.tif")) as source:
            assert source.tags()["engine"] == line
        table = pq.read_metadata(run.uri("predictions/a.tif.parquet"))
        assert table.metadata[b"satray:engine"] == line.encode()
        tiles, maps = logits_and_map(run)
        found[engine] = np.array(tiles), maps
    for one, other in zip(found["openvino"], found["eager"], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("keys", "classes"),
    [
        ({}, {"dot", "dark"}),
        ({"detections": {"classes": ["dark"]}}, {"dark"}),
        ({"detections": {"classes": ["dot"]}, "cam": {"classes": ["dark"]}}, {"dot"}),
        ({"cam": {"classes": ["dot"]}}, {"dot"}),
    ],
)
def test_detections_are_of_the_classes_asked_for(tmp_path, inline, pixels, bundle, keys, classes):
    material.write_scene(tmp_path / "scenes" / "a.tif", pixels)
    given = material.recipe(
        bundle(thresholds=(0.5, 0.001)), tmp_path / "scenes", mode="dense", **keys
    )
    run, outcome, _, _ = material.scored(given, tmp_path / "out")
    frame = pyogrio.read_dataframe(run.uri("detections/a.tif.gpkg"), layer="detections")
    assert set(frame["class"]) == classes
    assert outcome.counts["detections"] == len(frame)


@pytest.mark.parametrize(("stride", "mode"), [(1.0, "tiles"), (0.125, "dense")])
def test_auto_is_one_way_for_scenes_of_all_sizes_and_is_recorded(
    bundle, inline, tmp_path, stride, mode
):
    for name, size in (("small", (100, 100)), ("large", (330, 290))):
        material.write_scene(tmp_path / "scenes" / f"{name}.tif", material.field(*size))
    given = material.recipe(bundle(), tmp_path / "scenes", stride=stride)
    plan = "\n".join(planned(material.JOB, given))
    assert plan.count(f"{mode}: ") == 2
    run, outcome, record, _ = material.scored(given, tmp_path / "out")
    scenes = material.rows_of(run, "scenes.parquet")
    assert [row["mode"] for row in scenes] == [mode, mode]
    assert len({row["why"] for row in scenes}) == 1
    assert record.metrics["mode"] == mode
    assert any(line.startswith(f"mode: {mode}: ") for line in outcome.summary)
    metadata = pq.read_metadata(run.uri("predictions/small.tif.parquet")).metadata
    assert metadata[b"satray:mode"] == mode.encode()
    item = json.loads(Path(run.uri("items/large.tif.json")).read_text())
    assert item["properties"]["satray:mode"] == mode
    (page,) = (tmp_path / "out" / "runs").glob("*.html")
    assert page.read_text().count(f">{mode}</td>") == 2
    assert record.seconds["computing (all processes)"] > 0


def test_softmax_scores_are_over_all_classes_whichever_are_mapped(bundle, inline, tmp_path, pixels):
    material.write_scene(tmp_path / "scenes" / "a.tif", pixels)
    found = []
    for classes in ("dot", "all"):
        given = material.recipe(
            bundle(task="multiclass"), tmp_path / "scenes", mode="dense", cam={"classes": [classes]}
        )
        run, _, _, _ = material.scored(given, tmp_path / classes)
        rows = material.rows_of(run, "detections/a.tif.parquet")
        found.append([row["score"] for row in rows if row["class"] == "dot"])
    assert found[0] == found[1] != [1.0] * len(DOTS)


@pytest.mark.parametrize(
    ("more", "expected"),
    [({}, False), ({"stride": 0.05}, False), ({"stride": 0.05, "mode": "tiles"}, True)],
)
def test_overlapping_tiles_one_by_one_are_more_work_than_windows(
    tmp_path, bundle, pixels, more, expected
) -> None:
    material.write_scene(tmp_path / "scenes" / "a.tif", pixels)
    recipe = material.recipe(bundle(), tmp_path / "scenes", **more)
    assert score.large(recipe, score.read(recipe, Storage())) is expected


@pytest.mark.parametrize(
    ("side", "step", "compress", "expected"),
    [(2400, 10, None, False), (6000, 10, "deflate", True), (1000, 100, "deflate", True)],
)
def test_px_of_the_network_decide_not_bytes(
    tmp_path, bundle, side, step, compress, expected
) -> None:
    """35 MB of 6 Mpx; 0.2 MB of 36 Mpx; 1 Mpx of the ground of 100."""
    values = np.full((3, side, side), 2000, np.uint16)
    ground = UTM @ Affine.scale(step / 10)
    path = tmp_path / "scenes" / "a.tif"
    more = {} if compress is None else {"compress": compress}
    material.write_scene(path, values, transform=ground, **more)
    recipe = material.recipe(bundle(), tmp_path / "scenes", mode="dense")
    assert (path.stat().st_size > SMALL_PX) is not expected
    assert score.large(recipe, score.read(recipe, Storage())) is expected
