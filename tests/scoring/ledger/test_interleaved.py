"""Three schedules at once over one store, in any order, with deaths, faults and a busy provider."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring.ledger.ledger_material import OUT, Scene, do_pass, make_ledger, owner_of, plan
from scoring.ledger.memory_store import MemoryStore
from scoring.ledger.turns import Turns

from satray.scoring.ledger.marks import parse

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
        for _ in range(self.passes):
            do_pass(make_ledger(self.store), self.scenes, self.end, self.claimed)

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
        below = uri.removeprefix(f"{OUT}/")
        name = below.rpartition("/")[2]
        if below.startswith("ledger/") and request in ("write", "delete"):
            assert name == ".clock" or below.startswith("ledger/runs/"), "marks are final"
        if request == "list" and below == "ledger":
            self.looks[self.turns.who] = (self.store.clock, dict(self.store.objects))
        mark = parse(name, self.store.clock) if request == "create" else None
        if self.turns.who and mark and mark.kind == "claim" and uri not in self.store.objects:
            self.check_takeover(uri, mark)
        return told

    def check_takeover(self, uri, mark):
        """When its owner-to-be looked last, the attempt before had ended or was silent."""
        when, objects = self.looks[self.turns.who]
        seen = MemoryStore(objects=objects, clock=when)
        scene, version, _ = uri.removeprefix(f"{OUT}/ledger/").split("/")
        ledger = make_ledger(seen)
        state = ledger.judge(ledger.look().history(scene), version, when)
        assert state.open
        assert mark.number == state.attempts + 1

    def rows(self):
        """How often each scene is in a record."""
        records = [d for uri, (d, _) in self.store.objects.items() if uri.startswith(f"{OUT}/runs")]
        return Counter(name for data in records for name in json.loads(data))

    def check_finals(self, ledger, done):
        """Each scene's files are one attempt's, that of its commit."""
        for key in done:
            result, _ = ledger.verified(key)
            owners = {
                owner_of(self.store.objects[f"{OUT}/{product['path']}"][0])
                for product in result["products"]
            }
            assert len(owners) == 1, "one attempt's files"
            assert owners.pop()[0] == key.version

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

    for _ in range(13):  # what is left over is done by one alone
        world.store.pass_time(101)
        ledger = make_ledger(world.store, max_attempts=12)
        do_pass(ledger, world.scenes, world.end, world.claimed)
    ledger = make_ledger(world.store, max_attempts=12)
    view, found = ledger.look(), plan(ledger, world.scenes())
    assert not (found.todo)
    assert not (found.held)
    assert not (found.doubtful)
    assert not (found.untold)
    world.check_finals(ledger, found.done)
    for key in found.failed:
        assert any(mark.kind == "final" for mark in view.history(key.scene).marks(key.version))
    assert {key.scene for key in (*found.done, *found.failed)} == set(NAMES)
    assert {key.scene for key in found.done} <= set(world.rows()), "nothing is lost to the tables"

    world.store.requests.clear()  # all is done: only the clock is read
    assert do_pass(ledger, world.scenes()) == []
    written = [r for r in world.store.requests if r[0] not in ("list", "head", "exists", "read")]
    assert written == [("write", f"{OUT}/ledger/.clock")]


STEPS = st.integers(0, 60)


@settings(max_examples=200)
@given(STEPS, st.none() | STEPS, STEPS, st.booleans())
def test_owners_given_up_that_wake_mix_nothing(before, middle, after, provided):
    """One sleeps anywhere, another takes over or finds a newer scene; then both go on by turns."""
    sleep_and_wake(before, middle, after, provided)


@pytest.mark.parametrize("provided", [False, True])
def test_an_owner_given_up_that_wakes_changes_nothing(provided):
    """It sleeps before each of its requests in turn, until another has done everything."""
    for before in range(60):
        sleep_and_wake(before, None, 0, provided)


@pytest.mark.parametrize("death", ["kill", "refuse"])
def test_a_run_that_ends_anywhere_is_followed_and_each_scene_is_told_once(death):
    for before in range(60):
        world = World([], programs=2, passes=1)
        world.step("s0", before)
        if "s0" in world.turns.alive:
            world.turns.turn(world.turns.alive.index("s0"), death)
        world.step("s0", None)
        world.store.pass_time(101)
        world.step("s1", None)
        ledger = make_ledger(world.store)
        do_pass(ledger, world.scenes())  # the sign of life of one that died after its record
        found = plan(ledger, world.scenes())
        assert {key.scene for key in found.done} == set(NAMES), before
        world.check_finals(ledger, found.done)
        assert world.rows() == dict.fromkeys(NAMES, 1), before


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
    for _ in range(3):  # what was written late is found and made good
        world.store.pass_time(101)
        do_pass(make_ledger(world.store), world.scenes())
    ledger = make_ledger(world.store)
    found = plan(ledger, world.scenes())
    assert {key.scene for key in found.done} == set(NAMES)
    assert not found.doubtful
    world.check_finals(ledger, found.done)
