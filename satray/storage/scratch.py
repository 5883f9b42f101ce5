"""This user's own place below the system's temporary folder, and what dead processes left there."""

import contextlib
import errno
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from satray.storage import makers


def user_folder(base: str | None = None) -> Path:
    """Make this user's folder below `base`, or below the system's temporary folder.

    Raises:
        OSError: it cannot be made, or is somebody else's, who could then read and change it.
    """
    folder = Path(base or tempfile.gettempdir()).absolute() / f"satray-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(errno.EACCES, "is somebody else's", str(folder))
    folder.chmod(0o700)
    return folder


@contextlib.contextmanager
def scratch(kind: str) -> Iterator[Path]:
    """A folder of this process's own, which goes at the end of the block.

    What was left by processes that were killed goes now.

    Args:
        kind: what it is for; begins its name.
    """
    try:
        root = user_folder() / "scratch"
        root.mkdir(exist_ok=True)
        sweep(root)
        folder = root / f"{kind}-{makers.tag()}-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
    except OSError:  # somebody else has the name: one that nobody can guess
        folder = Path(tempfile.mkdtemp(prefix=f"satray-{kind}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def log_folder() -> Path:
    """Where logs stay that cannot be in a run folder; those of a day ago go.

    Raises:
        OSError: there is no such place.
    """
    folder = user_folder() / "logs"
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if makers.lives(path.name) is not True and time.time() - touched(path) > makers.DAY:
                path.unlink()
    return folder


def sweep(root: Path) -> None:
    """Remove the folders in `root` that dead processes left there."""
    for path in root.iterdir():
        with contextlib.suppress(OSError):
            if makers.is_left(path.name, touched(path)):
                shutil.rmtree(path, ignore_errors=True)


def touched(path: Path) -> float:
    """When a file, or anything in the first two levels of a folder, was last written."""
    inner = [*path.glob("*"), *path.glob("*/*")] if path.is_dir() and not path.is_symlink() else []
    return max(each.lstat().st_mtime for each in [path, *inner])
