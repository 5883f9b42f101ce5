"""A store in memory, ledgers on any storage, and a program that does a pass as a job would."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from satray.errors import InputError, SatrayError
from satray.score.ledger import Claim, Ledger, Pass, plan_pass
from satray.score.products.names import safe_part
from satray.storage import Entry

OUT = "s3://bucket/out"
CONFIG = "0" * 12
START, LONG_AGO = datetime(2026, 11, 22, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)
NUMBERS = count()


@dataclass(frozen=True)
class Scene:
    """What a pass asks of a scene."""

    scene: str
    etag: str = "e1"
    modified: datetime = LONG_AGO


@dataclass
class MemoryStore:
    """Objects by URI with `Storage`'s ways: conditional create, a clock in whole seconds, a gate.

    The gate is called before each request, so that a test may let others go first, kill or refuse.
    """

    objects: dict[str, tuple[bytes, datetime]] = field(default_factory=dict)
    clock: datetime = START
    requests: list[tuple[str, str]] = field(default_factory=list)
    gate: Callable[[str, str], str | None] = lambda request, uri: None

    def pass_time(self, seconds: float) -> None:
        self.clock += timedelta(seconds=seconds)

    def list(self, prefix: str) -> list[Entry]:
        self._ask("list", prefix)
        keys = [uri for uri in sorted(self.objects) if uri.startswith(prefix + "/")]
        return [self._entry(uri, uri[len(prefix) + 1 :]) for uri in keys]

    def head(self, uri: str) -> Entry:
        self._ask("head", uri)
        if uri not in self.objects:
            raise InputError(f"{uri}: does not exist")
        return self._entry(uri, uri.rpartition("/")[2])

    def exists(self, uri: str) -> bool:
        self._ask("exists", uri)
        return uri in self.objects

    def read(self, uri: str) -> bytes:
        self._ask("read", uri)
        if uri not in self.objects:
            raise InputError(f"{uri}: does not exist")
        return self.objects[uri][0]

    def read_many(self, uris: Iterable[str]) -> Iterator[tuple[int, bytes | Exception]]:
        for place, uri in enumerate(uris):
            try:
                yield place, self.read(uri)
            except SatrayError as error:
                yield place, error

    def write(self, uri: str, data: bytes, *, if_absent: bool = False) -> None:
        said = self._ask("create" if if_absent else "write", uri)
        if if_absent and uri in self.objects:
            raise FileExistsError(uri)
        self.objects[uri] = (data, self.clock.replace(microsecond=0))
        if if_absent and said == "lost answer":  # the request is tried again, and finds itself
            raise FileExistsError(uri)

    def delete(self, prefix: str) -> None:
        self._ask("delete", prefix)
        for uri in [u for u in self.objects if u == prefix or u.startswith(prefix + "/")]:
            del self.objects[uri]

    def _ask(self, request: str, uri: str) -> str | None:
        said = self.gate(request, uri)
        self.requests.append((request, uri))
        return said

    def _entry(self, uri: str, key: str) -> Entry:
        data, modified = self.objects[uri]
        return Entry(uri, key, len(data), hashlib.md5(data).hexdigest(), modified)


def make_ledger(storage: Any, out: str = OUT, **changes: Any) -> Ledger:
    """A ledger with a lease of 100 s, of a run of its own."""
    run = f"run{next(NUMBERS)}"
    values = {"config": CONFIG, "run_id": run, "model_id": "model", "lease": 100.0, **changes}
    return Ledger(storage, out, **values)


def final_paths(scene: str) -> tuple[str, str]:
    """Names of a scene's products."""
    return f"cam/{safe_part(scene)}.tif", f"items/{safe_part(scene)}.json"


def products(ledger: Ledger, claim: Claim) -> dict[str, bytes]:
    """What an attempt makes: bytes that tell whose they are."""
    owner = [claim.key.version, claim.attempt, ledger.run_id]
    return dict.fromkeys(final_paths(claim.key.scene), json.dumps(owner).encode())


def owner_of(data: bytes) -> tuple[str, int, str]:
    """Version, attempt and run of a product's bytes."""
    version, attempt, run = json.loads(data)
    return version, attempt, run


def deliver(ledger: Ledger, claim: Claim, files: dict[str, bytes] | None = None) -> bool:
    """Write products and commit, as an actor does; tells whether the scene is this attempt's."""
    files = products(ledger, claim) if files is None else files
    for final, data in files.items():
        if not ledger.stands(claim):
            return False
        ledger.storage.write(f"{ledger.out}/{final}", data)
    result = {"scene": claim.key.scene, "products": [{"path": path} for path in files]}
    return ledger.commit(claim, result)


def plan(ledger: Ledger, scenes: list[Scene], settle: float = 0) -> Pass:
    """Look, and sort."""
    return plan_pass(scenes, ledger.look(), ledger, settle=settle)


def take(ledger: Ledger, scene: Scene) -> Claim | None:
    """Look, and claim; None where there is nothing to claim."""
    todo = plan(ledger, [scene]).todo
    return ledger.claim(todo[0]) if todo else None


def do_pass(
    ledger: Ledger,
    scenes: list[Scene] | Callable[[], list[Scene]],
    outcome: Callable[[Claim], str] = lambda claim: "done",
    claimed: Callable[[Claim], None] = lambda claim: None,
) -> list[Claim]:
    """Claim, score, commit, adopt and record, as a job does; returns what it committed."""
    listed = scenes if callable(scenes) else lambda: scenes
    found = plan(ledger, listed())
    for run in found.view.over:
        ledger.close(run)
    if not (found.todo or found.orphans):
        ledger.close()
        return []
    mine, rows = [], []
    try:
        for task in found.todo:
            claim = ledger.claim(task)
            if claim is None:
                continue
            claimed(claim)
            end = outcome(claim)
            if end in ("failed", "final"):
                ledger.fail(claim, "bad weather", retryable=end == "failed")
            elif end == "released" or task.seen not in listed():
                ledger.release(claim)
            elif deliver(ledger, claim):
                mine.append(claim)
        rows = [claim.key.scene for claim in mine]
        rows += [key.scene for _, key, last in found.orphans if ledger.adopt(key, last)]
        record = f"{ledger.out}/runs/{ledger.run_id}.json"
        ledger.storage.write(record, json.dumps(rows).encode())
        ledger.close()
    except SatrayError:
        with suppress(SatrayError):
            ledger.beat(b"")
        raise
    return mine


class Killed(BaseException):
    """The process is gone: nothing of it runs any more."""


class Turns:
    """Runs programs in threads of which only one runs at a time, up to its next request."""

    def __init__(self, programs: dict[str, Callable[[], None]]) -> None:
        self.waiting: dict[str, threading.Semaphore] = {}
        self.orders: dict[str, str | None] = {}
        self.failures: list[BaseException] = []
        self.back = threading.Semaphore(0)
        self.names = threading.local()
        for name, program in programs.items():
            self.waiting[name] = threading.Semaphore(0)
            threading.Thread(target=self._run, args=(name, program), daemon=True).start()
        self.alive = list(programs)

    @property
    def who(self) -> str | None:
        """The program that runs; None outside of them."""
        return getattr(self.names, "name", None)

    def gate(self) -> str | None:
        """Wait for the next turn, and do what is ordered in it."""
        name = self.who
        if name is None:
            return None
        self.back.release()
        return self._await(name)

    def turn(self, number: int, order: str | None) -> None:
        """Let one of the programs that still run do its next request."""
        name = self.alive[number % len(self.alive)]
        self.orders[name] = order
        self.waiting[name].release()
        assert self.back.acquire(timeout=20), "a program hangs"
        if self.orders[name] == "ended":
            self.alive.remove(name)

    def finish(self) -> None:
        """Let all of them run to their ends."""
        while self.alive:
            self.turn(0, None)
        for failure in self.failures:
            raise failure

    def _await(self, name: str) -> str | None:
        assert self.waiting[name].acquire(timeout=60)
        order = self.orders[name]
        if order == "kill":
            raise Killed
        if order == "refuse":
            raise SatrayError("the store failed, after retries")
        return order

    def _run(self, name: str, program: Callable[[], None]) -> None:
        self.names.name = name
        try:
            self._await(name)
            program()
        except (Killed, SatrayError):  # what a job would report
            pass
        except BaseException as error:
            self.failures.append(error)
        self.orders[name] = "ended"
        self.back.release()
