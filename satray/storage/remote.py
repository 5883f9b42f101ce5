"""Objects in stores, through obstore: one request to read, one to publish, parts for big files."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError, PermissionDeniedError, PreconditionError

from satray.config.base import StorageOptions
from satray.storage import s3_listing
from satray.storage import uri as names
from satray.storage.connect import check, open_object, open_root
from satray.storage.entry import Entry

if TYPE_CHECKING:
    from obstore import ObjectMeta

_PART = 8 << 20  # bytes of a part of a big upload
_MOST_PARTS = 9_000  # S3 takes 10,000
_PIECE = 4 << 20  # bytes a step when streaming a download


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
    """Publish bytes by one PUT, conditional with `if_absent` (then FileExistsError may come)."""
    store, key = open_object(uri, options)
    if not if_absent:
        obstore.put(store, key, data, use_multipart=False)
        return
    try:
        obstore.put(store, key, data, mode="create", use_multipart=False)
    except (AlreadyExistsError, PreconditionError) as error:
        raise FileExistsError(uri) from error


def upload(source: str, uri: str, options: StorageOptions) -> None:
    """Publish a file; above one part's size it goes in parts, and appears when all are there."""
    store, key = open_object(uri, options)
    part = max(_PART, os.path.getsize(source) // _MOST_PARTS + 1)
    obstore.put(store, key, Path(source), chunk_size=part, max_concurrency=4)


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
