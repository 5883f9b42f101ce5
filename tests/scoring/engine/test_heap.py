"""Memory that is freed and taken again is not cleared anew."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, threading
import numpy as np
from satray.scoring.engine.heap import keep_memory

if "keep" in sys.argv:
    assert keep_memory()
work = lambda: [np.ones(8 << 20) for _ in range(10)] and None  # 64 MiB each, ten at once
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
before = faults()
for _ in range(3):
    if "thread" in sys.argv:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    else:
        work()
print(faults() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def run(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
@pytest.mark.parametrize("where", ["main", "thread"])
def test_pages_are_kept(where):
    faults, most = run(where)
    kept_faults, kept_most = run(where, "keep")
    assert kept_faults < faults / 20
    assert kept_most < 1.2 * most  # it takes no more than before
