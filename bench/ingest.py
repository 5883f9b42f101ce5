"""Ingest: tiles a second from files to a consumer that only counts.

Three ways over the same generated archive (256 x 256 x 4, uint16, plain and deflate), interleaved
in one run, medians of the rounds, first batch included:

- `satray`: the streaming room, no cache, two read tasks; `cached`: a second pass over the cache;
- `loader`: a PyTorch `DataLoader`, two workers, rasterio;
- `limit`: two plain processes that read and decode as satray does and do nothing else;
  `rasterio`: the same by rasterio's MemoryFile.

The order of the ways rotates from round to round.

Ray is started beforehand, as `torch` is imported beforehand; each round pays its own processes
where it starts any.
"""

import argparse
import json
import logging
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

BANDS = ("blue", "green", "red", "nir")
SIDE = 256
BATCH = 32
WORKERS = 2


@dataclass(frozen=True)
class Measured:
    """One pass over the archive."""

    seconds: float
    """From the request for the first batch to the last."""
    first: float
    """Until the first batch."""


def generate(folder: Path, tiles: int, compress: str | None) -> list[str]:
    """Write tiles with smooth ground and sensor noise, like real ones to a compressor."""
    import rasterio
    from rasterio.transform import from_origin

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 6, SIDE)
    ground = np.sin(ramp[:, None] + 1.7 * np.sin(ramp[None, :]))
    paths = []
    for number in range(tiles):
        level = rng.uniform(300, 3000, (4, 1, 1)) * (1 + 0.3 * np.roll(ground, 7 * number))
        pixels = (level + rng.normal(0, 12, (4, SIDE, SIDE))).astype(np.uint16)
        path = folder / f"{number:05d}.tif"
        options: dict[str, Any] = {"compress": compress} if compress else {}
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            height=SIDE,
            width=SIDE,
            count=4,
            dtype="uint16",
            transform=from_origin(0, 0, 3, 3),
            **options,
        ) as image:
            image.write(pixels)
        paths.append(str(path))
    return paths


def measure(batches: Iterator[int], tiles: int) -> Measured:
    """Count a pass; each item is the number of tiles of a batch."""
    begin = time.perf_counter()
    count = next(batches)
    first = time.perf_counter() - begin
    count += sum(batches)
    seconds = time.perf_counter() - begin
    if count != tiles:
        raise RuntimeError(f"{count} tiles came, {tiles} were asked for")
    return Measured(seconds, first)


def satray_pass(paths: list[str], cache: str | None = None) -> Measured:
    """One pass through the streaming room."""
    from satray.cluster import Readers
    from satray.config.base import StorageOptions
    from satray.config.train import CacheOptions
    from satray.data.index import IndexMeta, TileIndex
    from satray.data.order import TrainOrder
    from satray.data.stream import StreamTally, batches, tile_dataset, tile_source
    from satray.storage import Storage

    n = len(paths)
    table = pa.table(
        {"uri": paths, "split": ["train"] * n, "labels": pa.array([[0]] * n, pa.list_(pa.uint8()))}
    )
    meta = IndexMeta("binary", ("ship",), BANDS, "uint16", (SIDE, SIDE), (), {})
    source = tile_source(
        TileIndex(table, meta),
        "train",
        BANDS,
        Storage(StorageOptions()),
        digest=paths[0],
        cache=CacheOptions(enabled=cache is not None, folder=cache),
    )

    def run() -> Iterator[int]:
        order = TrainOrder(n, (n,), seed=0, shuffle=True)
        dataset = tile_dataset(source, order, batch=BATCH, readers=Readers(WORKERS))
        tally = StreamTally()
        for batch in batches(dataset, source.shape, source.dtype, batch=BATCH, tally=tally):
            yield len(batch["row"])
        if tally.errors:
            raise RuntimeError(f"unreadable tiles: {tally.reasons()}")

    return measure(run(), n)


class _Files:
    """A map-style data set as one writes it for torch."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: int) -> Any:
        import rasterio
        import torch

        with rasterio.open(self.paths[item]) as image:
            return torch.from_numpy(image.read())


def loader_pass(paths: list[str]) -> Measured:
    """One pass of torch's DataLoader over rasterio."""
    from torch.utils.data import DataLoader

    files: Any = _Files(paths)
    loader: Any = DataLoader(
        files,
        batch_size=BATCH,
        shuffle=True,
        num_workers=WORKERS,
        multiprocessing_context="fork",  # as on any Linux; a spawned parent would pass on spawning
    )
    return measure((len(batch) for batch in loader), len(paths))


def _decode(paths: list[str]) -> None:
    from satray.data.decode import read_pixels

    for path in paths:
        read_pixels(Path(path).read_bytes(), (0, 1, 2, 3), SIDE, SIDE, "uint16")


def _rasterio(paths: list[str]) -> None:
    from rasterio.io import MemoryFile

    for path in paths:
        with MemoryFile(Path(path).read_bytes()) as file, file.open() as image:
            image.read()


def limit_pass(paths: list[str], decode: Callable[[list[str]], None] = _decode) -> Measured:
    """Two processes, half of the files each, nothing sent back."""
    context = multiprocessing.get_context("fork")
    begin = time.perf_counter()
    parts = [context.Process(target=decode, args=(paths[k::WORKERS],)) for k in range(WORKERS)]
    for part in parts:
        part.start()
    for part in parts:
        part.join()
        if part.exitcode:
            raise RuntimeError("a plain process failed")
    return Measured(time.perf_counter() - begin, 0.0)


def _serve(pipe: Any) -> None:
    """Run passes without Ray in the process, whose threads do not survive a fork."""
    import rasterio
    import torch

    del rasterio, torch
    passes = {
        "loader": loader_pass,
        "limit": limit_pass,
        "rasterio": lambda paths: limit_pass(paths, _rasterio),
    }
    while True:
        name, paths = pipe.recv()
        if name == "end":
            return
        pipe.send(passes[name](paths))


@contextmanager
def _aside() -> Iterator[Callable[[str, list[str]], Measured]]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,))
    process.start()

    def ask(name: str, paths: list[str]) -> Measured:
        here.send((name, paths))
        while not here.poll(1.0):
            if not process.is_alive():
                raise RuntimeError(f"{name}: the process ended with {process.exitcode}")
        measured: Measured = here.recv()
        return measured

    try:
        yield ask
    finally:
        here.send(("end", []))
        process.join(timeout=10)


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
    with tempfile.TemporaryDirectory(prefix="satray-bench-") as temporary, _aside() as ask:
        archives = {
            name: generate(Path(temporary) / name, options.tiles, compress)
            for name, compress in (("plain", None), ("deflate", "deflate"))
        }
        with cluster.start(Resources()):
            for number in range(options.rounds):
                for name, paths in archives.items():
                    rows = results.setdefault(name, {})
                    cache = str(Path(temporary) / "cache" / name)
                    passes: dict[str, Callable[[], Measured]] = {
                        "limit": lambda paths=paths: ask("limit", paths),  # type: ignore[misc]
                        "rasterio": lambda paths=paths: ask("rasterio", paths),  # type: ignore[misc]
                        "loader": lambda paths=paths: ask("loader", paths),  # type: ignore[misc]
                        "satray": lambda paths=paths: satray_pass(paths),  # type: ignore[misc]
                    }
                    ways = list(passes)
                    for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
                        rows.setdefault(way, []).append(passes[way]())
                    if not Path(cache).exists():
                        satray_pass(paths, cache)  # fills it; not counted
                    rows.setdefault("cached", []).append(satray_pass(paths, cache))
    print(report(results, options.tiles))
    return 0


def report(results: dict[str, dict[str, list[Measured]]], tiles: int) -> str:
    """The table and the line of JSON."""
    lines = [f"{'archive':9}{'way':9}{'tiles/s':>9}{'of limit':>10}{'steady/s':>10}{'first s':>9}"]
    figures: dict[str, Any] = {"bench": "ingest", "tiles": tiles, "batch": BATCH}
    for archive, ways in results.items():
        limit = statistics.median(tiles / m.seconds for m in ways["limit"])
        for way, rounds in ways.items():
            rate = statistics.median(tiles / m.seconds for m in rounds)
            steady = statistics.median((tiles - BATCH) / (m.seconds - m.first) for m in rounds)
            first = statistics.median(m.first for m in rounds)
            shown = (
                f"{steady:10.0f}{first:9.2f}"
                if way not in ("limit", "rasterio")
                else f"{'-':>10}{'-':>9}"
            )
            lines.append(f"{archive:9}{way:9}{rate:9.0f}{rate / limit:10.2f}{shown}")
            figures[f"{archive}_{way}"] = {
                "tiles_per_s": round(rate, 1),
                "of_limit": round(rate / limit, 3),
                "first_s": round(first, 3),
                "rounds": [round(tiles / m.seconds, 1) for m in rounds],
            }
    return "\n".join([*lines, json.dumps(figures)])
