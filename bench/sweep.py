"""Sweeps: many heads over a few frozen networks, against extracting their features alone.

A sweep of `--heads` configurations over each variant is run as a user would, from an empty features
folder: its wall time is set against the seconds that the extraction took within it. A second sweep,
of other learning rates over the same features, is timed to its first finished trial. The naive way,
one training through the frozen network for each configuration, is measured on one of them for each
variant, without the start of Ray, which a sweep pays once, and multiplied: an extrapolation, and
said to be one.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.processes import job

SCHEDULES = ("constant", "step", "one_cycle", "cosine_restarts")
TIMES_EXTRACTION, TIMES_NAIVE, FIRST_SECONDS = 1.5, 20.0, 15.0
"""What is asked for: at most, at least, at most."""


def run(name: str, out: Path, *keys: str) -> dict[str, Any]:
    """A job as a user runs it: its seconds by activity, its wall time, first trial and memory."""
    begun, firsts = time.time(), []

    def look() -> None:
        if not firsts:
            ended = [path for path in out.glob("state/*/ledger/*.json") if is_over(path)]
            firsts.extend(sorted(path.stat().st_mtime - begun for path in ended)[:1])

    watched = job(name, *keys, f"out={out}", look=look)
    seconds = json.loads((out / "run.json").read_text())["seconds"]
    return {
        **seconds, "wall": watched.seconds, "first": firsts[0] if firsts else None,
        "gib": [max(watched.own.values()), watched.together],
    }  # fmt: skip


def is_over(trial: Path) -> bool:
    """Whether a trial of a sweep's log has ended."""
    return json.loads(trial.read_text())["status"] != "running"


def sweep(out: Path, shift: float, given: argparse.Namespace, store: Path) -> dict[str, Any]:
    """So many heads a variant, over features in `store`; rates from 1e-4 to 1e-1, shifted."""
    number = given.heads // len(SCHEDULES)
    powers = [-4 + 3 * i / max(1, number - 1) for i in range(number)]
    space = {
        "variant": given.variants.split(","),
        "stages.0.learning_rate": [float(f"{shift * 10**power:.4g}") for power in powers],
        "stages.0.schedule.name": list(SCHEDULES),
    }
    base = {
        "input.size": given.size, "weights": given.weights, "augment.views": given.views,
        "stages.0.pseudo_epochs": given.pseudo_epochs,
        "stages.0.schedule.cycle": given.pseudo_epochs / 2,
        "stages.0.schedule.step": given.pseudo_epochs / 3,
    }  # fmt: skip
    recipe = out.with_suffix(".yaml")
    recipe.write_text(json.dumps({"base": base, "space": space, "search": "grid"}))
    index = f"index={given.index.absolute()}"
    return run("tune", out, str(recipe), index, f"features.folder={store}")


def naive(out: Path, variant: str, given: argparse.Namespace) -> float:
    """Seconds of a training through the frozen network, Ray's start left out."""
    found = run(
        "train", out, f"index={given.index.absolute()}", f"variant={variant}",
        f"weights={given.weights}", f"input.size={given.size}", f"augment.views={given.views}",
        "stages=[{trainable: head, learning_rate: 1e-4}]", "tracking=none",
        f"stages.0.pseudo_epochs={given.pseudo_epochs}",
    )  # fmt: skip
    return float(found["total"] - found.get("starting", 0.0))


def main(arguments: list[str]) -> int:
    """Measure and print a table, then one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench sweep", description=__doc__)
    parser.add_argument("index", type=Path, help="the `out` of a prepare run over RGB tiles")
    parser.add_argument("--variants", default="single3,mobilenet_v2,resnet50_v2")
    parser.add_argument("--weights", default="none", help="of all variants: none or pretrained")
    parser.add_argument("--heads", type=int, default=64, help="configurations a variant")
    parser.add_argument("--pseudo-epochs", type=float, default=10.0)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--no-naive", action="store_true", help="leave the naive way out")
    given = parser.parse_args(arguments)
    given.heads -= given.heads % len(SCHEDULES)
    variants = given.variants.split(",")
    with tempfile.TemporaryDirectory(prefix="satray-bench-") as name:
        folder = Path(name)
        first = sweep(folder / "first", 1.0, given, folder / "features")
        second = sweep(folder / "second", 1.1, given, folder / "features")
        trainings = {} if given.no_naive else {
            variant: naive(folder / f"naive-{variant}", variant, given) for variant in variants
        }  # fmt: skip
    wall, features, result = first["wall"], first["features"], second["first"] or float("nan")
    rows: list[tuple[str, float, str]] = [
        (f"sweep of {given.heads} heads x {len(variants)} variants, s", wall, ""),
        ("  of which features, s", features, ""),
        ("  sweep / features", wall / features, f"at most {TIMES_EXTRACTION}"),
        ("second sweep, same features, s", second["wall"], ""),
        ("  of which features, s", second.get("features", 0.0), "0: no forward"),
        ("  first trial ended after, s", result, f"at most {FIRST_SECONDS:.0f}"),
        ("largest process, peak GiB", first["gib"][0], ""),
        ("all processes, peak GiB", first["gib"][1], ""),
        *((f"one training, {name}, s", seconds, "") for name, seconds in trainings.items()),
    ]  # fmt: skip
    if trainings:
        extrapolated = given.heads * sum(trainings.values())
        rows += [
            (f"naive, x {given.heads} (extrapolated), s", extrapolated, ""),
            ("naive / sweep", extrapolated / wall, f"at least {TIMES_NAIVE:.0f}"),
        ]
    print_rows(rows)
    print(json.dumps({"bench": "sweep", "first": first, "second": second, "naive": trainings}))
    return 0


def print_rows(rows: Iterable[tuple[str, float, str]]) -> None:
    """What, how much, and what is asked for."""
    for what, value, asked in rows:
        print(f"{what:48}{value:10.2f}  {asked}")
