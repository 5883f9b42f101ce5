"""How much memory this process may use, its page cache included."""

import os
from pathlib import Path

V1, V2 = "memory.limit_in_bytes", "memory.max"


def node_memory(groups: Path = Path("/sys/fs/cgroup"), mine: Path | None = None) -> int:
    """Bytes: the machine's, or the limit of the container or control group if that is lower.

    Args:
        groups: where control groups are mounted.
        mine: list of this process's groups; default /proc/self/cgroup.
    """
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    # In a container its own group is mounted as the root; elsewhere it lies below.
    places = [groups / V2, groups / "memory" / V1]
    for line in _text(mine or Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            places.append(groups / path.strip("/") / V2)
        elif "memory" in controllers.split(","):
            places.append(groups / "memory" / path.strip("/") / V1)
    found += [int(text) for text in map(_text, places) if text.isdecimal()]
    return min(found)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
