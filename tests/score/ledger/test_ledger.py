"""Claims, signs of life, commits and passes over a store in memory."""

import json
import threading
from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from score.ledger.ledger_material import (
    CONFIG,
    OUT,
    START,
    MemoryStore,
    Scene,
    deliver,
    do_pass,
    final_paths,
    make_ledger,
    owner_of,
    plan,
    products,
    take,
)

from satray.errors import SatrayError
from satray.score.ledger import histories, key_of, signs_of_life
from satray.score.products.names import safe_part
from satray.storage import Entry

SCENE = Scene("a/b ü.tif", "etag")
KEY = key_of(SCENE.scene, SCENE.etag, CONFIG, {})
FOLDER = f"{OUT}/ledger/a%2Fb%20%C3%BC.tif/0001-etag.{CONFIG}"
CAM, ITEM = (f"{OUT}/{path}" for path in final_paths(SCENE.scene))


@pytest.fixture
def store():
    return MemoryStore()


def marks_of(names):
    """Marks by their names, each with the second of its making; `left` is no file's."""
    entries = [
        Entry("", f"s/0001-v/{name}", 0, "", START + timedelta(seconds=second))
        for name, second in names
    ]
    return histories(entries).get("s", {}).get("0001-v", ())


CLAIM, FAILED = ("0001", 0), ("0001.failed", 5)
THREE = (CLAIM, FAILED, ("0002", 10), ("0003", 200))


@pytest.mark.parametrize(
    ("names", "now", "status", "attempts"),
    [
        ((), 0, "open", 0),
        ((CLAIM,), 99, "claimed", 1),
        ((CLAIM,), 100, "open", 1),
        ((CLAIM, ("0002", 200)), 250, "claimed", 2),
        ((CLAIM, FAILED), 6, "open", 1),
        ((CLAIM, ("0001.final", 5)), 6, "given up", 1),
        ((CLAIM, ("0002", 200), ("done", 210)), 999, "done", 2),
        (THREE, 250, "claimed", 3),  # the last one may still make it
        (THREE, 300, "given up", 3),
        ((*THREE, ("0003.failed", 210)), 211, "given up", 3),
        ((*THREE, ("0001.released", 1)), 300, "open", 3),
        ((*THREE, ("0002.left", 1)), 300, "open", 3),
        ((CLAIM, ("0001.released", 1)), 2, "open", 1),  # at once
        ((CLAIM, ("0002", 200), ("0001.final", 205)), 210, "claimed", 2),  # of an earlier attempt
        ((CLAIM, ("0001.failed.2", 7), FAILED), 8, "open", 1),
        ((("1", 0), ("0001.", 0), ("done.x", 0), ("README", 0), ("٠٠٠١", 0)), 0, "open", 0),
    ],
)
def test_states(store, names, now, status, attempts):
    ledger = make_ledger(store)
    assert ledger.judge(marks_of(names), START + timedelta(seconds=now)) == (status, attempts)


@given(st.lists(st.text(st.characters()), unique=True, min_size=2, max_size=2))
@example(["", "."])
@example(["", ".."])
@example(["", "%2E%2E"])
def test_any_scene_has_a_folder_of_its_own(texts):
    for names in (texts, ["x" * 300 + text for text in texts]):
        parts = [safe_part(name) for name in names]
        assert parts[0] != parts[1]
        for part in parts:
            assert part.isascii()
            assert 0 < len(part) <= 180
            assert "/" not in part
            assert not part.startswith(".")


def test_strangers_in_the_folder_are_passed_over():
    keys = ["README", "a/x", "a/0001-v/0001", "a/0001-v/notes.txt", "a/v/0001", "b/0001-v/done"]
    keys += ["a/0001-v/deeper/0001", "runs/abc"]
    found = histories(Entry(key, key, 0, "e", START) for key in keys)
    assert {scene: set(one) for scene, one in found.items()} == {"a": {"0001-v"}, "b": {"0001-v"}}
    assert [mark.name for mark in found["a"]["0001-v"]] == ["0001"]


def test_each_scene_is_sorted_once(store):
    ends = {"f.tif": "failed", "x.tif": "final", "r.tif": "released"}
    made = [Scene(name) for name in ("d.tif", *ends)]
    do_pass(make_ledger(store), made, outcome=lambda claim: ends.get(claim.key.scene, "done"))
    held = take(make_ledger(store), Scene("h.tif")).key
    young = Scene("y.tif", modified=store.clock - timedelta(seconds=30))
    scenes = [*made, Scene("h.tif"), Scene("n.tif"), young]
    found = plan(make_ledger(store), scenes, settle=60)
    assert [task.seen.scene for task in found.todo] == ["f.tif", "r.tif", "n.tif"]
    assert [key.scene for key in found.done] == ["d.tif"]
    assert found.held == (held,)
    assert [key.scene for key in found.failed] == ["x.tif"]
    assert dict(found.growing) == {"y.tif": "changed 30 s ago, less than settle=60 s"}
    assert not found.orphans  # the run that failed has it in its tables


@pytest.mark.parametrize(
    ("age", "settle", "young"),
    [
        (0, 60, True), (59.9, 60, True), (60, 60, False), (0, 0, False),
        (-5, 60, True),  # the source's clock is ahead of the output's
        (-61, 60, False), (-1e8, 60, False),  # a time in the future tells nothing
    ],
)  # fmt: skip
def test_a_scene_settles(store, age, settle, young):
    scene = Scene("a.tif", modified=START - timedelta(seconds=age))
    assert bool(plan(make_ledger(store), [scene], settle=settle).growing) == young


def test_marks_that_nobody_of_ours_wrote(store):
    store.write(f"{FOLDER}/0001", b"\xff not json")
    ledger = make_ledger(store)
    assert take(ledger, SCENE) is None  # whoever it is has it for a lease
    store.pass_time(100)
    assert take(ledger, SCENE).attempt == 2


def test_nobody_waits_a_week_for_another_models_schedule(store):
    ledger, other = make_ledger(store, config="1" * 12), make_ledger(store)
    assert deliver(ledger, take(ledger, SCENE))
    ledger.beat(b"")
    assert ledger.run_id not in plan(other, []).view.over
    store.pass_time(8 * 86_400)
    assert ledger.run_id in plan(other, []).view.over


def test_a_scene_that_its_provider_overwrites_and_a_new_model(store):
    """What was before is scored again, and files of other names go."""

    def scored(etag="etag", **more):
        ledger = make_ledger(store, **more)
        found = do_pass(ledger, [Scene(SCENE.scene, etag)])
        return [(claim.key.version, owner_of(store.read(ITEM))[0]) for claim in found]

    old = make_ledger(store)
    claim = take(old, SCENE)
    tower, escape = "cam/old tower.tif", "../../etc/passwd"
    assert deliver(old, claim, {**products(old, claim), tower: b"x"})
    tree = json.loads(store.objects[f"{FOLDER}/done"][0])
    tree["result"]["products"] += [{"path": escape}, {"path": "/etc/passwd"}]
    store.objects[f"{FOLDER}/done"] = (json.dumps(tree).encode(), store.clock)
    versions = [scored(), scored(config="1" * 12), scored("e2"), scored(), scored()]
    named = [f"0002-etag.{'1' * 12}", f"0003-e2.{CONFIG}", f"0004-etag.{CONFIG}"]
    assert versions == [[], *([(name, name)] for name in named), []]
    assert CAM in store.objects
    assert f"{OUT}/{tower}" not in store.objects
    assert not [uri for _, uri in store.requests if "passwd" in uri]


def test_a_heart_beats_within_its_block(store):
    ledger, beats, seen = make_ledger(store, lease=0.5), threading.Event(), []
    sign = f"{OUT}/ledger/runs/{ledger.run_id}"

    def count(request, uri):
        seen.append((request, uri))
        if seen.count(("write", sign)) > 3:
            beats.set()

    store.gate = count
    with signs_of_life(ledger):
        assert beats.wait(20)
    assert store.objects[sign][0]
    with pytest.raises(InterruptedError), signs_of_life(ledger):
        raise InterruptedError
    assert store.objects[sign][0] == b""  # the next run may take over at once


def test_a_store_that_is_away_for_a_lease_ends_the_run(store):
    def away(request, uri):
        if away.now:
            raise SatrayError("the store failed, after retries: 503")

    store.gate, away.now = away, False
    with signs_of_life(make_ledger(store)):
        away.now = True
        away.now = False
    with (
        pytest.raises(SatrayError, match="other runs have taken this one for dead"),
        signs_of_life(make_ledger(store)),
    ):
        store.pass_time(100)  # asleep, say
    with pytest.raises(SatrayError, match="the store failed"), signs_of_life(make_ledger(store)):
        away.now = True
