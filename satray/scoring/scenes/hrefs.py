"""Where a reference leads that an Item or a list makes. Pure.

What others wrote may lead to its own neighbours and to public addresses, never from a store into
this machine's disk, and never into GDAL's own file systems (`/vsi...`).
"""

import os

from satray.errors import DecodeError
from satray.storage import names

REMOTE = ("s3", "http", "https")
"""Schemes that an absolute reference may have, wherever it is found."""


def resolved(href: object, base: str) -> str:
    """The absolute path or URI of a reference.

    Args:
        href: relative to the document that holds it, or absolute. Taken literally: a `%20` stays.
        base: absolute path or URI of that document.

    Raises:
        DecodeError: no text, another scheme, above the root of the store, from a store to a disk.
    """
    if not isinstance(href, str) or not href.strip() or not href.isprintable():
        raise DecodeError(f"reference {href!r}: accepted: a path or URI")
    scheme = names.scheme(href)
    if scheme in REMOTE:
        if not names.split(href)[1]:
            raise DecodeError(f"reference {href}: names no object")
        return names.absolute(href)
    if scheme not in ("", "file"):
        accepted = ", ".join(f"{known}://" for known in REMOTE)
        raise DecodeError(f"reference {href}: accepted: relative paths, {accepted}")
    if not names.is_remote(base):
        path = href if scheme else os.path.join(names.parent(base), href)
        return _local(names.absolute(path), href)
    if scheme or href.startswith("//"):
        raise DecodeError(f"reference {href}: leads out of the store that holds it")
    root, key = names.split(base)
    folder = [] if href.startswith("/") else key.split("/")[:-1]
    for part in href.split("/"):
        if part == ".." and not folder:
            raise DecodeError(f"reference {href}: leads above the root of its store")
        if part == "..":
            folder.pop()
        elif part not in ("", "."):
            folder.append(part)
    if not folder:
        raise DecodeError(f"reference {href}: names no object")
    return names.join(root, *folder)


def _local(path: str, href: str) -> str:
    if path.startswith("/vsi"):
        raise DecodeError(f"reference {href}: not a path of this disk")
    return path
