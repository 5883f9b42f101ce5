"""Sweeps: many heads over a few frozen networks, against extracting their features alone.

One sweep of `--heads` configurations over each variant is run as a user would, from an empty
features folder: its wall time is set against the seconds that the extraction took within it. A
second sweep, of other learning rates over the same features, is timed to its first finished trial.
The naive way, one training through the frozen network for each configuration, is measured on
`--naive` of them for each variant, without the start of Ray, which a sweep pays once, and
multiplied: an extrapolation, and said to be one. Memory is the proportional set size (shared pages
divided among those that share them) of the driver and of every process below it, sampled twice a
second.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCHEDULES = ("constant", "step", "one_cycle", "cosine_restarts")
TIMES_EXTRACTION, TIMES_NAIVE, FIRST_SECONDS = 1.5, 20.0, 15.0
"""What is asked for: at most, at least, at most."""


@dataclass
class Memory:
    """Peaks of a process and of those below it, MiB."""

    pid: int
    driver: float = 0.0
    worker: float = 0.0
    whole: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Sample until stopped."""
        while not self._stop.wait(0.5):
            sizes = {pid: _pss(pid) for pid in (self.pid, *_below(self.pid))}
            self.driver = max(self.driver, sizes.pop(self.pid))
            self.worker = max([self.worker, *sizes.values()])
            self.whole = max(self.whole, self.driver + sum(sizes.values()))

    def stop(self) -> None:
        """Sample no more."""
        self._stop.set()


def _pss(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def _below(pid: int) -> list[int]:
    """All processes that a process started, and so on."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        below = parents.get(todo.pop(), [])
        found += below
        todo += below
    return found


@dataclass(frozen=True)
class Ran:
    """One command."""

    seconds: float
    """From the command to its end."""
    first: float | None
    """To the first trial that ended; None where it is not a sweep."""
    record: dict[str, Any]
    """Its run.json."""
    memory: Memory
    """Peaks."""


def run(job: str, out: Path, *arguments: str) -> Ran:
    """Run a job as a user would; its output passes through."""
    command = [sys.executable, f"jobs/{job}.py", *arguments, f"out={out}"]
    print("$", " ".join(command[1:]), flush=True)
    begun, first = time.perf_counter(), None
    process = subprocess.Popen(command)
    memory = Memory(process.pid)
    watcher = threading.Thread(target=memory.watch, daemon=True)
    watcher.start()
    while process.poll() is None:
        time.sleep(0.05)
        if first is None and any(out.glob("state/*/ledger/ended/*.json")):
            first = time.perf_counter() - begun
    seconds = time.perf_counter() - begun
    memory.stop()
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{job} ended with status {process.returncode}")
    return Ran(seconds, first, json.loads((out / "run.json").read_text()), memory)


def rates(number: int, shift: float = 1.0) -> list[float]:
    """Learning rates from 1e-4 to 1e-1, evenly in the logarithm."""
    return [float(f"{shift * 10 ** (-4 + 3 * i / max(1, number - 1)):.4g}") for i in range(number)]


def sweep_file(
    folder: Path, name: str, variants: Sequence[str], heads: int, shift: float, base: dict[str, Any]
) -> str:
    """A recipe of `tune`: so many heads a variant."""
    space = {
        "variant": list(variants),
        "stages.0.learning_rate": rates(heads // len(SCHEDULES), shift),
        "stages.0.schedule.name": list(SCHEDULES),
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({"base": base, "space": space, "search": "grid"}))
    return str(path)


def naive(
    folder: Path, index: str, variants: Sequence[str], number: int, base: dict[str, Any], views: int
) -> dict[str, list[float]]:
    """Seconds of trainings through the frozen network, Ray's start left out, by variant."""
    found: dict[str, list[float]] = {}
    path = folder / "naive.yaml"
    path.write_text(json.dumps(nested(base | {"augment.views": views})))
    for variant in variants:
        for place, rate in enumerate(rates(number)):
            ran = run(
                "train", folder / f"naive-{variant}-{place}", str(path), f"index={index}",
                f"variant={variant}", f"stages.0.learning_rate={rate}", "tracking=none",
            )  # fmt: skip
            seconds = ran.record["seconds"]
            found.setdefault(variant, []).append(seconds["total"] - seconds.get("starting", 0.0))
    return found


def nested(base: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys as `train` takes them; it trains the head, as trials of a sweep do."""
    from satray.config.parse import apply_overrides

    tree: dict[str, Any] = {"stages": [{"trainable": "head"}]}
    return apply_overrides(tree, base)


def main(arguments: list[str]) -> int:
    """Measure and print a table, then one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench sweep", description=__doc__)
    parser.add_argument("index", help="the `out` of a prepare run over RGB tiles")
    parser.add_argument("--variants", default="single3,mobilenet_v2,resnet50_v2")
    parser.add_argument("--weights", default="none", help="of all variants: none or pretrained")
    parser.add_argument("--heads", type=int, default=64, help="configurations a variant")
    parser.add_argument("--pseudo-epochs", type=float, default=10.0)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1, help="repetitions of both sweeps")
    parser.add_argument("--naive", type=int, default=1, help="trainings a variant; 0: none")
    options = parser.parse_args(arguments)
    os.environ.setdefault("RAY_worker_niceness", "0")
    index = str(Path(options.index).absolute())
    variants = options.variants.split(",")
    heads = options.heads - options.heads % len(SCHEDULES)
    base = {
        "input.size": options.size, "weights": options.weights,
        "stages.0.pseudo_epochs": options.pseudo_epochs,
        "stages.0.schedule.cycle": options.pseudo_epochs / 2,
        "stages.0.schedule.step": options.pseudo_epochs / 3,
    }  # fmt: skip
    first: list[Ran] = []
    second: list[Ran] = []
    trainings: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="satray-bench-") as name:
        folder = Path(name)
        for number in range(options.rounds):
            store = folder / f"features-{number}"
            for runs, shift, kind in ((first, 1.0, "first"), (second, 1.1, "second")):
                recipe = sweep_file(folder, kind, variants, heads, shift, base)
                runs.append(
                    run(
                        "tune",
                        folder / f"{kind}-{number}",
                        recipe,
                        f"index={index}",
                        f"features.folder={store}",
                        f"features.views={options.views}",
                    )
                )
        if options.naive:
            trainings = naive(folder, index, variants, options.naive, base, options.views)
    print_figures(options, variants, heads, first, second, trainings)
    return 0


def print_figures(
    options: argparse.Namespace,
    variants: Sequence[str],
    heads: int,
    first: Sequence[Ran],
    second: Sequence[Ran],
    trainings: dict[str, list[float]],
) -> None:
    """A table, then one line of JSON."""
    wall = statistics.median(each.seconds for each in first)
    features = statistics.median(each.record["seconds"]["features"] for each in first)
    again = statistics.median(each.seconds for each in second)
    result = statistics.median(each.first or float("nan") for each in second)
    forward = max(each.record["seconds"].get("features", 0.0) for each in second)
    a_trial = {name: statistics.median(found) for name, found in trainings.items()}
    extrapolated = sum(seconds * heads for seconds in a_trial.values())
    peaks = [each.memory for each in (*first, *second)]
    rows = [
        (f"sweep of {heads} heads x {len(variants)} variants, s", f"{wall:.1f}", ""),
        ("  of which features, s", f"{features:.1f}", ""),
        ("  sweep / features", f"{wall / features:.2f}", f"at most {TIMES_EXTRACTION}"),
        ("second sweep, same features, s", f"{again:.1f}", ""),
        ("  of which features, s", f"{forward:.1f}", "0: no forward"),
        ("  first trial ended after, s", f"{result:.1f}", f"at most {FIRST_SECONDS:.0f}"),
        ("driver, peak MiB", f"{max(each.driver for each in peaks):.0f}", ""),
        ("largest worker, peak MiB", f"{max(each.worker for each in peaks):.0f}", ""),
        ("all processes, peak MiB", f"{max(each.whole for each in peaks):.0f}", ""),
    ]
    if trainings:
        rows += [
            (f"  one training, {name}, s", f"{seconds:.1f}", "")
            for name, seconds in a_trial.items()
        ]
        rows += [
            (f"naive, x {heads} (extrapolated), s", f"{extrapolated:.0f}", ""),
            ("naive / sweep", f"{extrapolated / wall:.1f}", f"at least {TIMES_NAIVE:.0f}"),
        ]
    for told, value, asked in rows:
        print(f"{told:48}{value:>10}  {asked}")
    figures = {
        "bench": "sweep", "cores": os.cpu_count(), "size": options.size, "views": options.views,
        "variants": list(variants), "heads": heads, "pseudo_epochs": options.pseudo_epochs,
        "wall": [each.seconds for each in first],
        "features": [each.record["seconds"]["features"] for each in first],
        "second": [each.seconds for each in second], "first_trial": [e.first for e in second],
        "naive": trainings, "naive_extrapolated": extrapolated or None,
        "peak_mib": [[each.driver, each.worker, each.whole] for each in peaks],
    }  # fmt: skip
    print(json.dumps(figures))
