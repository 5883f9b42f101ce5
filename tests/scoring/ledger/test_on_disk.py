"""The ledger on a real disk, between real processes."""

import json
import multiprocessing
import signal
from pathlib import Path

from scoring.ledger.ledger_material import (
    Scene,
    age,
    claim_and_die,
    do_pass,
    make_ledger,
    owner_of,
    pass_of_a_process,
    plan,
)

from satray.storage import Storage

SPAWN = multiprocessing.get_context("spawn")


def test_two_processes_score_each_scene_once(tmp_path):
    names = [f"folder {number % 5}/ü{number}.tif" for number in range(50)]
    started, results = SPAWN.Barrier(2), SPAWN.Queue()
    racers = [
        SPAWN.Process(target=pass_of_a_process, args=(str(tmp_path), names, started, results))
        for _ in range(2)
    ]
    for racer in racers:
        racer.start()
    scored = [results.get(timeout=120) for _ in racers]
    for racer in racers:
        racer.join(60)
        assert racer.exitcode == 0
    assert all(isinstance(names, list) for names in scored), scored
    assert sorted(scored[0] + scored[1]) == sorted(names)

    ledger = make_ledger(Storage(), str(tmp_path))
    scenes = [Scene(name) for name in names]
    view, found = ledger.look(), plan(ledger, scenes)
    assert len(found.done) == 50
    assert not (found.todo)
    assert not (found.doubtful)
    rows = [name for path in (tmp_path / "runs").iterdir() for name in json.loads(path.read_text())]
    assert sorted(rows) == sorted(names)
    for key in found.done:
        marks = view.history(key.scene).marks(key.version)
        assert sorted(mark.kind for mark in marks) == ["claim", "done", "told"]
        (run,) = {mark.run for mark in marks if mark.kind == "told"}
        for product in ledger.verified(key)[0]["products"]:
            assert owner_of((tmp_path / product["path"]).read_bytes())[2] == run


def test_a_killed_owner_is_followed(tmp_path):
    victim = SPAWN.Process(target=claim_and_die, args=(str(tmp_path), "a.tif"))
    victim.start()
    victim.join(60)
    assert victim.exitcode == -signal.SIGKILL
    ledger = make_ledger(Storage(), str(tmp_path))
    scene = Scene("a.tif")
    assert do_pass(ledger, [scene]) == []  # it may live
    age(Path(ledger.root), 100)
    (claim,) = do_pass(ledger, [scene])
    assert claim.attempt == 2
    for path in ("cam/a.tif.tif", "items/a.tif.json"):
        assert owner_of((tmp_path / path).read_bytes())[1:] == (2, ledger.run_id)


def test_hostile_names_stay_below_the_output(tmp_path):
    out = tmp_path / "out"
    names = ["../../x.tif", "..", "/etc/passwd", "a b.tif", "ü.tif", ".hidden.tif", "a\udcff.tif"]
    names += ["a" * 300 + ".tif", "a//b.tif", "a/../b.tif", "%2E%2E/x.tif", "a.tif/0001"]
    ledger = make_ledger(Storage(), str(out))
    scenes = [Scene(name) for name in names]
    assert len(do_pass(ledger, scenes)) == len(names)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    found = plan(ledger, scenes)
    assert len(found.done) == len(names)
    assert not found.doubtful
