"""The ledger on a real disk, between real processes, and on a real S3 server."""

import json
import multiprocessing
import os
import pickle

import pytest
from score.ledger.ledger_material import (
    Scene,
    do_pass,
    final_paths,
    make_ledger,
    owner_of,
    plan,
    take,
)

from satray.score.ledger import Task
from satray.storage import Storage

SPAWN = multiprocessing.get_context("spawn")


def pass_of_a_process(out, names, started, results):
    """One of several processes at the same scenes; tells what it committed."""
    try:
        started.wait(60)
        ledger = make_ledger(Storage(), out, run_id=f"p{os.getpid()}")
        claims = do_pass(ledger, [Scene(name) for name in names])
        results.put([claim.key.scene for claim in claims])
    except BaseException as error:
        results.put(repr(error))


def test_two_processes_score_each_scene_once(tmp_path):
    names = [f"folder {number % 5}/ü{number}.tif" for number in range(50)]
    started, results = SPAWN.Barrier(2), SPAWN.Queue()
    given = (str(tmp_path), names, started, results)
    racers = [SPAWN.Process(target=pass_of_a_process, args=given) for _ in range(2)]
    for racer in racers:
        racer.start()
    scored = [results.get(timeout=120) for _ in racers]
    for racer in racers:
        racer.join(60)
        assert racer.exitcode == 0
    assert all(isinstance(names, list) for names in scored), scored
    assert sorted(scored[0] + scored[1]) == sorted(names)
    found = plan(make_ledger(Storage(), str(tmp_path)), [Scene(name) for name in names])
    assert len(found.done) == 50
    assert found.todo == found.orphans == ()
    rows = [name for path in (tmp_path / "runs").iterdir() for name in json.loads(path.read_text())]
    assert sorted(rows) == sorted(names)
    for key in found.done:
        commit = json.loads((tmp_path / "ledger" / key.path / "done").read_text())
        for path in final_paths(key.scene):
            assert owner_of((tmp_path / path).read_bytes())[2] == commit["run_id"]


def test_hostile_names_stay_below_the_output(tmp_path):
    out = tmp_path / "out"
    names = ["../../x.tif", "..", "/etc/passwd", "a b.tif", "ü.tif", ".hidden.tif", "a\udcff.tif"]
    names += ["a" * 300 + ".tif", "a//b.tif", "a/../b.tif", "%2E%2E/x.tif", "a.tif/0001", "runs"]
    ledger, scenes = make_ledger(Storage(), str(out)), [Scene(name) for name in names]
    assert len(do_pass(ledger, scenes)) == len(names)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert len(plan(ledger, scenes).done) == len(names)
    claim = take(ledger, Scene("b.tif"))
    assert pickle.loads(pickle.dumps(claim)) == claim  # it travels to the scene's processes


@pytest.mark.s3
def test_a_schedule_in_a_bucket(swift):
    out = f"{swift.bucket('ledger')}/out"
    scenes, ends = [Scene("a/ü b.tif"), Scene("c.tif")], iter(["done", "failed"])

    def scored(outcome=lambda claim: "done"):
        claims = do_pass(make_ledger(Storage(), out), scenes, outcome)
        return [(claim.key.scene, claim.attempt) for claim in claims]

    assert scored(lambda claim: next(ends)) == [("a/ü b.tif", 1)]
    assert scored() == [("c.tif", 2)]
    assert scored() == []
    ledger = make_ledger(Storage(), out)
    found = plan(ledger, scenes)
    assert len(found.done) == 2
    key = found.done[0]
    late = Task(scenes[0], key, {}, found.view.now)
    assert ledger.claim(late) is None  # the store says: it is taken
