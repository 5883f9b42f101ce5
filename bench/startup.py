"""Where a job's start goes: its lines, each when it came, and the processes behind them.

    python -m bench startup train index=runs/demo/prepare weights=none out=runs/x

Runs `jobs/NAME.py KEYS` and stamps what it prints with seconds since the command and the seconds of
CPU that all of its processes had taken by then; the first line of progress is the first step's.
Then each process: when it was first and last seen, its seconds of CPU, its titles (Ray renames its
workers). On a machine that does other work too, read the seconds of CPU.
"""

import argparse
import time

from bench.processes import Watched, job


def stamp(text: str, watched: Watched) -> None:
    """Print a line with the seconds that were taken until then."""
    now = time.perf_counter() - watched.begun
    print(f"{now:7.1f} s {watched.cpu:6.1f} CPU s | {text}", flush=True)


def main(arguments: list[str]) -> int:
    """Run the job and print both tables."""
    parser = argparse.ArgumentParser(
        prog="python -m bench startup", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("job")
    parser.add_argument("keys", nargs="*")
    given = parser.parse_args(arguments)
    watched = job(given.job, *given.keys, line=stamp)
    stamp(f"{len(watched.seen)} processes:", watched)
    for pid, one in sorted(watched.seen.items(), key=lambda found: found[1].first):
        titles = " > ".join(one.titles)
        print(f"{one.first:7.1f} to {one.last:6.1f} s {one.cpu:6.2f} CPU s  {pid} {titles}")
    return 0
