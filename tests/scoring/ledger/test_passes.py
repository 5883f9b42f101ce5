"""What a pass has to do, from listings."""

import hashlib
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from scoring.ledger.ledger_material import OUT, Scene, do_pass, make_ledger, plan, take
from scoring.ledger.memory_store import MemoryStore

from satray.scoring.ledger import key_of
from satray.scoring.ledger.marks import fingerprint
from satray.storage import Entry


def test_ten_thousand_done_scenes_take_one_listing():
    store = MemoryStore()
    ledger = make_ledger(store)
    scenes = [Scene(f"scene-{number:05}.tif") for number in range(10_000)]
    made = (b"bytes", store.clock)
    entry = Entry("", "", 5, hashlib.md5(b"bytes").hexdigest(), store.clock)
    for scene in scenes:
        finals = dict.fromkeys(ledger.final_paths(scene.scene), entry)
        marks = ("0001", "done", f"done.told-a-{fingerprint(finals)}")
        key = key_of(scene.scene, scene.etag, ledger.config)
        for uri in [*(ledger.uri(key, mark) for mark in marks), *(f"{OUT}/{f}" for f in finals)]:
            store.objects[uri] = made
    del store.objects[f"{OUT}/cam/scene-00007.tif.tif"]
    found = plan(ledger, scenes)
    assert len(found.done) == 10_000
    assert not found.todo
    assert [one.key.scene for one in found.doubtful] == ["scene-00007.tif"]
    assert store.requests == [
        ("write", f"{OUT}/ledger/.clock"),
        ("head", f"{OUT}/ledger/.clock"),
        ("list", f"{OUT}/ledger"),
        ("list", f"{OUT}/cam"),
        ("list", f"{OUT}/items"),
    ]


def test_each_scene_is_sorted_once():
    store = MemoryStore()
    ledger = make_ledger(store)
    now = store.clock
    ends = {"f.tif": "failed", "x.tif": "final", "r.tif": "released"}
    do_pass(
        ledger,
        [Scene(name) for name in ("d.tif", *ends)],
        outcome=lambda claim: ends.get(claim.key.scene, "done"),
    )
    held = take(make_ledger(store), Scene("h.tif")).key
    scenes = [Scene(name) for name in ("h.tif", "d.tif", "n.tif", *ends, "c.tif")]
    young = Scene("y.tif", modified=now - timedelta(seconds=30))
    found = plan(
        make_ledger(store),
        [*scenes, young],
        settle=60,
        changing={"c.tif": "still growing: 1 bytes, then 2", "elsewhere.tif": "gone"},
    )
    assert [task.seen.scene for task in found.todo] == ["n.tif", "f.tif", "r.tif"]
    assert [key.scene for key in found.done] == ["d.tif"]
    assert found.held == (held,)
    assert {key.scene: mark.kind for key, mark in found.failed.items()} == {"x.tif": "final"}
    assert not found.untold  # the run that failed has it in its tables
    assert dict(found.growing) == {
        "c.tif": "still growing: 1 bytes, then 2",
        "y.tif": "changed 30 s ago, less than settle=60 s",
    }
    assert not found.doubtful
    assert plan(ledger, [young], settle=30).todo


@given(st.lists(st.integers(0, 30), unique=True), st.lists(st.integers(0, 30), unique=True))
def test_what_was_scored_is_not_scored_again(first, second):
    store = MemoryStore()
    ledger = make_ledger(store)
    scored = [c.key.scene for c in do_pass(ledger, [Scene(str(number)) for number in first])]
    assert scored == [str(number) for number in first]
    more = do_pass(ledger, [Scene(str(number)) for number in second])
    assert [c.key.scene for c in more] == [str(n) for n in second if n not in first]
