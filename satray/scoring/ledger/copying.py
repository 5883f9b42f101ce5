"""Files of known content from one name to another, in bounded memory."""

import hashlib
from pathlib import Path

from satray.errors import InputError
from satray.storage import Storage
from satray.storage.scratch import scratch

IN_MEMORY = 64 << 20
"""Bytes; larger files pass through a temporary one."""

_PIECE = 1 << 20


def digest_of(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a local file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            size += len(piece)
    return size, digest.hexdigest()


def copy_checked(storage: Storage, source: str, target: str, size: int, sha256: str) -> bool:
    """Copy a file whose content is known.

    Returns:
        Whether it was copied; where not, the source is gone or of other content, and the target is
        as it was.
    """
    if size <= IN_MEMORY:
        data = _read(storage, source)
        if data is None or hashlib.sha256(data).hexdigest() != sha256:
            return False
        storage.write(target, data)
        return True
    with scratch("copy") as folder:
        copy = folder / "file"
        if not _fetch(storage, source, copy) or digest_of(copy)[1] != sha256:
            return False
        storage.upload(copy, target)
    return True


def digest_at(storage: Storage, place: str, size: int) -> str | None:
    """SHA-256 of a stored file of about so many bytes; None where there is none."""
    if size <= IN_MEMORY:
        data = _read(storage, place)
        return None if data is None else hashlib.sha256(data).hexdigest()
    with scratch("copy") as folder:
        copy = folder / "file"
        return digest_of(copy)[1] if _fetch(storage, place, copy) else None


def _read(storage: Storage, place: str) -> bytes | None:
    """Read a file; None where there is none. What is there and cannot be read is an error."""
    try:
        return storage.read(place)
    except InputError:
        if storage.exists(place):
            raise
        return None


def _fetch(storage: Storage, place: str, copy: Path) -> bool:
    if not storage.exists(place):
        return False
    storage.download(place, copy)
    return True
