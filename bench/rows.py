"""prepare's own time and memory: a generated listing and label table, a stand-in for decoding.

    python -m bench rows 100000 1000000 10000000

In one process each, embedded, first what comes before the images are opened (listing, label table,
match, split; generating them is in it), then the rest: microseconds a row, those of processors, and
the largest resident memory.
"""

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from satray.config.prepare import PrepareRecipe
from satray.data import prepare, probe
from satray.data.decode import TileHeader
from satray.data.statistics import count_tile
from satray.runs.run import Run
from satray.storage import Entry, Storage, Version

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


@dataclass(frozen=True)
class Generated(Storage):
    """An archive of so many tiles and a table of their labels, in no order of each other."""

    count: int = 0

    def key(self, row: int) -> str:
        """Path of one tile; those that follow one another are far apart."""
        place = row * 7_919 % self.count
        return f"2026/{place // 1000:05d}/tile_{place:09d}.tif"

    def walk(self, prefix: str) -> Iterator[Entry]:
        """All tiles."""
        when = datetime(2026, 1, 1, tzinfo=UTC)
        for row in range(self.count):
            key = self.key(row)
            yield Entry(f"{prefix}/{key}", key, 524_800, f"{row:032x}", when)

    def read(self, uri: str, version: Version | None = None) -> bytes:
        """The label table."""
        del uri, version
        table = io.BytesIO(b"image,ship\n")
        table.seek(0, io.SEEK_END)
        rows = reversed(range(self.count))
        table.writelines(f"{self.key(row)},{row % 2}\n".encode() for row in rows)
        return table.getvalue()


def measure(count: int) -> None:
    """One size, in this process."""
    probe.probe_block = decoded  # type: ignore[assignment]
    recipe = PrepareRecipe(images="s3://tiles", labels="s3://tiles/labels.csv")
    said, used = [f"{count:>10,} rows"], time.process_time()
    found = prepare.read(recipe, Generated(count=count))

    def say(what: str) -> float:
        now = time.process_time()
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        said.append(f"{what} {(now - used) / count * 1e6:.1f} us a row, {most:.2f} GiB at most")
        return now

    used = say("read")
    with tempfile.TemporaryDirectory() as out:
        prepare.work(recipe, found, Run("prepare", "0" * 12, out, Storage(), ray=False))
    say("work")
    print(f"{'; '.join(said)}; the table has {found.tiles.nbytes / 2**30:.2f}", flush=True)


def main(arguments: list[str]) -> int:
    """Each size in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m bench rows", description=__doc__)
    parser.add_argument("rows", type=int, nargs="*", default=[100_000, 1_000_000, 10_000_000])
    sizes = parser.parse_args(arguments).rows
    if len(sizes) == 1:
        measure(sizes[0])
    for size in sizes if len(sizes) > 1 else ():
        subprocess.run([sys.executable, "-m", "bench", "rows", str(size)], check=True)
    return 0
