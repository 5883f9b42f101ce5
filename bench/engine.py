"""CPU engines for features against eager torch, per backbone.

A forward of one window by each engine, in turn and round after round in one process, so that a busy
machine weighs on all alike; the figure is the ratio of medians. Features are compared with eager
torch's, on noise and with the batch statistics of noise. Two rows are eager torch: `plain` is the
network as every other job runs it, `eager` the same on channels-last input, which is faster.
`--keep` has the process keep the memory that it frees (`satray.scoring.engine.heap`), for all rows.
`--memory` runs each in a process of its own, and says what the most was that it held.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.scenes.processes import peak

BACKBONES = (
    "resnet18", "mobilenetv2_100", "legacy_xception", "resnetv2_50", "inception_v3", "simple_cnn",
)  # fmt: skip
ENGINES = ("plain", "eager", "fused", "onnx")
BANDS = 3


def settled(name: str) -> Any:
    """A backbone with random weights and the batch statistics of noise, the same each time."""
    from satray.models.backbones import build

    torch.manual_seed(0)
    backbone = build(name, BANDS)
    for norm in backbone.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None
    with torch.no_grad():
        backbone.train()(torch.randn(4, BANDS, 128, 128))
    return backbone.eval().requires_grad_(False)


def trunk(engine: str, backbone: Any, threads: int, folder: Path | None) -> tuple[Any, float]:
    """A forward by one engine, and the seconds that it took to make."""
    from satray.scoring.engine.exported import ExportCache
    from satray.scoring.engine.make import make_trunk

    start = time.perf_counter()
    if engine == "plain":
        return backbone, 0.0
    key = ("bench, seed 0", backbone.name)
    made = make_trunk(engine, backbone, BANDS, threads, ExportCache(folder), key)  # type: ignore[arg-type]
    return made, time.perf_counter() - start


def rounds(forwards: dict[str, Callable[[Tensor], Tensor]], x: Tensor, count: int) -> dict:
    """Seconds of each forward, a list of `count` by engine; each runs once before."""
    found: dict[str, list[float]] = {name: [] for name in forwards}
    with torch.inference_mode():
        for number in range(count + 1):
            for name, forward in forwards.items():
                start = time.perf_counter()
                forward(x)
                if number:
                    found[name].append(time.perf_counter() - start)
    return found


def measure(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """One backbone by all engines."""
    from satray.scoring.engine.trial import difference
    from satray.scoring.engine.trunk import UnfitError

    backbone, forwards, made, refused = settled(name), {}, {}, {}
    for engine in given.engines:
        try:
            forwards[engine], made[engine] = trunk(engine, backbone, given.threads, given.folder)
        except UnfitError as error:
            refused[engine] = str(error)
    x = torch.randn(given.batch, BANDS, given.side, given.side)
    with torch.inference_mode():
        wanted = backbone(x)
        gaps = {engine: difference(forward(x), wanted) for engine, forward in forwards.items()}
    seconds = rounds(forwards, x, given.rounds)
    medians = {engine: float(np.median(each)) for engine, each in seconds.items()}
    return {
        "backbone": name,
        "features": list(wanted.shape),
        "seconds": medians,
        "spread": {engine: (min(each), max(each)) for engine, each in seconds.items()},
        "difference": gaps,
        "making": made,
        "refused": refused,
    }


def memory(name: str, engine: str, given: argparse.Namespace) -> float:
    """GiB that a process of its own held at most while it ran the window twice."""
    command = [sys.executable, "-m", "bench", "engine", "--child", engine, "--backbones", name]
    command += [f"--{key}={getattr(given, key)}" for key in ("side", "batch", "threads")]
    command += [f"--folder={given.folder}"] if given.folder else []
    command += ["--keep"] if given.keep else []
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def child(given: argparse.Namespace) -> int:
    """Print the GiB that this process came to hold."""
    backbone = settled(given.backbones[0])
    forward, _ = trunk(given.child, backbone, given.threads, given.folder)
    x = torch.randn(given.batch, BANDS, given.side, given.side)
    with torch.inference_mode():
        for _ in range(2):
            forward(x)
    print(json.dumps(peak()))
    return 0


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: a row a backbone and engine."""
    base = "| backbone | engine | s a window | against plain | against eager | difference | GiB |"
    lines = [base, "|---|---|---:|---:|---:|---:|---:|"]
    for row in found:
        seconds = row["seconds"]
        for engine, took in seconds.items():
            ratios = [
                f"{seconds[other] / took:.2f} x" if other in seconds else ""
                for other in ("plain", "eager")
            ]
            held = f"{row['memory'][engine]:.2f}" if "memory" in row else ""
            gap = f"{row['difference'][engine]:.0e}"
            cells = [row["backbone"], engine, f"{took:.3f}", *ratios, gap, held]
            lines.append(f"| {' | '.join(cells)} |")
        for engine, why in row["refused"].items():
            lines.append(f"| {row['backbone']} | {engine} | {why} | | | | |")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser("python -m bench engine", description=__doc__)
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES))
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--side", type=int, default=1024, help="of the window, px")
    parser.add_argument("--batch", type=int, default=1, help="windows a forward")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path, help="where exported graphs are kept")
    parser.add_argument("--keep", action="store_true", help="all engines with freed memory kept")
    parser.add_argument("--memory", action="store_true", help="also a process for each")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--child", choices=ENGINES, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    torch.set_flush_denormal(True)
    if given.keep:
        from satray.scoring.engine.heap import keep_memory

        keep_memory()
    if given.child:
        return child(given)
    found = []
    for name in given.backbones:
        row = measure(name, given)
        if given.memory:
            row["memory"] = {engine: memory(name, engine, given) for engine in row["seconds"]}
        found.append(row)
        print(f"{name}: {json.dumps(row['seconds'])}", file=sys.stderr, flush=True)
    print(f"{given.threads} threads, {given.batch} x {given.side} px, {given.rounds} rounds")
    print(table(found))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))
    return 0
