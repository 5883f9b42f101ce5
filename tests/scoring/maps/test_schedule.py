"""only_new: each version of a scene once, whoever else works in the same folder."""

import datetime
import json
import os
import time
from pathlib import Path

import maps_material as material
import pyarrow.parquet as pq
import pytest

from satray.config.score import ScoreRecipe
from satray.errors import InputError
from satray.models.bundle import bundle_digest
from satray.scoring.ledger import key_of, look
from satray.scoring.ledger.marks import NOTHING
from satray.scoring.maps.look import ledger_of, scenes_of
from satray.scoring.over_tiles import read_spec
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

    def ledger(self, **more):
        given = self.recipe(**more)
        spec = read_spec(given.bundle, STORE)
        model = bundle_digest(given.bundle, STORE)[:12]
        return ledger_of(given, spec, model, "f" * 12, str(self.out), STORE)

    def claim(self, scene: str):
        """Another owner's claim."""
        ledger = self.ledger()
        found = scenes_of(self.recipe(), read_spec(str(self.bundle), STORE), STORE)
        (ref,) = (one for one in found.scenes if one.scene == scene)
        key = key_of(ref.scene, ref.etag, ledger.config)
        claim = ledger.claim(key, look(ledger).history(scene), ledger.now())
        assert claim is not None
        return ledger, claim

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
    # what is gone is published again, without a forward
    (out / "cam" / "a.tif.tif").unlink()
    _, outcome, _, said = schedule.run()
    assert inline.done == []
    assert outcome.counts["repaired"] == 1
    assert (out / "cam/a.tif.tif").read_bytes() == before["cam/a.tif.tif"]


def test_nothing_to_do_needs_no_ray(schedule, monkeypatch):
    _, outcome, _, said = schedule.run()
    assert outcome.idle
    assert said[-1] == "nothing to score"
    schedule.put("a.tif")
    schedule.run()
    monkeypatch.setattr("satray.scoring.maps.look.prepare", None)  # not even the bundle's network
    _, outcome, _, _ = schedule.run()
    assert outcome.idle


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


def test_a_scene_that_grows_while_the_job_looks(schedule, monkeypatch):
    """The second look is after the network was measured: what differs is left."""
    schedule.put("a.tif")
    path = schedule.put("b.tif")
    from satray.scoring.maps import scheduled

    real = scheduled.prepare

    def slow(*more):
        with path.open("ab") as file:
            file.write(b"more")
        schedule.aged(path, OLD)
        return real(*more)

    monkeypatch.setattr(scheduled, "prepare", slow)
    run, _, _, said = schedule.run()
    assert scored_in(run) == ["a.tif"]
    assert any("b.tif: still growing" in line for line in said)


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


def test_a_claim_made_between_the_look_and_ours(schedule, inline, monkeypatch):
    schedule.put("a.tif")
    from satray.scoring.maps import scheduled

    real = scheduled._sort

    def then_claimed(recipe, run, ledger, before=()):
        found = real(recipe, run, ledger, before)
        if before:
            schedule.claim("a.tif")
        return found

    monkeypatch.setattr(scheduled, "_sort", then_claimed)
    _, outcome, _, said = schedule.run()
    assert inline.done == []
    assert outcome.idle
    assert "1 scenes are in work elsewhere" in said


def test_an_expired_claim_is_taken_over(schedule, inline):
    schedule.run()
    schedule.put("a.tif")
    ledger, claim = schedule.claim("a.tif")
    for path in (schedule.out / "ledger").rglob("0001"):
        schedule.aged(path, 1000)
    run, _, _, _ = schedule.run()
    assert scored_in(run) == ["a.tif"]
    assert not ledger.stands(claim)
    marks = {p.name for p in (schedule.out / "ledger").rglob("*") if p.is_file()}
    assert {"0001", "0002"} <= marks
    assert any(name.startswith("0002") and "done" in name for name in marks) or "done" in marks


def test_an_owner_that_was_taken_over_publishes_nothing(schedule, inline):
    """Its claim expires while it works, and the other is through first."""
    schedule.put("a.tif")
    shown = []

    def slow(number, unit):
        inline.before = None
        for path in (schedule.out / "ledger").rglob("0001*"):
            schedule.aged(path, 1000)
        run, outcome, _, _ = schedule.run()
        assert outcome.counts["detections"] == 1
        shown.append((run.run_id, schedule.files()))

    inline.before = slow
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
    schedule.put("a.tif")
    schedule.put("b.tif")

    def dies(number, unit):
        if number == 1:
            raise KeyboardInterrupt

    inline.before = dies
    with pytest.raises(KeyboardInterrupt):
        schedule.run()
    inline.before = None
    inline.done.clear()
    run, _, _, _ = schedule.run()
    assert scored_in(run) == ["b.tif"]  # a was published before
    assert len(inline.done) == 1
    assert pq.read_table(schedule.out / "tables/a.tif.parquet").num_rows == 1


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


def test_scenes_in_waves(schedule, inline, monkeypatch):
    from satray.scoring.maps import scheduled

    monkeypatch.setattr(scheduled, "FIRST_WAVE", 1)
    for number in range(4):
        schedule.put(f"{number}.tif", seed=number)
    run, outcome, _, _ = schedule.run()
    assert outcome.counts["detections"] == 4
    assert scored_in(run) == [f"{number}.tif" for number in range(4)]
    tiles = material.rows_of(run, f"predictions/{run.run_id}.parquet")
    assert [tile["scene"] for tile in tiles] == [f"{number}.tif" for number in range(4)]
    assert {tile["run_id"] for tile in tiles} == {run.run_id}
    assert datetime.datetime.fromisoformat(
        json.loads((schedule.out / f"runs/{run.run_id}.json").read_text())["finished"]
    )
    assert look(schedule.ledger()).history("nobody.tif") == NOTHING


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
