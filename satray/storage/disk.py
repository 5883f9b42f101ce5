"""Files on disk: listed, read, and published so that nobody ever sees half a file.

Not obstore's `LocalStore`, for reasons measured on 0.12: it renames without flushing to the disk
first, one circle of links or one odd name ends its whole listing, it hides names like `x#1`, and it
creates conditionally only where there are hard links.

A write goes to a hidden temporary file beside its target, is flushed and then renamed. What a crash
leaves is hidden: no listing shows it, `tidy` removes it, and so does `delete` of the folder.
"""

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from satray.storage.names import Entry
from satray.storage.temporary import is_left, process_tag

TEMPORARY = ".satray-tmp-"
"""How the names of files begin that are being written."""

_PIECE = 4 << 20  # bytes a step when copying
_NO_LINKS = (errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EPERM)


class Disk:
    """What `Objects` does with objects, for files; names are absolute paths, errors OSError."""

    def walk(self, folder: str) -> Iterator[Entry]:
        """Yield the regular files below a folder, hidden ones too, in no order.

        Links are followed, and a circle of them is an error; a dangling link is passed over. A
        folder that does not exist has no files, one that cannot be read is an error.
        """

        def refuse(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise error

        start = len(os.path.join(folder, ""))
        for here, _, files in os.walk(folder, followlinks=True, onerror=refuse):
            for path in (os.path.join(here, file) for file in files):
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(path)
                    if stat.S_ISREG(status.st_mode):
                        yield _entry(path, path[start:], status)

    def head(self, path: str) -> Entry:
        """Describe one file."""
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return _entry(path, os.path.basename(path), status)

    def fetch(self, path: str) -> tuple[bytes, str | None]:
        """Return a whole file and its etag."""
        with open(path, "rb", buffering=0) as file:
            return file.read(), _etag(os.fstat(file.fileno()))

    def write(self, path: str, data: bytes | BinaryIO, *, if_absent: bool = False) -> None:
        """Publish bytes, or what a file holds, in one step; folders above it are made.

        Raises:
            FileExistsError: with `if_absent`, when the file is there; of several writers one wins.
        """
        folder = os.path.dirname(path)
        try:
            os.makedirs(folder, exist_ok=True)
        except FileExistsError as error:  # must not look like a lost race for the file itself
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from error
        if if_absent and os.path.lexists(path):  # spares the write; the link below decides
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        temporary = os.path.join(folder, f"{TEMPORARY}{process_tag()}-{uuid.uuid4().hex[:16]}")
        try:
            _create(temporary, data)
            if if_absent:
                _link(temporary, path)
            else:
                os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        with contextlib.suppress(OSError):  # network shares cannot flush folders
            os.fsync(handle)  # so that the new name itself survives a power cut
        os.close(handle)

    def upload(self, source: str, path: str) -> None:
        """Publish a copy of a file, in one step."""
        with open(source, "rb") as file:
            self.write(path, file)

    def delete(self, path: str) -> None:
        """Remove a file, or a folder and all below it; what is not there is gone already."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path, onerror=_refuse)
            else:
                os.unlink(path)

    def tidy(self, folder: str) -> None:
        """Remove what writers that are dead left below a folder, links not followed, if it can."""
        for here, _, files in os.walk(folder):
            for path in (Path(here, file) for file in files if file.startswith(TEMPORARY)):
                with contextlib.suppress(OSError):
                    if is_left(path):
                        path.unlink()


def _refuse(_: object, __: str, raised: tuple[Any, BaseException, Any]) -> None:
    """Raise what a deletion met, but for what another process removed before it."""
    if not isinstance(raised[1], FileNotFoundError):
        raise raised[1]


def _entry(path: str, key: str, status: os.stat_result) -> Entry:
    modified = datetime.fromtimestamp(status.st_mtime, UTC)
    return Entry(path, key, status.st_size, _etag(status), modified)


def _etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def _link(temporary: str, path: str) -> None:
    """Give a file its name only if that is free, where a rename would replace."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:  # as network shares and mounted buckets have
            raise
        _create(path, Path(temporary).read_bytes())  # the name is taken, the bytes follow at once


def _create(path: str, data: bytes | BinaryIO) -> None:
    with open(path, "xb") as file:
        try:
            if isinstance(data, bytes):
                file.write(data)
            else:
                shutil.copyfileobj(data, file, _PIECE)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            os.unlink(path)
            raise
