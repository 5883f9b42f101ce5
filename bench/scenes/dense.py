"""Windows against overlapping tiles one by one: the same tile scores of the same scene.

Windows: satray's `DenseScorer`, from stored pixels to scores of all tiles and maps of all classes,
halos included; on `eager` torch, and on `fused`, the engine that `engine=auto` picks where it is
faster. Where a scene has many windows some are timed (all have one shape) and the rest is
multiplied. Tiles: the network over cut and normalised tiles, no maps, from the memory layout and
batch that a trial finds fastest; a sample is timed and multiplied by the number of tiles. Both in
one process that keeps its freed memory (`satray.scoring.engine.heap`), round about in turn; figures
are ratios of medians. The bound is what arithmetic allows: px of all tiles over px of all windows.
`auto` is satray without overlap, in the way and on the engine that `auto` takes, against the same
tiles; with maps.
Memory is what a process of its own held at most for one window, or one batch of tiles.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from bench.scenes import made
from bench.scenes.processes import peak

BATCHES = (8, 32)
WINDOWS = {"single3": (2560, 2560), "resnet50_v2": (2560, 2560)}
"""Longest sides asked for at strides of 1/4 and 1/8 tile; else `LARGE`."""
LARGE = (3584, 3584)


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure and print a table."""
    from satray.scoring.engine.heap import keep_memory

    keep_memory()
    torch.set_flush_denormal(True)
    rows = []
    for name in given.networks:
        rows += measure(name, given)
    print(
        f"\n{given.size} px tiles, scenes of {given.side} x {given.side} px, "
        f"{given.rounds} rounds, {torch.get_num_threads()} threads"
    )
    print("| network | stride | windows | tiles one by one, s | windows, s | times faster | bound "
          "| on `fused`, s | times faster | GiB: tiles, windows, fused |")  # fmt: skip
    print("|---|---|---|---:|---:|---:|---:|---:|---:|---|")
    for row in rows:
        if row["stride"] == 1:
            continue
        took, gib = row["seconds"], row["memory"]
        eager, fused = (took["tiles"] / took[engine] for engine in ("eager", "fused"))
        print(
            f"| {row['network']} | 1/{row['stride']} | {row['windows']} of {row['window']} px "
            f"| {took['tiles']:.0f} | {took['eager']:.1f} | **{eager:.1f}** "
            f"| {row['bound']:.1f} | {took['fused']:.1f} | {fused:.1f} "
            f"| {gib['tiles']:.2f}, {gib['eager']:.2f}, {gib['fused']:.2f} |"
        )
    print("\n| network | no overlap, `auto` takes | engine | of the speed of tiles one by one "
          "| by round | on `eager` |")  # fmt: skip
    print("|---|---|---|---:|---|---:|")
    for row in rows:
        if row["stride"] == 1:
            least, most = min(row["by_round"]["auto"]), max(row["by_round"]["auto"])
            print(f"| {row['network']} | {row['why']} | {row['engine']} "
                  f"| **{row['ratio']['auto']:.2f}** | {least:.2f} to {most:.2f} "
                  f"| {row['ratio']['eager']:.2f} |")  # fmt: skip
    return {"rows": rows}


def measure(name: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    """One network at all strides."""
    from satray.scoring.dense.measure import measure as ask
    from satray.scoring.dense.windows import plan_scene

    bundle = made.bundle(name, given.size)
    geometry = ask(bundle).geometry
    pixels = made.scene(len(bundle.spec.bands), given.side, given.side)
    tiles = TilesAlone(bundle, pixels, given)
    print(f"{name}: tiles one by one: {tiles.told}", file=sys.stderr, flush=True)
    rows = []
    for place, part in enumerate((4, 8)):
        if part not in given.overlaps:
            continue
        side = given.window or WINDOWS.get(name, LARGE)[place]
        plan = plan_scene(given.side, given.side, geometry, step=given.size // part, window=side)
        ways: dict[str, Callable[[], float]] = {"tiles": tiles.times(plan.tiles)}
        for engine in ("eager", "fused"):
            ways[engine] = _windows(bundle, plan, pixels, _features(bundle, engine), given.windows)
        seconds = _rounds(ways, given.rounds)
        row = {
            "network": name,
            "stride": part,
            "tiles": plan.tiles,
            "windows": len(plan.windows),
            "timed": min(given.windows, len(plan.windows)),
            "window": plan.windows[0].height,
            "bound": plan.tiles * given.size**2 / plan.px,
            "seconds": {way: statistics.median(each) for way, each in seconds.items()},
            "spread": {way: (min(each), max(each)) for way, each in seconds.items()},
            "memory": {way: _memory(name, way, plan.windows[0].height, given) for way in seconds},
        }
        rows.append(row)
        print(f"{name} 1/{part}: {json.dumps(row['seconds'])}", file=sys.stderr, flush=True)
    if 1 in given.overlaps:
        rows.append(_without_overlap(name, bundle, geometry, pixels, tiles, given))
    return rows


class TilesAlone:
    """Tiles cut from the scene and scored by plain torch: its best way here."""

    def __init__(self, bundle: Any, pixels: Any, given: argparse.Namespace) -> None:
        self._network, self._size, self._count = bundle.network, given.size, given.sample
        x_CHW = torch.from_numpy(pixels[:, : 4 * given.size, : 4 * given.size].copy()).float()
        self._x_CHW = (x_CHW - 2000) / 1000
        tried: dict[tuple[int, str], float] = {}
        for layout in ("plain", "channels last"):
            self._lay(layout)
            for batch in BATCHES:
                self._score(batch, batch)
                tried[batch, layout] = self._score(batch, self._count) / self._count
        self._batch, layout = min(tried, key=lambda way: tried[way])
        self._lay(layout)
        self.told = ", ".join(
            f"{layout} by {batch}: {1e3 * took:.1f} ms" for (batch, layout), took in tried.items()
        )

    def times(self, count: int) -> Callable[[], float]:
        """Gives the seconds of so many tiles, from a sample."""
        return lambda: self._score(self._batch, self._count) * count / self._count

    def _lay(self, layout: str) -> None:
        last = torch.channels_last if layout == "channels last" else torch.contiguous_format
        self._format = last
        self._network.to(memory_format=last)

    @torch.inference_mode()
    def _score(self, batch: int, count: int) -> float:
        start = time.perf_counter()
        self._network.to(memory_format=self._format)  # windows turn it to channels last
        size, n = self._size, 0
        for _ in range(0, count, batch):
            some = []
            for _ in range(batch):
                top, left = 17 * n % (3 * size), 31 * n % (3 * size)
                some.append(self._x_CHW[:, top : top + size, left : left + size])
                n += 1
            x_BCHW = torch.stack(some).contiguous(memory_format=self._format)
            self._network(x_BCHW).numpy()
        return (time.perf_counter() - start) * count / n


def _features(bundle: Any, engine: str) -> Any:
    """None: the network as it is."""
    from satray.scoring.engine.make import build

    if engine == "eager":
        return None
    return build(bundle, dict.fromkeys(bundle.network.backbones(), engine))


def _windows(bundle: Any, plan: Any, pixels: Any, features: Any, most: int) -> Callable[[], float]:
    from satray.scoring.dense.answers import Wanted
    from satray.scoring.dense.forward import DenseScorer

    wanted = Wanted(tuple(range(len(made.CLASSES))), ("dense",))
    scorer = DenseScorer(bundle, plan, wanted, features)
    # those of most tiles first: a sample is none of the thin ones at the far edges
    timed = sorted(plan.windows, key=lambda window: -window.tiles)[:most]
    share = len(plan.windows) / len(timed)

    def all_of_them() -> float:
        spent = 0.0
        for window in timed:
            cut = made.window_of(pixels, window)
            start = time.perf_counter()
            scorer(*cut, window)
            spent += time.perf_counter() - start
        return spent * share

    return all_of_them


def _without_overlap(
    name: str, bundle: Any, geometry: Any, pixels: Any, tiles: TilesAlone, given: argparse.Namespace
) -> dict[str, Any]:
    """What `mode=auto` takes at a stride of one tile, against the same tiles by plain torch.

    `eager`: with the network as it is; `auto`: with the engine that a large scene gets.
    """
    from satray.scoring.dense.answers import Wanted
    from satray.scoring.dense.by_tile import TileScorer
    from satray.scoring.dense.choose import choose
    from satray.scoring.dense.pieces import plan_tiles
    from satray.scoring.dense.windows import WINDOW, plan_scene
    from satray.scoring.engine.pick import pick

    choice = choose(geometry, window=WINDOW)
    shape = (1, WINDOW, WINDOW) if choice.mode == "dense" else (64, given.size, given.size)
    px = float(given.side**2)
    engine, picked = pick(bundle, shape, pixels=px)
    plan = plan_tiles(given.side, given.side, geometry, side=WINDOW)

    def by_tile(features: Any) -> Callable[[], float]:
        wanted = Wanted(tuple(range(len(made.CLASSES))), ("dense",))
        scorer = TileScorer(bundle, plan, wanted, 64, features)
        some = plan.pieces[: max(1, given.sample // plan.pieces[0].tiles)]

        def ours() -> float:
            cuts = [made.window_of(pixels, piece) for piece in some]
            start = time.perf_counter()
            for cut, piece in zip(cuts, some, strict=True):
                scorer(*cut, piece)
            spent = time.perf_counter() - start
            return spent * plan.tiles / sum(piece.tiles for piece in some)

        return ours

    def in_windows(features: Any) -> Callable[[], float]:
        windows = plan_scene(given.side, given.side, geometry, window=WINDOW)
        return _windows(bundle, windows, pixels, features, given.windows)

    make = in_windows if choice.mode == "dense" else by_tile
    eager, auto = make(None), make(engine)
    ways = {"tiles": tiles.times(plan.tiles), "eager": eager, "auto": auto}
    seconds = _rounds(ways, given.rounds)
    medians = {way: statistics.median(each) for way, each in seconds.items()}
    print(f"{name} no overlap: {json.dumps(medians)}", file=sys.stderr, flush=True)
    return {
        "network": name, "stride": 1, "why": choice.why,
        "engine": ", ".join(sorted(set(picked.engines.values()))), "seconds": medians,
        "ratio": {way: medians["tiles"] / medians[way] for way in ("eager", "auto")},
        "by_round": {
            way: [t / a for t, a in zip(seconds["tiles"], seconds[way], strict=True)]
            for way in ("eager", "auto")
        },
    }  # fmt: skip


def _rounds(ways: dict[str, Callable[[], float]], count: int) -> dict[str, list[float]]:
    """Seconds of each way, in turn; a first round is not counted."""
    found: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(count + 1):
        for way, once in ways.items():
            took = once()
            if number:
                found[way].append(took)
    return found


def _memory(name: str, way: str, window: int, given: argparse.Namespace) -> float:
    """GiB that a process of its own held at most, for one window or batch, done twice."""
    command = [sys.executable, "-m", "bench", "score", "dense", "--networks", name]
    command += [f"--child={way}", f"--window={window}", f"--size={given.size}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def child(given: argparse.Namespace) -> int:
    """Print the GiB that this process came to hold."""
    from satray.scoring.dense.measure import measure as ask
    from satray.scoring.dense.windows import plan_scene
    from satray.scoring.engine.heap import keep_memory

    keep_memory()
    torch.set_flush_denormal(True)
    bundle = made.bundle(given.networks[0], given.size)
    bands = len(bundle.spec.bands)
    if given.child == "tiles":
        x = torch.randn(max(BATCHES), bands, given.size, given.size)
        x = x.contiguous(memory_format=torch.channels_last)
        bundle.network.to(memory_format=torch.channels_last)
        with torch.inference_mode():
            for _ in range(2):
                bundle.network(x)
    else:
        plan = plan_scene(
            given.window, given.window, ask(bundle).geometry, step=given.size // 4,
            window=given.window,
        )  # fmt: skip
        pixels = made.scene(bands, given.window, given.window)
        once = _windows(bundle, plan, pixels, _features(bundle, given.child), 1)
        for _ in range(2):
            once()
    print(json.dumps(peak()))
    return 0
