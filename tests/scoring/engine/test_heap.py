"""Memory that is freed and taken again is not cleared anew."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from satray.scoring.engine.heap import keep_memory

if "keep" in sys.argv:
    assert keep_memory()
work = lambda: [np.ones(8 << 20) for _ in range(10)] and None  # 64 MiB each, ten at once
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
before = faults()
for _ in range(3):
    work()
print(faults() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def run(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_pages_are_kept():
    faults, most = run()
    kept_faults, kept_most = run("keep")
    assert kept_faults < faults / 20
    assert kept_most < 1.2 * most  # it takes no more than before


BROKEN_UP = """
from satray.scoring.engine import heap

assert not heap.tidy()  # nothing is kept yet
assert heap.keep_memory()
assert not heap.tidy()  # the first forward says what is usual
import numpy as np

more = np.ones(heap.SLACK // 4)  # twice what may come on top
del more
held = heap._resident()
assert heap.tidy()
print(held - heap._resident(), heap.SLACK)
assert not heap.tidy()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_what_has_grown_is_given_back():
    done = subprocess.run(
        [sys.executable, "-c", BROKEN_UP], capture_output=True, text=True, check=True
    )
    less, slack = (int(word) for word in done.stdout.split())
    assert less > slack
