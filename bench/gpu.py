r"""A GPU kept busy: the step alone, fed from tiles on disk, and fed through the full line.

    python -m bench gpu          # one GPU, at most 8 minutes; a look at it on CPUs:
    python -m bench gpu --device cpu --seconds 1 --size 32 --batch 8 --tiles 64 \
      --networks simple_cnn

For each network, over tiles that are generated (256 x 256 x 4, uint16, deflate), images a second of

- `step`: a step and the moving average alone, as the training loop does them, on one batch that is
  on the device: what nothing that feeds it can pass;
- `disk`: the same step, its batches read, decoded, copied and augmented while the device computes,
  by threads of this process, one a core;
- `line`: `jobs/train.py` through Ray, as many readers, the median of its second and third
  pseudo-epoch (the first fills the pipeline); left out where Ray is not installed;

each with the share of the time in which the GPU was busy (nvidia-smi, five looks a second, from the
first to the last that is not 0) and the megabytes of files a second that this takes. Asked for:
`disk` and `line` at least 0.9 of `step`. A row is printed once it is known, and nothing is begun
that would not be done in time, were it as slow as the slowest of its kind before.
"""

import argparse
import contextlib
import itertools
import json
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from bench.processes import archive, job
from satray.sessions import cores

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
"""Seconds in which all is to be done."""

Figure = tuple[str, float, float | None]
"""A way, images a second, the share of time in which the GPU was busy (None without one)."""


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


def share(seen: list[float]) -> float | None:
    """The mean from the first to the last look at which the GPU was busy."""
    at = [number for number, one in enumerate(seen) if one]
    return statistics.mean(seen[at[0] : at[-1] + 1]) if at else None


def in_process(keys: list[str], given: argparse.Namespace) -> Iterator[Figure]:
    """`step`, then `disk` where it is asked for."""
    import torch

    from satray.config.cli import build
    from satray.config.train import TrainRecipe
    from satray.data.read import read_blocks, to_torch
    from satray.runs.executor import each_block
    from satray.storage import Storage
    from satray.train.loop import MovingAverage
    from satray.train.losses import make_loss
    from satray.train.process import determinism
    from satray.train.setup import read
    from satray.train.step import AugmentedTiles, Inputs, TrainStep, ahead, inputs_of

    recipe = build(TrainRecipe, keys, lambda *_: b"", lambda path: path)
    setup, storage = read(recipe, Storage()), Storage()
    device, batch = torch.device(given.device), given.batch
    network = setup.network().to(device).to(memory_format=torch.channels_last).train()
    average, loss = MovingAverage(network, recipe.average.ema), make_loss(recipe.loss, setup.task)
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

    def take(inputs: Iterator[Inputs], steps: int) -> None:
        for found in itertools.islice(inputs, steps):
            step(found, 1e-4)
            average.update()
        wait()

    def rate(inputs: Iterator[Inputs], first: int) -> float:
        take(inputs, first)  # kernels are chosen, memory is taken
        begun, steps = time.perf_counter(), 0
        while time.perf_counter() - begun < given.seconds:
            take(inputs, 10)
            steps += 10
        return steps * batch / (time.perf_counter() - begun)

    fed = ahead(tiles(), device)
    ways = [("step", itertools.repeat(next(fed)), 5)]
    if "disk" in given.ways:
        ways.append(("disk", fed, max(5, len(source) // batch if given.cache else 0)))
    with determinism(False):
        for name, inputs, first in ways:
            with busy() as seen:
                found = rate(inputs, first)
            yield name, found, share(seen)


def line(keys: list[str], folder: Path) -> Iterator[Figure]:
    """`line`."""
    import pyarrow.parquet as pq

    with busy() as seen:
        job("train", *keys, f"out={folder}/run", "resources.ray=yes", "tracking=none")
    rates = pq.read_table(f"{folder}/run/history.parquet").column("images_per_second").to_pylist()
    yield "line", statistics.median(rates[1:]), share(seen)


def main(arguments: list[str]) -> int:
    """Measure and print a line a network and way, then one of JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench gpu", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--networks", default=",".join(list(NETWORKS)[:-1]))
    parser.add_argument("--ways", default="disk,line", help="beside the step, which is always")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--tiles", type=int, default=2048)
    parser.add_argument("--cache", action="store_true", help="keep decoded tiles")
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    parser.add_argument("--compile", action="store_true", help="takes a minute more a network")
    given = parser.parse_args(arguments)
    begun, figures, longest = time.monotonic(), list[dict[str, Any]](), dict[str, float]()
    with tempfile.TemporaryDirectory(prefix="satray-bench-") as name:
        folder = Path(name)
        archive(folder, given.tiles, "split.val=0.1", compress="deflate")
        megabytes = sum(at.stat().st_size for at in folder.glob("tiles/*")) / given.tiles / 1e6
        print(f"{'network':14}{'way':6}{'images/s':>10}{'of step':>9}{'busy %':>8}{'MB/s':>8}")
        for network, kind in itertools.product(given.networks.split(","), ("step", "line")):
            keys = [
                NETWORKS[network], f"index={folder}/index", "weights=none",
                f"input.size={given.size}", f"batch={given.batch}", "stages.0.pseudo_epochs=3",
                f"precision={given.precision}", f"compile={str(given.compile).lower()}",
                f"resources.gpus={'no' if given.device == 'cpu' else 'yes'}",
                f"resources.read_tasks={max(2, cores())}", f"cache.folder={folder}/cache",
                f"cache.enabled={str(given.cache).lower()}",
            ]  # fmt: skip
            rates = {one["way"]: one["rate"] for one in figures if one["network"] == network}
            if kind == "line" and not ("line" in given.ways and rates and find_spec("ray")):
                continue
            started = time.monotonic()
            if started - begun + longest.get(kind, 0.0) > LIMIT:
                print(f"{network:14}{kind:6}left out: {LIMIT:.0f} s would be over")
                continue
            found = in_process(keys, given)
            if kind == "line":
                samples = max(5 * given.batch, int(given.seconds * min(rates.values())))
                found = line([*keys, f"pseudo_epoch={samples}"], folder / network)
            for way, rate, part in found:
                rates[way] = rate
                figures.append({"network": network, "way": way, "rate": rate, "busy": part})
                print(
                    f"{network:14}{way:6}{rate:10.1f}{rate / rates['step']:9.2f}"
                    f"{'-' if part is None else f'{part:.0f}':>8}{rate * megabytes:8.1f}",
                    flush=True,
                )
            longest[kind] = max(longest.get(kind, 0.0), time.monotonic() - started)
    steps = {one["network"]: one["rate"] for one in figures if one["way"] == "step"}
    others = [one for one in figures if one["way"] != "step"]
    reached = [one["rate"] >= GOAL * steps[one["network"]] for one in others]
    print(f"{sum(reached)} of {len(reached)} ways reach {GOAL} of the step")
    print(json.dumps({"bench": "gpu", **vars(given), "figures": figures}))
    return 0
