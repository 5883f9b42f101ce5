"""Names of things on disk and in object stores, and what a listing says about each. Pure.

A name is an absolute local path (`/data/tiles/a.tif`) or a URI (`s3://bucket/tiles/a.tif`). Object
keys are taken literally: a space, a `%20` or a `#` in `s3://bucket/a b#%20.tif` is part of the key.
"""

import os
import re
import zlib
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote

from satray.errors import DecodeError, InputError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True)
class Entry:
    """One file or object, as its store describes it."""

    uri: str
    """Absolute path or URI; `Storage.read` takes it as it is."""
    key: str
    """Path below the listed prefix, `/`-separated; of a single object, its last part."""
    size: int
    """Length in bytes."""
    etag: str | None
    """Changes when the content does: the store's own, or size and time of change for a file."""
    modified: datetime
    """Time of the last change, in UTC."""


@dataclass(frozen=True)
class Version:
    """An object as it was when it was read: what it must still be to be the same."""

    size: int
    """Length in bytes."""
    etag: str | None
    """As of its entry; None where the store gave none."""
    crc32: int | None
    """CRC-32 of its content; None where it is not known."""

    def check(self, data: bytes, etag: str | None) -> None:
        """Refuse another object.

        Only where the etag differs is the content summed up: a file that was copied or touched has
        another time, and an object that was uploaded in other parts another etag.

        Args:
            data: the object as it is now.
            etag: as the store gave it with the data.

        Raises:
            DecodeError: its size, or its content, is another.
        """
        changed = "changed since it was indexed"
        if len(data) != self.size:
            raise DecodeError(f"{changed}: {len(data):,} bytes, then {self.size:,}")
        same = self.etag is None or etag is None or etag == self.etag
        if not same and (self.crc32 is None or zlib.crc32(data) != self.crc32):
            raise DecodeError(f"{changed}: same size, other content")


def scheme(uri: str) -> str:
    """Return the lower-case scheme of a URI (`s3`), or the empty string for a path."""
    match = _SCHEME.match(uri)
    return match.group(1).lower() if match else ""


def is_remote(uri: str) -> bool:
    """Tell whether a name is a URI of an object store; paths and `file://` are not."""
    return scheme(uri) not in ("", "file")


def absolute(path_or_uri: str | os.PathLike[str]) -> str:
    """Return the one spelling of a name: an absolute path, or a URI without trailing slashes.

    `~` is expanded, `.` and `..` are resolved in paths (symbolic links are not), `file://` is
    stripped and percent-decoded. The inner part of a URI stays as it is.

    Raises:
        InputError: a `file://` of another host, which two slashes in place of three make too.
    """
    text = os.fspath(path_or_uri)
    if scheme(text) == "file":
        host, slash, path = text.partition("://")[2].partition("/")
        if host not in ("", "localhost"):
            raise InputError(f"{text}: a file of another host; accepted: file:///PATH, or a path")
        text = unquote(slash + path)
    if not is_remote(text):
        return os.path.abspath(os.path.expanduser(text))
    head, rest = split(text)
    return f"{head}/{rest}" if rest else head


def split(uri: str) -> tuple[str, str]:
    """Split a URI into its root (`s3://bucket`) and the key below it, without slashes at its end.

    Raises:
        ValueError: for a path, which has no root.
    """
    match = _SCHEME.match(uri)
    if match is None:
        raise ValueError(f"{uri} is not a URI")
    bucket, _, key = uri[match.end() :].partition("/")
    return f"{match.group(1).lower()}://{bucket}", key.rstrip("/")


def as_text(name: str) -> str:
    r"""A name for tables and people: bytes of a local one that are no UTF-8 as `\udcff`."""
    return name.encode("utf-8", "backslashreplace").decode()


def join(base: str, *parts: str) -> str:
    """Append parts below a path or URI; outer slashes of the parts do not matter."""
    head = base.rstrip("/") if base.strip("/") else base
    tail = "/".join(filter(None, (part.strip("/") for part in parts)))
    if not tail:
        return head
    return head + tail if head.endswith("/") else f"{head}/{tail}"


def name(uri: str) -> str:
    """Return the last part of a path or URI; a bucket's is its own name."""
    return uri.rstrip("/").rpartition("/")[2]


def parent(uri: str) -> str:
    """Return the path or URI without its last part; a root is its own parent."""
    if is_remote(uri):
        root, key = split(uri)
        return join(root, key.rpartition("/")[0])
    return os.path.dirname(uri.rstrip("/")) or ("/" if uri.startswith("/") else ".")
