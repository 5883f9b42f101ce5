"""Objects in stores, through obstore: one request to read, one to publish, parts for big files.

Stores stay in the process that opened them, and credentials never travel.
"""

import errno
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import obstore
import obstore.store as stores
from obstore.exceptions import AlreadyExistsError, PreconditionError

from satray.config.base import StorageOptions
from satray.errors import InputError, SatrayError
from satray.storage import s3
from satray.storage import uri as names
from satray.storage.entry import Entry
from satray.storage.errors import again, one_line, shown

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, ObjectStore

SCHEMES = ("s3", "gs", "az", "http", "https")
"""Schemes that are accepted."""

_PART = 8 << 20  # bytes of a part of a big upload
_MOST_PARTS = 9_000  # S3 takes 10,000
_PIECE = 4 << 20  # bytes a step when streaming a download
_TOKEN = "satraytoken"  # metadata of what was created only if absent; a name that Azure takes too
_OPENING = threading.Lock()  # many threads ask at once, and one opens


def open_store(uri: str, options: StorageOptions) -> "ObjectStore":
    """Return the store of a URI's bucket (or host), opened once a process.

    Raises:
        InputError: unknown scheme or profile, no credentials, an endpoint out of reach.
    """
    root, _ = names.split(uri)
    scheme = names.scheme(uri)
    if scheme not in SCHEMES:
        accepted = ", ".join(f"{known}://" for known in SCHEMES)
        raise InputError(
            f"{shown(uri)}: {scheme}:// is not known; accepted: local paths, {accepted}"
        )
    if root.endswith("://"):
        raise InputError(f"{shown(uri)}: no bucket is named; accepted: {scheme}://BUCKET/KEY")
    with _OPENING:
        return _open(root, options, os.getpid())


def forget_connections() -> None:
    """Drop what this process has opened; the next use reads variables and profiles again."""
    _open.cache_clear()
    s3.forget()


@dataclass(frozen=True)
class Objects:
    """What `disk` does with files, for objects; names are URIs."""

    options: StorageOptions
    """Endpoint, region, profile, and whether to sign."""

    def walk(self, prefix: str) -> Iterator[Entry]:
        """Yield the objects below a prefix, hidden ones too; folder markers are none."""
        store = open_store(prefix, self.options)
        root, key = names.split(prefix)
        folder = f"{key}/" if key else ""
        if root.startswith("s3://"):
            for item in s3.items(root.removeprefix("s3://"), folder, self.options):
                if not (name := item["Key"]).endswith("/"):
                    etag, modified = item.get("ETag"), item["LastModified"].astimezone(UTC)
                    uri, below = f"{root}/{name}", name[len(folder) :]
                    yield Entry(uri, below, item["Size"], _bare(etag), modified)
            return
        for page in obstore.list(store, prefix=key or None):
            for meta in page:
                if meta["path"] != key:
                    yield _entry(root, meta, meta["path"][len(folder) :])

    def head(self, uri: str) -> Entry:
        """Describe one object; raises FileNotFoundError, or IsADirectoryError for a bucket."""
        store, key = self._find(uri)
        return _entry(names.split(uri)[0], obstore.head(store, key), names.name(key))

    def fetch(self, uri: str) -> tuple[bytes, str | None]:
        """Return a whole object and its etag by one GET."""
        store, key = self._find(uri)
        response = obstore.get(store, key)
        return response.bytes().to_bytes(), _bare(response.meta["e_tag"])

    def stream(self, uri: str) -> Iterator[memoryview]:
        """Yield an object piece by piece."""
        store, key = self._find(uri)
        for piece in obstore.get(store, key).stream(min_chunk_size=_PIECE):
            yield memoryview(piece)

    def write(self, uri: str, data: bytes, *, if_absent: bool = False) -> None:
        """Publish bytes by one PUT, conditional with `if_absent` (then FileExistsError may come).

        obstore does not repeat a conditional PUT whose response was lost, since the first try may
        have worked. Here each write has a token, and what is there then tells by it whose it is.
        """
        store, key = self._find(uri)
        if not if_absent:
            obstore.put(store, key, data, use_multipart=False)
            return
        mark: dict[str, Any] = {_TOKEN: uuid.uuid4().hex}

        def create() -> None:
            try:
                obstore.put(store, key, data, mode="create", use_multipart=False, attributes=mark)
            except (AlreadyExistsError, PreconditionError) as error:
                try:
                    there = obstore.get(store, key, options={"head": True}).attributes
                except FileNotFoundError:  # two at once, and the store refused both
                    raise SatrayError(
                        f"{uri}: the store neither has this object nor takes it"
                    ) from error
                if there.get(_TOKEN) != mark[_TOKEN]:
                    raise FileExistsError(uri) from error

        again(create)

    def upload(self, source: str, uri: str) -> None:
        """Publish a file, a big one in parts; it appears when all of it is there."""
        store, key = self._find(uri)
        part = max(_PART, os.path.getsize(source) // _MOST_PARTS + 1)

        def put() -> None:
            try:
                obstore.put(store, key, Path(source), chunk_size=part, max_concurrency=4)
            except FileNotFoundError as error:  # the upload was completed, and the response lost
                raise SatrayError(f"{uri}: the store loses the parts of this upload") from error

        again(put)

    def delete(self, prefix: str) -> None:
        """Remove an object of this name and everything below it, folder markers too."""
        store = open_store(prefix, self.options)
        root, key = names.split(prefix)
        if root.startswith("s3://"):
            bucket = root.removeprefix("s3://")
            below = [item["Key"] for item in s3.items(bucket, f"{key}/", self.options)]
            s3.delete(bucket, [key, *below], self.options)
            return
        for path in [*(names.split(entry.uri)[1] for entry in self.walk(prefix)), key]:
            with suppress(FileNotFoundError):
                obstore.delete(store, path)

    def _find(self, uri: str) -> "tuple[ObjectStore, str]":
        """Return the store that holds an object, and its key there.

        Raises:
            InputError: as `open_store`, and for keys with empty parts, which obstore cannot name.
            IsADirectoryError: for a bare bucket.
        """
        _, key = names.split(uri)
        if names.scheme(uri).startswith("http"):
            key = unquote(key)  # obstore encodes it again
        if not key:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), uri)
        if "//" in f"/{key}":
            raise InputError(f"{shown(uri)}: names with an empty part (`//`) cannot be used")
        return open_store(uri, self.options), key


# The process id in the key keeps a forked child from using its parent's connections.
@lru_cache(maxsize=64)
def _open(root: str, options: StorageOptions, pid: int) -> "ObjectStore":  # noqa: ARG001
    if root.startswith("s3://"):
        return s3.open_bucket(root.removeprefix("s3://"), options)
    client: ClientConfig = {**s3.CLIENT, "allow_http": root.startswith("http://")}
    unsigned: Any = {"skip_signature": True} if options.unsigned and root[:4] != "http" else {}
    try:
        return stores.from_url(root, client_options=client, retry_config=s3.RETRY, **unsigned)
    except Exception as error:  # obstore raises several kinds; all mean the same here
        raise InputError(f"{root}: cannot open this store: {one_line(error)}") from error


def _entry(root: str, meta: "ObjectMeta", key: str) -> Entry:
    modified = meta["last_modified"]
    return Entry(f"{root}/{meta['path']}", key, meta["size"], _bare(meta["e_tag"]), modified)


def _bare(etag: str | None) -> str | None:
    return etag.strip('"') if etag else None
