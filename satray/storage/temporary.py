"""Temporary files and folders, and which process made them: what a dead one left can go.

A thing tells its maker by a tag in its name.
"""

import contextlib
import functools
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

DAY = 86_400.0
"""Seconds after which something whose maker cannot be looked for from here counts as left."""
SCRATCH = "satray-scratch-"
"""How the names of folders of one process begin, in the system's temporary folder."""

_TAG = re.compile(r"([0-9a-f]{12})-([0-9]+)-([0-9]+)")


@functools.cache
def machine() -> str:
    """Name the set of processes that can be seen from here: 12 hexadecimal digits.

    It differs between machines, their starts, and containers, all of which may share a disk and
    even a host name.
    """
    parts = [os.uname().nodename]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def started(pid: int) -> int:
    """When a live process of this machine began, in the kernel's ticks; 0 where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def process_tag() -> str:
    """Name this process as no other, now or later, is named: machine, pid and start."""
    return f"{machine()}-{os.getpid()}-{started(os.getpid())}"


def process_lives(name: str) -> bool | None:
    """Whether the process whose tag stands in `name` lives; None where that is not seen from here.

    A pid that another process has now is told by the time of its start.
    """
    match = _TAG.search(name)
    if match is None or match[1] != machine() or not started(os.getpid()):
        return None
    return started(int(match[2])) == int(match[3])


def last_written(path: Path) -> float:
    """When a file, or anything in the first two levels of a folder, was last written."""
    inner = [*path.glob("*"), *path.glob("*/*")] if path.is_dir() and not path.is_symlink() else []
    return max(each.lstat().st_mtime for each in [path, *inner])


def is_left(path: Path) -> bool:
    """Whether its maker left a thing behind: it is dead, or unknown and the thing a day old."""
    alive = process_lives(path.name)
    return time.time() - last_written(path) > DAY if alive is None else not alive


@contextlib.contextmanager
def scratch(kind: str) -> Iterator[Path]:
    """A folder of this process's own, which goes at the end of the block.

    What was left by processes that were killed goes now.

    Args:
        kind: what it is for; stands in its name.
    """
    for path in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        with contextlib.suppress(OSError):
            if is_left(path):
                shutil.rmtree(path, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{process_tag()}-{kind}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
