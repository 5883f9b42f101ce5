"""Large tensors on the process's heap, which keeps its pages from one forward to the next.

The C library gives memory of more than 32 MB back to the system as soon as it is free, and the
system clears each page of the next such tensor as it is first touched. A forward over a large
window makes dozens of them: for MobileNetV2 at 1,024 px that is half of the time.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of glibc's malloc.h
_NEVER = 2**31 - 1


def keep_memory() -> bool:
    """Have this process keep the memory that it has freed; for good, and for all its threads.

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
        # One heap for all threads: only the main one takes tensors as large as these.
        wanted = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _NEVER, _ARENA_MAX: 1}
        done = [library.mallopt(name, value) for name, value in wanted.items()]
    except (OSError, AttributeError):
        return False
    return all(done)
