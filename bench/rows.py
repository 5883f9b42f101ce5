"""prepare's own time and memory, without reading: an archive of generated rows, a stand-in decoder.

    python -m bench rows --rows 100000 1000000 10000000

One process, embedded; each size in a process of its own. Printed: rows, seconds, microseconds a
row, and the process's largest resident memory.
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
from satray.data.gather import PROBED, Kind, Probed
from satray.data.labels import LabelTable
from satray.data.match import Matched
from satray.data.prepare import LISTED, Survey, work
from satray.data.statistics import count_tile, counts_table
from satray.runs.run import Run
from satray.storage import Storage

BANDS = ("blue", "green", "red", "nir")
KIND = Kind(BANDS, "uint16").text
COUNTS = counts_table(
    {
        json.dumps([KIND, "[]"]): count_tile(
            np.random.default_rng(0).integers(0, 4000, (4, 64, 64)).astype(np.uint16)
        )
    }
)


def look(block: pa.Table, *_: object) -> Probed:
    """What decoding would give of tiles in UTM."""
    rows, n = block["row"].to_pylist(), len(block)
    same = {
        "bytes": 524_800, "crc32": 7, "kind": KIND, "units": "[]", "height": 256, "width": 256,
        "crs": "EPSG:32633", "alpha": False, "note": "", "pages": 1,
    }  # fmt: skip
    columns = {name: pa.array([value] * n, PROBED.field(name).type) for name, value in same.items()}
    columns["row"] = pa.array(rows, pa.int64())
    places = [
        [10.0, 0.0, 3e5 + 2560 * (r % 1000), 0.0, -10.0, 5e6 - 2560 * (r // 1000)] for r in rows
    ]
    columns["transform"] = pa.array(places, PROBED.field("transform").type)
    columns["pages_left"] = pa.array([[]] * n, PROBED.field("pages_left").type)
    absent = {f.name: pa.nulls(n, f.type) for f in PROBED if f.name not in columns}
    return Probed(pa.table(columns | absent).select(PROBED.names).cast(PROBED), COUNTS)


def listed(n: int) -> Survey:
    """An archive of n tiles, a million at a time."""
    parts = []
    for start in range(0, n, 1_000_000):
        rows = range(start, min(start + 1_000_000, n))
        some = len(rows)
        columns = {
            "key": [f"2026/{r // 1000:05d}/tile_{r:09d}.tif" for r in rows],
            "uri": [f"s3://tiles/2026/{r // 1000:05d}/tile_{r:09d}.tif" for r in rows],
            "split": ["val" if r % 5 == 0 else "train" for r in rows],
            "labels": [[r % 2] for r in rows],
            "size": [524_800] * some,
            "etag": [f"{r:032x}" for r in rows],
            "mask": [False] * some,
            "world": [None] * some,
        }
        parts.append(pa.table(columns, schema=LISTED))
    empty = np.zeros((0, 1), np.uint8)
    labels = LabelTable((), ("ship",), empty, "binary", {}, "wide")
    matched = Matched(np.zeros(0, np.int64), (), n, (), (), ())
    return Survey(pa.concat_tables(parts), labels, matched, {})


def measure(n: int) -> None:
    """One size, in this process."""
    recipe = PrepareRecipe(images="s3://tiles", labels="s3://tiles/labels.csv")
    found = listed(n)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    with tempfile.TemporaryDirectory() as out:
        begun = time.perf_counter()
        work(recipe, found, Run("prepare", "0" * 12, out, Storage(), ray=False), look)
        seconds = time.perf_counter() - begun
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{n:>10,} rows: {seconds:8.1f} s, {seconds / n * 1e6:6.1f} us a row, "
        f"{most:.2f} GiB at most ({before:.2f} to generate the listing)",
        flush=True,
    )


def main(arguments: list[str]) -> int:
    """Each size in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m bench rows", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    sizes = parser.parse_args(arguments).rows
    if len(sizes) == 1:
        measure(sizes[0])
    for size in sizes if len(sizes) > 1 else ():
        subprocess.run([sys.executable, "-m", "bench", "rows", "--rows", str(size)], check=True)
    return 0
