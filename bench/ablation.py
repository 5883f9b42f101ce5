"""Ablation: what each part of the recommended recipe adds to validation mAP.

Every way is a training from scratch through `jobs/train.py` and two evaluations, plain and
averaged over the eight symmetries; all share an index, a length and a seed, and differ in the keys
that their line gives. Differences to the recommended recipe come with a paired bootstrap: both
networks are measured on the same draws of tiles, so what the draw does to both cancels.

A way that is done already is found done, so an interrupted table is finished by the same command.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

COMMON = (
    "variant=single3",
    "weights=none",
    "input.size=128",
    "batch=32",
    "stages.0.learning_rate=2e-3",
)

WAYS: dict[str, tuple[str, ...]] = {
    "recommended": (),
    "augmentation: none": (
        "augment.flips=none", "augment.crop=centre", "augment.brightness=0", "augment.contrast=0",
    ),
    "augmentation: d4 only": (
        "augment.crop=random", "augment.brightness=0", "augment.contrast=0",
    ),
    "augmentation: and mixup": ("augment.mixup=0.2",),
    "augmentation: crops of 0.35": ("augment.scale=0.35",),
    "schedule: constant": ("stages.0.schedule.name=constant", "stages.0.learning_rate=5e-4"),
    "schedule: cosine, warm-up": (
        "stages.0.schedule.name=cosine", "stages.0.schedule.warmup=1",
    ),
    "schedule: cosine restarts": (
        "stages.0.schedule.name=cosine_restarts", "stages.0.schedule.cycle=4",
    ),
    "averages: none": ("average.ema=0",),
    "averages: swa": ("average.ema=0", "average.snapshots=swa"),
    "loss: asymmetric": ("loss.name=asymmetric",),
    "loss: focal": ("loss.name=focal",),
    "loss: balanced weights": ("loss.positive_weight=balanced",),
    "sampling: repeat 0.1": ("repeat=0.1",),
    "pooling: max": ("pooling=max",),
    "pooling: lse": ("pooling=lse",),
    "weight decay: 0.01": ("optimizer.weight_decay=0.01",),
}  # fmt: skip
"""Name -> keys that differ from the recommended recipe, which is that of `train` without keys."""


@dataclass(frozen=True)
class Result:
    """One way, measured."""

    seconds: float
    """Of `train`, in all."""
    plain: NDArray[np.float64]
    """Logits (N, K)."""
    averaged: NDArray[np.float64]
    """Logits (N, K), mean over the eight symmetries."""
    labels: NDArray[np.float64]
    """0 or 1 (N, K)."""


def run(job: str, *arguments: str) -> None:
    """Run a job as a user would; its output passes through."""
    command = [sys.executable, f"jobs/{job}.py", *arguments]
    print("$", " ".join(command[1:]), flush=True)
    subprocess.run(command, check=True)


def measure(name: str, keys: Sequence[str], index: str, out: Path, length: str) -> Result:
    """Train and evaluate one way, or find it done."""
    folder = out / name.replace(": ", "-").replace(", ", "-").replace(" ", "-")
    train = folder / "train"
    run("train", f"index={index}", f"out={train}", length, *COMMON, *keys)
    logits = {}
    for way in ("none", "d4"):
        quality = folder / f"evaluate-{way}"
        run("evaluate", f"bundle={train}", f"index={index}", f"out={quality}", f"symmetries={way}")
        logits[way] = read(quality)
    seconds = json.loads((train / "run.json").read_text())["seconds"]["total"]
    return Result(seconds, logits["none"][0], logits["d4"][0], logits["d4"][1])


def read(quality: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logits and labels of an evaluate run, by tile id."""
    import pyarrow.parquet as pq

    from satray.scoring.predictions import matrix

    table = pq.read_table(quality / "predictions", schema=None).sort_by("tile_id")
    classes = json.loads((quality / "metrics.json").read_text())["classes"]
    return matrix(table, "logit", classes), matrix(table, "target", classes)


def main(arguments: list[str]) -> int:
    """Measure and print a table, then one line of JSON."""
    from satray.metrics.bootstrap import bootstrap, paired

    parser = argparse.ArgumentParser(prog="python -m bench ablation", description=__doc__)
    parser.add_argument("index", help="the `out` of a prepare run over RGB tiles, multilabel")
    parser.add_argument("--out", default="runs/ablation", help="folder of the trainings")
    parser.add_argument("--pseudo-epochs", type=float, default=12.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ways", help="names, separated by ';'; default all", default="")
    options = parser.parse_args(arguments)
    index = str(Path(options.index).absolute())
    names = [name.strip() for name in options.ways.split(";") if name.strip()] or list(WAYS)
    unknown = [name for name in names if name not in WAYS]
    if unknown:
        parser.error(f"--ways: unknown {', '.join(unknown)}; accepted: {'; '.join(WAYS)}")
    names = ["recommended", *(name for name in names if name != "recommended")]
    length = f"stages.0.pseudo_epochs={options.pseudo_epochs:g}"
    out = Path(options.out).absolute() / f"{options.pseudo_epochs:g}-{options.seed}"
    results = {
        name: measure(name, (*WAYS[name], f"seed={options.seed}"), index, out, length)
        for name in names
    }
    classes = json.loads((out / "recommended/evaluate-d4/metrics.json").read_text())["classes"]
    base = results["recommended"]
    figures: dict[str, Any] = {
        "bench": "ablation", "pseudo_epochs": options.pseudo_epochs, "seed": options.seed,
    }  # fmt: skip
    print(f"{'way':28}{'mAP':>7}{'D4 mAP':>8}{'difference (95 %)':>26}{'train s':>9}")
    for name, found in results.items():
        plain = bootstrap(found.plain, found.labels, classes, "multilabel", 1000)["map"]
        whole = bootstrap(found.averaged, found.labels, classes, "multilabel", 1000)["map"]
        apart = paired(
            found.averaged, base.averaged, found.labels, classes, "multilabel", 1000
        )["map"]  # fmt: skip
        said = f"{apart.value:+.3f} ({apart.low:+.3f} to {apart.high:+.3f})"
        said = "-" if name == "recommended" else said
        print(f"{name:28}{plain.value:7.3f}{whole.value:8.3f}{said:>26}{found.seconds:9.0f}")
        figures[name] = {
            "map": round(plain.value, 4), "map_d4": round(whole.value, 4),
            "low": round(whole.low, 4), "high": round(whole.high, 4),
            "difference": [round(apart.value, 4), round(apart.low, 4), round(apart.high, 4)],
            "seconds": round(found.seconds, 1),
        }  # fmt: skip
    print(json.dumps(figures))
    return 0
