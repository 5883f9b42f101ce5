"""Run a job as a user does, and watch the memory of all of its processes (Linux)."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

EVERY = 0.5
"""Seconds between looks."""
ROOT = Path(__file__).resolve().parents[2]


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

    @property
    def largest(self) -> tuple[float, float, str]:
        """The process that held most."""
        return max(self.most.values())


def job(*arguments: str) -> Watched:
    """`python jobs/...`, at the priority of this process; raises when it does not end with 0."""
    environment = {"RAY_worker_niceness": "0", **os.environ}
    command = [sys.executable, *arguments]
    start, watched = time.perf_counter(), Watched()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT
        )
        while process.poll() is None:
            _look(process.pid, watched)
            time.sleep(EVERY)
        said.seek(0)
        watched.said = said.read()
    watched.seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{watched.said}")
    return watched


def _look(root: int, watched: Watched) -> None:
    total = 0.0
    for pid in _family(root):
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        found = dict(line.split(":", 1) for line in lines)
        if "VmRSS" not in found:
            continue
        resident, shared = (int(found[key].split()[0]) / 2**20 for key in ("VmRSS", "RssShmem"))
        total += resident - shared
        before = watched.most.get(pid, (0.0, 0.0, ""))
        if resident > before[0]:
            name = Path(f"/proc/{pid}/cmdline").read_bytes() if resident else b""
            words = name.split(b"\0")
            told = b" ".join(Path(w.decode(errors="replace")).name.encode() for w in words[:2])
            watched.most[pid] = (resident, resident - shared, told.decode().strip())
    watched.together = max(watched.together, total)


def _family(root: int) -> list[int]:
    """A process and all that it started, and these."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            after = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(after[1]), []).append(int(folder.name))
    found, coming = [], [root]
    while coming:
        pid = coming.pop()
        found.append(pid)
        coming += parents.get(pid, [])
    return found


def peak() -> float:
    """GiB that this process held at most. Not `getrusage`, which goes on from its parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
