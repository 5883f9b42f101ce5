"""only_new: each version of a scene once, whoever else works in the same folder."""

import hashlib
import json
import os
import shutil
import time
from collections import Counter
from pathlib import Path

import maps_material as material
import pyarrow.parquet as pq
import pytest

from satray.config.score import ScoreRecipe
from satray.errors import InputError, SatrayError
from satray.runs.run import Run
from satray.scoring import score
from satray.scoring.ledger import plan_pass
from satray.scoring.maps.look import ledger_of
from satray.storage import Storage

STORE = Storage()
OLD = 5000.0
"""Seconds since the scenes were written."""


class Schedule:
    """A bucket of scenes, and an `out` that runs share."""

    def __init__(self, root: Path, bundle: Path) -> None:
        self.root, self.bundle, self.runs = root, bundle, 0
        self.scenes, self.out = root / "scenes", root / "out"
        self.scenes.mkdir()

    def put(self, name: str, seed: int = 0, age: float = OLD) -> Path:
        pixels = material.dotted(material.field(110, 120, seed=seed), (72, 72))
        (self.scenes / name).unlink(missing_ok=True)
        path = material.write_scene(self.scenes / name, pixels)
        return self.aged(path, age)

    def aged(self, path: Path, age: float) -> Path:
        os.utime(path, (time.time() - age,) * 2)
        return path

    def recipe(self, **more) -> ScoreRecipe:
        given = {"mode": "dense", "only_new": True, "out": str(self.out), **more}
        return material.recipe(self.bundle, self.scenes, **given)

    def run(self, **more):
        """One run: its id, outcome, record and what was said at last."""
        self.runs += 1
        run, outcome, record, said = material.scored(
            self.recipe(**more), self.out, f"{self.runs:012x}"
        )
        return run, outcome, record, [*said, *outcome.summary]

    def claim(self, scene: str, run_id: str = "f" * 12):
        """Another owner's claim."""
        recipe = self.recipe()
        found = score.read(recipe, STORE)
        run = Run("score", run_id, str(self.out), STORE, print, print, shared=True)
        ledger = ledger_of(recipe, found, run)
        by = plan_pass(found.found.scenes, ledger.look(), ledger, settle=0)
        (task,) = (task for task in by.todo if task.seen.scene == scene)
        claim = ledger.claim(task.key, task.history, task.looked)
        assert claim is not None
        return ledger, claim

    def silent(self) -> None:
        """Let a long time pass for all that was said in the ledger."""
        for path in (self.out / "ledger").rglob("*"):
            if path.is_file():
                self.aged(path, 1000)

    def predicted(self) -> dict[str, int]:
        """Rows by scene in the predictions of all recorded runs."""
        runs = [path.stem for path in (self.out / "runs").glob("*.json")]
        tables = {path.stem for path in (self.out / "predictions").glob("*.parquet")}
        assert tables <= set(runs)
        found = [pq.read_table(self.out / "predictions" / f"{run}.parquet") for run in tables]
        return dict(Counter(row for table in found for row in table["scene"].to_pylist()))

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.out)): path.read_bytes()
            for path in self.out.rglob("*")
            if path.is_file() and not path.name.startswith(".")
        }


@pytest.fixture
def schedule(bundle, inline, tmp_path):
    return Schedule(tmp_path, bundle())


def scored_in(run) -> list[str]:
    return [row["scene"] for row in material.rows_of(run, f"runs/{run.run_id}.scenes.parquet")]


def test_twice_is_once(schedule, inline):
    schedule.put("a.tif")
    schedule.put("b é/c.tif", seed=1)
    run, outcome, record, said = schedule.run()
    assert outcome.counts["scenes"] == 2
    assert outcome.counts["detections"] == 2
    assert record.run_id == run.run_id
    assert inline.done == [(0, 0), (1, 0)]
    out = schedule.out
    for path in (
        f"predictions/{run.run_id}.parquet", f"runs/{run.run_id}.json",
        f"runs/{run.run_id}.html", f"runs/{run.run_id}.scenes.parquet",
        "cam/a.tif.tif", "items/a.tif.json", "quicklooks/a.tif.png", "tables/a.tif.parquet",
        "detections/a.tif.gpkg", "cam/b%20%C3%A9/c.tif.tif",
    ):  # fmt: skip
        assert (out / path).is_file(), path
    assert not (out / "run.json").exists()
    assert not (out / f"runs/{run.run_id}.failures.parquet").exists()
    listed = json.loads((out / f"runs/{run.run_id}.json").read_text())["products"]
    assert all((out / product["path"]).is_file() for product in listed)
    before = schedule.files()
    inline.done.clear()
    _, outcome, _, said = schedule.run()
    assert outcome.idle
    assert outcome.status == 0
    assert inline.done == []
    assert "nothing to score" in said
    assert "scenes: 2 done" in said
    assert schedule.files() == before  # an hourly job leaves nothing an hour


def test_nothing_is_there_yet(schedule):
    _, outcome, _, said = schedule.run()
    assert outcome.idle
    assert said == ["scenes: none yet", "nothing to score"]


def test_a_scene_that_its_provider_overwrites(schedule, inline):
    schedule.put("a.tif")
    schedule.put("b.tif")
    schedule.run()
    first = (schedule.out / "cam/a.tif.tif").read_bytes()
    other = material.field(110, 150, seed=5)
    schedule.aged(material.write_scene(schedule.scenes / "a.tif", other), OLD / 2)
    run, outcome, _, _ = schedule.run()
    assert scored_in(run) == ["a.tif"]
    assert outcome.counts["detections"] == 0
    assert (schedule.out / "cam/a.tif.tif").read_bytes() != first
    assert pq.read_table(schedule.out / "detections/a.tif.parquet").num_rows == 0
    assert schedule.run()[1].idle


def test_growing_scenes_are_left_for_the_next_time(schedule):
    schedule.put("a.tif")
    young = schedule.put("b.tif", age=5)
    run, _, _, said = schedule.run()
    assert scored_in(run) == ["a.tif"]
    assert "scenes: 1 to score, 1 left for the next time" in said
    assert any(line.startswith("  b.tif: changed ") for line in said)
    assert schedule.run()[1].idle
    schedule.aged(young, 100)
    run, _, _, _ = schedule.run()
    assert scored_in(run) == ["b.tif"]


def test_a_scene_that_changes_under_the_network_is_not_published(schedule, inline):
    path = schedule.put("a.tif")
    schedule.put("b.tif")

    def overwritten(number, unit):
        if number == 0 and not inline.done:
            schedule.aged(schedule.put("a.tif", seed=9), OLD / 2)

    inline.before = overwritten
    run, outcome, _, said = schedule.run()
    rows = {row["scene"]: row for row in material.rows_of(run, f"runs/{run.run_id}.scenes.parquet")}
    assert {name: row["status"] for name, row in rows.items()} == {
        "a.tif": "skipped",
        "b.tif": "done",
    }
    assert "its provider changed it" in rows["a.tif"]["error"]
    assert outcome.failed == 0
    assert not (schedule.out / "cam/a.tif.tif").exists()
    assert any("a.tif: skipped: its provider changed it" in line for line in said)
    run, _, _, _ = schedule.run()
    assert scored_in(run) == ["a.tif"]
    assert path.exists()


def test_another_owners_claim_is_respected(schedule, inline):
    schedule.run()
    schedule.put("a.tif")
    schedule.put("b.tif")
    ledger, claim = schedule.claim("a.tif")
    run, _, _, said = schedule.run()
    assert scored_in(run) == ["b.tif"]
    assert "scenes: 1 to score, 1 in work elsewhere" in said
    assert schedule.run()[1].idle
    assert ledger.stands(claim)


def test_a_claim_made_between_the_look_and_ours(schedule, inline):
    schedule.put("a.tif")
    inline.before = lambda number, unit: schedule.claim("a.tif")
    _, outcome, _, said = schedule.run()
    assert inline.px == 0
    assert outcome.idle
    assert "1 scenes are in work elsewhere" in said


def test_an_expired_claim_is_taken_over(schedule, inline):
    schedule.run()
    schedule.put("a.tif")
    ledger, claim = schedule.claim("a.tif")
    schedule.silent()
    run, _, _, _ = schedule.run()
    assert scored_in(run) == ["a.tif"]
    assert not ledger.stands(claim)
    marks = {p.name for p in (schedule.out / "ledger").rglob("*") if p.is_file()}
    assert {"0001", "0002", "done"} <= marks
    schedule.run()
    assert not list((schedule.out / "ledger" / "runs").glob("*"))


def test_an_owner_that_was_taken_over_publishes_nothing(schedule, inline, monkeypatch):
    """It is silent for long before it delivers, and the other is through first."""
    from satray.scoring.maps import actor

    schedule.put("a.tif")
    real, shown = actor.Delivery.deliver, []

    def slow(self, *given):
        monkeypatch.setattr(actor.Delivery, "deliver", real)
        schedule.silent()
        run, outcome, _, _ = schedule.run()
        assert outcome.counts["detections"] == 1
        shown.append((run.run_id, schedule.files()))
        return real(self, *given)

    monkeypatch.setattr(actor.Delivery, "deliver", slow)
    _, _, _, said = schedule.run()
    ((winner, before),) = shown
    after = schedule.files()
    for path, data in before.items():
        if path.split("/")[0] in ("cam", "items", "tables", "detections", "quicklooks"):
            assert after[path] == data
    item = json.loads(after["items/a.tif.json"])
    assert winner in json.dumps(item)
    assert any("skipped: another run has taken it over" in line for line in said)


def test_failures_are_tried_again_up_to_the_limit(schedule, inline):
    schedule.put("a.tif")
    cut = schedule.put("b.tif")
    cut.write_bytes(cut.read_bytes()[:3000])
    schedule.aged(cut, OLD)
    for attempt in (1, 2):
        run, outcome, _, _ = schedule.run(schedule={"max_attempts": 2})
        assert outcome.failed == 1
        (row,) = material.rows_of(run, f"runs/{run.run_id}.failures.parquet")
        assert (row["scene"], row["stage"] in ("open", "read")) == ("b.tif", True), attempt
    _, outcome, _, said = schedule.run(schedule={"max_attempts": 2})
    assert outcome.idle
    assert "scenes: 1 done, 1 given up" in said
    assert any(line.startswith("  b.tif: given up: ") for line in said)
    assert outcome.status == 0  # as the budget of this test allows
    assert schedule.run(schedule={"max_attempts": 2}, error_budget=0.3)[1].status == 3
    schedule.put("b.tif", seed=4, age=OLD / 2)  # whole at last
    run, outcome, _, _ = schedule.run(schedule={"max_attempts": 2})
    assert scored_in(run) == ["b.tif"]
    assert outcome.failed == 0


def test_what_can_never_succeed_is_tried_once(schedule):
    pixels = material.field(110, 120)
    path = material.write_scene(schedule.scenes / "a.tif", (pixels // 256).astype("uint8"))
    schedule.aged(path, OLD)
    assert schedule.run()[1].failed == 1
    _, outcome, _, said = schedule.run()
    assert outcome.idle
    assert any("a.tif: given up: " in line and "dtype is uint8" in line for line in said)


def test_a_run_that_dies_gives_its_scenes_back(schedule, inline):
    """What it had finished stands in the tables of the run that finds it, each row once."""
    for number in range(4):
        schedule.put(f"{number}.tif", seed=number)

    def dies(number, unit):
        if number == 1:
            raise KeyboardInterrupt

    inline.before = dies
    with pytest.raises(KeyboardInterrupt):
        schedule.run()
    orphan = schedule.out / "predictions" / f"{schedule.runs:012x}.parquet"
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"of a run that died before its record")
    inline.before, inline.done = None, []
    run, outcome, _, said = schedule.run()
    assert sorted(scored_in(run)) == ["0.tif", "1.tif", "2.tif", "3.tif"]
    assert (outcome.counts["scenes"], outcome.counts["adopted"]) == (4, 1)
    assert any("1 scenes were finished by runs that were cut short" in line for line in said)
    assert len(inline.done) == 3
    assert schedule.predicted() == {f"{number}.tif": 1 for number in range(4)}
    assert schedule.run()[1].idle


def test_a_cut_run_that_had_finished_all(schedule, inline, monkeypatch):
    schedule.put("a.tif")
    with monkeypatch.context() as patch:
        patch.setattr("satray.scoring.maps.closing.close", dies_of_a_full_disk)
        with pytest.raises(SatrayError, match="No space left"):
            schedule.run()
    inline.done.clear()
    run, outcome, _, _said = schedule.run()
    assert (outcome.counts["scenes"], outcome.counts["adopted"]) == (1, 1)
    assert scored_in(run) == ["a.tif"]
    assert inline.done == []
    assert schedule.predicted() == {"a.tif": 1}
    assert schedule.run()[1].idle


def dies_of_a_full_disk(*_, **__):
    raise SatrayError("No space left on device")


def test_a_full_disk_is_the_error_and_gives_nothing_up(schedule, inline, monkeypatch):
    """The first cause is told, though nothing more can be written, and no attempt is counted."""
    schedule.put("a.tif")
    for _ in range(4):
        with monkeypatch.context() as patch:

            def full(number, unit, patch=patch):
                patch.setattr(Storage, "write", dies_of_a_full_disk)
                patch.setattr(Storage, "upload", dies_of_a_full_disk)

            inline.before = full
            with pytest.raises(SatrayError, match="No space left"):
                schedule.run()
        inline.before = None
    schedule.silent()
    run, _, _, _ = schedule.run()
    assert scored_in(run) == ["a.tif"]


@pytest.mark.parametrize("moment", ["before the commit", "after the commit"])
def test_work_that_is_done_twice_is_committed_once(schedule, inline, monkeypatch, moment):
    """An actor dies with its products written, or committed; Ray gives the unit to another."""
    from satray.scoring.maps import actor

    schedule.put("a.tif")
    schedule.put("b.tif", seed=1)
    real, killed = actor.Delivery.commit, []

    def deadly(self, claim, result):
        if not killed:
            if moment == "after the commit":
                real(self, claim, result)
            killed.append(schedule.files())
            raise InterruptedError
        real(self, claim, result)

    monkeypatch.setattr(actor.Delivery, "commit", deadly)

    def through(name, blocks, pool, make):
        for block in blocks:
            try:
                yield from inline(name, [block], pool, make)
            except InterruptedError:
                yield from inline(name, [block], pool, make)

    monkeypatch.setattr("satray.scoring.maps.crew.through_actors", through)
    _run, outcome, record, _ = schedule.run()
    assert (outcome.counts["scenes"], outcome.failed) == (2, 0)
    after = schedule.files()
    ((before),) = killed
    for path, data in before.items():
        if path.split("/")[0] in ("cam", "items", "tables", "detections", "quicklooks"):
            assert after[path] == data, path
    for product in record.products:
        assert hashlib.sha256(after[product.path]).hexdigest() == product.sha256
    assert schedule.predicted() == {"a.tif": 1, "b.tif": 1}
    assert schedule.run()[1].idle


def test_runs_cut_short_give_up_only_what_they_tried(schedule, inline):
    """Each dies with one scene in work; the fourth finds it given up, and scores the rest."""
    schedule.run()
    for name in ("a.tif", "b.tif", "c.tif"):
        schedule.put(name)
    for run in ("1" * 12, "2" * 12, "3" * 12):
        schedule.claim("a.tif", run)
        schedule.silent()
    run, outcome, _, said = schedule.run(error_budget=0.05)
    assert sorted(scored_in(run)) == ["a.tif", "b.tif", "c.tif"]
    assert outcome.status == 3
    (row,) = material.rows_of(run, f"runs/{run.run_id}.failures.parquet")
    assert (row["scene"], row["stage"]) == ("a.tif", "score")
    assert row["error"] == "given up: no sign of life from its owner for 900 s, attempt 3"
    assert any("a.tif: given up: no sign of life" in line for line in said)
    before = schedule.files()
    _, outcome, _, said = schedule.run(error_budget=0.05)
    assert (outcome.idle, outcome.status) == (True, 3)  # and it stays so, until somebody looks
    assert any("is tried again without" in line for line in said)
    assert set(schedule.files()) <= set(before)
    shutil.rmtree(schedule.out / "ledger" / "a.tif")
    run, outcome, _, _ = schedule.run(error_budget=0.05)
    assert (scored_in(run), outcome.status) == (["a.tif"], 0)


def test_other_settings_or_another_bundle_score_anew(schedule, bundle):
    schedule.put("a.tif")
    schedule.run()
    same = {"error_budget": 0.3, "schedule": {"lease": 50}, "batch": 3}  # no product shows it
    assert schedule.run(**same)[1].idle
    run, _, _, _ = schedule.run(stride=0.5)
    assert scored_in(run) == ["a.tif"]
    schedule.bundle = bundle(pooling="max")
    run, _, _, _ = schedule.run()
    assert scored_in(run) == ["a.tif"]
    assert (schedule.out / "argmax/a.tif.tif").is_file()


def test_a_schedules_folder_is_its_own(schedule, inline, tmp_path):
    schedule.put("a.tif")
    schedule.run()
    plain = material.recipe(schedule.bundle, schedule.scenes, mode="dense")
    with pytest.raises(InputError, match="serves the runs of a schedule"):
        material.scored(plain, schedule.out)
    run, _, _, _ = material.scored(plain, tmp_path / "plain")
    schedule.out = Path(run.out)
    with pytest.raises(InputError, match="holds run abcdefabcdef"):
        schedule.run()


def test_what_a_killed_run_left_long_ago_is_removed(schedule, inline):
    schedule.put("a.tif")
    schedule.run()
    for name, age in {"dead": 8 * 86_400, "young": 3600}.items():
        piece = schedule.out / "state" / name / "pieces" / "000000" / "dense-00000-of-00002.npz"
        piece.parent.mkdir(parents=True)
        piece.write_bytes(b"half a scene")
        schedule.aged(piece, age)
    schedule.put("b.tif", seed=1)
    schedule.run()
    names = {path.name for path in (schedule.out / "state").iterdir()}
    assert "dead" not in names
    assert "young" in names
