"""A huge scene through `jobs/score.py`: seconds by activity, and memory of every process.

The scene: 4 bands of uint16, tiled, deflate, written block by block from one rendered piece of the
demo's coast, turned and shaded by place. The network: single4 (ResNet-18 over 4 bands) with random
weights, unless `--bundle` names another. Memory is what the system says is resident (RSS), looked
at twice a second, of the driver, Ray's daemons and all workers.
"""

import argparse
import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window

from bench.scenes import made, processes

PIECE = 2000
"""Side of the rendered piece, px."""
BLOCK = 512
SETUPS = ("", "mode=dense window=1280")
"""Without keys (`auto` takes tiles one by one where they do not overlap), and in windows."""


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure and print."""
    work = given.work.absolute()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        return _run(given, work)
    finally:
        shutil.rmtree(work)


def _run(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    bundle = given.bundle or str(_save_bundle(work / "bundle"))
    start = time.perf_counter()
    scene = write_scene(work / "scenes" / "huge.tif", given.px)
    wrote = time.perf_counter() - start
    size = scene.stat().st_size / 1e9
    print(f"{scene.name}: {given.px:,} x {given.px:,} px, {size:.2f} GB, written in {wrote:.0f} s",
          file=sys.stderr, flush=True)  # fmt: skip
    setups = given.keys or SETUPS
    return {
        "px": given.px,
        "gigabytes": size,
        "runs": [_score(bundle, scene, work / f"out-{n}", s) for n, s in enumerate(setups)],
    }


def _score(bundle: str, scene: Path, out: Path, keys: str) -> dict[str, Any]:
    """Score the scene once."""
    watched = processes.job(
        "jobs/score.py", f"bundle={bundle}", f"scenes={scene}", f"out={out}", *keys.split()
    )
    record = json.loads((out / "run.json").read_text())
    (scored,) = [row for row in _rows(out) if row["status"] == "done"]
    print(f"### {keys or 'without keys'}\n")
    print("\n".join(line for line in watched.said.splitlines() if line.strip()))
    seconds = record["seconds"]
    print("\n| activity | seconds |\n|---|---:|")
    for name, spent in seconds.items():
        print(f"| {name} | {spent:.1f} |")
    print("\n| process | RSS, GiB | without shared memory |\n|---|---:|---:|")
    top = sorted(watched.most.values(), reverse=True)[:6]
    for resident, own, name in top:
        print(f"| `{name}` | {resident:.2f} | {own:.2f} |")
    reading, waiting = (seconds.get(f"{n} (all processes)", 0.0) for n in ("reading", "waiting"))
    hidden = 1 - waiting / reading if reading else 0.0
    print(
        f"\n{watched.seconds:.0f} s; largest process {watched.largest[0]:.2f} GiB, all together "
        f"{watched.together:.2f} GiB; reading {reading:.0f} s, of which waited for {waiting:.0f} s "
        f"({hidden:.0%} beside the network)\n",
        flush=True,
    )
    return {
        "keys": keys, "wall": watched.seconds, "mode": scored["mode"], "why": scored["why"],
        "tiles": scored["tiles"], "detections": scored["detections"], "seconds": seconds,
        "hidden": hidden, "largest": watched.largest[0], "together": watched.together,
        "products_mb": sum(f.stat().st_size for f in out.rglob("*") if f.is_file()) / 1e6,
    }  # fmt: skip


def _rows(out: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(out / "scenes.parquet").to_pylist()
    return rows


def _save_bundle(folder: Path) -> Path:
    from satray.models.bundle import bundle_files

    network, spec = made.parts("single4", 256)
    # a random network takes anything for anything; of some thousand detections
    spec = replace(spec, thresholds=(0.9999,) * len(spec.classes))
    folder.mkdir(parents=True)
    for name, data in bundle_files(spec, network.state_dict()).items():
        (folder / name).write_bytes(data)
    return folder


def write_scene(path: Path, side: int) -> Path:
    """Write the scene, a row of blocks at a time."""
    from satray.demo.world import BANDS, CRS, PIXEL, World

    piece = World(0).render(4000, 4000, PIECE, PIECE).pixels.astype(np.float32)
    rng = np.random.default_rng(0)
    path.parent.mkdir(parents=True)
    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint16", count=4, height=side, width=side, crs=CRS,
        transform=Affine(PIXEL, 0, 400_000, 0, -PIXEL, 5_800_000), compress="deflate",
        predictor=2, zlevel=1, tiled=True, blockxsize=BLOCK, blockysize=BLOCK, bigtiff="yes",
        interleave="pixel", num_threads="all_cpus",
    ) as file:  # fmt: skip
        file.descriptions = BANDS
        for row in range(0, side, BLOCK):
            height = min(BLOCK, side - row)
            strip = np.empty((4, height, side), np.uint16)
            for col in range(0, side, BLOCK):
                width = min(BLOCK, side - col)
                top, left = rng.integers(0, PIECE - BLOCK, 2)
                part = piece[:, top : top + BLOCK, left : left + BLOCK]
                part = np.rot90(part, int(rng.integers(4)), (1, 2))[:, :height, :width]
                strip[:, :, col : col + width] = np.clip(part * rng.uniform(0.8, 1.2), 1, 65535)
            file.write(strip, window=Window(0, row, side, height))
    return path
