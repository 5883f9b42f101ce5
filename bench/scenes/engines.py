"""CPU engines against eager torch at equal features, for the networks that an engine is for.

By `bench.engine`, in processes of their own, turn about: eager torch as it comes (`plain`) and on
channels-last input (`eager`) in one, the engine in one that keeps its freed memory, as scoring
actors do (`satray.scoring.engine.heap`). The figure is the ratio of medians over all processes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

NAMES = ("mobilenetv2_100", "legacy_xception")
ROOT = Path(__file__).resolve().parents[2]


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure and print a table."""
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in NAMES}
    gaps: dict[str, float] = {}
    for _ in range(given.rounds):
        for keys in (["--engines", "plain", "eager"], ["--engines", "fused", "--keep"]):
            for row in _measured(*keys):
                for engine, took in row["seconds"].items():
                    seconds[row["backbone"]].setdefault(engine, []).append(took)
                gaps[row["backbone"]] = max(row["difference"].values())
    print("| backbone | eager torch, s | channels last, s | `fused`, s | times faster than eager "
          "| than channels last | features differ by |")  # fmt: skip
    print("|---|---:|---:|---:|---:|---:|---:|")
    rows = []
    for name, by in seconds.items():
        took = {engine: median(each) for engine, each in by.items()}
        plain, last = (took[engine] / took["fused"] for engine in ("plain", "eager"))
        print(f"| {name} | {took['plain']:.3f} | {took['eager']:.3f} | {took['fused']:.3f} "
              f"| **{plain:.2f}** | {last:.2f} | {gaps[name]:.0e} |")  # fmt: skip
        rows.append({"backbone": name, "seconds": by, "plain": plain, "channels_last": last})
    return {"rows": rows, "rounds": given.rounds}


def _measured(*keys: str) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "found.json"
        subprocess.run(
            [sys.executable, "-m", "bench", "engine", "--backbones", *NAMES, "--rounds", "5",
             "--json", str(target), *keys],
            check=True, capture_output=True, cwd=ROOT,
        )  # fmt: skip
        found: list[dict[str, Any]] = json.loads(target.read_text())
    return found
