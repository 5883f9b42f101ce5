"""`score scenes=` on real Ray: many scenes and parts, a bad one, killed processes, a schedule."""

import os
import signal
from pathlib import Path

import maps_material as material
import pytest
import rasterio

from satray.runs import executor
from satray.score import scenes_job
from satray.score.scene_stages import SceneStages
from satray.storage import Storage

pytestmark = [pytest.mark.pipeline, pytest.mark.s3]
WORKERS = {"workers": 2, "gpus": "no", "read_tasks": 2}
ONE = {**WORKERS, "workers": 1}


@pytest.fixture(scope="module")
def bundle(s3, ray_session, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    material.save_bundle(folder)
    return folder


DEATHS = {("tall.tif", "read"), ("tall.tif", "network"), ("1.tif", "write")}


def mortal(folder: str) -> type:
    """Stages of which a reader, an actor and a writer are killed, each once."""
    # local, so that they are pickled by value: workers cannot import tests

    def die(job, now):
        mark = Path(folder) / f"killed-{now}"
        if (job.ref.scene, now) in DEATHS and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def small_parts():
        from satray.score import layout

        layout.PART_BYTES = 1

    class Mortal(SceneStages):
        def open(self, item):
            small_parts()
            return SceneStages.open(self, item)

        def read(self, job, part):
            small_parts()
            die(job, "read")
            return SceneStages.read(self, job, part)

        def network(self, gpu):
            small_parts()
            real, engine = SceneStages.network(self, gpu)

            def network(job, part, windows):
                die(job, "network")
                return real(job, part, windows)

            return network, engine

        def write(self, job, parts, engine):
            die(job, "write")
            return SceneStages.write(self, job, parts, engine)

    return Mortal


def test_scenes_of_many_parts_and_a_bad_one_with_processes_killed(bundle, tmp_path, monkeypatch):
    places = ((136, 136), (392, 200), (680, 40))
    material.write_scene(
        tmp_path / "scenes" / "tall.tif", material.dotted(material.field(760, 260), *places)
    )
    for seed in range(3):
        pixels = material.dotted(material.field(110, 120, seed=seed), (72, 72))
        material.write_scene(tmp_path / "scenes" / f"{seed}.tif", pixels)
    (tmp_path / "scenes" / "bad.tif").write_bytes(b"no image")
    monkeypatch.setattr(scenes_job, "SceneStages", mortal(str(tmp_path)))
    given = material.recipe(
        bundle, tmp_path / "scenes", mode="dense", window=512, resources=WORKERS, drift="warn"
    )
    run, outcome, record, said = material.scored(given, tmp_path / "out", ray=True)
    assert {path.name for path in tmp_path.glob("killed-*")} == {
        f"killed-{stage}" for _, stage in DEATHS
    }
    rows = {row["scene"]: row for row in material.rows_of(run, "scenes.parquet")}
    assert {name: row["status"] for name, row in rows.items()} == {
        "0.tif": "done", "1.tif": "done", "2.tif": "done", "bad.tif": "failed", "tall.tif": "done",
    }  # fmt: skip
    assert (outcome.attempted, outcome.failed) == (5, 1)
    assert outcome.counts["detections"] == 6
    found = material.rows_of(run, "detections/tall.tif.parquet")
    for row, col in places:
        assert any(abs(p["row"] - row) < 16 and abs(p["col"] - col) < 16 for p in found)
    with rasterio.open(run.uri("cam/tall.tif.tif")) as source:
        assert source.shape == (24, 9)
    assert all(Path(run.uri(product.path)).is_file() for product in record.products)
    assert any("Mpx of network input a second" in line for line in said)
    assert "engine: eager fp32" in said
    assert {"reading (all processes)", "computing (all processes)"} <= set(record.seconds)
    # and in this process, with an actor's threads: with others convolutions add up otherwise
    monkeypatch.setattr(scenes_job, "SceneStages", SceneStages)
    monkeypatch.setattr(executor, "cores", lambda: 1)
    here, own, _, _ = material.scored(given, tmp_path / "here")
    assert own.counts == outcome.counts
    assert material.digests(here) == material.digests(run)


def test_a_schedule_in_a_bucket_twice(bundle, s3, tmp_path):
    storage, bucket = Storage(), s3.bucket("scenes")
    for seed, name in enumerate(("a.tif", "é ü/b.tif")):
        pixels = material.dotted(material.field(110, 120, seed=seed), (72, 72))
        path = material.write_scene(tmp_path / name, pixels)
        storage.write(f"{bucket}/scenes/{name}", path.read_bytes())
    given = material.recipe(
        bundle, f"{bucket}/scenes", mode="dense", resources=ONE, only_new=True,
        out=f"{bucket}/out", schedule={"settle": 0},
    )  # fmt: skip
    run, outcome, _, _ = material.scored(given, f"{bucket}/out", "1" * 12, ray=True)
    assert outcome.counts["scenes"] == 2
    assert outcome.counts["detections"] == 2
    keys = {entry.key for entry in storage.list(f"{bucket}/out")}
    assert {
        "predictions/a.tif.parquet", f"runs/{run.run_id}.json", "cam/a.tif.tif",
        "cam/%C3%A9%20%C3%BC/b.tif.tif", "items/a.tif.json", "quicklooks/a.tif.png",
        "detections/a.tif.gpkg",
    } <= keys  # fmt: skip
    _, outcome, _, said = material.scored(given, f"{bucket}/out", "2" * 12, ray=True)
    assert outcome.idle
    assert (*said, *outcome.summary)[-1] == "nothing to score"
    assert {entry.key for entry in storage.list(f"{bucket}/out")} == keys


def test_a_scene_that_kills_who_opens_it_is_given_up_and_costs_no_other(
    bundle, tmp_path, monkeypatch
):
    class Deadly(SceneStages):
        def open(self, item):
            found = SceneStages.open(self, item)  # it is claimed by then
            if item.ref.scene == "a.tif":
                os.kill(os.getpid(), signal.SIGKILL)
            return found

    monkeypatch.setattr(scenes_job, "SceneStages", Deadly)
    for seed, name in enumerate(("a.tif", "b.tif")):
        pixels = material.dotted(material.field(110, 120, seed=seed), (72, 72))
        material.write_scene(tmp_path / "scenes" / name, pixels)
    given = material.recipe(
        bundle, tmp_path / "scenes", mode="dense", resources=ONE, only_new=True,
        out=str(tmp_path / "out"), schedule={"settle": 0, "max_attempts": 1},
    )  # fmt: skip
    run, outcome, _, _ = material.scored(given, tmp_path / "out", "1" * 12, ray=True)
    (failure,) = material.rows_of(run, f"runs/{run.run_id}.failures.parquet")
    assert (failure["scene"], failure["stage"]) == ("a.tif", "open")
    assert failure["error"].startswith("the process that did it died: ")
    assert (outcome.counts["scenes"], outcome.failed) == (2, 1)
    _, outcome, _, said = material.scored(given, tmp_path / "out", "2" * 12, ray=True)
    assert outcome.idle
    assert "scenes: 1 done, 1 given up" in [*said, *outcome.summary]
