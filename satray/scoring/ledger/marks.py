"""Names in the ledger: what a listing of it says without one file being read. Pure."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from satray.scoring.safe import safe_part as safe_part
from satray.storage import Entry

CONFIG = re.compile(r"[0-9a-f]{12}")
"""A digest of model and settings."""

Kind = Literal["claim", "alive", "failed", "final", "released", "done", "published"]

_MARK = re.compile(
    r"(?P<done>done)"
    r"|published-(?P<order>[0-9]{4,})-(?P<digest>[0-9a-f]{16})"
    r"|(?P<attempt>[0-9]{4,})(?:\.(?P<end>failed|final|released)|\.alive-(?P<sign>[0-9]{4,}))?"
)


@dataclass(frozen=True)
class Key:
    """One scene as it is now, for one model and its settings."""

    scene: str
    """Path below `scenes=`, `/`-separated, as found."""
    version: str
    """Encoded etag, a dot, digest of model and settings."""

    @property
    def path(self) -> str:
        """Its folder below `ledger/` and `attempts/`."""
        return f"{safe_part(self.scene)}/{self.version}"


@dataclass(frozen=True)
class Mark:
    """One entry of a version's folder."""

    kind: Kind
    """What it says."""
    number: int
    """Of its attempt, or the order of a publication; 0 for `done`."""
    modified: datetime
    """When it was created, by the store's clock."""
    digest: str = ""
    """Of the files that stood under the final names, for a publication."""


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
            if other != version and mark.kind == "claim"
        )

    def taken_up(self, version: str, attempt: int | None = None) -> datetime | None:
        """When a version was last claimed, or one attempt of it; None where it was not."""
        claims = [mark for mark in self.marks(version) if mark.kind == "claim"]
        wanted = [m.modified for m in claims if attempt is None or m.number == attempt]
        return max(wanted, default=None)

    def shown(self) -> tuple[int, dict[str, frozenset[str]]]:
        """Order of the last publication (0 for none), and what it showed.

        Returns:
            The order, and the digests by version: of several versions with one order nobody knows
            whose files stand there.
        """
        published = [
            (mark.number, version, mark.digest)
            for version, marks in self.versions.items()
            for mark in marks
            if mark.kind == "published"
        ]
        order = max((number for number, _, _ in published), default=0)
        last: dict[str, frozenset[str]] = {}
        for number, version, digest in published:
            if number == order:
                last[version] = last.get(version, frozenset()) | {digest}
        return order, last


NOTHING = History({})
"""The history of a scene that nobody took up."""


def config_of(model_id: str, settings: str) -> str:
    """Digest of what decides the outputs beside the scene.

    Args:
        model_id: the bundle's.
        settings: digest of the recipe's keys that shape outputs.
    """
    return hashlib.sha256(f"{model_id}\0{settings}".encode()).hexdigest()[:12]


def key_of(scene: str, etag: str, config: str) -> Key:
    """Key of a scene as its store describes it now."""
    return Key(scene, f"{safe_part(etag)}.{config}")


def parse(name: str, modified: datetime) -> Mark | None:
    """Read a mark's name; None for what is no mark of ours."""
    match = _MARK.fullmatch(name)
    if match is None:
        return None
    if match["done"]:
        return Mark("done", 0, modified)
    if match["order"]:
        return Mark("published", int(match["order"]), modified, match["digest"])
    kind: Kind = match["end"] or ("alive" if match["sign"] else "claim")  # type: ignore[assignment]
    return Mark(kind, int(match["attempt"]), modified)


def history_of(entries: Iterable[Entry]) -> History:
    """Marks of one scene, from the listing of its folder (keys `VERSION/MARK`)."""
    return histories((entry, f"_/{entry.key}") for entry in entries).get("_", NOTHING)


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
