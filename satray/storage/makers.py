"""Which process made a file or folder, told by its name, so that what a dead one left can go."""

import contextlib
import functools
import hashlib
import os
import re
import time
from pathlib import Path

DAY = 86_400.0
"""Seconds after which something whose maker cannot be looked for from here counts as left."""

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


def born(pid: int) -> int:
    """When a live process of this machine began, in the kernel's ticks; 0 where there is none."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if told[0] in "ZX" else int(told[19])


def tag() -> str:
    """Name this process as no other, now or later, is named: machine, pid and start."""
    return f"{machine()}-{os.getpid()}-{born(os.getpid())}"


def lives(name: str) -> bool | None:
    """Whether the process whose tag stands in `name` lives; None where that is not seen from here.

    A pid that another process has now is told by the time of its start.
    """
    match = _TAG.search(name)
    if match is None or match[1] != machine() or not born(os.getpid()):
        return None
    return born(int(match[2])) == int(match[3])


def is_left(name: str, modified: float) -> bool:
    """Whether its maker left a thing behind: it is dead, or unknown and the thing a day old.

    Args:
        name: with the maker's tag in it, or not.
        modified: when it was last written, seconds since 1970.
    """
    alive = lives(name)
    return time.time() - modified > DAY if alive is None else not alive
