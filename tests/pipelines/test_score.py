"""`score` and `evaluate` on real Ray: failures as rows, going on, the same results again."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import scoring_material as material
from by_hand import job_of, planned, worked
from page_checker import checked

from satray.config.score import EvaluateRecipe, ScoreRecipe
from satray.data.index import SCHEMA, IndexMeta, table_with, write_index
from satray.errors import InputError, SatrayError
from satray.evaluate import job as evaluate
from satray.models.bundle import load_bundle
from satray.runs.job import perform
from satray.runs.run import Run
from satray.score import blocks
from satray.score import job as score
from satray.storage import Storage

pytestmark = pytest.mark.pipeline
TILES = 22


@pytest.fixture(scope="module")
def setting(tmp_path_factory, ray_session) -> Path:
    """A bundle with two towers, tiles with ground, some of them bad, and an index of them."""
    root = tmp_path_factory.mktemp("score")
    bundle = material.save_bundle(root / "bundle", material.two_towers())
    for i in range(TILES):
        material.write_tile(root / "tiles" / f"scene {i % 2}" / f"{i:02d}.tif", material.pixels(i))
    scenes = root / "tiles" / "scene 0"
    (scenes / "empty.tif").write_bytes(b"")
    (scenes / "cut.tif").write_bytes((scenes / "00.tif").read_bytes()[:9000])
    material.write_tile(scenes / "rgb.tif", material.pixels(0, 3), names=("red", "green", "blue"))
    material.write_tile(scenes / "byte.tif", material.pixels(0, dtype="uint8"))
    (scenes / "readme.txt").write_text("no tile")
    logits = {}
    for path in sorted((root / "tiles").rglob("[0-9]*.tif")):
        with rasterio.open(path) as source:
            x = source.read([3, 2, 1, 4])[None]  # red, green, blue, nir
        import torch

        logits[path] = bundle.logits(torch.from_numpy(x)).numpy()[0]
    rows = [
        {
            "tile_id": path.stem,
            "uri": str(path),
            "split": "val" if i % 4 else "train",
            "labels": [int(value > np.median(list(logits.values()))) for value in logits[path]],
            "height": 48,
            "width": 48,
            "bands": list(material.BANDS),
            "dtype": "uint16",
            "crs": "EPSG:32631",
            "transform": list(material.UTM)[:6],
            "bytes": path.stat().st_size,
        }
        for i, path in enumerate(logits)
    ]
    meta = IndexMeta("multilabel", material.CLASSES, material.BANDS, "uint16", (48, 48), (), {})
    run = Run("prepare", "p" * 12, str(root / "prepared"), Storage())
    write_index([table_with(meta, pa.Table.from_pylist(rows, schema=SCHEMA))], run)
    return root


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_TILES", 5)
        yield


def recipe(setting: Path, **more: object) -> ScoreRecipe:
    values = {
        "bundle": str(setting / "bundle"),
        "tiles": str(setting / "tiles"),
        "cam": {"classes": ["ship", "haze & fog"]},
        "resources": {"workers": 1, "gpus": "no"},
        "error_budget": 0.5,
        **more,
    }
    return ScoreRecipe.model_validate(values)


def scored(setting: Path, out: Path, ray: bool = False, **more: object):
    given = recipe(setting, **more)
    said: list[str] = []
    run = Run("score", "abcdefabcdef", str(out), Storage(), said.append, said.append, ray=ray)
    return run, worked(score, given, run), said


@pytest.fixture(scope="module")
def whole(setting, small_blocks, tmp_path_factory):
    """The prefix scored by one actor, undisturbed: its run, outcome and what it said."""
    return scored(setting, tmp_path_factory.mktemp("whole") / "out", ray=True)


def table_of(run: Run) -> pa.Table:
    return pq.read_table(run.uri("predictions/part-00000.parquet"))


def products(run: Run) -> dict[str, str]:
    return {product.path: product.sha256 for product in run.products}


def test_in_this_process_as_on_ray(setting, whole, tmp_path) -> None:
    run, outcome, _ = scored(setting, tmp_path / "out")
    assert products(run) == products(whole[0])
    assert outcome.counts == whole[1].counts


def test_score_a_prefix(setting, whole) -> None:
    run, outcome, said = whole
    table = table_of(run)
    rows = {row["tile_id"]: row for row in table.to_pylist()}
    assert len(rows) == table.num_rows == TILES + 4
    bad = {name: row["error"] for name, row in rows.items() if row["status"] == "failed"}
    assert sorted(bad) == [f"scene 0/{name}" for name in ("byte", "cut", "empty", "rgb")]
    assert "no band nir" in bad["scene 0/rgb"]
    assert "dtype is uint8, the bundle's is uint16" in bad["scene 0/byte"]
    assert all(rows[name]["logit_ship"] is None for name in bad)
    failures = pq.read_table(run.uri("failures.parquet"))
    assert sorted(failures.column("tile_id").to_pylist()) == sorted(bad)
    assert (outcome.attempted, outcome.failed, outcome.status) == (TILES + 4, 4, 0)
    assert any("scored" in line and "a second" in line for line in said)
    with rasterio.open(run.uri("cam/scene%200/04__nir.tif")) as source:
        assert source.descriptions == ("ship", "haze & fog")
    bias = load_bundle(str(setting / "bundle"), Storage()).network.head.bias.numpy()
    row = rows["scene 0/04"]
    share = row["share_rgb_ship"] + row["share_nir_ship"] + bias[0]
    assert np.isclose(share, row["logit_ship"], atol=1e-3)
    assert outcome.counts["maps"] == 2 * TILES
    assert all(Path(run.uri(path)).is_file() for path in products(run))


def test_a_rerun_goes_on_and_ends_the_same(setting, whole, tmp_path) -> None:
    before = products(whole[0])
    shutil.copytree(whole[0].out, tmp_path / "out")
    parts = sorted((tmp_path / "out").glob("state/*/blocks-of-5/*.parquet"))
    assert [part.stem for part in parts] == [f"{i:06d}" for i in range(6)]
    kept = {
        part: part.stat().st_mtime_ns for part in parts if part.stem not in ("000001", "000004")
    }
    for part in set(parts) - set(kept):
        part.unlink()
    again, _, said = scored(setting, tmp_path / "out")
    assert products(again) == before
    assert any("going on: 4 of 6 blocks" in line for line in said)
    assert {part: part.stat().st_mtime_ns for part in kept} == kept  # not made again


def test_two_actors_say_what_one_says(setting, whole, tmp_path) -> None:
    resources = {"workers": 2, "gpus": "no", "read_tasks": 2}
    run, _, _ = scored(setting, tmp_path / "out", ray=True, cam={}, resources=resources)
    one, two = table_of(whole[0]), table_of(run)
    numbers = [name for name in one.column_names if one.schema.field(name).type == "float"]
    for name in sorted(set(one.column_names) - set(numbers)):
        assert one[name].to_pylist() == two[name].to_pylist(), name
    for name in numbers:  # another number of threads rounds otherwise
        assert np.allclose(one[name].to_numpy(), two[name].to_numpy(), atol=1e-4, equal_nan=True)


def test_a_run_that_dies_in_the_middle_goes_on(setting, whole, tmp_path) -> None:
    blocked = tmp_path / "out" / "cam" / "scene%201"
    blocked.parent.mkdir(parents=True)
    blocked.write_text(
        "a file where a folder must be"
    )  # the first map of scene 1 cannot be written
    with pytest.raises(SatrayError) as caught:
        scored(setting, tmp_path / "out", ray=True)
    assert str(caught.value).endswith("Not a directory")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "predictions").exists()
    done = list((tmp_path / "out" / "state").rglob("*.parquet"))
    assert len(done) < 6
    blocked.unlink()
    again, _, _ = scored(setting, tmp_path / "out")
    assert products(again) == products(whole[0])


def test_score_an_index_without_ground_or_maps(setting, whole, tmp_path) -> None:
    run, outcome, _ = scored(
        setting, tmp_path / "out", tiles=str(setting / "prepared" / "index"), cam={}
    )
    table = table_of(run)
    assert table.num_rows == TILES
    assert outcome.counts == {"tiles": TILES, "failed": 0, "maps": 0, "classes": 3}
    by_id = {row["tile_id"].split("/")[1]: row for row in table_of(whole[0]).to_pylist()}
    for row in table.to_pylist():  # two ways to read a tile, one result
        assert np.isclose(row["logit_ship"], by_id[row["tile_id"]]["logit_ship"], atol=1e-4)
        assert row["geometry"] == by_id[row["tile_id"]]["geometry"]


def test_png_tiles_without_ground(setting, tmp_path) -> None:
    material.save_bundle(
        tmp_path / "bundle",
        material.one_tower("max"),
        dtype="uint8",
        mean=(128.0,) * 3,
        std=(60.0,) * 3,
        task="binary",
        classes=("ship",),
    )
    for i in range(3):
        material.write_tile(
            tmp_path / "png" / f"{i}.png", material.pixels(i, 3, dtype="uint8"), None, None
        )
    run, outcome, _ = scored(
        setting,
        tmp_path / "out",
        bundle=str(tmp_path / "bundle"),
        tiles=str(tmp_path / "png"),
        cam={"classes": ["all"], "kind": "argmax"},
    )
    table = table_of(run)
    assert table.column("geometry").null_count == 3
    assert b"geo" not in (table.schema.metadata or {})
    assert not [name for name in table.column_names if name.startswith("share_")]
    with rasterio.open(run.uri("cam/1__rgb.tif")) as source:
        assert source.crs is None
        assert source.transform @ (1, 1) == (12.0, -12.0)
    assert outcome.failed == 0


def test_evaluate(setting, tmp_path) -> None:
    given = EvaluateRecipe.model_validate(
        {
            "bundle": str(setting / "bundle"),
            "index": str(setting / "prepared" / "index"),
            "split": "val",
            "resources": {"workers": 1, "gpus": "no"},
        }
    )
    found, made = evaluate.read(given, Storage()), []
    for ray in (True, False):
        out = str(tmp_path / f"{ray}")
        run = Run("evaluate", "abcdefabcdef", out, Storage(), ray=ray)
        record = perform(job_of("evaluate"), given, found, run)
        made.append(products(run))
    assert made[0] == made[1]  # on Ray as in this process
    checked(Path(run.uri("report.html")).read_bytes())
    assert {"report.html", "plots/reliability.png"} <= {p.path for p in record.products}
    table = table_of(run)
    assert table.num_rows == TILES - len(range(0, TILES, 4))
    stored = json.loads(Path(run.uri("metrics.json")).read_text())
    from sklearn.metrics import average_precision_score

    for name in material.CLASSES:
        target = table.column(f"target_{name}").to_numpy()
        logit = table.column(f"logit_{name}").to_numpy()
        expected = average_precision_score(target, logit)
        assert np.isclose(stored["metrics"]["ap"][name], expected)
    preds = np.stack([table.column(f"pred_{name}") for name in material.CLASSES])
    targets = np.stack([table.column(f"target_{name}") for name in material.CLASSES])
    assert np.isclose(stored["metrics"]["accuracy"], (preds == targets).mean())
    assert stored["metrics"]["map"] > 0.5  # labels follow the logits
    assert (record.attempted, record.failed, record.status) == (table.num_rows, 0, 0)
    assert any("majority" in line for line in record.summary)


def test_plan_says_what_it_would_do(setting) -> None:
    lines = planned(score, recipe(setting))
    assert any("26 images" in line for line in lines)
    assert any("52 files under cam/" in line for line in lines)
    index = {"tiles": str(setting / "prepared" / "index"), "extensions": ["tif"]}
    with pytest.raises(InputError, match="extensions: a tile index names its tiles; accepted"):
        planned(score, recipe(setting, **index))
