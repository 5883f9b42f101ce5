"""Run a job as a user does, and watch the memory of all of its processes (Linux)."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EVERY = 0.5
"""Seconds between looks."""


@dataclass
class Watched:
    """What a job took."""

    seconds: float = 0.0
    """From its start to its end, Python's and Ray's included."""
    said: str = ""
    """What it printed."""
    most: dict[int, tuple[float, float, str]] = field(default_factory=dict)
    """Process -> GiB resident at most, shared pages included; of these private or file-backed
    (without shared memory, which is Ray's object store and counts once a machine); name."""
    together: float = 0.0
    """GiB of all processes at once at most, shared memory left out."""


def job(
    name: str, *keys: str, look: Callable[[], None] | None = None, root: Path = ROOT
) -> Watched:
    """`python jobs/NAME.py KEYS`.

    Args:
        name: the job.
        keys: its arguments.
        root: the checkout of satray whose job it is.
        look: called twice a second while it runs.

    Raises:
        SystemExit: it does not end with status 0.
    """
    command = [sys.executable, f"jobs/{name}.py", *keys]
    print("$", " ".join(command[1:]), file=sys.stderr, flush=True)
    start, watched = time.perf_counter(), Watched()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, cwd=root, stdout=said, stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(root)},
        )  # fmt: skip
        while process.poll() is None:
            _look(process.pid, watched)
            if look is not None:
                look()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(EVERY)
        said.seek(0)
        watched.said = said.read()
    watched.seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{watched.said}")
    return watched


def below(pid: int) -> dict[int, str]:
    """Processes that a process started, they and theirs, with their names."""
    parents: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
            parents[int(folder.name)] = (int(rest.split()[1]), name)
    found: dict[int, str] = {}
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        children = {child: name for child, (parent, name) in parents.items() if parent == one}
        found |= children
        waiting += children
    return found


def _look(root: int, watched: Watched) -> None:
    total = 0.0
    for pid in (root, *below(root)):
        with contextlib.suppress(OSError, KeyError):  # it ends while looked at
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            found = dict(line.split(":", 1) for line in lines)
            resident, shared = (int(found[k].split()[0]) / 2**20 for k in ("VmRSS", "RssShmem"))
            total += resident - shared
            if resident > watched.most.get(pid, (0.0,))[0]:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:2]
                told = " ".join(Path(word.decode(errors="replace")).name for word in words)
                watched.most[pid] = (resident, resident - shared, told.strip())
    watched.together = max(watched.together, total)
