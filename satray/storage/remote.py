"""Objects in stores, through obstore: one request to read, one to publish, parts for big files."""

import os
import random
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import AlreadyExistsError, PermissionDeniedError, PreconditionError

from satray.config.base import StorageOptions
from satray.errors import SatrayError
from satray.storage import s3_listing
from satray.storage import uri as names
from satray.storage.connect import RETRY_FOR, check, open_object, open_root
from satray.storage.entry import Entry
from satray.storage.failures import passing

if TYPE_CHECKING:
    from obstore import ObjectMeta

_PART = 8 << 20  # bytes of a part of a big upload
_MOST_PARTS = 9_000  # S3 takes 10,000
_PIECE = 4 << 20  # bytes a step when streaming a download
_TOKEN = "satraytoken"  # metadata of what was created only if absent; a name that Azure takes too


def walk(prefix: str, options: StorageOptions) -> list[Entry]:
    """Return the objects below a prefix, hidden ones too, in no promised order."""
    check(prefix)
    if names.scheme(prefix) == "s3":
        return s3_listing.walk(prefix, options)
    store = open_root(prefix, options)
    root, key = names.split(prefix)
    skip = len(key) + 1 if key else 0
    return [
        _entry(root, meta, meta["path"][skip:])
        for chunk in obstore.list(store, prefix=key or None, chunk_size=1000)
        for meta in chunk
        if meta["path"] != key
    ]


def head(uri: str, options: StorageOptions) -> Entry:
    """Describe one object; raises FileNotFoundError, or InputError where its bucket is missing."""
    store, key = open_object(uri, options)
    root, _ = names.split(uri)
    try:
        return _entry(root, obstore.head(store, key), names.name(key))
    except (FileNotFoundError, PermissionDeniedError):
        # An answer to HEAD has no body: it does not say what is missing, or why it was refused.
        if names.scheme(uri) == "s3":
            s3_listing.look(uri, options)
        raise


def exists(uri: str, options: StorageOptions) -> bool:
    """Tell whether there is an object of this name; a missing bucket is an error all the same."""
    if not names.split(uri)[1]:
        return False
    try:
        head(uri, options)
    except FileNotFoundError:
        return False
    return True


def fetch(uri: str, options: StorageOptions) -> tuple[bytes, str | None]:
    """Return a whole object and its etag by one GET."""
    store, key = open_object(uri, options)
    answer = obstore.get(store, key)
    etag = _etag(answer.meta)
    return answer.bytes().to_bytes(), etag


def stream(uri: str, options: StorageOptions) -> Iterator[memoryview]:
    """Yield an object piece by piece."""
    store, key = open_object(uri, options)
    for piece in obstore.get(store, key).stream(min_chunk_size=_PIECE):
        yield memoryview(piece)


def write(uri: str, data: bytes, options: StorageOptions, *, if_absent: bool) -> None:
    """Publish bytes by one PUT, conditional with `if_absent` (then FileExistsError may come).

    obstore does not repeat a conditional PUT whose answer was lost, since the first try may have
    worked. Here each write has a token, and what is there then tells by it whose it is.
    """
    store, key = open_object(uri, options)
    if not if_absent:
        obstore.put(store, key, data, use_multipart=False)
        return
    mark: dict[str, Any] = {_TOKEN: uuid.uuid4().hex}

    def create() -> bool:
        try:
            obstore.put(store, key, data, mode="create", use_multipart=False, attributes=mark)
        except (AlreadyExistsError, PreconditionError) as error:
            try:
                there = obstore.get(store, key, options={"head": True}).attributes
            except FileNotFoundError:  # two at once, and the store refused both
                return False
            if there.get(_TOKEN) != mark[_TOKEN]:
                raise FileExistsError(uri) from error
        return True

    if not _again(create):
        raise SatrayError(f"{uri}: the store neither has this object nor takes it")


def upload(source: str, uri: str, options: StorageOptions) -> None:
    """Publish a file; above one part's size it goes in parts, and appears when all are there."""
    store, key = open_object(uri, options)
    part = max(_PART, os.path.getsize(source) // _MOST_PARTS + 1)

    def put() -> bool:
        try:
            obstore.put(store, key, Path(source), chunk_size=part, max_concurrency=4)
        except FileNotFoundError:  # of the upload: it was completed, and the answer was lost
            if names.scheme(uri) == "s3":
                s3_listing.look(uri, options)
            return False
        return True

    if not _again(put):
        raise SatrayError(f"{uri}: the store loses the parts of this upload")


def delete(prefix: str, options: StorageOptions) -> None:
    """Remove an object of this name and everything below it."""
    check(prefix)
    if names.scheme(prefix) == "s3":
        s3_listing.delete(prefix, options)
        return
    store, key = open_object(prefix, options)
    for path in [*(names.split(entry.uri)[1] for entry in walk(prefix, options)), key]:
        try:
            obstore.delete(store, path)
        except FileNotFoundError:
            continue


def _again(do: Callable[[], bool]) -> bool:
    """Do something until it says that it is done, with pauses; a minute at the most, as obstore."""
    end = time.monotonic() + RETRY_FOR.total_seconds()
    pause = 0.1
    while True:
        try:
            if do():
                return True
        except FileExistsError:  # somebody else has the name
            raise
        except Exception as error:
            if not passing(error) or time.monotonic() > end:
                raise
        if time.monotonic() > end:
            return False
        time.sleep(pause * random.uniform(0.5, 1))
        pause = min(2 * pause, 8)


def _entry(root: str, meta: "ObjectMeta", key: str) -> Entry:
    return Entry(
        uri=f"{root}/{meta['path']}",
        key=key,
        size=meta["size"],
        etag=_etag(meta),
        modified=meta["last_modified"],
    )


def _etag(meta: "ObjectMeta") -> str | None:
    etag = meta["e_tag"]
    return etag.strip('"') if etag else None
