"""Three schedules at once over one store, in any order, with deaths, faults and a busy provider."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from score.ledger.ledger_material import (
    OUT,
    MemoryStore,
    Scene,
    Turns,
    do_pass,
    final_paths,
    make_ledger,
    owner_of,
    plan,
)

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
        self.runs = {}  # per program: its run
        self.looks = {}  # per program: the store's clock and objects at its last listing
        self.seen = {}  # per program and scene: the objects when it listed its marks last
        self.last = {}  # per program: its last request
        self.late = Counter()  # per run: writes and commits after it had lost its claim
        self.mixed = set()  # scenes that these were of
        self.turns = Turns({f"s{number}": self.program for number in range(programs)})
        self.passes = passes

    def program(self):
        for _ in range(self.passes):
            ledger = make_ledger(self.store)
            self.runs[self.turns.who] = ledger.run_id
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
        order = self.turns.gate()
        below, who = uri.removeprefix(f"{OUT}/"), self.turns.who
        if below.startswith("ledger/") and request in ("write", "delete"):
            assert below.startswith("ledger/runs/"), "marks are final"
        if request == "list" and below == "ledger":
            self.looks[who] = (self.store.clock, dict(self.store.objects))
        number = below.rpartition("/")[2]
        if who and request == "create" and number.isdigit() and uri not in self.store.objects:
            self.check_takeover(uri, int(number))
        if who and request == "write" and below.startswith(("cam/", "items/")):
            scene = next(name for name in NAMES if below in final_paths(name))
            assert self.last[who] == ("list", f"ledger/{scene}"), "right after a look"
            self.check_owner(who, scene)
        if who and request == "create" and number == "done" and uri not in self.store.objects:
            self.check_owner(who, below.split("/")[1])
        if request == "list":
            self.seen[who, below.removeprefix("ledger/")] = dict(self.store.objects)
        self.last[who] = (request, below)
        return order

    def check_takeover(self, uri, number):
        """When its owner-to-be looked last, the attempt before had ended or was silent."""
        when, objects = self.looks[self.turns.who]
        scene, version, _ = uri.removeprefix(f"{OUT}/ledger/").split("/")
        ledger = make_ledger(MemoryStore(objects=dict(objects), clock=when))
        marks = ledger.look().scenes.get(scene, {}).get(version, ())
        assert ledger.judge(marks, when) == ("open", number - 1)

    def check_owner(self, who, scene):
        """Who writes to final names, or commits, had the scene when it looked last.

        Where it lost it since, it slept between the two; it writes so once at most.
        """
        run = self.runs[who]
        assert self.newest(self.seen[who, scene], scene) == run
        if self.newest(self.store.objects, scene) != run:
            self.late[run] += 1
            self.mixed.add(scene)
            assert self.late[run] == 1, "it looks before it writes again"

    def newest(self, objects, scene):
        """Run of the newest claim on a scene that was not given back; None where it has ended."""
        root = f"{OUT}/ledger/{scene}/"
        names = {uri.removeprefix(root) for uri in objects if uri.startswith(root)}
        claims = [n for n in names if n[-4:].isdigit() and f"{n}.released" not in names]
        claim = max(claims)
        ended = {f"{claim}.{end}" for end in ("failed", "final", "left")} | {f"{claim[:-4]}done"}
        return None if ended & names else json.loads(objects[root + claim][0])["run_id"]

    def rows(self):
        """How often each scene is in a record."""
        records = [d for uri, (d, _) in self.store.objects.items() if uri.startswith(f"{OUT}/runs")]
        return Counter(name for data in records for name in json.loads(data))

    def check_finals(self, ledger, done):
        """Each scene's files are one attempt's, that of its commit."""
        for key in done:
            if key.scene not in self.mixed:
                place = f"{OUT}/ledger/{key.path}/done"
                commit = json.loads(self.store.objects[place][0])
                owner = (key.version, commit["attempt"], commit["run_id"])
                for path in final_paths(key.scene):
                    assert owner_of(self.store.objects[f"{OUT}/{path}"][0]) == owner

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
    found = plan(ledger, world.scenes())
    ledger.close()
    assert (found.todo, found.held, found.orphans, found.view.cut) == ((), (), (), set())
    world.check_finals(ledger, found.done)
    assert {last.kind for last in found.failed.values()} <= {"final"}
    assert {key.scene for key in (*found.done, *found.failed)} == set(NAMES)
    assert {key.scene for key in found.done} <= set(world.rows()), "nothing is lost to the tables"

    world.store.requests.clear()  # all is done: only the clock is read
    before = dict(world.store.objects)
    assert do_pass(ledger, world.scenes()) == []
    assert world.store.objects == before
    sign = f"{OUT}/ledger/runs/{ledger.run_id}"
    assert world.store.requests == [
        ("list", "s3://scenes"), ("write", sign), ("head", sign), ("list", f"{OUT}/ledger"),
        ("delete", sign),
    ]  # fmt: skip


@pytest.mark.parametrize("provided", [False, True])
def test_an_owner_given_up_that_wakes_changes_nothing(provided):
    """It sleeps before each of its requests in turn, until another has done everything."""
    for before in range(60):
        sleep_and_wake(before, None, 0, provided)


STEPS = st.integers(0, 60)


@settings(max_examples=200)
@given(STEPS, st.none() | STEPS, STEPS, st.booleans())
def test_owners_given_up_that_wake_mix_nothing(before, middle, after, provided):
    """One sleeps anywhere, another takes over or finds a newer scene; then both go on by turns."""
    sleep_and_wake(before, middle, after, provided)


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
    for _ in range(3):
        world.store.pass_time(101)
        do_pass(make_ledger(world.store), world.scenes())
    ledger = make_ledger(world.store)
    found = plan(ledger, world.scenes())
    assert {key.scene for key in found.done} == set(NAMES)
    assert not found.orphans
    world.check_finals(ledger, found.done)


@pytest.mark.parametrize("death", ["kill", "refuse"])
def test_a_run_that_ends_anywhere_is_followed_and_each_scene_is_in_one_table(death):
    for before in range(60):
        world = World([], programs=2, passes=1)
        world.step("s0", before)
        if "s0" in world.turns.alive:
            world.turns.turn(world.turns.alive.index("s0"), death)
        world.step("s0", None)
        world.store.pass_time(101)
        world.step("s1", None)
        do_pass(make_ledger(world.store), world.scenes())  # finds a sign of a run that was done
        ledger = make_ledger(world.store)
        found = plan(ledger, world.scenes())
        assert {key.scene for key in found.done} == set(NAMES), before
        assert not world.mixed
        world.check_finals(ledger, found.done)
        assert world.rows() == dict.fromkeys(NAMES, 1), before
