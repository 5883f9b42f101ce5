"""Scenes that are damaged, odd or meant to harm: a row or a line each, no other disturbed."""

import json
import os
from pathlib import Path

import maps_material as material
import numpy as np
import pytest
import rasterio
from affine import Affine
from data.hostile import tiff_header

from satray.errors import DecodeError
from satray.score import layout

GOOD = ("good.tif", "späte szene é.tif", "a..b/c...tif", "100%/it's #1?.tif")
SHAPE = (140, 170)


def pixels(seed=0, **more):
    return material.dotted(material.field(*SHAPE, seed=seed, **more), (72, 104))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Good scenes among bad ones."""
    root = tmp_path_factory.mktemp("hostile") / "scenes"
    for seed, name in enumerate(GOOD):
        material.write_scene(root / name, pixels(seed))
    # odd, but scenes
    material.write_scene(root / "no crs.tif", pixels(), crs=None)
    turned = Affine.translation(448000, 5411000) @ Affine.rotation(20) @ Affine.scale(10, -10)
    material.write_scene(root / "rotated.tif", pixels(), transform=turned)
    material.write_scene(root / "skewed.tif", pixels(), transform=Affine(10, 3, 4e5, 2, -10, 5e6))
    material.write_scene(root / "void.tif", np.zeros((3, *SHAPE), np.uint16), nodata=0)
    material.write_scene(root / "tiny.tif", pixels()[:, 60:84, 90:120])
    material.write_scene(root / "one px.tif", pixels()[:, :1, :1])
    material.write_scene(root / "line.tif", pixels()[:, :3])
    # none
    (root / "empty.tif").write_bytes(b"")
    (root / "text.tif").write_text("no image")
    # without names in it the file's directory comes first, so that it opens
    whole = material.write_scene(root / "cut.tif", pixels(), names=None, photometric="RGB")
    data = whole.read_bytes()
    (root / "cut.tif").write_bytes(data[: len(data) * 6 // 10])
    bands = material.write_scene(root / "bands.tif", pixels(), names=("swir16", "swir22", "nir"))
    assert bands.exists()
    material.write_scene(root / "two bands.tif", pixels()[:2], names=None)
    material.write_scene(root / "bytes.tif", (pixels() // 256).astype(np.uint8))
    material.write_scene(root / "flat.tif", pixels(), transform=Affine(10, 20, 0, 5, 10, 0))
    far = Affine(1e5, 0, 0, 0, -1e5, 0)
    material.write_scene(root / "coarse.tif", pixels(), transform=far)
    (root / "million.tif").write_bytes(tiff_header(10**6, 10**6))
    sparse = {"height": 10**6, "width": 10**6, "blockxsize": 16384, "blockysize": 16384}
    with rasterio.open(
        root / "sparse.tif", "w", driver="GTiff", dtype="uint16", count=3, crs="EPSG:32631",
        transform=material.UTM, tiled=True, SPARSE_OK=True, BIGTIFF=True, **sparse,
    ) as target:  # fmt: skip
        target.descriptions = material.BANDS
    (root / "elsewhere.vrt").write_text("<VRTDataset/>")
    (root / "item.json").write_text('{"type": "Feature", "stac_version": "1.1.0"}')
    (root / "notes.txt").write_text("no scene, and no row")
    # names that are no text
    data = (root / "good.tif").read_bytes()
    Path(os.fsdecode(os.fsencode(root) + b"/latin \xe9.tif")).write_bytes(data)
    material.write_scene(root / "named.tif", pixels())
    assets = {"all": {"href": "named.tif", "bands": [{"name": name} for name in material.BANDS]}}
    named = {"type": "Feature", "stac_version": "1.1.0", "id": "named", "assets": assets}
    Path(os.fsdecode(os.fsencode(root) + b"/latin \xe9.json")).write_text(json.dumps(named))
    return root


ODD = {
    "no crs.tif": "no CRS: pixel coordinates",
    "rotated.tif": None,
    "skewed.tif": None,
    "void.tif": "no tile holds enough data",
    "tiny.tif": None,
    "one px.tif": None,
    "line.tif": None,
}
BAD = {
    "empty.tif": ("open", "not an image that is read here"),
    "text.tif": ("open", "not an image that is read here"),
    "cut.tif": ("read", "cannot be read"),
    "bands.tif": ("open", "no band red"),
    "two bands.tif": ("open", "no band red"),
    "bytes.tif": ("open", "dtype is uint8"),
    "flat.tif": ("open", "area"),
    "coarse.tif": ("open", "accepted: 1/256 to 16"),
    "million.tif": ("open", ""),
    "sparse.tif": ("open", "declares 1,000,000 x 1,000,000 px"),
    "elsewhere.vrt": ("find", ".vrt is not read"),
    "item.json": ("find", ""),
    r"latin \udce9.tif": ("open", "no UTF-8"),
    "named": ("open", "no UTF-8"),
}


@pytest.fixture(scope="module", params=["dense", "tiles"])
def mode(request):
    return request.param


def test_bad_scenes_are_rows_and_good_ones_undisturbed(bundle, inline, scenes, tmp_path, mode):
    given = material.recipe(bundle(), scenes, mode=mode)
    run, outcome, record, _ = material.scored(given, tmp_path / "out")
    rows = {row["scene"]: row for row in material.rows_of(run, "scenes.parquet")}
    assert {name for name, row in rows.items() if row["status"] == "done"} == {*GOOD, *ODD}
    failures = {row["scene"]: row for row in material.rows_of(run, "failures.parquet")}
    told = {name: (row["stage"], row["error"]) for name, row in failures.items()}
    assert set(told) == set(BAD)
    for name, (stage, why) in BAD.items():
        assert told[name][0] == stage, told[name]
        assert why in told[name][1], told[name]
        assert "\n" not in told[name][1]
        assert 8 < len(told[name][1]) < 400
    for name, note in ODD.items():
        assert rows[name]["notes"] == note, rows[name]
    assert (outcome.attempted, outcome.failed) == (len(rows), len(BAD))
    assert any(f"{len(BAD)} of {len(rows)} scenes failed" in line for line in outcome.summary)
    assert not any(tmp_path.glob("c.tif*"))  # no name leads elsewhere
    assert all(Path(run.uri(product.path)).is_file() for product in record.products)
    inside = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    listed = {Path(run.uri(product.path)) for product in record.products}
    assert {path for path in inside if "state" not in path.parts} - listed == {
        tmp_path / "out" / "run.json"
    }
    # each good one as if it were alone
    tiles = material.tiles_of(run)
    alone = material.recipe(bundle(), scenes / "good.tif", mode=mode)
    single, _, _, _ = material.scored(alone, tmp_path / "alone")
    for path, digest in material.digests(single).items():
        if path.startswith(("cam/", "detections/", "quicklooks/", "predictions/")):
            assert material.digests(run)[path] == digest
    assert [tile for tile in tiles if tile["scene"] == "good.tif"] == material.tiles_of(single)
    assert {tile["status"] for tile in tiles if tile["scene"] == "void.tif"} == {"nodata"}
    assert all(tile["logit_dot"] is None for tile in tiles if tile["scene"] == "void.tif")
    assert material.rows_of(run, "detections/void.tif.parquet") == []


def test_a_scene_that_goes_away_costs_itself_only(bundle, inline, tmp_path):
    for name in "abc":
        material.write_scene(tmp_path / "scenes" / f"{name}.tif", pixels())
    gone = tmp_path / "scenes" / "b.tif"
    inline.opening = lambda number: number == 1 and gone.unlink()
    run, outcome, _, _ = material.scored(
        material.recipe(bundle(), tmp_path / "scenes", mode="dense"), tmp_path / "out"
    )
    (row,) = material.rows_of(run, "failures.parquet")
    assert (row["scene"], row["stage"]) == ("b.tif", "open")
    assert outcome.counts["detections"] == 2


def test_one_bad_part_fails_its_scene_once(bundle, inline, tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "PART_BYTES", 1)
    tall = material.field(600, 120)
    path = tmp_path / "scenes" / "a.tif"
    data = material.write_scene(path, tall, names=None, photometric="RGB").read_bytes()
    path.write_bytes(data[: len(data) // 2])
    material.write_scene(tmp_path / "scenes" / "b.tif", tall)
    given = material.recipe(bundle(), tmp_path / "scenes", mode="tiles", window=128)
    run, outcome, _, _ = material.scored(given, tmp_path / "out")
    (row,) = material.rows_of(run, "failures.parquet")
    assert (row["scene"], row["stage"]) == ("a.tif", "read")
    assert (outcome.attempted, outcome.failed) == (2, 1)


def test_what_a_file_does_to_the_network_costs_its_scene(bundle, inline, tmp_path):
    """Values that no float32 network can take."""
    for name in "ab":
        material.write_scene(tmp_path / "scenes" / f"{name}.tif", pixels())

    def odd(number, part):
        if number == 0:
            raise DecodeError("the network's output is not finite for 1 tiles")

    inline.before = odd
    given = material.recipe(bundle(), tmp_path / "scenes", mode="dense")
    run, _, _, _ = material.scored(given, tmp_path / "out")
    (row,) = material.rows_of(run, "failures.parquet")
    assert row["error"] == "the network's output is not finite for 1 tiles"
    assert row["stage"] == "score"


def test_drift_is_told_or_refused(bundle, inline, tmp_path):
    usual = np.random.default_rng(0).normal(2000, 1000, (3, *SHAPE)).clip(1).astype(np.uint16)
    material.write_scene(tmp_path / "scenes" / "a.tif", usual)
    material.write_scene(tmp_path / "scenes" / "b.tif", usual + 9000)
    results = {}
    for drift in ("warn", "refuse"):
        given = material.recipe(bundle(), tmp_path / "scenes", mode="dense", drift=drift)
        results[drift] = material.scored(given, tmp_path / drift)
    run, outcome, _, _ = results["warn"]
    a, b = material.rows_of(run, "scenes.parquet")
    assert (a["status"], b["status"]) == ("done", "done")
    assert a["drift"] < 1 < b["drift"]
    assert a["notes"] is None
    assert any(line.startswith("b.tif: ") for line in outcome.summary)
    run, outcome, _, _ = results["refuse"]
    (row,) = material.rows_of(run, "failures.parquet")
    assert (row["scene"], row["stage"]) == ("b.tif", "drift")
    assert outcome.failed == 1
