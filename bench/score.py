"""Scenes and tiles scored: `python -m bench score [row ...]`, each row a table and a line of JSON.

The jobs as a user runs them, over generated data; without names of rows `stitched` and these:

- `many`: 500 scenes of 512 px and 2,000 tile files of 256 px (uint8, 3 bands, a piece of the
  demo's coast), by MobileNetV2 with random weights: seconds of the command, of its scoring alone
  (the opening of scenes and the start of processes included), and items a second of both.
- `small`: one scene of 1,024 px, 100 tiles, and `evaluate` of 100 tiles, from the command to its
  end: in the job's own process, and on Ray; the other checkout as it does by itself. Medians, in
  turn.
- `windows`: what the two ways of scoring a scene give beside each other (ResNet-18, coast of 2,048
  px, half a tile from tile to tile): seconds, rank correlation of tiles' logits by class, and the
  detections of one way that have one of their class by the other within a quarter of a tile.

By name only, since they take longer:

- `huge`: 20,000 x 20,000 px of the coast by single4 (ResNet-18) with random weights unless
  `--bundle` names another: seconds by activity, and the memory (RSS) of all processes.
- `dense`, `stitched`, `engines`: of the network's room itself, see `bench/forward.py`.

`--against PATH` runs the jobs of another checkout of satray too, in turn with this one's, and
prints how many times faster this one is.
"""

import argparse
import compileall
import json
import shutil
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench import forward, processes

BLOCK = 512
SETUPS = ("", "mode=dense window=1280")
"""Of `huge`: without keys (`auto` takes tiles where they do not overlap), and in windows."""
KINDS = ("red", "green", "blue", "dark", "bright")
"""Classes of bundles and tiles: nobody looks for what they say."""
TILE = 256
QUICK = ("stitched", "many", "small", "windows")
HUGE = {
    "dtype": "uint16",
    "mean": (2000.0,) * 4,
    "std": (1000.0,) * 4,
    "thresholds": (0.9999,) * 17,
}
THIS, OTHER = "this", "other"


@dataclass(frozen=True)
class Timed:
    """A run of a job."""

    command: float
    """Seconds of the whole command."""
    scoring: float
    """Seconds of its scoring alone."""
    seconds: dict[str, float]
    """By activity, as it says itself."""
    watched: processes.Watched
    """What it printed, and its memory."""
    out: Path
    """Its run folder."""


Runs = dict[tuple[str, str], list[Timed]]
"""Way and checkout -> its runs."""


def many(given: argparse.Namespace) -> dict[str, Any]:
    """Many scenes, many tiles."""
    model, rows = _save_bundle(given.work / "bundle", "mobilenet_v2"), []
    print("| what | checkout | command, s | a second | scoring, s | a second |")
    print("|---|---|---:|---:|---:|---:|")
    for noun, count, side in (("scenes", given.scenes, 512), ("tiles", given.tiles, TILE)):
        folder = _write_coast(given.work / noun, count, side)
        keys = [f"bundle={model}", f"{noun}={folder}", *given.also]
        runs = _in_turn(given, "score", {noun: keys}, given.times)
        for (_, checkout), some in runs.items():
            whole, alone = (_median(some, name) for name in ("command", "scoring"))
            print(
                f"| {count:,} {noun} of {side} px | {checkout} | {whole:.1f} | "
                f"{count / whole:.1f} | {alone:.1f} | {count / alone:.1f} |"
            )
        _ratios(runs, ("command", "scoring"))
        rows.append({"what": noun, "count": count, "runs": _figures(runs)})
    return {"rows": rows}


def small(given: argparse.Namespace) -> dict[str, Any]:
    """One scene, few tiles."""
    work = given.work
    model = _save_bundle(work / "bundle", "mobilenet_v2")
    scene = _write_coast(work / "scene", 1, 1024)
    tiles = _write_coast(work / "tiles", given.few, TILE)
    rng = np.random.default_rng(0)
    lines = [
        ",".join([path.stem, *map(str, rng.integers(0, 2, len(KINDS)))])
        for path in sorted(tiles.iterdir())
    ]
    labels = work / "labels.csv"
    labels.write_text("\n".join([",".join(["tile", *KINDS]), *lines]) + "\n")
    for checkout, root in {THIS: processes.ROOT, OTHER: given.against}.items():
        if root is not None:  # each reads its own index only
            processes.job(
                "prepare", f"images={tiles}", f"labels={labels}", f"out={work / checkout}",
                "split.by=draw", "split.val=0", "task=multilabel", root=root,
            )  # fmt: skip
    rows = []
    print("| what | on Ray | checkout | command, s | by run |")
    print("|---|---|---|---:|---|")
    for name, job, keys in (
        ("a scene of 1,024 px", "score", [f"scenes={scene}"]),
        (f"{given.few} tiles", "score", [f"tiles={tiles}"]),
        (f"evaluate of {given.few} tiles", "evaluate", [f"index={work / THIS}", "split=train"]),
    ):
        keys = [f"bundle={model}", *keys]
        ways = {ray: [*keys, f"resources.ray={ray}"] for ray in ("no", "yes")}
        old = [key.replace(f"index={work / THIS}", f"index={work / OTHER}") for key in keys]
        runs = _in_turn(given, job, ways, given.rounds, other={"as it does": old})
        for (ray, checkout), some in runs.items():
            each = ", ".join(f"{run.command:.1f}" for run in some)
            print(f"| {name} | {ray} | {checkout} | {_median(some, 'command'):.1f} | {each} |")
        _ratios(runs, ("command",))
        rows.append({"what": name, "runs": _figures(runs)})
    return {"rows": rows}


def windows(given: argparse.Namespace) -> dict[str, Any]:
    """A scene in windows, and its tiles one by one."""
    model = given.bundle or str(_save_bundle(given.work / "bundle", "single3"))
    scene = given.scene or str(_write_coast(given.work / "coast", 1, 2048))
    keys = [f"bundle={model}", f"scenes={scene}", "stride=0.5", *given.also]
    ways = {mode: [*keys, f"mode={mode}"] for mode in ("dense", "tiles")}
    runs, rows = _in_turn(given, "score", ways, given.times, products=True), []
    print("| checkout | windows, s | tiles, s | tiles scored | rank correlation: median, lowest "
          "| detections: windows, tiles | in common |")  # fmt: skip
    print("|---|---:|---:|---:|---:|---:|---:|")
    for checkout in dict.fromkeys(name for _, name in runs):
        pair = [runs[mode, checkout] for mode in ways]
        seconds = [_median(some, "scoring") for some in pair]
        found = _beside(*(some[-1].out for some in pair))
        print(
            f"| {checkout} | {seconds[0]:.1f} | {seconds[1]:.1f} | {found['tiles']:,} "
            f"| {found['median']:.3f}, {found['lowest']:.3f} ({found['class']}) "
            f"| {found['detections'][0]:,}, {found['detections'][1]:,} "
            f"| {found['common'][0]:.0%}, {found['common'][1]:.0%} |"
        )
        rows.append({"checkout": checkout, "seconds": seconds, **found})
    _ratios(runs, ("command", "scoring"))
    return {"rows": rows}


def huge(given: argparse.Namespace) -> dict[str, Any]:
    """A huge scene through the job."""
    model = given.bundle or str(
        _save_bundle(given.work / "bundle", "single4", forward.CLASSES, **HUGE)
    )
    scene, rows = _write_huge(given.work / "scenes" / "huge.tif", given.px), []
    for keys in given.keys or SETUPS:
        runs = _in_turn(
            given, "score", {keys: [f"bundle={model}", f"scenes={scene}", *keys.split()]}, 1
        )
        for (_, checkout), (run,) in runs.items():
            memory = sorted(run.watched.most.values(), reverse=True)
            print(f"### {keys or 'without keys'} ({checkout})\n\n{run.watched.said.strip()}\n")
            print("| activity | seconds |\n|---|---:|")
            print("\n".join(f"| {name} | {spent:.1f} |" for name, spent in run.seconds.items()))
            print("\n| process | RSS, GiB | without shared memory |\n|---|---:|---:|")
            for resident, own, name in memory[:6]:
                print(f"| `{name}` | {resident:.2f} | {own:.2f} |")
            reading, waiting = (
                run.seconds.get(f"{n} (all processes)", 0.0) for n in ("reading", "waiting")
            )
            hidden = 1 - waiting / reading if reading else 0.0
            print(f"\n{run.command:.0f} s; all together {run.watched.together:.2f} GiB; "
                  f"{hidden:.0%} of reading beside the network\n", flush=True)  # fmt: skip
            rows.append({"keys": keys, "checkout": checkout, "largest": memory[0][0]})
        rows.append({"keys": keys, "runs": _figures(runs)})
    return {"px": given.px, "rows": rows}


# Jobs in turn, and what is made of them


def _in_turn(
    given: argparse.Namespace,
    job: str,
    ways: dict[str, list[str]],
    rounds: int,
    *,
    other: dict[str, list[str]] | None = None,
    products: bool = False,
) -> Runs:
    """Run a job in several ways, this checkout's and the other's, in turn.

    Args:
        given: options of the command.
        job: its name.
        ways: keys by way.
        rounds: runs of each; each round begins with another way.
        other: ways of the other checkout, where they are others.
        products: leave what the last runs wrote.
    """
    todo = [(way, THIS, processes.ROOT, keys) for way, keys in ways.items()]
    if given.against is not None:
        todo += [(way, OTHER, given.against, keys) for way, keys in (other or ways).items()]
    runs: Runs = {(way, checkout): [] for way, checkout, *_ in todo}
    for number in range(rounds):
        first = number % len(todo)
        for way, checkout, root, keys in [*todo[first:], *todo[:first]]:
            out = given.work / f"out-{checkout}-{list(runs).index((way, checkout))}"
            shutil.rmtree(out, ignore_errors=True)
            watched = processes.job(job, *keys, f"out={out}", root=root)
            seconds = json.loads((out / "run.json").read_text())["seconds"]
            # of older checkouts scenes were opened before anything was scored
            scoring = sum(seconds.get(name, 0.0) for name in ("opening", "scoring"))
            runs[way, checkout].append(Timed(watched.seconds, scoring, seconds, watched, out))
            if not products:
                shutil.rmtree(out)
    return runs


def _median(runs: list[Timed], name: str) -> float:
    return float(statistics.median(getattr(run, name) for run in runs))


def _figures(runs: Runs) -> list[dict[str, Any]]:
    """Runs for JSON."""
    return [
        {"way": way, "checkout": checkout, "command": run.command, "scoring": run.scoring,
         "seconds": run.seconds}
        for (way, checkout), some in runs.items() for run in some
    ]  # fmt: skip


def _ratios(runs: Runs, names: tuple[str, ...]) -> None:
    """Print how many times faster this checkout is than the other, way by way."""
    others = {way: some for (way, checkout), some in runs.items() if checkout == OTHER}
    for (way, checkout), some in runs.items():
        if checkout == THIS and others:
            other = others.get(way, next(iter(others.values())))
            said = [
                f"{name} **{_median(other, name) / _median(some, name):.2f}**" for name in names
            ]
            print(f"| {way}: times as fast as the other | {' | '.join(said)} |", flush=True)


def _beside(dense: Path, tiles: Path) -> dict[str, Any]:
    """Compare what two runs over the same scene say of its tiles, and what they found."""
    from scipy.spatial import KDTree
    from scipy.stats import spearmanr

    tables = [_read(out, "predictions", "logit_") for out in (dense, tiles)]
    pairs = tables[0].merge(tables[1], on=["scene", "row", "col"], suffixes=("", "_by_tile"))
    names = [name for name in tables[0].columns if name.startswith("logit_")]
    pairs = pairs.dropna()
    of_class = {
        name.removeprefix("logit_"): float(
            spearmanr(pairs[name], pairs[f"{name}_by_tile"]).statistic
        )
        for name in names
    }
    lowest = min(of_class, key=lambda name: of_class[name])
    found = [_read(out, "detections", "class") for out in (dense, tiles)]
    near = [0, 0]
    for klass in set(found[0]["class"]) & set(found[1]["class"]):
        points = [some[some["class"] == klass][["row", "col"]].to_numpy() for some in found]
        for place, (one, another) in enumerate((points, points[::-1])):
            distances, _ = KDTree(another).query(one)
            near[place] += int((distances <= TILE / 4).sum())
    return {
        "tiles": len(pairs),
        "correlation": of_class,
        "median": statistics.median(of_class.values()),
        "lowest": of_class[lowest],
        "class": lowest,
        "detections": [len(some) for some in found],
        "common": [
            n / len(some) if len(some) else 0.0 for n, some in zip(near, found, strict=True)
        ],
    }


def _read(out: Path, folder: str, wanted: str) -> Any:
    """A product's rows: scene, row, col and the columns whose names begin as wanted."""
    import pandas as pd
    import pyarrow.parquet as pq

    parts = []
    for path in sorted((out / folder).rglob("*.parquet")):
        table = pq.read_table(path)
        parts.append(
            table.select(
                [n for n in table.column_names if n in ("scene", "row", "col")]
                + [n for n in table.column_names if n.startswith(wanted)]
            ).to_pandas()
        )
    return pd.concat(parts, ignore_index=True)


# Generated data


def _save_bundle(
    folder: Path, variant: str, classes: tuple[str, ...] = KINDS, **facts: Any
) -> Path:
    """A bundle of random weights for the coast in uint8, or as the facts of its spec say."""
    from satray.models.bundle import bundle_files

    made = forward.bundle(variant, TILE, classes)
    many = len(made.spec.bands)
    # A random network takes anything for anything; of some detections.
    facts = {"dtype": "uint8", "mean": (80.0,) * many, "std": (60.0,) * many,
             "thresholds": (0.6,) * len(classes)} | facts  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in bundle_files(replace(made.spec, **facts), made.network.state_dict()).items():
        (folder / name).write_bytes(data)
    return folder


def _write_coast(folder: Path, count: int, side: int) -> Path:
    """Pieces of the demo's coast beside each other: red, green, blue, uint8, deflate."""
    import rasterio
    from rasterio.transform import Affine

    from satray.demo.archive import CRS, draw_sheet

    sheet = draw_sheet(0, 1, 2048)
    pixels = np.clip(sheet.pixels[[2, 1, 0]] / 16, 1, 255).astype(np.uint8)
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(count):
        top, left = rng.integers(0, 2048 - side + 1, 2)
        place = sheet.transform @ Affine.translation(number % 32 * side, number // 32 * side)
        with rasterio.open(
            folder / f"coast-{number:05d}.tif", "w", driver="GTiff", dtype="uint8", count=3,
            height=side, width=side, crs=CRS, transform=place, compress="deflate", predictor=2,
            tiled=True, blockxsize=256, blockysize=256, photometric="rgb", interleave="pixel",
        ) as file:  # fmt: skip
            file.write(pixels[:, top : top + side, left : left + side])
    return folder


def _write_huge(path: Path, side: int) -> Path:
    """Pieces of the demo's coast, turned and shaded by place; tiled, deflate, uint16."""
    import rasterio
    from rasterio.windows import Window

    from satray.demo.archive import BANDS, CRS, draw_sheet

    sheet = draw_sheet(0, 1, 2048)
    rng = np.random.default_rng(0)
    path.parent.mkdir(parents=True)
    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint16", count=4, height=side, width=side, crs=CRS,
        transform=sheet.transform, compress="deflate", predictor=2, zlevel=1, tiled=True,
        blockxsize=BLOCK, blockysize=BLOCK, bigtiff="yes", interleave="pixel",
        num_threads="all_cpus",
    ) as file:  # fmt: skip
        file.descriptions = BANDS
        for row in range(0, side, BLOCK):
            parts = []
            for _ in range(0, side, BLOCK):
                top, left = rng.integers(0, 2048 - BLOCK, 2)
                part = sheet.pixels[:, top : top + BLOCK, left : left + BLOCK]
                shaded = np.clip(part * rng.uniform(0.8, 1.2), 1, 65535).astype(np.uint16)
                parts.append(np.rot90(shaded, int(rng.integers(4)), (1, 2)))
            height = min(BLOCK, side - row)
            strip = np.concatenate(parts, axis=2)[:, :height, :side]
            file.write(strip, window=Window(0, row, side, height))
    return path


def main(arguments: list[str]) -> int:
    """Measure the rows asked for; those that take minutes together without any."""
    rows = {
        "stitched": forward.stitched, "many": many, "small": small, "windows": windows,
        "dense": forward.dense, "engines": forward.engines, "huge": huge,
    }  # fmt: skip
    parser = argparse.ArgumentParser(
        "python -m bench score", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("rows", nargs="*", metavar="row", help=", ".join(rows))
    group = parser.add_argument_group("many, small, windows, huge")
    group.add_argument("--against", type=Path, help="another checkout of satray")
    group.add_argument("--work", type=Path, default=Path("runs/bench"), help="removed at the end")
    group.add_argument("--bundle", help="of windows and huge, in place of random weights")
    group.add_argument("--scene", help="of windows, in place of a generated one")
    group.add_argument("--scenes", type=int, default=500, help="of many")
    group.add_argument("--tiles", type=int, default=2000, help="of many")
    group.add_argument("--few", type=int, default=100, help="tiles of small")
    group.add_argument("--times", type=int, default=1, help="runs of many and windows")
    group.add_argument("--also", action="append", default=[], metavar="KEY=VALUE",
                       help="for score in many and windows; repeatable")  # fmt: skip
    group.add_argument("--px", type=int, default=20_000, help="side of huge's scene")
    group.add_argument("--keys", action="append", help="of one run of huge; repeatable")
    group = parser.add_argument_group("dense, engines")
    group.add_argument("--rounds", type=int, default=3, help="of small too")
    group.add_argument("--networks", nargs="+", default=["single3", "mobilenet_v2"])
    group.add_argument("--size", type=int, default=256, help="of a tile, px")
    group.add_argument("--side", type=int, default=8192, help="of the scene, px")
    group.add_argument("--window", type=int, help="px; default by network")
    group.add_argument("--windows", type=int, default=2, help="windows that are timed at most")
    group.add_argument("--sample", type=int, default=64, help="tiles that are timed")
    given = parser.parse_args(arguments)
    strange = sorted(set(given.rows) - set(rows))
    if strange:
        parser.error(f"no row {strange[0]}; there are {', '.join(rows)}")
    given.work = given.work.absolute()
    given.against = given.against.absolute() if given.against else None
    for root in (processes.ROOT, given.against):
        if root is not None:  # else the first run would compile it
            compileall.compile_dir(root / "satray", quiet=2)
    for name in given.rows or QUICK:
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
