"""Scenes and tiles scored: `python -m bench score [row ...]`, each row a table and a line of JSON.

The jobs as a user runs them, over generated data (pieces of the demo's coast), with random weights:

- `many`: 500 scenes of 512 px and 2,000 tile files of 256 px (uint8, 3 bands), by MobileNetV2:
  seconds of the command, of its scoring alone (the opening of scenes and the start of processes
  included), and items a second of both.
- `small`: one scene of 1,024 px, 100 tiles, and `evaluate` of 100 tiles, from the command to its
  end: in the job's own process, and on Ray, in turn; medians.
- `huge`, by name only: 20,000 x 20,000 px (uint16, 4 bands) by single4 (ResNet-18): seconds by
  activity, and memory.
"""

import argparse
import compileall
import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.processes import ROOT, Watched, job
from satray.models.variant import RGB

BLOCK = 512
"""Side of the pieces that scenes are made of, px."""
KINDS = ("red", "green", "blue", "dark", "bright")
"""Classes of bundles and tiles: nobody looks for what they say."""
TILE = 256

Timed = tuple[Watched, dict[str, float]]
"""A run of a job: the command, and its seconds by activity as it says itself."""


def many(given: argparse.Namespace) -> dict[str, Any]:
    """Many scenes, many tiles."""
    model, rows = save_bundle(given.work / "bundle", "mobilenet_v2"), []
    print("| what | command, s | a second | scoring, s | a second |\n|---|---:|---:|---:|---:|")
    for noun, count, side in (("scenes", given.scenes, 512), ("tiles", given.tiles, TILE)):
        folder = write_coast(given.work / noun, count, side)
        watched, seconds = run(given, "score", f"bundle={model}", f"{noun}={folder}")
        scoring = seconds["scoring"]
        print(
            f"| {count:,} {noun} of {side} px | {watched.seconds:.1f} "
            f"| {count / watched.seconds:.1f} | {scoring:.1f} | {count / scoring:.1f} |",
            flush=True,
        )  # fmt: skip
        rows.append({"what": noun, "count": count, "command": watched.seconds, "seconds": seconds})
    return {"rows": rows}


def small(given: argparse.Namespace) -> dict[str, Any]:
    """One scene, few tiles."""
    work, rows = given.work, []
    model = save_bundle(work / "bundle", "mobilenet_v2")
    scene, tiles = write_coast(work / "scene", 1, 1024), write_coast(work / "tiles", 100, TILE)
    rng = np.random.default_rng(0)
    lines = [
        ",".join([path.stem, *map(str, rng.integers(0, 2, len(KINDS)))])
        for path in sorted(tiles.iterdir())
    ]
    (work / "labels.csv").write_text("\n".join([",".join(["tile", *KINDS]), *lines]) + "\n")
    job(
        "prepare", f"images={tiles}", f"labels={work / 'labels.csv'}", f"out={work / 'index'}",
        "split.by=draw", "split.val=0", "task=multilabel",
    )  # fmt: skip
    print("| what | in this process, s | on Ray, s | by run |\n|---|---:|---:|---|")
    for what, name, keys in (
        ("a scene of 1,024 px", "score", (f"bundle={model}", f"scenes={scene}")),
        ("100 tiles", "score", (f"bundle={model}", f"tiles={tiles}")),
        ("evaluate", "evaluate", (f"bundle={model}", f"index={work / 'index'}", "split=train")),
    ):
        took: dict[str, list[float]] = {"no": [], "yes": []}
        for _ in range(given.rounds):
            for ray, seconds in took.items():
                seconds.append(run(given, name, *keys, f"resources.ray={ray}")[0].seconds)
        here, there = (statistics.median(seconds) for seconds in took.values())
        each = ", ".join(f"{s:.1f}" for seconds in took.values() for s in seconds)
        print(f"| {what} | {here:.1f} | {there:.1f} | {each} |", flush=True)
        rows.append({"what": what, "seconds": took})
    return {"rows": rows}


def huge(given: argparse.Namespace) -> dict[str, Any]:
    """A huge scene through the job."""
    from satray.demo.archive import BANDS

    classes = tuple(f"class{n:02d}" for n in range(17))
    model = save_bundle(
        given.work / "bundle", "single4", classes, dtype="uint16", mean=(2000.0,) * 4,
        std=(1000.0,) * 4, thresholds=(0.9999,) * 17,
    )  # fmt: skip
    scenes = write_coast(given.work / "scenes", 1, given.px, BANDS, "uint16")
    watched, seconds = run(given, "score", f"bundle={model}", f"scenes={scenes}")
    print(f"{watched.said.strip()}\n\n| activity | seconds |\n|---|---:|")
    print("\n".join(f"| {activity} | {spent:.1f} |" for activity, spent in seconds.items()))
    one, together = max(watched.own.values()), watched.together
    print(f"GiB at most, shared memory apart: {one:.2f} of a process, {together:.2f} of all")
    return {"px": given.px, "command": watched.seconds, "seconds": seconds, "gib": [one, together]}


def run(given: argparse.Namespace, name: str, *keys: str) -> Timed:
    """Run a job into a folder that is removed then."""
    out = given.work / "out"
    watched = job(name, *keys, f"out={out}")
    seconds = json.loads((out / "run.json").read_text())["seconds"]
    shutil.rmtree(out)
    return watched, seconds


# Generated data


def save_bundle(folder: Path, variant: str, classes: tuple[str, ...] = KINDS, **facts: Any) -> Path:
    """A built-in network with random weights and sane batch statistics, the same each time.

    Args:
        folder: where to.
        variant: its name.
        classes: of the bundle.
        facts: what its spec says other than for the coast in uint8.
    """
    import torch
    from torch import nn

    from satray.models.bundle import BundleSpec, bundle_files
    from satray.models.network import Network
    from satray.models.probe import probe_grid
    from satray.models.variant import BUILT_IN

    options = BUILT_IN[variant]
    bands = tuple(dict.fromkeys(band for tower in options.towers for band in tower.bands))
    torch.manual_seed(0)
    network = Network(options, len(classes), bands=bands)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm starts some of them at zero
            module.momentum = None  # the mean over the batches
            module.reset_running_stats()
    with torch.no_grad():
        for _ in range(2):
            network.train()(torch.randn(2, len(bands), 192, 192))
    told: dict[str, Any] = {
        "dtype": "uint8", "mean": (80.0,) * len(bands), "std": (60.0,) * len(bands),
        # A random network takes anything for anything; of some detections.
        "thresholds": (0.6,) * len(classes),
    }  # fmt: skip
    spec = BundleSpec(
        variant=options, task="multilabel", classes=classes, bands=bands, size=TILE, resize=None,
        evaluate="whole", tile_shape=(TILE, TILE), resolution=3.0, temperature=1.0,
        grids={tower.name: probe_grid(tower.backbone) for tower in options.towers},
        **told | facts,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in bundle_files(spec, network.state_dict()).items():
        (folder / name).write_bytes(data)
    return folder


def write_coast(
    folder: Path, count: int, side: int, bands: tuple[str, ...] = RGB, dtype: str = "uint8"
) -> Path:
    """Scenes beside each other of pieces of the demo's coast, turned and shaded by place.

    Args:
        folder: where to.
        count: scenes.
        side: of each, px.
        bands: names, of the coast's.
        dtype: `uint8` (a sixteenth of the coast's values), or `uint16`.
    """
    import rasterio
    from rasterio.windows import Window

    from satray.demo.archive import BANDS, CRS, draw_sheet

    sheet = draw_sheet(0, 1, 2048)
    coast = sheet.pixels[[BANDS.index(band) for band in bands]]
    scale, top_value, block = (1 / 16, 255, 256) if dtype == "uint8" else (1, 65535, 512)
    piece, rng = min(side, BLOCK), np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(count):
        shift = rasterio.Affine.translation(number % 32 * side, number // 32 * side)
        with rasterio.open(
            folder / f"coast-{number:05d}.tif", "w", driver="GTiff", dtype=dtype,
            count=len(bands), height=side, width=side, crs=CRS, transform=sheet.transform @ shift,
            compress="deflate", predictor=2, zlevel=1, tiled=True, blockxsize=block,
            blockysize=block, bigtiff="if_safer", interleave="pixel", num_threads="all_cpus",
        ) as file:  # fmt: skip
            file.descriptions = bands
            for row in range(0, side, piece):
                parts = []
                for _ in range(0, side, piece):
                    top, left = rng.integers(0, 2048 - piece, 2)
                    part = coast[:, top : top + piece, left : left + piece]
                    shaded = np.clip(part * (scale * rng.uniform(0.8, 1.2)), 1, top_value)
                    parts.append(np.rot90(shaded.astype(dtype), int(rng.integers(4)), (1, 2)))
                height = min(piece, side - row)
                strip = np.concatenate(parts, axis=2)[:, :height, :side]
                file.write(strip, window=Window(0, row, side, height))
    return folder


def main(arguments: list[str]) -> int:
    """Measure the rows asked for; those that take minutes together without any."""
    rows = {"many": many, "small": small, "huge": huge}
    parser = argparse.ArgumentParser(
        "python -m bench score", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("rows", nargs="*", metavar="row", help=", ".join(rows))
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="removed at the end")
    parser.add_argument("--scenes", type=int, default=500, help="of many")
    parser.add_argument("--tiles", type=int, default=2000, help="of many")
    parser.add_argument("--rounds", type=int, default=3, help="of small")
    parser.add_argument("--px", type=int, default=20_000, help="side of huge's scene")
    given = parser.parse_args(arguments)
    strange = sorted(set(given.rows) - set(rows))
    if strange:
        parser.error(f"no row {strange[0]}; there are {', '.join(rows)}")
    given.work = given.work.absolute()
    compileall.compile_dir(ROOT / "satray", quiet=2)  # else the first run would compile it
    for name in given.rows or ("many", "small"):
        print(f"\n## {name}\n", flush=True)
        begun = time.perf_counter()
        shutil.rmtree(given.work, ignore_errors=True)
        try:
            found = rows[name](given)
        finally:
            shutil.rmtree(given.work, ignore_errors=True)
        seconds = round(time.perf_counter() - begun)
        print(json.dumps({"bench": "score", "row": name, "took": seconds, **found}), flush=True)
    return 0
