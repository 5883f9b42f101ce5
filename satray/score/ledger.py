"""What was done to which scene, kept in the output's storage: each scene once, whoever runs.

    ledger/runs/RUN                   a run's sign of life, written again and again; empty: the run
                                      ended without its tables
    ledger/SCENE/0001-VERSION/0001    attempt 1 is claimed: its scoring has begun
                              0001.failed    it failed; `final`: for good
                              0001.released  its owner gave it back, and had written nothing
                              0001.left      its run ended in words, which is not the scene's fault
                              done    the commit: the attempt, and what became of it
                              done.2  the run of `done` was cut short before its tables; those of
                                      this one hold the scene (also `0001.failed.2`)

But for the signs of life, everything is created only if absent and never changed, so that any
number of schedules may run at once; a mark's content says whose it is. VERSION is the scene's etag
and a digest of model and settings. It has a number: a scene that its provider overwrites, a new
model, and a return to what was before each begin the next, and the last one is what counts.

A run's processes share its claims: scoring begins with the claim, products go to the names that
people read, each after a look whether the claim stands, and `done` is the one point of commit. An
owner who sleeps for a lease just between a look and its write, or its commit, may still do this one
thing beside the next owner; each look comes right before.
"""

import contextlib
import itertools
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from satray.errors import InputError, SatrayError
from satray.runs.run import finite
from satray.score.products.names import safe_part
from satray.storage import Entry, Storage, join

if TYPE_CHECKING:  # it imports rasterio
    from satray.score.scenes.find import SceneRef

RUNS = "runs"
"""Folder below `ledger/` of the runs' signs of life."""
OLD = timedelta(days=7)
"""Age of a sign of life from which on nobody waits for what its run left undone."""
PATIENCE = 5.0  # seconds that an end waits for a sign of life under way

KINDS = ("claim", "released", "left", "failed", "final", "done")
"""Kinds of marks; of those of one attempt the last in this order decides."""
ENDS = KINDS[3:]
"""Those that stand in a run's tables."""
_PATH = re.compile(
    r"(?P<scene>[^/]+)/(?P<version>[0-9]{4,}-[^/]+)/"
    r"(?:(?P<number>[0-9]{4,})(?:\.(?P<end>released|left|failed|final))?|done)"
    r"(?:\.(?P<turn>[0-9]+))?",
    re.ASCII,
)


@dataclass(frozen=True)
class Key:
    """One version of a scene, for one model and its settings."""

    scene: str
    """Path below `scenes=`, `/`-separated, as found."""
    version: str
    """Number, `-`, encoded etag, `.`, digest of model and settings."""

    @property
    def path(self) -> str:
        """Its folder below `ledger/`."""
        return f"{safe_part(self.scene)}/{self.version}"


@dataclass(frozen=True)
class Mark:
    """One entry of a version's folder."""

    kind: str
    """One of `KINDS`."""
    number: int
    """Of its attempt; 0 for a commit's."""
    modified: datetime
    """When it was created, by the store's clock; of a claim, its run's last sign of life."""
    turn: int = 1
    """Above 1: taken into a run's tables from one that was cut short."""
    run: str = ""
    """Whose it is, as far as somebody has read it."""

    @property
    def name(self) -> str:
        """Of its file."""
        number = f"{self.number:04}"
        stem = {"claim": number, "done": "done"}.get(self.kind, f"{number}.{self.kind}")
        return f"{stem}.{self.turn}" if self.turn > 1 else stem


History = Mapping[str, tuple[Mark, ...]]
"""Marks of a scene by version, in no order."""


class State(NamedTuple):
    """Where one version of a scene stands."""

    status: Literal["open", "claimed", "given up", "done"]
    """`open`: an attempt may be claimed; `claimed`: its owner lives; `given up`: it failed for
    good, or as often as allowed; `done`: committed."""
    attempts: int = 0
    """Attempts begun."""


@dataclass(frozen=True)
class View:
    """The ledger at one moment."""

    now: datetime
    """The store's clock just before the listing."""
    scenes: Mapping[str, History]
    """Marks by encoded scene."""
    cut: frozenset[str] = frozenset()
    """Runs that ended, or gave no sign of life for a lease, and left no record: no tables."""
    over: frozenset[str] = frozenset()
    """Silent runs of which nothing is left to do."""


@dataclass(frozen=True)
class Task:
    """A scene to claim and score."""

    seen: "SceneRef"
    """The scene as found."""
    key: Key
    """Its key in the ledger."""
    history: History
    """Its marks."""
    looked: datetime
    """When that was, by the store's clock: whoever gave a sign of life since has its claim."""


@dataclass(frozen=True)
class Claim:
    """The right to make one attempt: of a run, all of whose processes have it."""

    task: Task
    """What it is for."""
    attempt: int
    """From 1."""
    committed: Mapping[str, Any] | None = field(default=None, compare=False)
    """Its result, where a process committed it and died before it could say so."""

    @property
    def key(self) -> Key:
        """What it is for, in the ledger."""
        return self.task.key


@dataclass(frozen=True)
class Pass:
    """All scenes, sorted by what is to be done; each is in one of the first five."""

    todo: tuple[Task, ...]
    """To claim and score: never seen, failed before, or given up by their owners."""
    done: tuple[Key, ...]
    """Committed."""
    held: tuple[Key, ...]
    """In work elsewhere."""
    failed: Mapping[Key, Mark]
    """Given up, with the last mark; `Ledger.verdict` says why."""
    growing: Mapping[str, str]
    """Left for the next time: reason by scene."""
    orphans: tuple[tuple["SceneRef", Key, Mark], ...]
    """Of `done` and `failed`, those that no run's tables hold, for `Ledger.adopt`."""
    view: View
    """The ledger as it was."""


@dataclass(frozen=True)
class Ledger:
    """The ledger of one output folder, as one run uses it. Pickles without credentials."""

    storage: Storage
    """Where the output is."""
    out: str
    """The output folder."""
    config: str
    """Digest of model and settings."""
    run_id: str
    """The run: letters and digits."""
    model_id: str
    """The bundle, for people."""
    lease: float = 900.0
    """Seconds without a sign of life after which a run counts as dead."""
    max_attempts: int = 3
    """Attempts at one version of a scene."""

    @property
    def root(self) -> str:
        """Folder of the ledger."""
        return join(self.out, "ledger")

    def look(self) -> View:
        """Give a sign of life, and list the ledger: done scenes take no request of their own.

        Only where a run was cut short are all commits read, to find those of its.
        """
        now = self.beat()
        entries = self.storage.list(self.root)
        paths = [(entry.key.split("/"), entry) for entry in entries]
        signs = {path[1]: entry for path, entry in paths if path[0] == RUNS and len(path) == 2}
        silent = {
            run
            for run, sign in signs.items()
            if not sign.size or (now - sign.modified).total_seconds() >= self.lease
        }
        exists, folder = self.storage.exists, join(self.out, "runs")
        cut = frozenset(run for run in silent if not exists(join(folder, f"{run}.json")))
        scenes = self._owned(histories(entries), signs.get, bool(cut))
        needed = {last_of(h[version]).run for h in scenes.values() for version in newest(h)}
        over = {run for run in silent if run not in needed or now - signs[run].modified > OLD}
        return View(now, scenes, cut, frozenset(over))

    def judge(self, marks: tuple[Mark, ...], now: datetime) -> State:
        """Judge one version by its marks, in any order, at a time by the store's clock.

        Attempts whose run was cut short count; those that were given back, or whose run ended in
        words, do not.
        """
        if not marks:
            return State("open")
        last, attempts = last_of(marks), max(mark.number for mark in marks)
        if last.kind == "done":
            return State("done", attempts)
        if last.kind == "claim" and now < last.modified + timedelta(seconds=self.lease):
            return State("claimed", attempts)
        free = {mark.number for mark in marks if mark.kind in ("released", "left")}
        spent = attempts - len(free) >= self.max_attempts
        return State("given up" if spent or last.kind == "final" else "open", attempts)

    def claim(self, task: Task) -> Claim | None:
        """Become the owner of the next attempt, or find that a process of this run has.

        Returns:
            The claim; None where another has it, had it or took up another version of the scene
            since it was looked at, or where it has come to its end.
        """
        key, looked, folder = task.key, task.looked, safe_part(task.key.scene)
        number = self.judge(task.history.get(key.version, ()), looked).attempts + 1
        claim = Claim(task, number)
        history = self._owned({folder: self._history(key.scene)}, self._find_sign)[folder]
        marks = history.get(key.version, ())
        state = self.judge(marks, looked)
        if state.status == "done":
            content = self._content(key, "done")
            mine = (content.get("run_id"), content.get("attempt")) == (self.run_id, number)
            return replace(claim, committed=content.get("result")) if mine else None
        if newest(history) not in (newest(task.history), [key.version]):
            return None
        if state == ("open", number - 1):
            if marks and (last := last_of(marks)).kind in ("claim", "left"):
                end = last if last.kind == "left" else replace(last, kind="failed")
                self._create(key, end.name, self.verdict(key, last))
        elif state != ("claimed", number):
            return None
        if not self._create(key, f"{number:04}", {"attempt": number}):
            return None
        if self.stands(claim):
            return claim
        self.release(claim)
        return None

    def stands(self, claim: Claim) -> bool:
        """Tell whether nobody has committed, ended the claim, or begun a later attempt or version.

        To be asked just before each write to a name that people read.
        """
        return _stands(self._history(claim.key.scene), claim)

    def commit(self, claim: Claim, result: dict[str, Any]) -> bool:
        """Make this attempt the scene's, all its products written.

        What the version before left under names that this one has not is removed.

        Args:
            claim: the claim.
            result: `products`, each with its `path`, and whatever the run's tables need.

        Returns:
            Whether it is; where not, another attempt or version was first.
        """
        history = self._history(claim.key.scene)
        if not _stands(history, claim):
            return False
        made = {product["path"] for product in result["products"]}
        for version, marks in history.items():
            if version != claim.key.version and last_of(marks).kind == "done":
                content = self._content(Key(claim.key.scene, version), "done")
                for path in set(_paths(content)) - made:
                    self.storage.delete(join(self.out, path))
        return self._create(claim.key, "done", {"attempt": claim.attempt, "result": result})

    def fail(self, claim: Claim, reason: str, *, retryable: bool) -> None:
        """End an attempt without products; `retryable`: another may succeed.

        The run has the scene and the reason in its tables.
        """
        name = f"{claim.attempt:04}.{'failed' if retryable else 'final'}"
        self._create(claim.key, name, {"reason": reason})

    def release(self, claim: Claim) -> None:
        """Give a claim back: the scene has done nothing wrong, and nothing was written."""
        self._create(claim.key, f"{claim.attempt:04}.released", {})

    def verdict(self, key: Key, last: Mark) -> dict[str, Any]:
        """What a version came to, by its last mark: a `result`, or a `reason` why there is none."""
        if last.kind in ENDS:
            return self._content(key, last.name)
        silence = f"no sign of life from its owner for {self.lease:g} s, attempt {last.number}"
        return {"reason": silence}

    def adopt(self, key: Key, last: Mark) -> dict[str, Any] | None:
        """Take what a version came to (`verdict`) into this run's tables.

        Of several runs that find its last mark to be of one that was cut short, one is given it.
        """
        content, ended = self.verdict(key, last), last.kind in ENDS
        mark = replace(last, turn=last.turn + 1) if ended else replace(last, kind="failed")
        return content if self._create(key, mark.name, content) else None

    def beat(self, data: bytes = b"alive") -> datetime:
        """Give a sign of life, and read the store's clock by it.

        An empty one says that the run has ended without its tables.
        """
        self.storage.write(self._sign(self.run_id), data)
        return self.storage.head(self._sign(self.run_id)).modified

    def close(self, run: str | None = None) -> None:
        """Forget a run's signs of life: its record stands, or nothing depends on it any more."""
        self.storage.delete(self._sign(run or self.run_id))

    def _sign(self, run: str) -> str:
        return join(self.root, RUNS, run)

    def _find_sign(self, run: str) -> Entry | None:
        place = self._sign(run)
        return self.storage.head(place) if self.storage.exists(place) else None

    def _history(self, scene: str) -> History:
        folder = safe_part(scene)
        return histories(self.storage.list(join(self.root, folder)), f"{folder}/").get(folder, {})

    def _owned(
        self, scenes: Mapping[str, History], sign: Callable[[str], Entry | None], ends: bool = False
    ) -> Mapping[str, History]:
        """Add what only contents say: whose open claims are, and if asked whose the ends are."""
        lasts = [
            (scene, version, last_of(history[version]))
            for scene, history in scenes.items()
            for version in newest(history)
        ]
        wanted = [one for one in lasts if ends or one[2].kind == "claim"]
        places = [join(self.root, scene, version, last.name) for scene, version, last in wanted]
        found = {scene: dict(history) for scene, history in scenes.items()}
        for place, data in self.storage.read_many(places):
            if isinstance(data, SatrayError) and not isinstance(data, InputError):
                raise data  # a store that is lost; who removes a mark meanwhile is nobody's owner
            scene, version, last = wanted[place]
            run = str(_parsed(data).get("run_id", "")) if isinstance(data, bytes) else ""
            mark = replace(last, run=run)
            if last.kind == "claim" and run:  # without: whoever it is has it for a lease
                beat = sign(run)
                alive = beat is not None and beat.size > 0
                modified = max(last.modified, beat.modified) if beat is not None else last.modified
                mark = replace(mark, kind="claim" if alive else "left", modified=modified)
            found[scene][version] = tuple(mark if m == last else m for m in found[scene][version])
        return found

    def _create(self, key: Key, name: str, content: dict[str, Any]) -> bool:
        """Create a mark only if absent; tells whether it is this run's, by whichever process."""
        who = {"run_id": self.run_id, "host": socket.gethostname(), "pid": os.getpid()}
        tree = {**content, **who, "model_id": self.model_id, "scene": key.scene}
        data = json.dumps(finite(tree)).encode()  # ASCII: names may hold what is no Unicode
        try:
            self.storage.write(join(self.root, key.path, name), data, if_absent=True)
        except FileExistsError:
            return self._content(key, name).get("run_id") == self.run_id
        return True

    def _content(self, key: Key, name: str) -> dict[str, Any]:
        """Content of a mark; empty for what we did not write."""
        return _parsed(self.storage.read(join(self.root, key.path, name)))


@contextlib.contextmanager
def signs_of_life(ledger: Ledger) -> Iterator[None]:
    """Tell within the block that the run lives; where it fails, that it ends without its tables.

    Raises:
        SatrayError: the store was out of reach for a lease, so that others took the run for dead
            and have its scenes in their tables.
    """
    times, stop = [ledger.beat()], threading.Event()

    def live() -> None:
        while not stop.wait(ledger.lease / 3):  # two may be missed
            with contextlib.suppress(SatrayError):  # the store may be back before the lease ends
                times.append(ledger.beat())

    thread = threading.Thread(target=live, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
        times.append(ledger.beat())
        silence = max(later - sign for sign, later in itertools.pairwise(times))
        if silence.total_seconds() >= ledger.lease:
            raise SatrayError(
                f"no sign of life could be given for {ledger.lease:g} s (schedule.lease): "
                "other runs have taken this one for dead; the next run has its scenes"
            )
    except BaseException:
        stop.set()
        thread.join(PATIENCE)
        with contextlib.suppress(Exception):  # which hides no other error
            ledger.beat(b"")
        raise
    finally:
        stop.set()
        thread.join(PATIENCE)


def plan_pass(
    scenes: Iterable["SceneRef"], view: View, ledger: Ledger, *, settle: float = 60.0
) -> Pass:
    """Sort scenes, in the order in which they are to be scored, by what is to be done. Pure.

    `settle`: seconds that a scene has to stay unchanged, as files grow under one's eyes.
    """
    todo: list[Task] = []
    done: list[Key] = []
    held: list[Key] = []
    failed: dict[Key, Mark] = {}
    growing: dict[str, str] = {}
    orphans: list[tuple[SceneRef, Key, Mark]] = []
    for seen in scenes:
        history = view.scenes.get(safe_part(seen.scene), {})
        age = (view.now - seen.modified).total_seconds()
        key = key_of(seen.scene, seen.etag, ledger.config, history)
        marks = history.get(key.version, ())
        state = ledger.judge(marks, view.now)
        if state.status == "claimed":
            held.append(key)
        elif state.status in ("done", "given up"):
            last = last_of(marks)
            if state.status == "done":
                done.append(key)
            else:
                failed[key] = last
            if last.run in view.cut or last.kind not in ENDS:
                orphans.append((seen, key, last))
        elif -settle <= age < settle:  # more in the future tells nothing: archives bring such
            why = f"changed {max(age, 0):.0f} s ago, less than settle={settle:g} s"
            growing[seen.scene] = why
        else:
            todo.append(Task(seen, key, history, view.now))
    return Pass(tuple(todo), tuple(done), tuple(held), failed, growing, tuple(orphans), view)


def key_of(scene: str, etag: str, config: str, history: History) -> Key:
    """Key of a scene as its store describes it now: its last version, or the next."""
    version, last = f"{safe_part(etag)}.{config}", newest(history)
    number = max(map(_number, last), default=0)
    if last != [f"{number:04}-{version}"]:
        number += 1
    return Key(scene, f"{number:04}-{version}")


def newest(history: History) -> list[str]:
    """The version that counts: the last that was begun; several where they began at once."""
    begun = [version for version, marks in history.items() if _begun(marks)]
    last = max(map(_number, begun), default=0)
    return [version for version in begun if _number(version) == last]


def last_of(marks: Iterable[Mark]) -> Mark:
    """The mark that decides: a commit over all, else the last attempt's end, else its claim."""
    return max(marks, key=lambda m: (m.kind == "done", m.number, KINDS.index(m.kind), m.turn))


def histories(entries: Iterable[Entry], folder: str = "") -> dict[str, History]:
    """Marks of all scenes, by encoded scene, of entries below `ledger/`, or below a folder there.

    What is no mark is passed over: a listing may show what others put there.
    """
    found: dict[str, dict[str, list[Mark]]] = {}
    for entry in entries:
        match = _PATH.fullmatch(f"{folder}{entry.key}")
        if match is not None:
            kind = (match["end"] or "claim") if match["number"] else "done"
            number, turn = int(match["number"] or 0), int(match["turn"] or 1)
            mark = Mark(kind, number, entry.modified, turn)
            versions = found.setdefault(match["scene"], {})
            versions.setdefault(match["version"], []).append(mark)
    return {
        scene: {version: tuple(marks) for version, marks in versions.items()}
        for scene, versions in found.items()
    }


def _number(version: str) -> int:
    return int(version.partition("-")[0])


def _begun(marks: tuple[Mark, ...]) -> bool:
    """Whether an attempt may have written; not where each owner gave it back."""
    tries = {mark.number for mark in marks if mark.number}
    return not tries <= {mark.number for mark in marks if mark.kind == "released"}


def _stands(history: History, claim: Claim) -> bool:
    return newest(history) == [claim.key.version] and not any(
        mark.kind == "done"
        or mark.number > claim.attempt
        or (mark.number == claim.attempt and mark.kind != "claim")
        for mark in history[claim.key.version]
    )


def _paths(content: Mapping[str, Any]) -> list[str]:
    """Products of a commit that lie below the output: others may write to the store, too."""
    with contextlib.suppress(KeyError, TypeError, AttributeError):
        paths = [product["path"] for product in content["result"]["products"]]
        return [p for p in paths if not {"", ".", ".."} & set(p.split("/"))]
    return []


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        tree = json.loads(data)
    except ValueError:
        return {}
    return tree if isinstance(tree, dict) else {}
