"""Large tensors on the process's heap, which keeps its pages from one forward to the next.

The C library gives memory of more than 32 MB back to the system as soon as it is free, and the
system clears each page of the next such tensor as it is first touched. A forward over a large
window makes dozens of them: for MobileNetV2 at 1,024 px that is half of the time.

What is kept must not grow: blocks of rasters that are read meanwhile come to lie between freed
tensors, and the next large one finds no room there. So pages that are free are given back whenever
the process has grown by `SLACK`.
"""

import ctypes
import os
import sys
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h
_NEVER = 2**31 - 1

SLACK = 64 << 20
"""Bytes by which a process may grow beyond what it holds after a forward."""

_kept: dict[str, int] = {}
"""`base`: resident bytes after the first forward since the start or the last tidying; 0: none."""


def keep_memory() -> bool:
    """Have this process keep the memory that its main thread has freed; for good.

    For processes whose work is forwards: what they held at most, they hold until they end. Call it
    before `pick`, which times forwards.

    Returns:
        False where the C library is not glibc, and nothing was changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  another C library takes other numbers
        # Threads keep heaps of their own: what is read ahead would break up the one of the
        # tensors. (What is too large for a thread's heap is mapped and cleared each time.)
        wanted = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _NEVER}
        done = [library.mallopt(name, value) for name, value in wanted.items()]
    except (OSError, AttributeError):
        return False
    _kept.setdefault("base", 0)
    return all(done)


def tidy() -> bool:
    """Give free pages back where they have become too many; call it after each forward.

    Returns:
        Whether it did so. Never where `keep_memory` was not called.
    """
    if "base" not in _kept:
        return False
    now = _resident()
    if not _kept["base"]:
        _kept["base"] = now
    if now <= _kept["base"] + SLACK:
        return False
    ctypes.CDLL(None).malloc_trim(0)
    _kept["base"] = 0
    return True


def _resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_bytes().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
