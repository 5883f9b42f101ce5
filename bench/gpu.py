r"""A GPU kept busy: the step alone, fed from tiles on disk, and fed through the full line.

    python -m bench gpu          # one GPU, at most 8 minutes; a look at it on CPUs:
    python -m bench gpu --device cpu --seconds 1 --size 32 --batch 8 --tiles 64 \
      --networks simple_cnn

For each network, over tiles that are generated (256 x 256 x 4, uint16, deflate), images a second of

- `step`: `TrainStep` alone on one batch that is on the device, what nothing that feeds it can pass;
- `disk`: the same step, its batches read, decoded, copied and augmented while the device computes,
  by threads of this process;
- `line`: `jobs/train.py` through Ray, the median of its second and third pseudo-epoch (the first
  fills the pipeline); left out where Ray is not installed;

each with the share of the time in which the GPU was busy (nvidia-smi, five looks a second) and the
megabytes of files a second that this takes. Asked for: `disk` and `line` at least 0.9 of `step`.
"""

import argparse
import contextlib
import importlib.util
import itertools
import json
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.processes import archive, job

NETWORKS = {
    "resnet18": "variant=single3",
    "double4": "variant=double4",
    "mobilenet_v2": "variant=mobilenet_v2",
    "xception": "variant=xception",
    "vit_small": "variant={towers: [{name: rgb, backbone: vit_small_patch16_224, bands: "
    "[red, green, blue]}], pooling: avg}",
    "simple_cnn": "variant=simple_cnn",
}
"""Networks by name, as keys of `train`; the last is for a look on CPUs."""
GOAL = 0.9
LIMIT = 480.0
"""Seconds after which no further network is begun."""


@contextlib.contextmanager
def busy() -> Iterator[list[float]]:
    """A list that fills, within the block, with shares of time (%) in which the GPU was busy."""
    seen: list[float] = []
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        looks = subprocess.Popen([*command, "-lms", "200"], stdout=subprocess.PIPE, text=True)
    except OSError:  # no GPU
        yield seen
        return

    def read() -> None:
        for line in looks.stdout or ():
            with contextlib.suppress(ValueError):
                seen.append(float(line))

    threading.Thread(target=read, daemon=True).start()
    try:
        yield seen
    finally:
        looks.kill()


def in_process(keys: list[str], given: argparse.Namespace) -> Iterator[tuple[str, float, Any]]:
    """`step`, then `disk`: its name, images a second, busy shares."""
    import torch
    from torch.nn import functional as F

    from satray.config.cli import build
    from satray.config.train import TrainRecipe
    from satray.data.read import read_blocks, to_torch
    from satray.runs.executor import each_block
    from satray.storage import Storage
    from satray.train.setup import read
    from satray.train.step import AugmentedTiles, Inputs, TrainStep, ahead, inputs_of

    recipe = build(TrainRecipe, keys, lambda *_: b"", lambda path: path)
    setup, storage = read(recipe, Storage()), Storage()
    device, batch = torch.device(given.device), given.batch
    network = setup.network().to(device).to(memory_format=torch.channels_last).train()

    def loss(logits_BK: Any, labels_BK: Any) -> Any:
        return F.binary_cross_entropy_with_logits(logits_BK, labels_BK, reduction="none").mean(1)

    step = TrainStep(
        network, recipe.optimizer, setup.plan.stages[-1], loss, bf16=given.precision == "bf16",
        compile=given.compile,
    )  # fmt: skip
    source = setup.source("train", storage)
    make = AugmentedTiles.of(recipe, setup.preprocess(), recipe.seed)

    def tiles() -> Iterator[Inputs]:
        for epoch in itertools.count():
            rows = np.random.default_rng(epoch).permutation(len(source))
            blocks = [rows[k : k + batch] for k in range(0, len(rows) - batch + 1, batch)]
            tables = each_block(
                lambda block: next(read_blocks(source.rows(block), batch)), blocks,
                recipe.resources, ray=False, ordered=True,
            )  # fmt: skip
            for table in tables:
                yield inputs_of(to_torch(table), make, device, epoch)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def rate(inputs: Iterator[Inputs]) -> float:
        for found in itertools.islice(inputs, 5):  # kernels are chosen, memory is taken
            step(found, 1e-4)
        wait()
        begun, steps = time.perf_counter(), 0
        while time.perf_counter() - begun < given.seconds:
            for found in itertools.islice(inputs, 10):
                step(found, 1e-4)
            wait()
            steps += 10
        return steps * batch / (time.perf_counter() - begun)

    fed = ahead(tiles(), device)
    for name, inputs in (("step", itertools.repeat(next(fed))), ("disk", fed)):
        with busy() as seen:
            yield name, rate(inputs), seen


def line(keys: list[str], folder: Path) -> tuple[str, float, Any]:
    """`line`: its name, images a second, busy shares."""
    import pyarrow.parquet as pq

    with busy() as seen:
        job("train", *keys, f"out={folder}/run", "resources.ray=yes", "tracking=none")
    rates = pq.read_table(f"{folder}/run/history.parquet").column("images_per_second").to_pylist()
    return "line", statistics.median(rates[1:]), seen


def main(arguments: list[str]) -> int:
    """Measure and print a line a network and way, then one of JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench gpu", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--networks", default=",".join(list(NETWORKS)[:-1]))
    parser.add_argument("--ways", default="step,disk,line")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--tiles", type=int, default=4096)
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    parser.add_argument("--compile", action="store_true", help="takes a minute more a network")
    given = parser.parse_args(arguments)
    begun, figures = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="satray-bench-") as name:
        folder = Path(name)
        archive(folder, given.tiles, "split.val=0.1", compress="deflate")
        megabytes = sum(at.stat().st_size for at in folder.glob("tiles/*")) / given.tiles / 1e6
        print(f"{'network':14}{'way':6}{'images/s':>10}{'of step':>9}{'busy %':>8}{'MB/s':>8}")
        for network in given.networks.split(","):
            if time.monotonic() - begun > LIMIT:
                print(f"{network}: left out, {LIMIT:.0f} s are over")
                continue
            keys = [
                NETWORKS[network], f"index={folder}/index", "weights=none", f"seed={len(figures)}",
                f"input.size={given.size}", f"batch={given.batch}", "stages.0.pseudo_epochs=3",
                f"precision={given.precision}", f"compile={str(given.compile).lower()}",
                f"resources.gpus={'no' if given.device == 'cpu' else 'yes'}", "cache.enabled=false",
            ]  # fmt: skip
            ways = list(in_process(keys, given))
            if "line" in given.ways and importlib.util.find_spec("ray"):
                samples = int(max(given.tiles, given.seconds * ways[0][1]))
                ways.append(line([*keys, f"pseudo_epoch={samples}"], folder / network))
            for way, rate, seen in ways:
                share = statistics.mean(seen) if seen else None
                print(
                    f"{network:14}{way:6}{rate:10.1f}{rate / ways[0][1]:9.2f}"
                    f"{'-' if share is None else f'{share:.0f}':>8}{rate * megabytes:8.1f}",
                    flush=True,
                )
                figures.append({"network": network, "way": way, "rate": rate, "busy": share})
    steps = {one["network"]: one["rate"] for one in figures if one["way"] == "step"}
    others = [one for one in figures if one["way"] != "step"]
    reached = [one["rate"] >= GOAL * steps[one["network"]] for one in others]
    print(f"{sum(reached)} of {len(reached)} ways reach {GOAL} of the step")
    print(json.dumps({"bench": "gpu", **vars(given), "figures": figures}))
    return 0
