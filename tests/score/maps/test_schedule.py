"""only_new: each version of a scene once, whoever else works in the same folder."""

import hashlib
import json
import os
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import ClassVar

import maps_material as material
import pyarrow.parquet as pq
import pystac
import pytest

from satray.errors import InputError, SatrayError
from satray.runs.run import Run
from satray.score import job as score
from satray.score import scene_stages
from satray.score.ledger import Ledger, plan_pass
from satray.score.scenes_job import ledger_of
from satray.score.survey import Scoring
from satray.storage import Storage

OLD = 5000.0
"""Seconds since the scenes were written."""
KINDS = ("cam", "items", "predictions", "detections", "quicklooks")
TWO = {"schedule": {"max_attempts": 2}}


class Ran:
    """A run, and what it said and left."""

    def __init__(self, run, outcome, record, said):
        self.id, self.outcome, self.record = run.run_id, outcome, record
        self.said = [*said, *outcome.summary]
        self.counts, self.idle = outcome.counts, outcome.idle
        tables = {} if outcome.idle else {"scenes": "scenes", "failures": "failures"}
        self.tables = {
            name: {row["scene"]: row for row in material.rows_of(run, path)}
            for name in tables
            if Path(run.uri(path := f"runs/{run.run_id}.{name}.parquet")).exists()
        }

    @property
    def scenes(self) -> list[str]:
        """In its table of scenes."""
        return sorted(self.tables.get("scenes", ()))

    def says(self, text: str) -> bool:
        return any(text in line for line in self.said)


class Schedule:
    """A bucket of scenes, and an `out` that runs share."""

    def __init__(self, root: Path, bundle: Path) -> None:
        self.root, self.bundle, self.runs = root, bundle, 0
        self.scenes, self.out = root / "scenes", root / "out"
        self.scenes.mkdir()

    def put(self, *names: str, seed: int = 0, age: float = OLD) -> Path:
        for name in names:
            pixels = material.dotted(material.field(110, 120, seed=seed), (72, 72))
            (self.scenes / name).unlink(missing_ok=True)
            path = self.aged(material.write_scene(self.scenes / name, pixels), age)
        return path

    def aged(self, path: Path, age: float) -> Path:
        os.utime(path, (time.time() - age,) * 2)
        return path

    def recipe(self, **more):
        values = {"mode": "dense", "only_new": True, "out": str(self.out), **more}
        return material.recipe(self.bundle, self.scenes, **values)

    def run(self, **more) -> Ran:
        self.runs += 1
        return Ran(*material.scored(self.recipe(**more), self.out, f"{self.runs:012x}"))

    def claim(self, scene: str, run_id: str = "f" * 12):
        """Another owner's claim."""
        recipe, storage = self.recipe(), Storage()
        found = score.read(recipe, storage)
        run = Run("score", run_id, str(self.out), storage, print, print, shared=True)
        ledger = ledger_of(recipe, found, run)
        todo = plan_pass(found.found.scenes, ledger.look(), ledger, settle=0).todo
        (task,) = (task for task in todo if task.seen.scene == scene)
        claim = ledger.claim(task)
        assert claim is not None
        return ledger, claim

    def silent(self) -> None:
        """Let a long time pass for all that was said in the ledger."""
        for path in (self.out / "ledger").rglob("*"):
            if path.is_file():
                self.aged(path, 1000)

    def predicted(self) -> dict[str, int]:
        """How often each scene is in the tables of recorded runs; its predictions are there."""
        tables = sorted((self.out / "runs").glob("*.scenes.parquet"))
        scenes = [row for path in tables for row in pq.read_table(path).to_pylist()]
        done = [row["scene"] for row in scenes if row["status"] == "done"]
        for name in done:
            tiles = pq.read_table(self.out / "predictions" / f"{name}.parquet")
            assert set(tiles["scene"].to_pylist()) == {name}
        return dict(Counter(done))

    def collection(self, run_id: str) -> pystac.Collection:
        return pystac.Collection.from_file(str(self.out / "runs" / f"{run_id}.collection.json"))

    def files(self, *kinds: str) -> dict[str, bytes]:
        paths = [path for path in self.out.rglob("*") if path.is_file() and path.name[0] != "."]
        found = {str(path.relative_to(self.out)): path.read_bytes() for path in paths}
        return {n: data for n, data in found.items() if not kinds or n.split("/")[0] in kinds}


@pytest.fixture
def schedule(bundle, inline, tmp_path):
    return Schedule(tmp_path, bundle())


class Asked(Storage):
    """Counts what is listed and read, by its place below a folder."""

    seen: ClassVar[Counter[tuple[str, str]]] = Counter()

    def walk(self, prefix):
        self.seen["list", prefix] += 1
        return super().walk(prefix)

    def read(self, uri, version=None):
        self.seen["read", uri] += 1
        return super().read(uri, version)


def test_a_pass_that_finds_work_looks_once(schedule):
    """It lists scenes and ledger once, and reads each Item once."""
    for name in "ab":
        schedule.put(f"{name}.tif")
        item = {
            "type": "Feature", "stac_version": "1.0.0", "id": name, "geometry": None,
            "properties": {"datetime": "2024-05-06T07:08:09Z"}, "links": [],
            "assets": {"all": {"href": f"./{name}.tif", "roles": ["data"]}},
        }  # fmt: skip
        (schedule.scenes / f"{name}.json").write_text(json.dumps(item))
    storage = Asked()
    _, outcome, _, _ = material.scored(schedule.recipe(), schedule.out, storage=storage)
    assert (outcome.counts["scenes"], outcome.failed) == (2, 0)
    scenes, ledger = str(schedule.scenes), str(schedule.out / "ledger")
    once = [("list", scenes), ("list", ledger), *(("read", f"{scenes}/{n}.json") for n in "ab")]
    assert [storage.seen[place] for place in once] == [1, 1, 1, 1]


def test_twice_is_once(schedule, inline, tmp_path):
    assert schedule.run().said == ["scenes: none yet", "nothing to score"]
    schedule.put("a.tif", "b é/c.tif")
    first = schedule.run()
    assert (first.counts["scenes"], first.counts["detections"]) == (2, 2)
    assert sorted(inline.done) == [(0, 0), (1, 0)]
    before = schedule.files()
    assert {
        f"runs/{first.id}.json", f"runs/{first.id}.html",
        f"runs/{first.id}.scenes.parquet", "cam/a.tif.tif", "items/a.tif.json",
        f"runs/{first.id}.collection.json",
        "quicklooks/a.tif.png", "predictions/a.tif.parquet", "detections/a.tif.gpkg",
        "cam/b%20%C3%A9/c.tif.tif",
    } <= set(before)  # fmt: skip
    assert not {"run.json", f"runs/{first.id}.failures.parquet"} & set(before)
    for product in first.record.products:
        assert hashlib.sha256(before[product.path]).hexdigest() == product.sha256
    second = schedule.run()
    assert (second.idle, second.outcome.status) == (True, 0)
    assert second.said == ["scenes: 2 done", "nothing to score"]
    assert len(inline.done) == 2
    assert schedule.files() == before  # an hourly job leaves nothing an hour

    plain = material.recipe(schedule.bundle, schedule.scenes, mode="dense")
    with pytest.raises(InputError, match="not of a single run"):
        material.scored(plain, schedule.out)
    schedule.out = tmp_path / "plain"
    material.scored(plain, schedule.out)
    with pytest.raises(InputError, match="holds run abcdefabcdef"):
        schedule.run()


def test_another_file_other_settings_or_another_bundle_score_anew(schedule, bundle):
    schedule.put("a.tif", "b.tif")
    schedule.run()
    first = schedule.files("cam")
    other = material.write_scene(schedule.scenes / "a.tif", material.field(110, 150, seed=5))
    schedule.aged(other, OLD / 2)
    second = schedule.run()
    assert (second.scenes, second.counts["detections"]) == (["a.tif"], 0)
    assert schedule.files("cam")["cam/a.tif.tif"] != first["cam/a.tif.tif"]
    (schedule.scenes / "b.tif").unlink()
    same = {"error_budget": 0.3, "schedule": {"lease": 50}, "batch": 3}  # no product shows it
    assert schedule.run(**same).idle
    assert schedule.run(stride=0.5).scenes == ["a.tif"]
    mean, schedule.bundle = schedule.bundle, bundle(pooling="max")
    assert schedule.run().scenes == ["a.tif"]
    assert (schedule.out / "argmax/a.tif.tif").is_file()
    schedule.bundle = mean
    assert schedule.run().scenes == ["a.tif"]  # what stands there is the other bundle's
    assert not (schedule.out / "argmax/a.tif.tif").exists()


def test_scenes_that_still_change_are_left_for_the_next_time(schedule, inline):
    schedule.put("a.tif", "b.tif")
    young = schedule.put("c.tif", age=5)

    def overwritten(number, part):
        if number == 0:
            schedule.put("a.tif", seed=9, age=OLD / 2)

    inline.before = overwritten
    first = schedule.run()
    assert first.says("scenes: 2 to score, 1 left for the next time")
    assert first.says("  c.tif: changed ")
    rows = {name: row["status"] for name, row in first.tables["scenes"].items()}
    assert rows == {"a.tif": "skipped", "b.tif": "done"}
    assert first.says("a.tif: skipped: its provider changed it while it was scored")
    assert first.outcome.failed == 0
    assert "cam/a.tif.tif" not in schedule.files()
    schedule.aged(young, 100)
    assert schedule.run().scenes == ["a.tif", "c.tif"]


def test_what_is_no_scene_is_told_by_each_pass(schedule):
    """In the tables of those that score; the budget is of all that there is."""
    (schedule.scenes / "x.nc").write_bytes(b"x")
    schedule.put("a.tif", "b.tif", "c.tif")
    first = schedule.run(error_budget=0.3)
    assert (first.counts["scenes"], first.counts["failed"], first.outcome.status) == (3, 0, 0)
    (row,) = first.tables["failures"].values()
    assert (row["scene"], row["stage"]) == ("x.nc", "find")
    for budget, status in ((0.3, 0), (0.2, 3)):
        idle = schedule.run(error_budget=budget)
        assert (idle.idle, idle.outcome.status) == (True, status)
        assert idle.says("scenes: 3 done, 1 that are none")
        assert idle.says("  x.nc: no scene: .nc is not read")


def test_claims_of_others(schedule, inline):
    """One stands, one has expired, and one is made between the look and this run's own."""
    schedule.run()
    schedule.put("a.tif", "b.tif")
    ledger, claim = schedule.claim("b.tif", "e" * 12)
    schedule.silent()
    held, mine = schedule.claim("a.tif")
    first = schedule.run()
    assert first.says("scenes: 1 to score, 1 in work elsewhere")
    assert first.scenes == ["b.tif"]
    assert not ledger.stands(claim)
    assert held.stands(mine)
    held.close()

    px, inline.opening = inline.px, lambda number: schedule.claim("a.tif", "d" * 12)
    second = schedule.run()
    assert (second.idle, inline.px) == (True, px)
    assert second.says("in work elsewhere: 1 scene")
    inline.opening = None
    schedule.silent()
    assert schedule.run().scenes == ["a.tif"]
    schedule.run()
    assert not list((schedule.out / "ledger" / "runs").glob("*"))


def test_an_owner_that_was_taken_over_publishes_nothing(schedule, monkeypatch):
    """It is silent for long before it writes, and the other is through first."""
    schedule.put("a.tif")
    real, shown = scene_stages.SceneStages.write, []

    def slow(self, *more):
        monkeypatch.setattr(scene_stages.SceneStages, "write", real)
        schedule.silent()
        assert schedule.run().counts["detections"] == 1
        shown.append(schedule.files(*KINDS))
        return real(self, *more)

    monkeypatch.setattr(scene_stages.SceneStages, "write", slow)
    assert schedule.run().says("skipped: another run has taken it over")
    assert shown == [schedule.files(*KINDS)]


@pytest.mark.parametrize("moment", ["before the commit", "after the commit"])
def test_work_that_is_done_twice_is_committed_once(schedule, inline, monkeypatch, moment):
    """A task dies with its products written, or committed; Ray gives the scene to another."""
    schedule.put("a.tif", "b.tif")
    real, killed = Ledger.commit, []

    def deadly(self, claim, result):
        if not killed:
            if moment == "after the commit":
                real(self, claim, result)
            killed.append(schedule.files(*KINDS))
            raise InterruptedError
        return real(self, claim, result)

    write = scene_stages.SceneStages.write

    def again(self, job, parts, engine):
        parts = list(parts)
        try:
            return write(self, job, parts, engine)
        except InterruptedError:
            return write(self, job, parts, engine)

    monkeypatch.setattr(Ledger, "commit", deadly)
    monkeypatch.setattr(scene_stages.SceneStages, "write", again)
    ran = schedule.run()
    assert (ran.counts["scenes"], ran.outcome.failed) == (2, 0)
    after = schedule.files()
    assert killed[0].items() <= after.items()
    for product in ran.record.products:
        assert hashlib.sha256(after[product.path]).hexdigest() == product.sha256
    assert schedule.predicted() == {"a.tif": 1, "b.tif": 1}
    assert schedule.run().idle


def test_failures_are_tried_again_up_to_the_limit(schedule):
    schedule.put("a.tif")
    cut = schedule.put("b.tif")
    cut.write_bytes(cut.read_bytes()[:3000])
    schedule.aged(cut, OLD)
    dark = schedule.scenes / "c.tif"  # this one can never succeed
    material.write_scene(dark, (material.field(110, 120) // 256).astype("uint8"))
    schedule.aged(dark, OLD)
    failed = [schedule.run(**TWO).tables["failures"] for _ in range(2)]
    assert [sorted(rows) for rows in failed] == [["b.tif", "c.tif"], ["b.tif"]]
    assert {row["stage"] for rows in failed for row in rows.values()} <= {"open", "read"}
    third = schedule.run(**TWO)
    assert (third.idle, third.outcome.status) == (True, 0)  # as the budget of this test allows
    assert third.says("scenes: 1 done, 2 given up")
    assert third.says("  b.tif: given up: ")
    assert any("c.tif: given up: " in line and "dtype is uint8" in line for line in third.said)
    assert schedule.run(**TWO, error_budget=0.3).outcome.status == 3
    schedule.put("b.tif", seed=4, age=OLD / 2)  # whole at last
    last = schedule.run(**TWO)
    assert (last.scenes, last.counts["failed"]) == (["b.tif"], 0)


def test_runs_cut_short_give_up_only_what_they_tried(schedule):
    """Each dies with one scene in work; the fourth finds it given up, and scores the rest."""
    schedule.run()
    schedule.put("a.tif", "b.tif", "c.tif")
    for run in ("1" * 12, "2" * 12, "3" * 12):
        schedule.claim("a.tif", run)
        schedule.silent()
    first = schedule.run(error_budget=0.05)
    assert (first.scenes, first.outcome.status) == (["a.tif", "b.tif", "c.tif"], 3)
    (row,) = first.tables["failures"].values()
    assert (row["scene"], row["stage"]) == ("a.tif", "score")
    assert row["error"] == "given up: no sign of life from its owner for 900 s, attempt 3"
    assert first.says("a.tif: given up: no sign of life")
    before = schedule.files()
    second = schedule.run(error_budget=0.05)
    assert (second.idle, second.outcome.status) == (True, 3)  # until somebody looks
    assert second.says("is tried again without")
    assert set(schedule.files()) <= set(before)
    shutil.rmtree(schedule.out / "ledger" / "a.tif")
    third = schedule.run(error_budget=0.05)
    assert (third.scenes, third.outcome.status) == (["a.tif"], 0)


def test_a_scene_that_kills_each_process_that_opens_it_is_given_up(schedule, monkeypatch):
    schedule.put("a.tif")

    def deadly(self, ref, storage):
        raise KeyboardInterrupt

    monkeypatch.setattr(Scoring, "open", deadly)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            schedule.run(**TWO)
        # killed, it would not have said that it ends
        (schedule.out / "ledger" / "runs" / f"{schedule.runs:012x}").write_bytes(b"alive")
        schedule.silent()
    last = schedule.run(**TWO)
    assert last.says("a.tif: given up: no sign of life")
    assert last.tables["failures"].keys() == {"a.tif"}


def test_what_a_run_that_dies_had_finished_is_in_the_next_ones_tables(schedule, inline):
    """Each row once; what it left beside is removed, its state a week later."""
    schedule.put("0.tif", "1.tif", "2.tif", "3.tif")

    def dies(number, part):
        if len(inline.done) == 2:
            until = time.monotonic() + 60
            while len(list((schedule.out / "ledger").rglob("done"))) < 2:
                assert time.monotonic() < until
                time.sleep(0.02)
            raise KeyboardInterrupt

    inline.before = dies
    with pytest.raises(KeyboardInterrupt):
        schedule.run()
    orphan = schedule.out / "runs" / f"{schedule.runs:012x}.scenes.parquet"
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"of a run that died before its record")
    for name, age in {"dead": 8 * 86_400, "young": 3600}.items():
        piece = schedule.out / "state" / name / "results" / "000000.json"
        piece.parent.mkdir(parents=True)
        piece.write_bytes(b"half a scene")
        schedule.aged(piece, age)
    inline.before, inline.done = None, []
    second = schedule.run()
    assert second.scenes == ["0.tif", "1.tif", "2.tif", "3.tif"]
    assert (second.counts["scenes"], second.counts["adopted"]) == (4, 2)
    assert second.says("finished by runs that were cut short: 2 scenes")
    assert len(inline.done) == 2
    assert schedule.predicted() == {f"{number}.tif": 1 for number in range(4)}
    assert schedule.run().idle
    listed = [link.get_absolute_href() for link in schedule.collection(second.id).get_links("item")]
    items = [pystac.Item.from_file(href) for href in listed]
    # those of the run that died name it, and its Collection stands too
    assert Counter(item.get_collection().id for item in items) == {second.id: 2, f"{1:012x}": 2}
    states = {path.name for path in (schedule.out / "state").iterdir()}
    assert (states & {"dead", "young"}) == {"young"}
    assert schedule.run().idle


@pytest.mark.parametrize("moment", ["scoring", "the tables"])
def test_a_full_disk_is_the_error_and_gives_nothing_up(schedule, inline, monkeypatch, moment):
    """The first cause is told, though nothing more can be written, and no attempt is counted."""

    def full(*_, **__):
        raise SatrayError("No space left on device")

    schedule.put("a.tif")
    for _ in range(4):
        with monkeypatch.context() as patch:
            if moment == "scoring":
                inline.opening = lambda _, patch=patch: [
                    patch.setattr(Storage, name, full) for name in ("write", "upload")
                ]
            else:
                patch.setattr("satray.score.closing.close", full)
            with pytest.raises(SatrayError, match="No space left"):
                schedule.run()
        inline.opening = None
    schedule.silent()
    last = schedule.run()
    assert last.scenes == ["a.tif"]
    assert last.counts["adopted"] == (moment == "the tables")
    assert schedule.predicted() == {"a.tif": 1}
