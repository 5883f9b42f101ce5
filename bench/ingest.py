"""Ingest: tiles a second from files to a consumer that only counts.

Ways over the same generated archive (256 x 256 x 4, uint16, plain and deflate), interleaved in one
run, medians of the rounds, first batch included:

- `satray`: the streaming room, no cache, two read tasks; `cached`: a second pass over the cache;
- `loader`: a PyTorch `DataLoader`, two workers, rasterio;
- `limit`: two plain processes that read and decode as satray does and do nothing else;
  `rasterio`: the same by rasterio's MemoryFile.

The order of the ways rotates from round to round. Ray is started beforehand, as `torch` is imported
beforehand; each round pays its own processes where it starts any.
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

import numpy as np
import pyarrow as pa

BANDS = ("blue", "green", "red", "nir")
SIDE = 256
BATCH = 32
WORKERS = 2

Measured = tuple[float, float]
"""Seconds from the request for the first batch to the last, and until the first."""


def generate(folder: Path, tiles: int, **options: Any) -> list[str]:
    """Write tiles with smooth ground and sensor noise, like real ones to a compressor."""
    import rasterio

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 6, SIDE)
    ground = np.sin(ramp[:, None] + 1.7 * np.sin(ramp[None, :]))
    paths = [str(folder / f"{number:05d}.tif") for number in range(tiles)]
    for number, path in enumerate(paths):
        level = rng.uniform(300, 3000, (4, 1, 1)) * (1 + 0.3 * np.roll(ground, 7 * number))
        with rasterio.open(
            path, "w", driver="GTiff", height=SIDE, width=SIDE, count=4, dtype="uint16",
            transform=rasterio.Affine(3, 0, 0, 0, -3, 0), **options,
        ) as image:  # fmt: skip
            image.write((level + rng.normal(0, 12, (4, SIDE, SIDE))).astype(np.uint16))
    return paths


def measure(batches: Iterator[int], tiles: int) -> Measured:
    """Time a pass; each item is the number of tiles of a batch."""
    begin = time.perf_counter()
    count = next(batches)
    first = time.perf_counter() - begin
    count += sum(batches)
    if count != tiles:
        raise RuntimeError(f"{count} tiles came, {tiles} were asked for")
    return time.perf_counter() - begin, first


def satray_pass(paths: list[str], cache: str | None = None) -> Measured:
    """One pass through the streaming room."""
    from satray.cluster import Readers
    from satray.config.base import StorageOptions
    from satray.config.train import CacheOptions
    from satray.data.index import IndexMeta, TileIndex
    from satray.data.order import TrainOrder
    from satray.data.read import tile_source
    from satray.data.stream import StreamTally, batches, tile_dataset
    from satray.storage import Storage

    n = len(paths)
    table = pa.table(
        {
            "uri": paths,
            "split": ["train"] * n,
            "labels": pa.array([[0]] * n, pa.list_(pa.uint8())),
            "mask": [False] * n,
        }
    )
    meta = IndexMeta("binary", ("ship",), BANDS, "uint16", (SIDE, SIDE), (), {})
    source = tile_source(
        TileIndex(table, meta), "train", BANDS, Storage(StorageOptions()), digest=paths[0],
        cache=CacheOptions(enabled=cache is not None, folder=cache),
    )  # fmt: skip

    def run() -> Iterator[int]:
        order = TrainOrder(n, (n,), seed=0, shuffle=True)
        dataset = tile_dataset(source, order, batch=BATCH, readers=Readers(WORKERS))
        tally = StreamTally()
        for batch in batches(dataset, source.shape, source.dtype, batch=BATCH, tally=tally):
            yield len(batch["row"])
        if tally.errors:
            raise RuntimeError(f"unreadable tiles: {set(tally.errors.values())}")

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
        files, batch_size=BATCH, shuffle=True, num_workers=WORKERS,
        multiprocessing_context="fork",  # as on any Linux; a spawned parent would pass on spawning
    )  # fmt: skip
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
    return time.perf_counter() - begin, 0.0


def rasterio_pass(paths: list[str]) -> Measured:
    """The same by rasterio."""
    return limit_pass(paths, _rasterio)


def _imports() -> None:
    """A process without Ray, whose threads do not survive a fork."""
    import rasterio
    import torch

    del rasterio, torch


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
    spawn = multiprocessing.get_context("spawn")
    results: dict[str, dict[str, list[Measured]]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="satray-bench-") as temporary,
        ProcessPoolExecutor(1, spawn, _imports) as aside,
    ):
        archives = {
            "plain": generate(Path(temporary) / "plain", options.tiles),
            "deflate": generate(Path(temporary) / "deflate", options.tiles, compress="deflate"),
        }
        with cluster.start(Resources()):
            for number in range(options.rounds):
                for name, paths in archives.items():
                    passes: dict[str, Callable[[], Measured]] = {
                        "limit": lambda p=paths: aside.submit(limit_pass, p).result(),  # type: ignore[misc]
                        "rasterio": lambda p=paths: aside.submit(rasterio_pass, p).result(),  # type: ignore[misc]
                        "loader": lambda p=paths: aside.submit(loader_pass, p).result(),  # type: ignore[misc]
                        "satray": lambda p=paths: satray_pass(p),  # type: ignore[misc]
                    }
                    rows, ways, turn = results.setdefault(name, {}), list(passes), number % 4
                    for way in ways[turn:] + ways[:turn]:
                        rows.setdefault(way, []).append(passes[way]())
                    cache = str(Path(temporary) / "cache" / name)
                    if not Path(cache).exists():
                        satray_pass(paths, cache)  # fills it; not counted
                    rows.setdefault("cached", []).append(satray_pass(paths, cache))
    report(results, options.tiles)
    return 0


def report(results: dict[str, dict[str, list[Measured]]], tiles: int) -> None:
    """Print the table and the line of JSON."""
    print(f"{'archive':9}{'way':9}{'tiles/s':>9}{'of limit':>10}{'steady/s':>10}{'first s':>9}")
    figures: dict[str, Any] = {"bench": "ingest", "tiles": tiles, "batch": BATCH}
    for archive, ways in results.items():
        limit = statistics.median(tiles / seconds for seconds, _ in ways["limit"])
        for way, rounds in ways.items():
            rate = statistics.median(tiles / seconds for seconds, _ in rounds)
            steady = statistics.median((tiles - BATCH) / (all_ - first) for all_, first in rounds)
            first = statistics.median(first for _, first in rounds)
            shown = f"{steady:10.0f}{first:9.2f}" if first else f"{'-':>10}{'-':>9}"
            print(f"{archive:9}{way:9}{rate:9.0f}{rate / limit:10.2f}{shown}")
            figures[f"{archive}_{way}"] = {
                "tiles_per_s": round(rate, 1), "of_limit": round(rate / limit, 3),
                "first_s": round(first, 3), "rounds": [round(tiles / s, 1) for s, _ in rounds],
            }  # fmt: skip
    print(json.dumps(figures))
