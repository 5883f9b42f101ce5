"""Ingest: tiles a second from files to a consumer that only counts.

Ways over the same generated archive (256 x 256 x 4, uint16, plain and deflate), interleaved in one
run, medians of the rounds, first batch included:

- `satray`: the streaming room, no cache, two read tasks; `cached`: a second pass over the cache;
- `limit`: two plain processes that read and decode as satray does and do nothing else.

Ray, and the plain processes, are started beforehand; each round pays its own where it starts any.
"""

import argparse
import json
import logging
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from bench.processes import archive

BANDS = ("blue", "green", "red", "nir")
BATCH = 32
WORKERS = 2

Measured = tuple[float, float]
"""Seconds from the request for the first batch to the last, and until the first."""


def measure(batches: Iterator[int], tiles: int) -> Measured:
    """Time a pass; each item is the number of tiles of a batch."""
    begin = time.perf_counter()
    count = next(batches)
    first = time.perf_counter() - begin
    count += sum(batches)
    if count != tiles:
        raise RuntimeError(f"{count} tiles came, {tiles} were asked for")
    return time.perf_counter() - begin, first


def satray_pass(index: Path, cache: Path | None = None) -> Measured:
    """One pass through the streaming room."""
    from satray.cluster import Readers
    from satray.config.train import CacheOptions
    from satray.data.index import read_index
    from satray.data.order import TrainOrder
    from satray.data.read import tile_source
    from satray.data.stream import batches, tile_dataset
    from satray.storage import Storage

    kept = CacheOptions(enabled=cache is not None, folder=str(cache) if cache else None)
    tiles = read_index(str(index), Storage())
    source = tile_source(tiles, "train", BANDS, Storage(), kept)

    def run() -> Iterator[int]:
        order = TrainOrder(len(source), (len(source),), seed=0, shuffle=True)
        dataset = tile_dataset(source, order, batch=BATCH, readers=Readers(WORKERS))
        errors: dict[int, str] = {}
        for batch in batches(dataset, batch=BATCH, errors=errors):
            yield len(batch["row"])
        if errors:
            raise RuntimeError(f"unreadable tiles: {set(errors.values())}")

    return measure(run(), len(source))


def limit_pass(paths: list[Path]) -> None:
    """Read and decode, as satray does, and nothing else."""
    from satray.data.decode import PixelSpec, read_pixels

    for path in paths:
        read_pixels(path.read_bytes(), PixelSpec((0, 1, 2, 3), 256, 256, "uint16"))


def main(arguments: list[str]) -> int:
    """Generate, measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench ingest", description=__doc__)
    parser.add_argument("--tiles", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)

    from satray import cluster
    from satray.config.base import Resources
    from satray.data import stream

    del stream  # imports ray.data, whose own logger talks a lot
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    results: dict[str, dict[str, list[Measured]]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="satray-bench-") as temporary,
        ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as aside,
    ):

        def limit(folder: Path) -> Measured:
            paths, begin = sorted(folder.glob("tiles/*")), time.perf_counter()
            for part in [aside.submit(limit_pass, paths[k::WORKERS]) for k in range(WORKERS)]:
                part.result()
            return time.perf_counter() - begin, 0.0

        ways: dict[str, Callable[[Path], Measured]] = {
            "limit": limit,
            "satray": lambda at: satray_pass(at / "index"),
        }
        archives = [Path(temporary) / name for name in ("plain", "deflate")]
        archive(archives[0], options.tiles, "split.val=0")
        archive(archives[1], options.tiles, "split.val=0", compress="deflate")
        limit(archives[0])  # its processes are up
        with cluster.start(Resources()):
            for number in range(options.rounds):
                for at in archives:
                    rows, turn = results.setdefault(at.name, {}), number % len(ways)
                    for way in [*ways, *ways][turn : turn + len(ways)]:
                        rows.setdefault(way, []).append(ways[way](at))
                    if not (at / "cache").exists():
                        satray_pass(at / "index", at / "cache")  # fills it; not counted
                    cached = satray_pass(at / "index", at / "cache")
                    rows.setdefault("cached", []).append(cached)
    report(results, options.tiles)
    return 0


def report(results: dict[str, dict[str, list[Measured]]], tiles: int) -> None:
    """Print the table and the line of JSON."""
    print(f"{'archive':9}{'way':9}{'tiles/s':>9}{'of limit':>10}{'steady/s':>10}{'first s':>9}")
    figures: dict[str, Any] = {"bench": "ingest", "tiles": tiles, "batch": BATCH}
    for name, ways in results.items():
        limit = statistics.median(tiles / seconds for seconds, _ in ways["limit"])
        for way, rounds in ways.items():
            rate = statistics.median(tiles / seconds for seconds, _ in rounds)
            steady = statistics.median((tiles - BATCH) / (all_ - first) for all_, first in rounds)
            first = statistics.median(first for _, first in rounds)
            shown = f"{steady:10.0f}{first:9.2f}" if first else f"{'-':>10}{'-':>9}"
            print(f"{name:9}{way:9}{rate:9.0f}{rate / limit:10.2f}{shown}")
            figures[f"{name}_{way}"] = [round(tiles / seconds, 1) for seconds, _ in rounds]
    print(json.dumps(figures))
