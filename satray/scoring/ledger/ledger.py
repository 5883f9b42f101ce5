"""Who works on what, what was committed, and in whose tables it stands.

A name is taken by creating it only if absent; whose a mark is, its content says by the run's id.
So a process that does again what another of its run did (Ray starts a dead one anew) finds its own.
"""

import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from satray.errors import InputError
from satray.runs.run import Product, finite
from satray.scoring.ledger.marks import (
    CONFIG,
    NOTHING,
    History,
    Key,
    Mark,
    State,
    fingerprint,
    histories,
    safe_part,
    state_of,
    unended,
)
from satray.storage import Entry, Storage, join
from satray.storage.temporary import scratch

REASON_LIMIT = 2000  # characters
CLOCK = ".clock"
"""Name below `ledger/` of the file that is written to read the store's clock; hidden."""
RUNS = "runs"
"""Folder below `ledger/` of the runs' signs of life; an empty one: it ended without its tables."""


@dataclass(frozen=True)
class Claim:
    """The right to make one attempt: of a run, all of whose processes have it."""

    key: Key
    """What it is for."""
    attempt: int
    """From 1."""
    since: datetime
    """When the run looked, by the store's clock: one for all processes that work on the claim."""
    committed: Mapping[str, Any] | None = field(default=None, compare=False)
    """Content of its commit, where a process made it and died before it could say so."""


@dataclass(frozen=True)
class View:
    """The ledger at one moment."""

    now: datetime
    """The store's clock just before the listing."""
    scenes: Mapping[str, History]
    """Marks by encoded scene."""
    silent: frozenset[str] = frozenset()
    """Runs that have ended, or gave no sign of life for a lease, and were not closed."""
    cut: frozenset[str] = frozenset()
    """Of these, those that left no record, and so no tables."""

    def history(self, scene: str) -> History:
        """Marks of one scene."""
        return self.scenes.get(safe_part(scene), NOTHING)


@dataclass(frozen=True)
class Ledger:
    """The ledger of one output folder, as one run uses it. Pickles without credentials."""

    storage: Storage
    """Where the output is."""
    out: str
    """The output folder."""
    config: str
    """Digest of model and settings (`config_of`)."""
    run_id: str
    """The run: letters and digits."""
    model_id: str
    """The bundle, for people."""
    finals: tuple[str, ...] = ("cam/{scene}.tif", "items/{scene}.json", "quicklooks/{scene}.png")
    """All names below `out` that a scene's products may have, with `{scene}` for its path."""
    lease: float = 900.0
    """Seconds without a sign of life after which a run counts as dead."""
    max_attempts: int = 3
    """Attempts at one version of a scene."""

    def __post_init__(self) -> None:
        """Refuse what would make claims that never or always end."""
        if not (self.lease > 0 and self.max_attempts >= 1 and CONFIG.fullmatch(self.config)):
            raise ValueError("lease > 0, max_attempts >= 1 and a config of config_of() are wanted")
        if not (self.run_id.isascii() and self.run_id.isalnum()):
            raise ValueError("a run_id of letters and digits is wanted")

    @property
    def root(self) -> str:
        """Folder of the ledger."""
        return join(self.out, "ledger")

    def uri(self, key: Key, mark: str) -> str:
        """Where a mark is."""
        return join(self.root, key.path, mark)

    def final_paths(self, scene: str) -> tuple[str, ...]:
        """Names below `out` that a scene's products may have; parts of its path are encoded."""
        path = "/".join(safe_part(part) for part in scene.split("/"))
        return tuple(final.replace("{scene}", path) for final in self.finals)

    def now(self) -> datetime:
        """Read the store's clock, by a file written just now; never ahead of it."""
        place = join(self.root, CLOCK)
        self.storage.write(place, b"")
        return self.storage.head(place).modified

    def look(self) -> View:
        """List the whole ledger: ten thousand scenes without a request for any that is told."""
        now = self.now()
        entries = self.storage.list(self.root)
        beats = {
            run: entry
            for entry in entries
            for folder, _, run in [entry.key.partition("/")]
            if folder == RUNS and "/" not in run
        }
        silent = {
            run
            for run, beat in beats.items()
            if not beat.size or (now - beat.modified).total_seconds() >= self.lease
        }
        records = {run: join(self.out, "runs", f"{run}.json") for run in silent}
        cut = frozenset(run for run in silent if not self.storage.exists(records[run]))
        scenes = histories((entry, entry.key) for entry in entries)
        return View(now, self._owned(scenes, beats.get, cut), frozenset(silent), cut)

    def judge(self, history: History, version: str, now: datetime) -> State:
        """State of a version by this ledger's rules."""
        return state_of(history.marks(version), now, self.lease, self.max_attempts)

    def claim(self, key: Key, seen: History, looked: datetime) -> Claim | None:
        """Become the owner of the next attempt, or find that a process of this run has.

        Args:
            key: what to work on.
            seen: the scene's history when it was looked at.
            looked: the store's clock then (`View.now`): whoever gave a sign of life since has it.

        Returns:
            The claim; None where another has it, had it since or took up another version of the
            scene since (one of the two views is old), or where it has come to its end.
        """
        number = self.judge(seen, key.version, looked).attempts + 1
        history = self._history(key.scene)
        state = self.judge(history, key.version, looked)
        claim = Claim(key, number, looked)
        if state.status == "done":
            content = self._content(key, "done")
            mine = (content.get("run_id"), content.get("attempt")) == (self.run_id, number)
            return replace(claim, committed=content) if mine else None
        if state.attempts == number - 1 and state.open:
            last = unended(history.marks(key.version))
            if last is not None and last.kind == "left":
                self.release(replace(claim, attempt=last.number))
            elif last is not None:
                silence = f"no sign of life from its owner for {self.lease:g} s"
                self.fail(replace(claim, attempt=last.number), silence, retryable=True)
        elif (state.attempts, state.status) != (number, "claimed"):
            return None
        if not self._create(key, f"{number:04}", {"attempt": number}):
            return None
        others = self._listed(key.scene).claims_besides(key.version)
        if others - seen.claims_besides(key.version):
            self.release(claim)
            return None
        return claim

    def stands(self, claim: Claim) -> bool:
        """Tell whether nobody has committed, ended the claim or begun a later attempt."""
        return _stands(self._listed(claim.key.scene), claim)

    def settle(self, claim: Claim, products: Sequence[Product]) -> str | None:
        """Look at what was written under final names, before the commit.

        What another version left there under names that this one has not is removed; where others
        may have written to the same names, the files are read back.

        Returns:
            The files' fingerprint; None where they are not the products, or the claim is lost.
        """
        mine = {product.path: product for product in products}
        digest = fingerprint(self._finals(mine))  # first: what others write later differs from it
        history = self._listed(claim.key.scene)
        if not _stands(history, claim):
            return None
        if claim.attempt > 1 or len(history.versions) > 1:
            others = set(self.final_paths(claim.key.scene))
            for version in history.versions:
                others |= set(self._products(Key(claim.key.scene, version)) or {})
            for path in others - set(mine):
                self.storage.delete(join(self.out, path))
            if not all(map(self._holds, products)):
                return None
        return digest

    def commit(self, claim: Claim, digest: str, result: dict[str, Any]) -> bool:
        """Make this attempt the scene's, all its products written.

        Args:
            claim: the claim.
            digest: of `settle`.
            result: what became of it: `products`, each with `path`, `bytes` and `sha256`, and
                whatever the run's tables need.

        Returns:
            Whether it is; where not, another attempt was first.
        """
        content = {"attempt": claim.attempt, "digest": digest, "result": result}
        if not self._create(claim.key, "done", content):
            return False
        self.tell(claim.key, digest)
        return True

    def tell(self, key: Key, digest: str) -> None:
        """Note that a commit is in this run's tables, or will be, and how its files look."""
        self._create(key, f"done.told-{self.run_id}-{digest}", {})

    def adopt(self, key: Key, run: str) -> bool:
        """Take a commit into this run's tables from a run that was cut short; one alone may."""
        return self._create(key, f"done.from-{run}", {})

    def verified(self, key: Key) -> tuple[dict[str, Any], str] | None:
        """Compare a commit with what stands under the final names.

        Returns:
            Its result, and the files' fingerprint; None where they differ or the commit is none.
        """
        products = self._products(key)
        there = self._finals(self.final_paths(key.scene))
        if products is None or set(products) != set(there):
            return None
        content, digest = self._content(key, "done"), fingerprint(there)
        same = digest == content.get("digest")
        if not same and not all(self._holds(one) for one in products.values()):
            return None
        return content["result"], digest

    def fail(self, claim: Claim, reason: str, *, retryable: bool) -> None:
        """End an attempt without products; the run has it in its tables.

        Args:
            claim: the claim.
            reason: what is told of it.
            retryable: whether another attempt may succeed (the store was down, say).
        """
        text = " ".join(reason.split())[:REASON_LIMIT] or "no reason was given"
        name = f"{claim.attempt:04}.{'failed' if retryable else 'final'}-{self.run_id}"
        self._create(claim.key, name, {"reason": text, "retryable": retryable})

    def release(self, claim: Claim) -> None:
        """Give a claim back: the scene has done nothing wrong."""
        self._create(claim.key, f"{claim.attempt:04}.released", {})

    def reasons(self, ends: Mapping[Key, Mark]) -> dict[Key, str]:
        """Read why attempts failed, many at once; `ends` are their last marks."""
        silence = f"no sign of life from its owner for {self.lease:g} s, attempt"
        told = {key: f"{silence} {mark.number}" for key, mark in ends.items()}
        keys = [key for key, mark in ends.items() if mark.kind in ("failed", "final")]
        names = [
            self.uri(key, f"{ends[key].number:04}.{ends[key].kind}-{ends[key].run}") for key in keys
        ]
        for place, data in self.storage.read_many(names):
            content = _parsed(data) if isinstance(data, bytes) else {}
            if "reason" in content:
                told[keys[place]] = str(content["reason"])
        return told

    def beat(self, data: bytes = b"alive") -> None:
        """Give a sign of life; an empty one says that the run has ended without its tables."""
        self.storage.write(join(self.root, RUNS, self.run_id), data)

    def close(self, run: str | None = None) -> None:
        """Forget a run's signs of life: its record stands, or nothing depends on it any more."""
        self.storage.delete(join(self.root, RUNS, run or self.run_id))

    def _listed(self, scene: str) -> History:
        folder = safe_part(scene)
        entries = self.storage.list(join(self.root, folder))
        pairs = ((entry, f"{folder}/{entry.key}") for entry in entries)
        return histories(pairs).get(folder, NOTHING)

    def _history(self, scene: str) -> History:
        """Marks of one scene, with the owners of its open claims."""

        def beat(run: str) -> Entry | None:
            place = join(self.root, RUNS, run)
            return self.storage.head(place) if self.storage.exists(place) else None

        folder = safe_part(scene)
        return self._owned({folder: self._listed(scene)}, beat, None)[folder]

    def _owned(
        self,
        scenes: Mapping[str, History],
        beat: Callable[[str], Entry | None],
        cut: frozenset[str] | None,
    ) -> dict[str, History]:
        """Add what only contents say: whose open claims are, and who has untold commits.

        Args:
            scenes: by encoded scene.
            beat: a run's last sign of life.
            cut: runs that ended without their tables; None: commits are not looked at.
        """
        wanted: list[tuple[str, str, str, Mark]] = []
        for scene, history in scenes.items():
            for version, marks in history.versions.items():
                claim = unended(marks)
                if claim is not None:
                    wanted.append((scene, version, f"{claim.number:04}", claim))
                elif cut is not None and history.is_done(version):
                    tellers = {mark.run for mark in marks if mark.kind == "told"}
                    if tellers <= cut:
                        names = {"done"} | {f"done.from-{m.run}" for m in marks if m.kind == "from"}
                        told = Mark("told", 0, marks[0].modified)
                        wanted += [(scene, version, name, told) for name in sorted(names)]
        versions = {scene: dict(history.versions) for scene, history in scenes.items()}
        places = [join(self.root, scene, version, name) for scene, version, name, _ in wanted]
        for place, data in self.storage.read_many(places):
            scene, version, _, mark = wanted[place]
            run = str(_parsed(data).get("run_id", "")) if isinstance(data, bytes) else ""
            marks = versions[scene][version]
            if mark.kind == "told":
                versions[scene][version] = (*marks, replace(mark, run=run))
            elif run:  # without: whoever it is has it for a lease
                owner = _alive(replace(mark, run=run), beat(run))
                versions[scene][version] = tuple(owner if m == mark else m for m in marks)
        return {scene: History(found) for scene, found in versions.items()}

    def _create(self, key: Key, name: str, content: dict[str, Any]) -> bool:
        """Create a mark only if absent; tells whether it is this run's, by whichever process."""
        tree = {
            "run_id": self.run_id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "model_id": self.model_id,
            "scene": key.scene,
            **content,
        }
        data = json.dumps(finite(tree)).encode()  # ASCII: names may hold what is no Unicode
        try:
            self.storage.write(self.uri(key, name), data, if_absent=True)
        except FileExistsError:
            return self._content(key, name).get("run_id") == self.run_id
        return True

    def _content(self, key: Key, name: str) -> dict[str, Any]:
        """Content of a mark; empty for what we did not write."""
        return _parsed(self.storage.read(self.uri(key, name)))

    def _products(self, key: Key) -> dict[str, Product] | None:
        """Products of a commit by path; None where there is none, or none that we wrote."""
        try:
            listed = self._content(key, "done")["result"]["products"]
            products = {item["path"]: Product(**item) for item in listed}
            inside = all(part not in ("", ".", "..") for p in products for part in p.split("/"))
        except (InputError, KeyError, TypeError, AttributeError):
            return None
        return products if inside else None  # others may write to the store, too

    def _finals(self, paths: Iterable[str]) -> dict[str, Entry]:
        places = {path: join(self.out, path) for path in paths}
        there = self.storage.exists
        return {path: self.storage.head(at) for path, at in places.items() if there(at)}

    def _holds(self, product: Product) -> bool:
        """Whether a product stands under its final name, by its digest."""
        place = join(self.out, product.path)
        with scratch("check") as folder:
            copy = folder / "file"
            try:
                self.storage.download(place, copy)
            except InputError:
                if self.storage.exists(place):
                    raise
                return False
            with copy.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == product.sha256


def list_finals(ledger: Ledger) -> dict[str, Entry]:
    """List everything under final names, by path below `out`: one listing a folder."""
    folders = sorted({final.partition("/")[0] for final in ledger.finals})
    return {
        f"{folder}/{entry.key}": entry
        for folder in folders
        for entry in ledger.storage.list(join(ledger.out, folder))
    }


def _stands(history: History, claim: Claim) -> bool:
    return not any(
        mark.kind == "done"
        or mark.number > claim.attempt
        or (mark.number == claim.attempt and mark.kind != "claim")
        for mark in history.marks(claim.key.version)
    )


def _alive(claim: Mark, beat: Entry | None) -> Mark:
    """A claim with its run's last sign of life."""
    if beat is None or not beat.size:
        return replace(claim, kind="left")
    return replace(claim, modified=max(claim.modified, beat.modified))


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        tree = json.loads(data)
    except ValueError:
        return {}
    return tree if isinstance(tree, dict) else {}
