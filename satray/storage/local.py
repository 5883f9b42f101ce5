"""Files on disk: read, listed and published so that nobody ever sees half a file.

A write goes to a hidden temporary file beside its target, is flushed to the disk and then renamed.
What a crash leaves behind is hidden: no listing shows it, `tidy` removes it, and so does `delete`
of the folder.
"""

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from satray.storage import makers
from satray.storage.entry import Entry

TEMPORARY = ".satray-tmp-"
_CANNOT = (
    errno.ENOTSUP,
    errno.ENOSYS,
    errno.EINVAL,
)  # what file systems say that know no such thing


def describe(path: str, key: str, status: os.stat_result) -> Entry:
    """Make the entry of a file from its `stat`: the etag is its time of change and its size."""
    return Entry(
        uri=path,
        key=key,
        size=status.st_size,
        etag=_etag(status),
        modified=datetime.fromtimestamp(status.st_mtime, UTC),
    )


def _etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def walk(folder: str) -> Iterator[Entry]:
    """Yield the regular files below a folder, hidden ones too, in no order.

    Links are followed, each folder once; a dangling link is passed over. A folder that does not
    exist has no files.

    Raises:
        OSError: when a folder cannot be read.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [(folder, "")]
    while waiting:
        here, prefix = waiting.pop()
        try:
            status = os.stat(here)
            if not stat.S_ISDIR(status.st_mode) or (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            scan = os.scandir(here)
        except FileNotFoundError:
            continue  # removed while we looked
        with scan:
            for item in scan:
                try:
                    if item.is_dir():
                        waiting.append((item.path, f"{prefix}{item.name}/"))
                    elif item.is_file() and not item.name.startswith(TEMPORARY):
                        yield describe(item.path, prefix + item.name, item.stat())
                except FileNotFoundError:
                    continue


def head(path: str) -> Entry:
    """Describe one file; raises OSError (FileNotFoundError, IsADirectoryError, ...)."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    return describe(path, os.path.basename(path), status)


def fetch(path: str) -> tuple[bytes, str]:
    """Return a whole file and its etag."""
    with open(path, "rb", buffering=0) as file:
        return file.read(), _etag(os.fstat(file.fileno()))


def write(path: str, data: bytes, *, if_absent: bool = False) -> None:
    """Publish bytes as a file, in one step; folders above it are made.

    Raises:
        FileExistsError: with `if_absent`, when the file is there; of several writers one wins.
        OSError: whatever else the disk says.
    """
    _publish(path, lambda file: _write_all(file, data), if_absent=if_absent)


def copy(source: str, path: str) -> None:
    """Publish a copy of a file, in one step, a megabyte at a time."""
    with open(source, "rb") as original:
        _publish(path, lambda file: shutil.copyfileobj(original, file, 1 << 20))


def receive(path: str, pieces: Callable[[], Iterator[bytes | memoryview]]) -> None:
    """Publish a file from pieces that arrive one after another."""

    def fill(file: BinaryIO) -> None:
        for piece in pieces():
            file.write(piece)

    _publish(path, fill)


def delete(path: str) -> None:
    """Remove a file, or a folder and all below it; what is not there is gone already."""
    try:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        return


def tidy(folder: str) -> int:
    """Remove what writers that are dead left below a folder, and return how many files that were.

    Links are not followed; what cannot be removed stays.
    """
    gone = 0
    for here, _, names in os.walk(folder):
        for path in (os.path.join(here, name) for name in names if name.startswith(TEMPORARY)):
            with contextlib.suppress(OSError):
                if makers.is_left(path, os.lstat(path).st_mtime):
                    os.unlink(path)
                    gone += 1
    return gone


def _write_all(file: BinaryIO, data: bytes) -> None:
    file.write(data)


def _publish(path: str, fill: Callable[[BinaryIO], None], *, if_absent: bool = False) -> None:
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, exist_ok=True)
    except FileExistsError as error:  # must not look like a lost race for the file itself
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from error
    if if_absent and os.path.lexists(path):  # spares the write; the link below decides
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    temporary = os.path.join(folder, f"{TEMPORARY}{makers.tag()}-{uuid.uuid4().hex[:16]}")
    try:
        with open(temporary, "xb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        if if_absent:
            _link(temporary, path)
        else:
            os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    _sync_folder(folder)


def _link(temporary: str, path: str) -> None:
    """Give a file its name only if that is free, where a rename would replace.

    Memory sticks, network shares and mounted buckets know no hard links: there the name is taken
    first, and the bytes follow at once.
    """
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (*_CANNOT, errno.EPERM):
            raise
        with open(temporary, "rb") as source, open(path, "xb") as file:
            try:
                shutil.copyfileobj(source, file)
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                os.unlink(path)
                raise


def _sync_folder(folder: str) -> None:
    """Make the new name itself survive a power cut, where the file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    finally:
        os.close(handle)
