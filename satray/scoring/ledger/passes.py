"""What one pass over the scenes has to do. Pure: from two listings and the ledger's."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from satray.scoring.ledger.claims import Ledger
from satray.scoring.ledger.growing import SETTLE, Seen, too_young
from satray.scoring.ledger.listing import View
from satray.scoring.ledger.marks import History, Key, key_of
from satray.scoring.ledger.settled import unsettled
from satray.scoring.ledger.states import State
from satray.storage import Entry

S = TypeVar("S", bound=Seen)


@dataclass(frozen=True)
class Task(Generic[S]):
    """A scene to claim and score."""

    seen: S
    """The scene as found."""
    key: Key
    """Its key in the ledger."""
    state: State
    """Where it stands."""
    history: History
    """The marks that say so."""
    looked: datetime
    """When that was, by the store's clock. `Ledger.claim` takes key, history and this."""


@dataclass(frozen=True)
class Pass(Generic[S]):
    """All scenes, sorted by what is to be done. Every scene is in exactly one of the five."""

    todo: tuple[Task[S], ...]
    """To claim and score: never seen, failed before, or given up by their owners."""
    done: tuple[Key, ...]
    """Committed."""
    held: tuple[Key, ...]
    """In work elsewhere."""
    failed: Mapping[Key, State]
    """Not to be tried again; `Ledger.reasons` says why."""
    growing: Mapping[str, str]
    """Left for the next time: reason by scene."""
    repair: Mapping[Key, str]
    """Of `done`, those to publish again, and why: missing, changed, or another version stands."""


def plan_pass(
    scenes: Iterable[S],
    view: View,
    ledger: Ledger,
    finals: Mapping[str, Entry],
    *,
    settle: float = SETTLE,
    changing: Mapping[str, str] | None = None,
) -> Pass[S]:
    """Sort scenes by what is to be done.

    Args:
        scenes: as listed after the view, so that of two schedules the one whose list is old finds
            the other's claim and yields; in the order in which they are to be scored.
        view: the ledger's listing.
        ledger: its rules.
        finals: `list_finals`. What others publish between the two listings may look amiss;
            `publish` looks again before it copies.
        settle: seconds that a scene has to stay unchanged.
        changing: scenes that changed between two looks (`changed`), and how.
    """
    todo: list[Task[S]] = []
    done: list[Key] = []
    held: list[Key] = []
    failed: dict[Key, State] = {}
    growing = dict(changing or {})
    repair: dict[Key, str] = {}
    found = list(scenes)
    growing = {seen.scene: growing[seen.scene] for seen in found if seen.scene in growing}
    for seen in found:
        if seen.scene in growing:
            continue
        key = key_of(seen.scene, seen.etag, ledger.config)
        history = view.history(seen.scene)
        state = ledger.judge(history, key.version, view.now)
        if state.status == "done":
            done.append(key)
            paths = ledger.final_paths(seen.scene)
            why = unsettled(history, key.version, finals, paths)
            if why is not None:
                repair[key] = why
        elif state.status == "claimed":
            held.append(key)
        elif not state.open:
            failed[key] = state
        elif young := too_young(seen, view.now, settle):
            growing[seen.scene] = young
        else:
            todo.append(Task(seen, key, state, history, view.now))
    return Pass(tuple(todo), tuple(done), tuple(held), failed, growing, repair)
