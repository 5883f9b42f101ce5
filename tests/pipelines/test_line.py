"""The whole line on a tiny generated archive, against a real S3 server over HTTP.

On disk the demo's test runs the same jobs (tests/demo/test_demo_line.py).
"""

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from by_hand import job_of

import satray.cluster
from satray.demo.archive import write_archive
from satray.runs.job import main
from satray.runs.run import RunRecord, read_run
from satray.storage import Storage, join

pytestmark = [pytest.mark.pipeline, pytest.mark.s3]

JOBS = {name: job_of(name) for name in ("prepare", "train", "evaluate", "score")}
TILES = 60
ODD = "scene 1/é"
"""Id of one more tile, such as need escaping in a URL."""


def line(root: str) -> list[tuple[str, list[str]]]:
    """The commands of the README, on a small scale."""
    return [
        (
            "prepare",
            [f"images={root}/tiles", f"labels={root}/labels.csv", f"out={root}/index",
             "bands=[blue,green,red,nir]"],
        ),
        (
            "train",
            [f"index={root}/index", f"out={root}/model", "variant=simple_cnn", "batch=8",
             "weights=none", "input.size=32", "stages.0.pseudo_epochs=2",
             "deterministic=true", "cache.enabled=false"],
        ),
        (
            "evaluate",
            [f"bundle={root}/model", f"index={root}/index", f"out={root}/quality"],
        ),
        (
            "score",
            [f"bundle={root}/model", f"tiles={root}/tiles", f"out={root}/scores",
             "cam.classes=[ship]", "batch=16"],
        ),
    ]  # fmt: skip


def run_line(root: str) -> dict[str, RunRecord]:
    write_archive(Storage(), root, TILES, 32, 0)
    Storage().write(f"{root}/tiles/broken.tif", b"II*\x00 not a tiff")
    labels = Storage().read(f"{root}/labels.csv")
    tile, first = labels.splitlines()[1].decode().split(",", 1)
    whole = Storage().read(f"{root}/tiles/{tile}.tif")
    Storage().write(f"{root}/tiles/{ODD}.tif", whole)
    more = f"broken,{first}\n{ODD},{first}\n"
    Storage().write(f"{root}/labels.csv", labels.rstrip() + b"\n" + more.encode())
    for name, arguments in line(root):
        assert main(JOBS[name], arguments) == 0, name
    return {name: read_run(Storage(), f"{root}/{where}") for name, where in WHERE.items()}


WHERE = {"prepare": "index", "train": "model", "evaluate": "quality", "score": "scores"}


def table(root: str, record: RunRecord, start: str) -> Any:
    storage, uri = Storage(), f"{root}/{WHERE[record.job]}"
    parts = [product.path for product in record.products if product.path.startswith(start)]
    tables = [pq.read_table(io.BytesIO(storage.read(join(uri, part)))) for part in parts]
    return pa.concat_tables(tables)


def check(root: str, records: dict[str, RunRecord]) -> None:
    """What a user would look at."""
    index = table(root, records["prepare"], "index/")
    assert len(index) == TILES + 1
    assert ODD in index.column("tile_id").to_pylist()
    quarantine = table(root, records["prepare"], "quarantine").to_pylist()
    assert [row["uri"].rsplit("/", 1)[1] for row in quarantine] == ["broken.tif"]

    history = table(root, records["train"], "history").to_pylist()
    assert len(history) == 2
    assert all(np.isfinite(row["train_loss"]) for row in history)

    evaluated = table(root, records["evaluate"], "predictions/")
    assert len(evaluated) == index.column("split").to_pylist().count("val")
    metrics = json.loads(Storage().read(f"{root}/quality/metrics.json"))
    kept = max(row["map"] for row in history)
    assert metrics["metrics"]["map"] == pytest.approx(kept, abs=1e-6)

    scored = table(root, records["score"], "predictions/").to_pylist()
    by_status = {row["tile_id"]: row["status"] for row in scored}
    assert len(by_status) == TILES + 2
    assert [name for name, status in by_status.items() if status != "ok"] == ["broken"]
    logits = {row["tile_id"]: row["logit_ship"] for row in scored}
    for row in evaluated.to_pylist():
        assert row["logit_ship"] == pytest.approx(logits[row["tile_id"]], abs=1e-4)
    cams = [p.path for p in records["score"].products if p.path.startswith("cam/")]
    assert len(cams) == TILES + 1
    assert "cam/scene%201/%C3%A9__rgb.tif" in cams
    for name, record in records.items():
        made = {product.path: product.bytes for product in record.products}
        listed = {entry.key: entry.size for entry in Storage().list(f"{root}/{WHERE[name]}")}
        kept = {key: size for key, size in listed.items() if not key.startswith("state/")}
        assert kept.keys() == {*made, "run.json"}
        assert {key: kept[key] for key in made} == made
    cam = Storage().read(f"{root}/scores/{cams[0]}")
    with rasterio.MemoryFile(cam) as memory, memory.open() as image:
        assert image.crs.to_string() == "EPSG:32631"
        assert image.descriptions == ("ship",)


@pytest.fixture(scope="module")
def root(s3: Any, ray_session: None) -> str:
    """Where the line runs; the S3 server first, so that workers know of it."""
    return str(s3.bucket("line") + "/a b")


@pytest.fixture(scope="module")
def records(root: str) -> dict[str, RunRecord]:
    return run_line(root)


def test_the_line(root: str, records: dict[str, RunRecord]) -> None:
    check(root, records)


def test_a_finished_line_is_found_done_and_starts_no_ray(
    root: str,
    records: dict[str, RunRecord],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_args: object, **_named: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(satray.cluster, "start", refuse)
    before = Storage().list(root)
    for name, arguments in line(root):
        assert main(JOBS[name], arguments) == 0
        assert "was done already" in capfd.readouterr().out
    assert Storage().list(root) == before


def test_a_changed_key_on_the_same_out_is_refused(
    root: str, records: dict[str, RunRecord], capfd: pytest.CaptureFixture[str]
) -> None:
    for name, arguments in line(root):
        changed = {"prepare": "split.seed=1", "train": "seed=1", "evaluate": "split=train",
                   "score": "cam.kind=argmax"}[name]  # fmt: skip
        assert main(JOBS[name], [*arguments, changed]) == 2
        assert "holds run" in capfd.readouterr().err
