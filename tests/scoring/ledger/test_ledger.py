"""Claims, signs of life, commits and their tables over a store in memory."""

import json
import pickle
import threading
from dataclasses import replace

import pytest
from scoring.ledger.ledger_material import (
    CONFIG,
    OUT,
    Scene,
    deliver,
    do_pass,
    make_ledger,
    owner_of,
    plan,
    products,
    take,
)
from scoring.ledger.memory_store import MemoryStore

from satray.errors import InputError, SatrayError
from satray.scoring.ledger import Claim, Heartbeat, Ledger, key_of, recover
from satray.scoring.ledger.marks import NOTHING, unended
from satray.storage import Storage

SCENE = Scene("a/b ü.tif", "etag")
KEY = key_of(SCENE.scene, SCENE.etag, CONFIG)
FOLDER = f"{OUT}/ledger/a%2Fb%20%C3%BC.tif/etag.{CONFIG}"
CAM, ITEM = f"{OUT}/cam/a/b%20%C3%BC.tif.tif", f"{OUT}/items/a/b%20%C3%BC.tif.json"


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def ledger(store):
    return make_ledger(store)


def state(ledger, key=KEY):
    view = ledger.look()
    return ledger.judge(view.history(key.scene), key.version, view.now)


def test_one_owner_of_an_attempt(ledger, store):
    claim = take(ledger, SCENE)
    assert claim.attempt == 1
    other = make_ledger(store)
    assert other.claim(KEY, NOTHING, store.clock) is None  # who looked before
    assert take(other, SCENE) is None
    told = json.loads(store.objects[f"{FOLDER}/0001"][0])
    assert (told["run_id"], told["scene"]) == (ledger.run_id, SCENE.scene)
    assert {"host", "pid", "model_id"} <= set(told)


def test_processes_of_a_run_share_its_claim(ledger, store):
    (task,) = plan(ledger, [SCENE]).todo
    ledger.beat()
    first, again = (ledger.claim(task.key, task.history, task.looked) for _ in range(2))
    assert first == again
    assert deliver(ledger, first)
    late = ledger.claim(task.key, task.history, task.looked)  # one that died after the commit
    assert late.committed["result"]["scene"] == SCENE.scene
    assert make_ledger(store).claim(task.key, task.history, task.looked) is None
    ledger = make_ledger(store)
    (task,) = plan(ledger, [Scene("c")]).todo
    ledger.fail(take(ledger, Scene("c")), "bad", retryable=True)
    assert ledger.claim(task.key, task.history, task.looked) is None  # not twice in one run


def test_a_silent_owner_is_followed_and_counted(store):
    runs = [make_ledger(store) for _ in range(5)]
    first = take(runs[0], SCENE)
    store.pass_time(50)
    runs[0].beat()
    store.pass_time(99)
    assert take(runs[1], SCENE) is None
    store.pass_time(1)
    assert take(runs[1], SCENE).attempt == 2
    assert not runs[0].stands(first)
    store.pass_time(100)
    assert take(runs[2], SCENE).attempt == 3
    store.pass_time(100)
    assert state(runs[3]).final
    found = plan(runs[3], [SCENE])
    assert not found.todo
    assert found.untold == ((SCENE, KEY),)
    why = "no sign of life from its owner for 100 s, attempt 3"
    assert runs[3].reasons(found.failed) == {KEY: why}
    do_pass(runs[3], [SCENE])
    assert not plan(runs[4], [SCENE]).untold


@pytest.mark.parametrize("end", ["empty", "none"])
def test_a_run_that_says_that_it_ends_costs_no_attempt(store, end):
    for attempt in (1, 2, 3, 4):
        ledger = make_ledger(store, max_attempts=2)
        assert take(ledger, SCENE).attempt == attempt
        ledger.beat(b"") if end == "empty" else ledger.close()


def test_an_owner_that_comes_back_before_the_takeover_keeps_its_claim(ledger, store):
    first, other = take(ledger, SCENE), make_ledger(store)
    store.pass_time(150)
    view = other.look()
    history = view.history(SCENE.scene)
    assert other.judge(history, KEY.version, view.now).status == "expired"
    ledger.beat()
    assert other.claim(KEY, history, view.now) is None
    assert ledger.stands(first)


def test_failures_are_told(ledger, store):
    ledger.fail(take(ledger, SCENE), "the store\nwas down", retryable=True)
    ledger = make_ledger(store)
    second = take(ledger, SCENE)
    assert second.attempt == 2
    ledger.fail(second, "no band of this name", retryable=False)
    assert take(make_ledger(store), SCENE) is None
    found = plan(ledger, [SCENE])
    assert ledger.reasons(found.failed) == {KEY: "no band of this name"}
    assert not found.untold
    assert not ledger.stands(second)


def test_an_old_view_does_not_take_up_an_older_version(store):
    late, old = make_ledger(store), make_ledger(store)
    view = old.look()  # all within one second of the store's clock
    assert take(late, Scene(SCENE.scene, "newer")) is not None
    old.beat()
    assert old.claim(KEY, view.history(SCENE.scene), view.now) is None
    assert state(old).status == "expired"  # given back
    assert take(make_ledger(store), SCENE) is not None  # that is what the provider has now


def test_the_clock_is_the_stores(ledger, store):
    store.pass_time(12.9)  # stores tell whole seconds
    assert ledger.now() == store.clock.replace(microsecond=0)
    assert ledger.look().scenes == {}  # and its file is no entry


@pytest.mark.parametrize(
    "wrong", [{"lease": 0}, {"max_attempts": 0}, {"config": "../x"}, {"run_id": "a-b"}]
)
def test_ledgers_that_cannot_work(store, wrong):
    with pytest.raises(ValueError, match="wanted"):
        make_ledger(store, **wrong)


def test_it_travels(ledger):
    given = Ledger(Storage(), OUT, CONFIG, "run", "model")
    assert pickle.loads(pickle.dumps(given)) == given
    claim = take(ledger, SCENE)
    assert pickle.loads(pickle.dumps(claim)) == claim


def test_a_heart_beats_until_it_is_closed(ledger, store):
    beats, seen = threading.Event(), []

    def count(request, uri):
        if uri == f"{OUT}/ledger/runs/{ledger.run_id}":
            seen.append(request)
        if seen.count("write") > 3:
            beats.set()

    store.gate = count
    heart = Heartbeat(ledger, every=0.001)
    heart.begin()
    assert beats.wait(20)
    heart.check()
    heart.close()
    assert seen[-1] == "delete"
    assert not [uri for uri in store.objects if "/runs/" in uri]


def test_a_heart_bears_a_store_that_is_down_for_less_than_a_lease(store):
    def down(request, uri):
        if down.now:
            raise SatrayError("the store failed, after retries: 503")

    for lease, lost in ((100.0, False), (1e-9, True)):
        down.now = False
        store.gate = down
        heart = Heartbeat(make_ledger(store, lease=lease), every=1000)
        heart.begin()
        down.now = True
        if lost:
            with pytest.raises(SatrayError, match="other runs have taken this one for dead"):
                heart.check()
        else:
            heart.check()
        heart.give_up()  # which hides no other error


def test_marks_that_nobody_of_ours_wrote(ledger, store):
    store.write(f"{FOLDER}/0001", b"\xff not json")
    assert take(ledger, SCENE) is None  # whoever it is has it for a lease
    store.pass_time(100)
    assert take(ledger, SCENE).attempt == 2


def test_a_commit_and_what_becomes_of_it(ledger, store):
    claim = take(ledger, SCENE)
    assert deliver(ledger, claim)
    result, digest = ledger.verified(KEY)
    assert [product["path"] for product in result["products"]] == [*ledger.final_paths(SCENE.scene)]
    assert store.objects[f"{FOLDER}/done.told-{ledger.run_id}-{digest}"]
    ledger.close()
    assert plan(make_ledger(store), [SCENE]).doubtful == ()
    data = store.read(CAM)
    for harm in (None, b"x" * len(data), b"longer" + data):
        store.delete(CAM) if harm is None else store.write(CAM, harm)
        (doubtful,) = plan(make_ledger(store), [SCENE]).doubtful
        assert ledger.verified(KEY) is None
        store.write(CAM, data)
    (scored,) = recover(ledger, [replace(doubtful, key=key_of("other", "e", CONFIG))]).again
    assert scored.key.version == f"{KEY.version}.2"


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree["result"].pop("products"),
        lambda tree: tree["result"]["products"][0].update(path="../../etc/passwd"),
        lambda tree: tree["result"]["products"][0].update(path="/etc/passwd"),
        lambda tree: tree["result"]["products"][0].update(path=3),
        lambda tree: tree["result"]["products"][0].update(more=3),
        lambda tree: tree.clear(),
    ],
)
def test_commits_that_satray_did_not_write_are_scored_again(ledger, store, change):
    do_pass(ledger, [SCENE])
    tree = json.loads(store.read(f"{FOLDER}/done"))
    change(tree)
    store.write(f"{FOLDER}/done", json.dumps(tree).encode())
    store.delete(CAM)
    again = make_ledger(store)
    (claim,) = do_pass(again, [SCENE])
    assert claim.key.version == f"{KEY.version}.2"
    assert owner_of(store.read(CAM)) == (claim.key.version, 1, again.run_id)
    assert "/etc/passwd" not in {uri for _, uri in store.requests}
    assert not plan(again, [SCENE]).doubtful


def test_one_that_cannot_be_compared_costs_itself_only(ledger, store):
    others = [Scene(f"{n}") for n in range(3)]
    for scene in others:
        assert deliver(ledger, take(ledger, scene))
    ledger.beat(b"")  # the run ends without its tables

    def refuse(request, uri):
        if request == "read" and uri.endswith("/1/e1." + CONFIG + "/done") and refuse.now:
            raise SatrayError("the store failed, after retries: 503")

    again = make_ledger(store)
    doubtful = plan(again, others).doubtful
    store.gate, refuse.now = refuse, True
    found = recover(again, doubtful)
    assert [scene.scene for scene, _ in found.adopted] == ["0", "2"]
    assert [scene.scene for scene, _ in found.broken] == ["1"]
    assert not found.again


def test_commits_of_a_cut_run_are_taken_over_by_one(ledger, store):
    assert deliver(ledger, take(ledger, SCENE))
    del store.objects[next(uri for uri in store.objects if "done.told" in uri)]  # killed before
    ledger.beat(b"")
    runs = [make_ledger(store) for _ in range(3)]
    for run in runs:
        run.beat()
    doubtful = plan(runs[0], [SCENE]).doubtful
    assert [one.cut for one in doubtful] == [ledger.run_id]
    assert [len(recover(run, doubtful).adopted) for run in runs[:2]] == [1, 0]
    assert not plan(runs[2], [SCENE]).doubtful  # it is in work
    runs[0].beat(b"")  # cut as well
    (doubtful,) = plan(runs[2], [SCENE]).doubtful
    assert doubtful.cut == runs[0].run_id
    assert len(recover(runs[2], [doubtful]).adopted) == 1


def test_a_scene_that_its_provider_overwrites_and_a_new_model(store):
    old = make_ledger(store, finals=("cam/{scene}__rgb.tif", "items/{scene}.json"))
    assert len(do_pass(old, [SCENE])) == 1
    newer = make_ledger(store, config="0123456789ab")
    (scored,) = do_pass(newer, [SCENE])
    assert scored.key.version.endswith(".0123456789ab")
    assert CAM in store.objects
    assert CAM.replace(".tif.tif", ".tif__rgb.tif") not in store.objects
    changed, third = Scene(SCENE.scene, "e2"), make_ledger(store, config="0123456789ab")
    (second,) = do_pass(third, [changed])
    assert owner_of(store.read(ITEM))[0] == second.key.version
    back = make_ledger(store, config="0123456789ab")  # the change is taken back: its files are gone
    assert [claim.key.version for claim in do_pass(back, [SCENE])] == [f"{scored.key.version}.2"]
    assert not plan(back, [SCENE]).doubtful


def test_an_owner_of_an_attempt_that_ended_neither_writes_nor_commits(ledger, store):
    slow = take(ledger, SCENE)
    store.pass_time(100)
    quick = make_ledger(store)
    second = take(quick, SCENE)
    assert not deliver(ledger, slow)
    assert CAM not in store.objects
    assert deliver(quick, second)
    store.write(CAM, products(ledger, slow)["cam/a/b%20%C3%BC.tif.tif"])  # between look and write
    quick.close()
    again = make_ledger(store)
    (third,) = do_pass(again, [SCENE])
    assert owner_of(store.read(CAM)) == (third.key.version, 1, again.run_id)


def test_a_commit_needs_a_claim(ledger, store):
    claim = take(ledger, SCENE)
    assert deliver(ledger, claim)
    assert not deliver(ledger, replace(claim, attempt=2))
    assert isinstance(claim, Claim)
    assert unended(ledger.look().history(SCENE.scene).marks(KEY.version)) is None
    with pytest.raises(InputError, match="does not exist"):
        store.read(f"{FOLDER}/0002")
