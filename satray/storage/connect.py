"""From a URI and options to an open object store, once a process.

Stores stay in the process that made them: they are rebuilt elsewhere, and credentials never travel.
"""

import os
import threading
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import obstore.store as stores

from satray.config.base import StorageOptions
from satray.errors import InputError
from satray.storage import uri as names
from satray.storage.failures import one_line, shown
from satray.storage.s3 import s3_client, s3_store

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

KNOWN = ("s3", "gs", "az", "http", "https")
"""Schemes that are accepted."""

RETRY_FOR = timedelta(seconds=60)
"""For how long a request is tried again: stores throttle, and connections drop."""

_RETRY: "RetryConfig" = {
    "max_retries": 8,
    "retry_timeout": RETRY_FOR,
    "backoff": {
        "init_backoff": timedelta(milliseconds=200),
        "max_backoff": timedelta(seconds=8),
        "base": 2,
    },
}
# No limit on a whole transfer (obstore's is 30 s, which ends big objects), one on silence.
_CLIENT: "ClientConfig" = {
    "connect_timeout": timedelta(seconds=5),
    "read_timeout": timedelta(seconds=30),
    "timeout": timedelta(hours=6),
}
_BUILDING = threading.Lock()  # many threads ask at once, and one builds


def check(uri: str) -> None:
    """Raise InputError for a URI of an unknown scheme, or without a bucket."""
    root, _ = names.split(uri)
    scheme = names.scheme(uri)
    if scheme not in KNOWN:
        accepted = ", ".join(f"{known}://" for known in KNOWN)
        raise InputError(
            f"{shown(uri)}: {scheme}:// is not known; accepted: local paths, {accepted}"
        )
    if root.endswith("://"):
        raise InputError(f"{shown(uri)}: no bucket is named; accepted: {scheme}://BUCKET/KEY")


def open_root(uri: str, options: StorageOptions) -> "ObjectStore":
    """Return the store of a URI's bucket (or host).

    Raises:
        InputError: unknown scheme or profile, no credentials, an endpoint out of reach.
    """
    check(uri)
    with _BUILDING:
        return _store(names.split(uri)[0], options, os.getpid())


def open_object(uri: str, options: StorageOptions) -> "tuple[ObjectStore, str]":
    """Return the store that holds an object, and its key there.

    Raises:
        InputError: as `open_root`, and for a bare bucket and for keys with empty parts, which
            obstore cannot name.
    """
    store = open_root(uri, options)
    _, key = names.split(uri)
    if names.scheme(uri).startswith("http"):
        key = unquote(key)  # obstore encodes it again
    if not key:
        raise InputError(f"{shown(uri)}: this is a bucket, not an object in it")
    if "//" in f"/{key}":
        raise InputError(f"{shown(uri)}: names with an empty part (`//`) cannot be used")
    return store, key


def open_s3_client(options: StorageOptions) -> Any:
    """Return this process's boto3 client; raises InputError as `open_root` does."""
    with _BUILDING:
        return _client(options, os.getpid())


def forget() -> None:
    """Drop what this process has opened; the next use reads variables and profiles again."""
    _store.cache_clear()
    _client.cache_clear()


# The process id in the key keeps a forked child from using its parent's connections.
@lru_cache(maxsize=64)
def _client(options: StorageOptions, pid: int) -> Any:  # noqa: ARG001
    return s3_client(options)


@lru_cache(maxsize=64)
def _store(root: str, options: StorageOptions, pid: int) -> "ObjectStore":  # noqa: ARG001
    if root.startswith("s3://"):
        return s3_store(root.removeprefix("s3://"), options, _CLIENT, _RETRY)
    client: ClientConfig = {**_CLIENT, "allow_http": root.startswith("http://")}
    try:
        if options.unsigned and not root.startswith("http"):
            return stores.from_url(
                root, client_options=client, retry_config=_RETRY, skip_signature=True
            )
        return stores.from_url(root, client_options=client, retry_config=_RETRY)
    except Exception as error:  # obstore raises several kinds; all mean the same here
        raise InputError(f"{root}: cannot open this store: {one_line(error)}") from error
