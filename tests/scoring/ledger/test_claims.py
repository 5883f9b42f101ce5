"""Claims over a store in memory."""

import json
import pickle
import threading

import pytest
from scoring.ledger.ledger_material import CONFIG, OUT, make_ledger
from scoring.ledger.memory_store import MemoryStore

from satray.errors import InputError, SatrayError
from satray.scoring.ledger import Heartbeat, Ledger, key_of, look
from satray.scoring.ledger.marks import NOTHING
from satray.storage import Storage

KEY = key_of("a/b ü.tif", "etag", CONFIG)


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def ledger(store):
    return make_ledger(store)


def state(ledger, key=KEY):
    view = look(ledger)
    return ledger.judge(view.history(key.scene), key.version, view.now)


def take(ledger, key=KEY):
    view = look(ledger)
    return ledger.claim(key, view.history(key.scene), view.now)


def test_one_owner_of_an_attempt(ledger, store):
    claim = take(ledger)
    assert claim.attempt == 1
    assert ledger.claim(KEY, NOTHING, store.clock) is None  # who looked before
    assert take(ledger) is None
    (uri,) = [uri for uri in store.objects if uri.endswith("/0001")]
    assert uri == f"{OUT}/ledger/a%2Fb%20%C3%BC.tif/etag.{CONFIG}/0001"
    told = json.loads(store.objects[uri][0])
    assert told["token"] == claim.token
    assert (told["run_id"], told["model_id"], told["scene"]) == ("run", "model", "a/b ü.tif")
    assert {"host", "pid"} <= set(told)


def test_a_dead_owner_is_followed_and_counted(ledger, store):
    first = take(ledger)
    store.pass_time(50)
    assert ledger.renew(first, 1)
    store.pass_time(99)
    assert take(ledger) is None
    store.pass_time(1)
    second = take(ledger)
    assert second.attempt == 2
    assert not ledger.stands(first)
    assert not ledger.renew(first, 2)
    assert ledger.renew(second, 1)
    store.pass_time(100)
    assert take(ledger).attempt == 3
    store.pass_time(100)
    assert state(ledger).final
    assert take(ledger) is None
    assert ledger.reasons({KEY: state(ledger)}) == {
        KEY: "no sign of life from its owner for 100 s, attempt 3"
    }


def test_an_owner_that_comes_back_before_the_takeover_keeps_its_claim(ledger, store):
    first = take(ledger)
    store.pass_time(150)
    view = look(ledger)
    expired = ledger.judge(view.history(KEY.scene), KEY.version, view.now)
    assert expired.status == "expired"
    assert ledger.renew(first, 1)
    assert ledger.claim(KEY, view.history(KEY.scene), view.now) is None
    assert ledger.stands(first)


def test_failures_are_told(ledger, store):
    ledger.fail(take(ledger), "the store\nwas down", retryable=True)
    assert ledger.reasons({KEY: state(ledger)}) == {KEY: "the store was down"}
    second = take(ledger)
    assert second.attempt == 2
    ledger.fail(second, "no band of this name", retryable=False)
    assert state(ledger).final
    assert take(ledger) is None
    assert ledger.reasons({KEY: state(ledger)}) == {KEY: "no band of this name"}
    assert not ledger.stands(second)


def test_a_claim_given_back_counts_for_nothing(store):
    ledger = make_ledger(store, max_attempts=1)
    for attempt in (1, 2, 3):
        claim = take(ledger)
        assert claim.attempt == attempt
        ledger.release(claim)
    ledger.fail(take(ledger), "bad", retryable=True)
    assert take(ledger) is None


def test_an_old_view_does_not_take_up_an_older_version(ledger, store):
    old = look(ledger)  # all within one second of the store's clock
    newer = key_of(KEY.scene, "newer", CONFIG)
    assert take(ledger, newer) is not None
    assert ledger.claim(KEY, old.history(KEY.scene), old.now) is None
    assert state(ledger).status == "expired"  # given back
    assert take(ledger) is not None  # by a new view, that is what the provider has now


def test_an_answer_that_was_lost_does_not_lose_the_claim(ledger, store):
    store.gate = lambda request, uri: "lost answer" if request == "create" else None
    claim = take(ledger)
    assert claim is not None
    assert ledger.renew(claim, 1)
    assert take(ledger) is None


def test_a_store_that_refuses_and_has_nothing(ledger, store):
    def refuse(request, uri):
        if request == "create":
            raise FileExistsError(uri)

    store.gate = refuse
    with pytest.raises(SatrayError, match="neither has this mark nor takes it"):
        take(ledger)
    assert len([r for r in store.requests if r[0] == "exists"]) == 3


def test_the_clock_is_the_stores(ledger, store):
    store.pass_time(12.9)  # stores tell whole seconds
    assert ledger.now() == store.clock.replace(microsecond=0)
    assert look(ledger).scenes == {}  # and its file is no entry


@pytest.mark.parametrize(
    "wrong",
    [
        {"lease": 0},
        {"max_attempts": 0},
        {"config": "../x"},
        {"finals": ("{scene}.tif",)},
        {"finals": ("/cam/{scene}",)},
        {"finals": ("cam/x.tif",)},
        {"finals": (".cam/{scene}.tif",)},
    ],
)
def test_ledgers_that_cannot_work(store, wrong):
    with pytest.raises(ValueError, match=r"wanted|folder"):
        make_ledger(store, **wrong)


def test_it_travels():
    ledger = Ledger(Storage(), OUT, CONFIG, "run", "model")
    assert pickle.loads(pickle.dumps(ledger)) == ledger
    claim = take(make_ledger(MemoryStore()))
    assert pickle.loads(pickle.dumps(claim)) == claim


def test_a_heart_beats(ledger, store):
    beats = threading.Event()

    def seen(request, uri):
        if request == "create" and "alive-0003" in uri:
            beats.set()

    claim = take(ledger)
    store.gate = seen
    with Heartbeat(ledger, claim, every=0.001) as heart:
        assert beats.wait(20)
        assert not heart.lost


def test_a_heart_stops_for_a_successor(ledger, store):
    claim = take(ledger)
    heart = Heartbeat(ledger, claim)
    assert heart.beat()
    store.pass_time(100)
    assert take(ledger).attempt == 2
    assert not heart.lost
    assert not heart.beat()
    assert heart.lost


def test_a_heart_bears_a_store_that_is_down_for_less_than_a_lease(store):
    ledger = make_ledger(store)
    claim = take(ledger)

    def down(request, uri):
        raise SatrayError("the store failed, after retries: 503")

    store.gate = down
    heart = Heartbeat(ledger, claim)
    assert heart.beat()
    assert not heart.lost
    impatient = Heartbeat(make_ledger(store, lease=1e-9), claim)
    assert not impatient.beat()
    assert impatient.lost


def test_marks_that_nobody_of_ours_wrote(ledger, store):
    store.write(f"{OUT}/ledger/{KEY.path}/0001", b"\xff not json")
    assert take(ledger) is None  # whoever it is has it for a lease
    store.pass_time(100)
    assert take(ledger).attempt == 2
    with pytest.raises(InputError, match="does not exist"):
        store.read(f"{OUT}/ledger/{KEY.path}/done")
