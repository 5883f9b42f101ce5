"""Products of an attempt, and the commit that makes one attempt the scene's."""

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from satray.errors import InputError, SatrayError
from satray.scoring.ledger.claims import Claim, Ledger, mark_content
from satray.scoring.ledger.copying import digest_of
from satray.scoring.ledger.marks import Key
from satray.storage import join

ATTEMPTS = "attempts"
"""Folder below `out` of what attempts made."""

DONE = "done"
"""Name of the commit."""


@dataclass(frozen=True)
class Staged:
    """One product, as an attempt wrote it."""

    name: str
    """What it is among the attempt's products: its final name's first folder, or as told."""
    staged: str
    """Path below `out` where the attempt wrote it."""
    final: str | None
    """Path below `out` that people read; None for what only the run needs."""
    bytes: int
    """Size of the file."""
    sha256: str
    """SHA-256 of its bytes, hexadecimal."""
    rows: int | None = None
    """Rows, where it is a table."""


@dataclass(frozen=True)
class Done:
    """The content of a commit."""

    attempt: int
    """The attempt that was first to commit."""
    token: str
    """Its claim's."""
    run_id: str
    """Its run."""
    products: tuple[Staged, ...]
    """In the order in which they are published; a catalogue entry comes last."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """What was counted (tiles, detections, ...)."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds by activity."""


def attempt_folder(claim: Claim) -> str:
    """Folder below `out` of one attempt's products: no other owner's, even of that number."""
    return f"{ATTEMPTS}/{claim.key.path}/{claim.attempt:04}-{claim.token[:12]}"


def stage(
    ledger: Ledger,
    claim: Claim,
    source: bytes | Path,
    final: str | None,
    *,
    name: str | None = None,
    rows: int | None = None,
) -> Staged:
    """Write one product where only this attempt writes.

    Args:
        ledger: the ledger.
        claim: the owner's.
        source: the bytes, or a local file.
        final: its final name, one of the ledger's for this scene; None keeps it for the run.
        name: what it is; by default the final name's first folder. No two of an attempt are alike.
        rows: rows of a table.

    Raises:
        ValueError: a final name that is not the scene's, or no name at all.
    """
    if final is not None and final not in ledger.final_paths(claim.key.scene):
        raise ValueError(f"{final} is no final name of {claim.key.scene}")
    name = name or (final or "").partition("/")[0]
    if not name or "/" in name or name.startswith("."):
        raise ValueError(f"{name!r} names no product")
    suffix = os.path.splitext(final or "")[1]
    path = f"{attempt_folder(claim)}/{name}{'' if name.endswith(suffix) else suffix}"
    place = join(ledger.out, path)
    if isinstance(source, bytes):
        ledger.storage.write(place, source)
        return Staged(name, path, final, len(source), hashlib.sha256(source).hexdigest(), rows)
    size, digest = digest_of(source)
    ledger.storage.upload(source, place)
    return Staged(name, path, final, size, digest, rows)


def commit(
    ledger: Ledger,
    claim: Claim,
    products: Sequence[Staged],
    *,
    counts: Mapping[str, int] | None = None,
    seconds: Mapping[str, float] | None = None,
) -> bool:
    """Make this attempt the scene's, all its products written.

    Returns:
        Whether it is; where not, another attempt was first and this one's products are of no use
        (`discard` removes them).

    Raises:
        ValueError: two products of one name.
    """
    if len({product.staged for product in products}) < len(products):
        raise ValueError("two products of one attempt have the same name")
    content = {
        "products": [asdict(product) for product in products],
        "counts": dict(counts or {}),
        "seconds": dict(seconds or {}),
    }
    return ledger.create(claim.key, DONE, claim, content)


def read_done(ledger: Ledger, key: Key) -> Done:
    """Read a commit.

    Raises:
        InputError: there is none, or it is not what satray wrote.
    """
    tree = mark_content(ledger, key, DONE)
    try:
        done = Done(
            attempt=int(tree["attempt"]),
            token=str(tree["token"]),
            run_id=str(tree["run_id"]),
            products=tuple(Staged(**item) for item in tree["products"]),
            counts=tree["counts"],
            seconds=tree["seconds"],
        )
        for product in done.products:
            _check(product)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        place = ledger.uri(key, DONE)
        raise InputError(
            f"{place}: not a commit that satray wrote; delete its folder to score again"
        ) from error
    return done


def discard(ledger: Ledger, claim: Claim) -> None:
    """Remove what an attempt wrote that did not become the scene's, as far as one can."""
    with contextlib.suppress(SatrayError):  # the one who committed may be removing it too
        ledger.storage.delete(join(ledger.out, attempt_folder(claim)))


def _check(product: Staged) -> None:
    """Refuse paths that leave `out`: a commit is read from a store that others may write to."""
    paths: list[Any] = [product.staged, product.staged if product.final is None else product.final]
    for path in paths:
        if any(part in ("", ".", "..") for part in path.split("/")):
            raise ValueError(f"{path} is no path below the output")
