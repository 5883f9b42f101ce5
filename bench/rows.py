"""prepare's own time and memory, without reading: generated rows, a stand-in for decoding.

    python -m bench rows 100000 2000000 10000000

In one process each, embedded: rows, seconds, microseconds a row, those of processors, and the
largest resident memory, beside what it was when the listing had been generated.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa

from satray.config.prepare import PrepareRecipe
from satray.data import prepare, probe
from satray.data.decode import TileHeader
from satray.data.labels import LabelTable
from satray.data.match import Matched
from satray.data.statistics import count_tile
from satray.runs.run import Run
from satray.storage import Storage

HEADER = TileHeader(256, 256, ("blue", "green", "red", "nir"), "uint16", "EPSG:32633", None, None)
TEXT = json.dumps({**vars(HEADER), "transform": None})
X_CHW = np.random.default_rng(0).integers(0, 4000, (4, 64, 64)).astype(np.uint16)
COUNTS = {probe.kind_text(HEADER): count_tile(X_CHW)}


def decoded(block: pa.Table, *_: object) -> bytes:
    """What decoding would give of tiles in UTM."""
    rows = block["row"].to_pylist()
    places = [
        [10.0, 0.0, 3e5 + 2560 * (r % 1000), 0.0, -10.0, 5e6 - 2560 * (r // 1000)] for r in rows
    ]
    columns = {
        "row": rows, "bytes": [524_800] * len(rows), "crc32": [7] * len(rows),
        "header": pa.array([TEXT] * len(rows)).dictionary_encode(),
        "transform": pa.array(places, pa.list_(pa.float64(), 6)),
    }  # fmt: skip
    columns |= {f.name: pa.nulls(len(rows), f.type) for f in probe.PROBED if f.name not in columns}
    return probe.packed(pa.table(columns).select(probe.PROBED.names).cast(probe.PROBED), COUNTS)


def listed(count: int) -> prepare.Survey:
    """An archive of so many tiles, generated some at a time."""
    parts = []
    for start in range(0, count, 100_000):
        rows = range(start, min(start + 100_000, count))
        keys = [f"2026/{r // 1000:05d}/tile_{r:09d}.tif" for r in rows]
        labels = pa.array(np.arange(len(rows)) % 2, pa.uint8())
        columns = {
            "uri": [f"s3://tiles/{key}" for key in keys],
            "labels": pa.FixedSizeListArray.from_arrays(labels, 1),
            "etag": [f"{r:032x}" for r in rows],
            "mask": [False] * len(rows), "world": pa.nulls(len(rows), pa.string()),
            "split": pa.array(["val" if r % 5 == 0 else "train" for r in rows]).dictionary_encode(),
        }  # fmt: skip
        parts.append(pa.table(columns))
    labels = LabelTable((), ("ship",), np.zeros((0, 1), np.uint8), "binary", {}, "wide")
    matched = Matched(np.zeros(0, np.int64), (), (), (), ())
    tiles = pa.concat_tables(parts).unify_dictionaries()
    return prepare.Survey(tiles, "s3://tiles/", 524_800 * count, labels, matched, {})


def measure(count: int) -> None:
    """One size, in this process."""
    probe.probe_block = decoded  # type: ignore[assignment]
    found = listed(count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    with tempfile.TemporaryDirectory() as out:
        begun, used = time.perf_counter(), time.process_time()
        recipe = PrepareRecipe(images="s3://tiles", labels="s3://tiles/labels.csv")
        prepare.work(recipe, found, Run("prepare", "0" * 12, out, Storage(), ray=False))
        seconds, used = time.perf_counter() - begun, time.process_time() - used
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{count:>10,} rows: {seconds:7.1f} s, {seconds / count * 1e6:5.1f} us a row "
        f"({used / count * 1e6:.1f} of processors), {most:.2f} GiB at most ({before:.2f} with the "
        f"listing, whose table has {found.tiles.nbytes / 2**30:.2f})",
        flush=True,
    )


def main(arguments: list[str]) -> int:
    """Each size in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m bench rows", description=__doc__)
    parser.add_argument("rows", type=int, nargs="*", default=[100_000, 2_000_000, 10_000_000])
    sizes = parser.parse_args(arguments).rows
    if len(sizes) == 1:
        measure(sizes[0])
    for size in sizes if len(sizes) > 1 else ():
        subprocess.run([sys.executable, "-m", "bench", "rows", str(size)], check=True)
    return 0
