"""What a listing of the ledger says, without one file being read. Pure."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from satray.scoring.safe import safe_part as safe_part
from satray.storage import Entry

CONFIG = re.compile(r"[0-9a-f]{12}")
"""A digest of model and settings."""

Kind = Literal["claim", "left", "failed", "final", "released", "done", "told", "from"]
Status = Literal["new", "claimed", "expired", "done", "failed"]

_MARK = re.compile(
    r"(?P<attempt>[0-9]{4,})(?:\.(?P<end>released|(?:failed|final)-(?P<ended>[A-Za-z0-9]+)))?"
    r"|(?P<done>done)(?:\.told-(?P<teller>[A-Za-z0-9]+)-(?P<digest>[0-9a-f]{16})"
    r"|\.from-(?P<cut>[A-Za-z0-9]+))?"
)


@dataclass(frozen=True)
class Key:
    """One scene as it is now, for one model and its settings."""

    scene: str
    """Path below `scenes=`, `/`-separated, as found."""
    version: str
    """Encoded etag, a dot, digest of model and settings; from the second round on `.2`, ..."""

    @property
    def path(self) -> str:
        """Its folder below `ledger/`."""
        return f"{safe_part(self.scene)}/{self.version}"


@dataclass(frozen=True)
class Mark:
    """One entry of a version's folder."""

    kind: Kind
    """What it says. left: a claim whose run ended, and said so."""
    number: int
    """Of its attempt; 0 for a commit's."""
    modified: datetime
    """When it was created, by the store's clock; of a claim, its run's last sign of life."""
    run: str = ""
    """Whose it is, or from whom it was taken; empty where only its content says so."""
    digest: str = ""
    """told: of the files under the final names then."""


@dataclass(frozen=True)
class State:
    """Where one version of a scene stands."""

    status: Status
    """`new`: nobody took it up; `claimed`: its owner lives; `expired`: its owner gave it back, or
    gave no sign of life for a lease; `failed`: the last attempt ended so; `done`: committed."""
    attempts: int = 0
    """Attempts begun."""
    final: bool = False
    """Whether nobody is to try again: it failed for good, or as often as allowed."""

    @property
    def open(self) -> bool:
        """Whether the next attempt may be claimed."""
        return self.status in ("new", "expired", "failed") and not self.final


@dataclass(frozen=True)
class History:
    """All marks of one scene."""

    versions: Mapping[str, tuple[Mark, ...]]
    """By version, in no order."""

    def marks(self, version: str) -> tuple[Mark, ...]:
        """Marks of one version; none where it was never claimed."""
        return self.versions.get(version, ())

    def is_done(self, version: str) -> bool:
        """Tell whether a version has its commit."""
        return any(mark.kind == "done" for mark in self.marks(version))

    def claims_besides(self, version: str) -> frozenset[tuple[str, int]]:
        """Claims of all other versions: version and attempt."""
        return frozenset(
            (other, mark.number)
            for other, marks in self.versions.items()
            for mark in marks
            if other != version and mark.kind in ("claim", "left")
        )


NOTHING = History({})
"""The history of a scene that nobody took up."""


def state_of(marks: Iterable[Mark], now: datetime, lease: float, max_attempts: int) -> State:
    """Judge one version by its marks.

    The last attempt decides, since it began only when the one before had ended or its owner was
    silent; a commit decides over all.

    Args:
        marks: of one version, in any order.
        now: the store's clock, or a little less.
        lease: seconds that a sign of life holds.
        max_attempts: attempts that are allowed; those whose run was cut short count, those that
            were given back do not.
    """
    marks = tuple(marks)
    tries = [mark for mark in marks if mark.kind not in ("done", "told", "from")]
    attempts = max((mark.number for mark in tries), default=0)
    if any(mark.kind == "done" for mark in marks):
        return State("done", attempts)
    if not tries:
        return State("new")
    last = [mark for mark in tries if mark.number == attempts]
    kinds = {mark.kind for mark in last}
    back = {mark.number for mark in tries if mark.kind in ("released", "left")}
    spent = attempts - len(back) >= max_attempts
    if kinds & {"failed", "final"}:
        return State("failed", attempts, final="final" in kinds or spent)
    sign = max(mark.modified for mark in last)
    if attempts not in back and now < sign + timedelta(seconds=lease):
        return State("claimed", attempts)
    return State("failed" if spent else "expired", attempts, final=spent)


def unended(marks: Iterable[Mark]) -> Mark | None:
    """The claim that has no end yet, of a version without a commit."""
    tries = [mark for mark in marks if mark.kind not in ("told", "from")]
    last = max((mark.number for mark in tries), default=0)
    if any(mark.kind == "done" for mark in tries):
        return None
    named = [mark for mark in tries if mark.number == last]
    return named[0] if [mark.kind for mark in named] in (["claim"], ["left"]) else None


def config_of(model_id: str, settings: str) -> str:
    """Digest of what decides the outputs beside the scene.

    Args:
        model_id: the bundle's.
        settings: digest of the recipe's keys that shape outputs.
    """
    return hashlib.sha256(f"{model_id}\0{settings}".encode()).hexdigest()[:12]


def key_of(scene: str, etag: str, config: str, turn: int = 1) -> Key:
    """Key of a scene as its store describes it now.

    Args:
        scene: its name.
        etag: its store's.
        config: of `config_of`.
        turn: 2 and more where products of a commit were lost or replaced and are made again.
    """
    return Key(scene, f"{safe_part(etag)}.{config}{f'.{turn}' if turn > 1 else ''}")


def parse(name: str, modified: datetime) -> Mark | None:
    """Read a mark's name; None for what is no mark of ours."""
    match = _MARK.fullmatch(name) if name.isascii() else None
    if match is None:
        return None
    if match["done"]:
        kind: Kind = "told" if match["teller"] else "from" if match["cut"] else "done"
        run = match["teller"] or match["cut"] or ""
        return Mark(kind, 0, modified, run, match["digest"] or "")
    kind = (match["end"] or "claim").partition("-")[0]  # type: ignore[assignment]
    return Mark(kind, int(match["attempt"]), modified, match["ended"] or "")


def histories(entries: Iterable[tuple[Entry, str]]) -> dict[str, History]:
    """Marks of all scenes, by encoded scene, from entries and their `SCENE/VERSION/MARK`.

    What is no mark is passed over: a listing may show what others put there.
    """
    found: dict[str, dict[str, list[Mark]]] = {}
    for entry, path in entries:
        parts = path.split("/")
        mark = parse(parts[-1], entry.modified) if len(parts) == 3 else None
        if mark is not None:
            found.setdefault(parts[0], {}).setdefault(parts[1], []).append(mark)
    return {
        scene: History({version: tuple(marks) for version, marks in versions.items()})
        for scene, versions in found.items()
    }


def fingerprint(finals: Mapping[str, Entry]) -> str:
    """Digest of files as their store describes them: path, size and etag."""
    digest = hashlib.sha256()
    for path in sorted(finals):
        entry = finals[path]
        digest.update(f"{path}\0{entry.size}\0{entry.etag or entry.modified}\n".encode())
    return digest.hexdigest()[:16]
