"""Training: images a second through Ray against a bare PyTorch loop on the same tiles.

Both train ResNet-18 from scratch, AdamW with one-cycle, the same precision (`--precision`), batch,
size and flips, nothing else of the recommended recipe, on a prepared index; rounds are interleaved
in one run. The bare loop is what one would write without satray: a `DataLoader` (two persistent
workers, rasterio), resize, flips, forward, backward, step; its start is a warm-up that is not
timed. The rate of `satray train` is that of its history: images over seconds waited for data and
computed, the median of its second and third pseudo-epoch; the first, which fills the pipeline, is
given apart. `no cache` decodes every tile every time, as the bare loop does; `satray` keeps decoded
tiles, in a folder that is new for each run.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.processes import job

RATE = 2e-3
PLAIN = (
    "augment.crop=random", "augment.brightness=0", "augment.contrast=0", "augment.mixup=0",
    "average.ema=0",
)  # fmt: skip
"""Keys that switch off what the bare loop does not do."""


def bare_loop(options: argparse.Namespace) -> Iterator[float]:
    """Train `samples` tiles at each `next`; yield images a second."""
    import numpy as np
    import rasterio
    import timm
    import torch
    from torch.nn import functional as F

    from satray.data.index import read_index
    from satray.storage import Storage

    size, batch, samples = options.size, options.batch, options.samples
    part = read_index(str(options.index.absolute()), Storage()).part("train")
    uris = part.table.column("uri").to_pylist()
    labels_NK = part.labels.astype("float32")
    statistics_C = part.meta.statistics
    mean = torch.tensor([band.mean for band in statistics_C]).view(1, -1, 1, 1)
    std = torch.tensor([band.std for band in statistics_C]).view(1, -1, 1, 1)

    class Tiles(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return samples

        def __getitem__(self, i: int) -> Any:
            with rasterio.open(uris[i % len(uris)]) as image:
                return torch.from_numpy(image.read()), labels_NK[i % len(uris)]

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    network = timm.create_model("resnet18", num_classes=labels_NK.shape[1])
    network = network.to(memory_format=torch.channels_last).train()
    steps = samples // batch * (options.rounds + 1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps + 1)
    rng = np.random.default_rng(0)
    loader = torch.utils.data.DataLoader(
        Tiles(), batch_size=batch, shuffle=True, num_workers=2, drop_last=True,
        persistent_workers=True,
    )  # fmt: skip
    while True:
        begin = time.perf_counter()
        seen = 0
        for pixels_BCHW, y_BK in loader:
            x_BCHW = F.interpolate(
                (pixels_BCHW.float() - mean) / std, size=(size, size), mode="bilinear",
                antialias=True,
            )  # fmt: skip
            if rng.random() < 0.5:
                x_BCHW = x_BCHW.flip(3)
            if rng.random() < 0.5:
                x_BCHW = x_BCHW.transpose(2, 3)
            x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
                logits_BK = network(x_BCHW)
            loss = F.binary_cross_entropy_with_logits(logits_BK.float(), y_BK)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            seen += len(y_BK)
        yield seen / (time.perf_counter() - begin)


def satray_run(options: argparse.Namespace, seed: int, cache: bool) -> list[float]:
    """Run `train` for three pseudo-epochs; return images a second of each."""
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as folder:
        job(
            "train", f"index={options.index.absolute()}", f"out={folder}/run", "variant=single3",
            "weights=none", f"batch={options.batch}", f"input.size={options.size}", f"seed={seed}",
            f"pseudo_epoch={options.samples}", f"stages.0.learning_rate={RATE}",
            "stages.0.pseudo_epochs=3", f"cache.enabled={str(cache).lower()}",
            f"cache.folder={folder}/cache", f"precision={options.precision}", *PLAIN,
        )  # fmt: skip
        history = pq.read_table(f"{folder}/run/history.parquet")
    return [float(rate) for rate in history.column("images_per_second").to_pylist()]


def main(arguments: list[str]) -> int:
    """Measure and print a table, then one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench training", description=__doc__)
    parser.add_argument("index", type=Path, help="the `out` of a prepare run over RGB tiles")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=480, help="tiles a round")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args(arguments)
    rows: dict[str, list[float]] = {}
    bare = bare_loop(options)
    next(bare)  # warm-up: imports, allocator, kernels
    for number in range(options.rounds):
        rows.setdefault("bare loop", []).append(next(bare))
        for name, cache in (("satray", True), ("no cache", False)):
            first, *later = satray_run(options, number, cache)
            rows.setdefault(f"{name}, first", []).append(first)
            rows.setdefault(name, []).append(statistics.median(later))
    base = statistics.median(rows["bare loop"])
    print(f"{'':16} {'images/s':>9} {'min':>7} {'max':>7} {'of bare':>8}")
    for name, rates in rows.items():
        middle = statistics.median(rates)
        print(f"{name:16} {middle:9.1f} {min(rates):7.1f} {max(rates):7.1f} {middle / base:8.2f}")
    print(json.dumps({"precision": options.precision, "size": options.size, **rows}))
    return 0
