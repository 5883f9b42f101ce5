"""Where a job's start goes: its lines, each when it came, and the processes behind them.

    python -m bench startup train index=runs/demo/prepare weights=none out=runs/x

Runs `jobs/NAME.py KEYS` and stamps what it prints with seconds since the command and the seconds of
CPU that all of its processes had taken by then; the first line of progress is the first step's.
Then each process: when it was first and last seen, its seconds of CPU, its titles (Ray renames its
workers). On a machine that does other work too, read the seconds of CPU.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.processes import ROOT, below

EVERY = 0.15
"""Seconds between looks."""
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Seen:
    """A process."""

    first: float
    """Seconds since the command."""
    last: float = 0.0
    cpu: float = 0.0
    """Seconds, its kernel's included."""
    titles: list[str] = field(default_factory=list)


def look(root: int, now: float, seen: dict[int, Seen]) -> None:
    """Note what runs below a process."""
    for pid in (root, *below(root)):
        with contextlib.suppress(OSError, ValueError):  # it ends while looked at
            folder = Path(f"/proc/{pid}")
            rest = (folder / "stat").read_text().rpartition(")")[2].split()
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            shown = [word.rpartition("/")[2] for word in words if word and word[0] != "-"][:2]
            one = seen.setdefault(pid, Seen(now))
            one.last, one.cpu = now, (int(rest[11]) + int(rest[12])) / TICKS
            if shown and " ".join(shown)[:40] not in one.titles:
                one.titles.append(" ".join(shown)[:40])


def main(arguments: list[str]) -> int:
    """Run the job and print both tables; its status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench startup", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("job")
    parser.add_argument("keys", nargs="*")
    given = parser.parse_args(arguments)
    command = [sys.executable, f"jobs/{given.job}.py", *given.keys]
    begun, seen = time.perf_counter(), dict[int, Seen]()
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip

    def stamp() -> None:
        for line in process.stdout or ():
            now, cpu = time.perf_counter() - begun, sum(one.cpu for one in seen.values())
            print(f"{now:7.1f} s {cpu:6.1f} CPU s | {line.rstrip()}", flush=True)

    reader = threading.Thread(target=stamp)
    reader.start()
    while process.poll() is None:
        look(process.pid, time.perf_counter() - begun, seen)
        time.sleep(EVERY)
    reader.join()
    spent = sum(one.cpu for one in seen.values())
    print(f"{time.perf_counter() - begun:7.1f} s {spent:6.1f} CPU s | {len(seen)} processes:")
    for pid, one in sorted(seen.items(), key=lambda found: found[1].first):
        titles = " > ".join(one.titles)
        print(f"{one.first:7.1f} to {one.last:6.1f} s {one.cpu:6.2f} CPU s  {pid} {titles}")
    return process.returncode
