"""Who works on what: claims with a lease, signs of life, failures.

A name is taken by creating it only if absent. A store may answer "there already" to the second try
of a request whose first try worked (its answer was lost), so what is there is then read: each claim
carries a token that no other has.
"""

import json
import os
import re
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from satray.errors import InputError, SatrayError
from satray.runs.jsonable import finite
from satray.scoring.ledger.marks import CONFIG, History, Key, history_of, safe_part
from satray.scoring.ledger.states import State, state_of
from satray.storage import Storage, join

CREATE_TRIES = 3  # a store in conflict may refuse a name that nobody gets
REASON_LIMIT = 2000  # characters
CLOCK = ".clock"
"""Name below `ledger/` of the file that is written to read the store's clock; hidden."""

_TEMPLATE = re.compile(r"[^/{}.][^/{}]*/[^{}]*\{scene\}[^{}]*")


@dataclass(frozen=True)
class Claim:
    """The right to make one attempt; travels to the process that works."""

    key: Key
    """What it is for."""
    attempt: int
    """From 1."""
    token: str
    """Nobody else's: 32 hexadecimal digits."""


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
    """The run, for people."""
    model_id: str
    """The bundle, for people."""
    finals: tuple[str, ...] = ("cam/{scene}.tif", "items/{scene}.json", "quicklooks/{scene}.png")
    """All names below `out` that a scene's products may have, with `{scene}` for its path."""
    lease: float = 900.0
    """Seconds without a sign of life after which an owner counts as dead."""
    max_attempts: int = 3
    """Attempts at one version of a scene."""

    def __post_init__(self) -> None:
        """Refuse what would make claims that never or always end."""
        if not (self.lease > 0 and self.max_attempts >= 1 and CONFIG.fullmatch(self.config)):
            raise ValueError("lease > 0, max_attempts >= 1 and a config of config_of() are wanted")
        if not all(_TEMPLATE.fullmatch(final) for final in self.finals):
            raise ValueError("each of `finals` is a folder, then a path with {scene} in it")

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

    def history(self, scene: str) -> History:
        """List the marks of one scene."""
        return history_of(self.storage.list(join(self.root, safe_part(scene))))

    def judge(self, history: History, version: str, now: datetime) -> State:
        """State of a version by this ledger's rules."""
        return state_of(history.marks(version), now, self.lease, self.max_attempts)

    def claim(self, key: Key, seen: History, looked: datetime) -> Claim | None:
        """Try to become the owner of the next attempt.

        Args:
            key: what to work on.
            seen: the scene's history when it was looked at.
            looked: the store's clock then (`View.now`): whoever gave a sign of life since has it.

        Returns:
            The claim; None where another has it, had it since or took up another version of the
            scene since (one of the two views is old), or where nothing is to be done.
        """
        state = self.judge(seen, key.version, looked)
        if state.attempts and state.open:
            state = self.judge(self.history(key.scene), key.version, looked)
        if not state.open:
            return None
        claim = Claim(key, state.attempts + 1, uuid.uuid4().hex)
        if not self.create(key, f"{claim.attempt:04}", claim, {}):
            return None
        others = self.history(key.scene).claims_besides(key.version)
        if others - seen.claims_besides(key.version):
            self.release(claim)
            return None
        return claim

    def renew(self, claim: Claim, sign: int) -> bool:
        """Give a sign of life.

        Args:
            claim: the claim.
            sign: number of this sign, one more each time.

        Returns:
            Whether the claim still stands; where not, another has taken over and work is in vain.
        """
        if not self.stands(claim):
            return False
        self.create(claim.key, f"{claim.attempt:04}.alive-{sign:04}", claim, {})
        return True

    def stands(self, claim: Claim) -> bool:
        """Tell whether nobody has committed, ended the claim or begun a later attempt."""
        marks = self.history(claim.key.scene).marks(claim.key.version)
        return not any(
            mark.kind == "done"
            or (mark.kind != "published" and mark.number > claim.attempt)
            or (mark.kind in ("failed", "final", "released") and mark.number == claim.attempt)
            for mark in marks
        )

    def fail(self, claim: Claim, reason: str, *, retryable: bool) -> None:
        """End an attempt without products.

        Args:
            claim: the claim.
            reason: what is told of it.
            retryable: whether another attempt may succeed (the store was down, say).
        """
        text = " ".join(reason.split())[:REASON_LIMIT] or "no reason was given"
        name = f"{claim.attempt:04}.{'failed' if retryable else 'final'}"
        self.create(claim.key, name, claim, {"reason": text, "retryable": retryable})

    def release(self, claim: Claim) -> None:
        """Give a claim back: the run is told to stop, and the scene has done nothing wrong."""
        self.create(claim.key, f"{claim.attempt:04}.released", claim, {})

    def reasons(self, states: Mapping[Key, State]) -> dict[Key, str]:
        """Read why last attempts failed, by two requests for each, many at once."""
        told = {
            key: f"no sign of life from its owner for {self.lease:g} s, attempt {state.attempts}"
            for key, state in states.items()
        }
        keys = [key for key in states for _ in range(2)]
        names = [
            self.uri(key, f"{states[key].attempts:04}.{end}")
            for key in states
            for end in ("failed", "final")
        ]
        for place, data in self.storage.read_many(names):
            content = _content(data) if isinstance(data, bytes) else {}
            if "reason" in content:
                told[keys[place]] = str(content["reason"])
        return told

    def create(self, key: Key, name: str, claim: Claim | None, content: dict[str, Any]) -> bool:
        """Create a mark only if absent.

        Returns:
            Whether it is ours: created now, or by an earlier try whose answer was lost.

        Raises:
            SatrayError: the store refuses the name and yet nobody has it.
        """
        token = claim.token if claim else uuid.uuid4().hex
        tree = {
            "token": token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "run_id": self.run_id,
            "model_id": self.model_id,
            "scene": key.scene,
            "attempt": claim.attempt if claim else None,
            **content,
        }
        place = self.uri(key, name)
        data = json.dumps(finite(tree)).encode()  # ASCII: names may hold what is no Unicode
        for _ in range(CREATE_TRIES):
            try:
                self.storage.write(place, data, if_absent=True)
            except FileExistsError:
                if self.storage.exists(place):
                    return _content(self.storage.read(place)).get("token") == token
            else:
                return True
        raise SatrayError(f"{place}: the store neither has this mark nor takes it")


def _content(data: bytes) -> dict[str, Any]:
    """Content of a mark; empty for what we did not write."""
    try:
        tree = json.loads(data)
    except ValueError:
        return {}
    return tree if isinstance(tree, dict) else {}


def mark_content(ledger: Ledger, key: Key, name: str) -> dict[str, Any]:
    """Read a mark.

    Raises:
        InputError: it is not there, or not what satray wrote.
    """
    place = ledger.uri(key, name)
    content = _content(ledger.storage.read(place))
    if not content:
        raise InputError(f"{place}: not a mark that satray wrote; delete it to score again")
    return content
