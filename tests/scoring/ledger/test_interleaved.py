"""Three schedules at once over one store, in any order, with deaths, faults and a busy provider."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring.ledger.ledger_material import OUT, Scene, do_pass, make_ledger, owner_of
from scoring.ledger.memory_store import MemoryStore
from scoring.ledger.turns import Turns

from satray.scoring.ledger import Key, list_finals, look, plan_pass, read_done
from satray.scoring.ledger.marks import history_of, parse

NAMES = ("a.tif", "b.tif")
ORDERS = st.one_of(
    st.tuples(st.just("go"), st.integers(0, 2)),
    st.tuples(st.just("go"), st.integers(0, 2)),
    st.tuples(st.just("run"), st.integers(0, 2)),  # many requests of one program
    st.tuples(st.just("lost answer"), st.integers(0, 2)),
    st.tuples(st.just("kill"), st.integers(0, 2)),
    st.tuples(st.just("refuse"), st.integers(0, 2)),
    st.tuples(st.just("wait"), st.sampled_from([1, 60, 101])),
    st.tuples(st.just("provide"), st.sampled_from(["e1", "e2", "e3"])),
)
ENDS = st.lists(
    st.sampled_from(["done", "done", "done", "failed", "final", "released"]), max_size=8
)


class World:
    """The store, the provider's scenes, and what must hold after every request."""

    def __init__(self, ends, programs=3, passes=2):
        self.store = MemoryStore()
        self.store.gate = self.before
        self.etags = dict.fromkeys(NAMES, "e1")
        self.ends = ends
        self.claims = Counter()
        self.looks = {}  # per program: the store's clock and objects at its last listing
        self.turns = Turns({f"s{number}": self.program for number in range(programs)})
        self.passes = passes

    def program(self):
        ledger = make_ledger(self.store)
        for _ in range(self.passes):
            do_pass(ledger, self.scenes, self.end, self.claimed)

    def scenes(self):
        self.store.list("s3://scenes")
        return [Scene(name, etag) for name, etag in self.etags.items()]

    def end(self, claim):
        return self.ends.pop() if self.ends else "done"

    def claimed(self, claim):
        self.claims[claim.key, claim.attempt] += 1
        assert self.claims[claim.key, claim.attempt] == 1, "two owners of one attempt"

    def before(self, request, uri):
        told = self.turns.gate()
        who = self.turns.who
        if request == "list":
            self.looks[who] = (self.store.clock, dict(self.store.objects))
        below = uri.removeprefix(f"{OUT}/")
        if below.startswith("ledger/") and request != "create":
            assert request not in ("write", "delete") or below == "ledger/.clock", "marks are final"
        mark = parse(below.rpartition("/")[2], self.store.clock) if request == "create" else None
        if who and mark and mark.kind == "claim" and uri not in self.store.objects:
            self.check_takeover(who, uri, mark)
        if request == "write" and below.startswith(("cam/", "items/")):
            self.check_finals()
        return told

    def check_takeover(self, who, uri, mark):
        """When its owner-to-be looked last, the attempt before had ended or was silent."""
        when, objects = self.looks[who]
        seen = MemoryStore(objects=objects)
        scene, version, _ = uri.removeprefix(f"{OUT}/ledger/").split("/")
        ledger = make_ledger(seen)
        history = history_of(seen.list(f"{OUT}/ledger/{scene}"))
        state = ledger.judge(history, version, when)
        assert state.open
        assert mark.number == state.attempts + 1

    def check_finals(self):
        """What stands under final names was committed."""
        ledger = make_ledger(MemoryStore(objects=self.store.objects))
        for name in NAMES:
            for path in ledger.final_paths(name):
                if f"{OUT}/{path}" in self.store.objects:
                    version, attempt, token = owner_of(self.store.objects[f"{OUT}/{path}"][0])
                    done = read_done(ledger, Key(name, version))
                    assert (done.attempt, done.token) == (attempt, token)

    def step(self, name, requests):
        """Let one program do so many requests; None: all of them."""
        while name in self.turns.alive and requests != 0:
            self.turns.turn(self.turns.alive.index(name), None)
            requests = None if requests is None else requests - 1
        for failure in self.turns.failures:
            raise failure

    def play(self, orders):
        for order, value in orders:
            if not self.turns.alive:
                break
            if order == "wait":
                self.store.pass_time(value)
            elif order == "provide":
                self.etags[NAMES[0]] = value
            elif order == "run":
                for _ in range(12):
                    if self.turns.alive:
                        self.turns.turn(value, None)
            else:
                self.turns.turn(value, None if order == "go" else order)
        self.turns.finish()


@settings(max_examples=150)
@given(st.lists(ORDERS, max_size=120), ENDS)
def test_schedules_at_once(orders, ends):
    world = World(ends)
    world.play(orders)
    world.check_finals()

    ledger = make_ledger(world.store, max_attempts=12)  # what is left over is done by one alone
    for _ in range(13):
        world.store.pass_time(101)
        do_pass(ledger, world.scenes, world.end, world.claimed)
    view, finals = look(ledger), list_finals(ledger)
    plan = plan_pass(world.scenes(), view, ledger, finals, settle=0)
    assert not plan.todo
    assert not plan.held
    assert not plan.repair
    for key in plan.done:
        done = read_done(ledger, key)
        for product in done.products:
            data = world.store.objects[f"{OUT}/{product.final}"][0]
            assert owner_of(data) == (key.version, done.attempt, done.token), "one attempt's files"
    for key in plan.failed:
        assert any(mark.kind == "final" for mark in view.history(key.scene).marks(key.version))
    assert {key.scene for key in (*plan.done, *plan.failed)} == set(NAMES)

    world.store.requests.clear()  # all is done: only the clock is read
    assert do_pass(ledger, world.scenes()) == []
    written = [r for r in world.store.requests if r[0] not in ("list", "head", "exists", "read")]
    assert written == [("write", f"{OUT}/ledger/.clock")]


STEPS = st.integers(0, 45)


@settings(max_examples=200)
@given(STEPS, st.none() | STEPS, STEPS, st.booleans())
def test_owners_given_up_that_wake_mix_nothing(before, middle, after, provided):
    """One sleeps anywhere, another takes over or finds a newer scene; then both go on by turns."""
    sleep_and_wake(before, middle, after, provided)


@pytest.mark.parametrize("provided", [False, True])
def test_an_owner_given_up_that_wakes_changes_nothing(provided):
    """It sleeps before each of its requests in turn, until another has done everything."""
    for before in range(45):
        sleep_and_wake(before, None, 0, provided)


def sleep_and_wake(before, middle, after, provided):
    world = World([], programs=2, passes=1)
    world.step("s0", before)
    world.store.pass_time(101)
    if provided:
        world.etags[NAMES[0]] = "e2"
    world.step("s1", middle)
    world.step("s0", after)
    world.step("s1", None)
    world.step("s0", None)
    world.check_finals()
    ledger = make_ledger(world.store)
    plan = plan_pass(world.scenes(), look(ledger), ledger, list_finals(ledger), settle=0)
    assert not plan.held
    if middle is None:  # what the second one made before the first woke is what stands there still
        assert {key.scene for key in plan.done} == set(NAMES)
        for key in plan.done:
            for product in read_done(ledger, key).products:
                owner = owner_of(world.store.objects[f"{OUT}/{product.final}"][0])
                assert owner[0] == key.version
    for name in NAMES:  # never one version's map beside another's catalogue entry
        owners = {
            owner_of(world.store.objects[f"{OUT}/{path}"][0])
            for path in ledger.final_paths(name)
            if f"{OUT}/{path}" in world.store.objects
        }
        assert len(owners) <= 1
    do_pass(ledger, world.scenes())
    assert not plan_pass(world.scenes(), look(ledger), ledger, list_finals(ledger)).repair
