"""The ledger on a real disk, between real processes."""

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
)

from satray.scoring.ledger import key_of, list_finals, look, plan_pass, read_done
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
    view = look(ledger)
    plan = plan_pass(scenes, view, ledger, list_finals(ledger))
    assert len(plan.done) == 50
    assert not plan.todo
    assert not plan.repair
    for key in plan.done:
        kinds = [mark.kind for mark in view.history(key.scene).marks(key.version)]
        assert sorted(kinds) == ["alive", "claim", "done", "published"]
        done = read_done(ledger, key)
        for product in done.products:
            assert owner_of((tmp_path / product.final).read_bytes())[2] == done.token


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
    assert owner_of((tmp_path / "cam/a.tif.tif").read_bytes())[1:] == (2, claim.token)
    left = [path.name for path in (tmp_path / "attempts").glob("*/*/*")]
    assert left == [f"0002-{claim.token[:12]}"]  # the victim's half is gone


def test_files_touched_on_disk_are_repaired(tmp_path):
    ledger = make_ledger(Storage(), str(tmp_path))
    scene = Scene("a.tif")
    do_pass(ledger, [scene])
    item = tmp_path / "items/a.tif.json"
    before = item.read_bytes()
    item.write_bytes(b"x" * len(before))
    do_pass(ledger, [scene])
    assert item.read_bytes() == before
    item.unlink()
    do_pass(ledger, [scene])
    assert item.read_bytes() == before
    plan = plan_pass([scene], look(ledger), ledger, list_finals(ledger))
    assert plan.done == (key_of("a.tif", "e1", ledger.config),)
    assert not plan.repair


def test_hostile_names_stay_below_the_output(tmp_path):
    out = tmp_path / "out"
    names = ["../../x.tif", "..", "/etc/passwd", "a b.tif", "ü.tif", ".hidden.tif", "a\udcff.tif"]
    names += ["a" * 300 + ".tif", "a//b.tif", "a/../b.tif", "%2E%2E/x.tif", "a.tif/0001"]
    ledger = make_ledger(Storage(), str(out))
    scenes = [Scene(name) for name in names]
    assert len(do_pass(ledger, scenes)) == len(names)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    plan = plan_pass(scenes, look(ledger), ledger, list_finals(ledger))
    assert len(plan.done) == len(names)
    assert not plan.repair
