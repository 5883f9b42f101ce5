"""What one pass over the scenes has to do: from two listings and the ledger's."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from satray.errors import SatrayError
from satray.scoring.ledger.growing import SETTLE, Seen, too_young
from satray.scoring.ledger.ledger import Ledger, View
from satray.scoring.ledger.marks import History, Key, Mark, fingerprint, key_of, unended
from satray.storage import Entry

S = TypeVar("S", bound=Seen)


@dataclass(frozen=True)
class Task(Generic[S]):
    """A scene to claim and score. `Ledger.claim` takes key, history and when that was."""

    seen: S
    """The scene as found."""
    key: Key
    """Its key in the ledger."""
    history: History
    """Its marks."""
    looked: datetime
    """When that was, by the store's clock."""


@dataclass(frozen=True)
class Done(Generic[S]):
    """A commit that is to be looked at."""

    task: Task[S]
    """To score the scene again with, where its products are not what the commit says."""
    key: Key
    """The commit's."""
    cut: str | None
    """The run that was cut short before its tables held it; None: its files look different."""


@dataclass(frozen=True)
class Pass(Generic[S]):
    """All scenes, sorted by what is to be done. Every scene is in exactly one of the first five."""

    todo: tuple[Task[S], ...]
    """To claim and score: never seen, failed before, or given up by their owners."""
    done: tuple[Key, ...]
    """Committed."""
    held: tuple[Key, ...]
    """In work elsewhere."""
    failed: Mapping[Key, Mark]
    """Given up, with the last mark; `Ledger.reasons` says why."""
    growing: Mapping[str, str]
    """Left for the next time: reason by scene."""
    doubtful: tuple[Done[S], ...] = ()
    """Of `done`, those that no run's tables hold, or whose files are not those that were told."""
    untold: tuple[tuple[S, Key], ...] = ()
    """Of `failed`, those that no run's tables hold."""


@dataclass
class Recovered(Generic[S]):
    """What became of doubtful commits."""

    adopted: list[tuple[S, dict[str, Any]]] = field(default_factory=list)
    """For this run's tables: scene and result."""
    again: list[Task[S]] = field(default_factory=list)
    """To score again: files are missing, or not those that were committed."""
    broken: list[tuple[S, str]] = field(default_factory=list)
    """Those that the store does not let us compare, and why."""


def plan_pass(
    scenes: Iterable[S],
    view: View,
    ledger: Ledger,
    finals: Mapping[str, Entry],
    *,
    settle: float = SETTLE,
    changing: Mapping[str, str] | None = None,
) -> Pass[S]:
    """Sort scenes by what is to be done. Pure.

    Args:
        scenes: as listed after the view, so that of two schedules the one whose list is old finds
            the other's claim and yields; in the order in which they are to be scored.
        view: the ledger's listing.
        ledger: its rules.
        finals: `list_finals`.
        settle: seconds that a scene has to stay unchanged.
        changing: scenes that changed between two looks (`changed`), and how.
    """
    todo: list[Task[S]] = []
    done: list[Key] = []
    held: list[Key] = []
    failed: dict[Key, Mark] = {}
    doubtful: list[Done[S]] = []
    untold: list[tuple[S, Key]] = []
    found = list(scenes)
    growing = {s.scene: changing[s.scene] for s in found if changing and s.scene in changing}
    for seen in found:
        if seen.scene in growing:
            continue
        history = view.history(seen.scene)
        turn, key = 1, key_of(seen.scene, seen.etag, ledger.config)
        while history.marks(
            (later := key_of(seen.scene, seen.etag, ledger.config, turn + 1)).version
        ):
            turn, key = turn + 1, later
        state = ledger.judge(history, key.version, view.now)
        marks = history.marks(key.version)
        if state.status == "done":
            done.append(key)
            task = Task(seen, later, history, view.now)
            paths = ledger.final_paths(seen.scene)
            there = {path: finals[path] for path in paths if path in finals}
            digests = {mark.digest for mark in marks if mark.digest}
            cut = _cut(marks, view)
            if cut is not None or (digests and fingerprint(there) not in digests):
                doubtful.append(Done(task, key, cut))
        elif state.status == "claimed":
            held.append(key)
        elif not state.open:
            last = [mark for mark in marks if mark.number == state.attempts]
            ends = [mark for mark in last if mark.kind in ("failed", "final")]
            failed[key] = max(ends or last, key=lambda mark: (mark.kind == "final", mark.modified))
            if all(mark.run in view.cut for mark in ends):
                untold.append((seen, key))
        elif young := too_young(seen, view.now, settle):
            growing[seen.scene] = young
        else:
            todo.append(Task(seen, key, history, view.now))
    return Pass(
        tuple(todo), tuple(done), tuple(held), failed, growing, tuple(doubtful), tuple(untold)
    )


def recover(ledger: Ledger, doubtful: Iterable[Done[S]]) -> Recovered[S]:
    """Look at doubtful commits; one that cannot be compared costs itself only."""
    found: Recovered[S] = Recovered()
    for one in doubtful:
        try:
            whole = ledger.verified(one.key)
            if whole is None:
                found.again.append(one.task)
            elif one.cut is None:
                ledger.tell(one.key, whole[1])
            elif ledger.adopt(one.key, one.cut):
                ledger.tell(one.key, whole[1])
                found.adopted.append((one.task.seen, whole[0]))
        except SatrayError as error:
            found.broken.append((one.task.seen, str(error)))
    return found


def unneeded(view: View) -> list[str]:
    """Silent runs whose signs of life tell nothing any more: all that they did is in tables."""
    needed: set[str] = set()
    for history in view.scenes.values():
        for marks in history.versions.values():
            claim, last = unended(marks), max((mark.number for mark in marks), default=0)
            ends = {m.run for m in marks if m.number == last and m.kind in ("failed", "final")}
            needed |= {claim.run if claim is not None else "", _cut(marks, view) or ""}
            needed |= ends if ends <= view.cut else set()
    return sorted(view.silent - needed)


def _cut(marks: Iterable[Mark], view: View) -> str | None:
    """The last of the runs whose tables were to hold a commit, where all were cut short."""
    marks = list(marks)
    tellers = {mark.run for mark in marks if mark.kind == "told"}
    left = tellers - {mark.run for mark in marks if mark.kind == "from"}
    return min(left) if left and tellers <= view.cut else None
