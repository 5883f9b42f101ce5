"""Features larger than memory: a head trained from a memory map of so many GiB.

A raw file of random features, as nodes keep them (`satray.sweep.feature_table`), is written to
`--folder`; then a head is trained on it for `--pseudo-epochs` passes by the loop that sweeps use.
Reported: samples a second of each pass, GiB read from disk, and the process's anonymous memory
(its own; pages of the map are the system's to take back), beside the same with a file of a tenth of
memory. Under a control group (a container's memory limit) the group's limit counts as memory.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, VIEWS, CLASSES, CHUNK = 2048, 8, 17, 64 << 20


def write(path: Path, tiles: int) -> None:
    """So many tiles of random features; blocks repeat, which neither disk nor head minds."""
    block = np.random.default_rng(0).standard_normal(CHUNK // 4, dtype=np.float32).tobytes()
    left = tiles * VIEWS * WIDTH * 4
    with path.open("wb") as file:
        while left:
            left -= file.write(block[: min(left, len(block))])


def anonymous() -> float:
    """GiB of this process that are no file's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 2**20
    return 0.0


def from_disk() -> float:
    """GiB that this process made the system read so far."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("read_bytes:"):
            return int(line.split()[1]) / 2**30
    return 0.0


def train(path: Path, tiles: int, passes: int) -> dict[str, Any]:
    """Train a head; gives samples a second of each pass and the peak of anonymous memory."""
    from satray.config.train import TrainRecipe
    from satray.sweep.feature_table import Features, mapped
    from satray.sweep.head import (
        HeadNetwork,
        eval_features,
        head_batches,
        train_features,
        val_batches,
    )
    from satray.training.loop.settings import LoopSettings
    from satray.training.loop.train import Loop
    from satray.training.plan.order import train_order
    from satray.training.plan.stages import plan_training

    recipe = TrainRecipe.model_validate(
        {"index": "none", "weights": "none", "batch": 256, "augment": {"views": VIEWS},
         "stages": [{"trainable": "head", "pseudo_epochs": passes}]}
    )  # fmt: skip
    labels = (np.random.default_rng(1).random((tiles, CLASSES)) < 0.3).astype(np.uint8)
    maps = mapped(path, (tiles, VIEWS, WIDTH), "float32")
    features = Features((maps,), labels, np.ones(tiles, bool))
    few = Features((maps[:512, :1],), labels[:512], np.ones(512, bool))
    plan = plan_training(recipe, tiles, 1)
    names = tuple(f"c{k}" for k in range(CLASSES))
    loop = Loop(
        HeadNetwork("linear", WIDTH, CLASSES), plan,
        settings=LoopSettings("multilabel", names, recipe.optimizer, seed=0, error_budget=0.0),
        train_input=train_features, eval_input=eval_features,
    )  # fmt: skip
    batches = head_batches(features, train_order(recipe, plan, labels), plan)
    rates, peak, read = [], 0.0, from_disk()
    while not loop.done:
        begun = time.perf_counter()
        loop.step(batches, val_batches(few))
        rates.append(round(tiles / (time.perf_counter() - begun)))
        peak = max(peak, anonymous())
    return {"gib": round(maps.nbytes / 2**30, 2), "samples_per_second": rates,
            "anonymous_gib": round(peak, 2), "read_gib": round(from_disk() - read, 1)}  # fmt: skip


def main(arguments: list[str]) -> int:
    """Measure and print two lines, then one line of JSON."""
    from satray.data.memory import node_memory

    memory = node_memory() / 2**30
    parser = argparse.ArgumentParser(prog="python -m bench mapped", description=__doc__)
    parser.add_argument("--gib", type=float, default=1.2 * memory, help="default 1.2 x memory")
    parser.add_argument("--pseudo-epochs", type=int, default=2)
    parser.add_argument("--folder", default="runs", help="on a disk with that much room")
    options = parser.parse_args(arguments)
    path = Path(options.folder) / "features.raw"
    path.parent.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {"bench": "mapped", "memory_gib": round(memory, 1)}
    try:
        for name, gib in (("small", memory / 10), ("large", options.gib)):
            tiles = int(gib * 2**30 / (VIEWS * WIDTH * 4))
            write(path, tiles)
            figures[name] = train(path, tiles, options.pseudo_epochs)
            print(f"{name}: {figures[name]}")
    finally:
        path.unlink(missing_ok=True)
    print(json.dumps(figures))
    return 0
