"""Finished blocks: one Parquet file each in the run's state, so that a rerun goes on where it was.

A block's file is written whole or not at all, after its maps; its name is its place in the list of
tiles. Merging makes the run's products of them, in order.
"""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from satray.errors import SatrayError
from satray.runs.run import Product, Run, to_parquet
from satray.score.predictions import FAILED, Layout, PredictionsWriter
from satray.storage import Storage, join
from satray.storage.temporary import scratch

BLOCK_BYTES = 32 << 20
"""Pixels of a block aim at this size."""

BLOCK_TILES = 128
"""Most tiles of a block: what is lost when a worker dies, and what a progress line counts."""

PREDICTIONS = "predictions/part-00000.parquet"
"""The run's table of predictions: one file, in row groups."""

PRODUCTS = b"satray.products"
"""Key of a block file's metadata: the maps that were written for it, as JSON."""

ENGINE = b"satray:engine"
"""Key of the metadata of block files and predictions: what computed the features."""

WAYS = pa.schema([pa.field("uri", pa.string(), nullable=False), pa.field("stage", pa.string())])
"""Columns of a block file beside the predictions'."""

FAILURES = pa.schema(
    [
        pa.field("tile_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
    ]
)
"""Columns of `failures.parquet`; stage is read, decode or score."""


@dataclass(frozen=True)
class Blocks:
    """Where a run keeps its blocks, and how many tiles each has."""

    folder: str
    """URI; block sizes are part of the name, so that blocks of another cut are never taken."""
    tiles: int
    """All tiles of the run."""
    size: int
    """Tiles of a block; the last may have fewer."""

    @classmethod
    def of(cls, state: str, tiles: int, tile_bytes: int) -> "Blocks":
        """Cut a list of tiles; a function of tiles and bundle only, so that a rerun cuts alike."""
        size = max(1, min(BLOCK_TILES, BLOCK_BYTES // max(1, tile_bytes)))
        return cls(join(state, f"blocks-of-{size}"), tiles, size)

    @property
    def count(self) -> int:
        """Number of blocks."""
        return -(-self.tiles // self.size)

    def rows(self, number: int) -> range:
        """Tiles of a block, by their places in the list."""
        return range(number * self.size, min((number + 1) * self.size, self.tiles))

    def uri(self, number: int) -> str:
        """File of a block."""
        return join(self.folder, f"{number:06d}.parquet")

    def finished(self, storage: Storage) -> set[int]:
        """Blocks that have their file."""
        stems = (entry.key.removesuffix(".parquet") for entry in storage.list(self.folder))
        return {int(stem) for stem in stems if stem.isdecimal()} & set(range(self.count))


@dataclass(frozen=True)
class Merged:
    """What the blocks of a run hold together."""

    tiles: int
    """Rows."""
    failed: int
    """Rows with status `failed`."""
    maps: int
    """Maps that were written."""
    reasons: Counter[str]
    """Stage and error -> failed tiles."""
    engine: str
    """What computed the features: library and precision."""


def block_file(
    table: pa.Table,
    uris: Sequence[str],
    stages: Sequence[str | None],
    products: Sequence[Product],
    engine: str,
) -> bytes:
    """Encode a block: its predictions, where each tile is from, the maps made of it, by what."""
    metadata = dict(table.schema.metadata or {})
    metadata[ENGINE] = engine.encode()
    metadata[PRODUCTS] = json.dumps([asdict(product) for product in products]).encode()
    for column, values in zip(WAYS, (uris, stages), strict=True):
        table = table.append_column(column, pa.array(values, column.type))
    return to_parquet(table.replace_schema_metadata(metadata))


def merge(
    run: Run,
    blocks: Blocks,
    layout: Layout,
    each: Callable[[pa.Table], object] | None = None,
) -> Merged:
    """Publish the predictions and `failures.parquet`, and record the maps.

    Args:
        run: the run; every block has its file.
        blocks: its blocks.
        layout: columns of the predictions.
        each: called with each block's predictions, in order.
    """
    schema = layout.schema()
    failures: list[pa.Table] = []
    reasons: Counter[str] = Counter()
    engines: set[str] = set()
    maps = 0
    with scratch("merge") as folder:
        path = folder / "predictions.parquet"
        with PredictionsWriter(path, layout) as writer:
            for table in _tables(run.storage, blocks):
                metadata = table.schema.metadata or {}
                engines.add(metadata[ENGINE].decode())
                for item in json.loads(metadata.get(PRODUCTS, b"[]")):
                    run.record(Product(**item))
                    maps += 1
                bad = table.filter(pc.equal(table.column("status"), FAILED))
                if bad.num_rows:
                    failures.append(bad.select(FAILURES.names).cast(FAILURES))
                    pairs = zip(bad["stage"].to_pylist(), bad["error"].to_pylist(), strict=True)
                    reasons.update(f"{stage}: {error}" for stage, error in pairs)
                rows = table.select(schema.names).replace_schema_metadata(None)
                if each is not None:
                    each(rows)
                writer.write(rows)
            engine = writer.made["engine"] = "; ".join(sorted(engines))
        run.publish(PREDICTIONS, path, rows=writer.rows)
    failed = pa.concat_tables(failures) if failures else FAILURES.empty_table()
    run.publish_table("failures.parquet", failed)
    return Merged(blocks.tiles, failed.num_rows, maps, reasons, engine)


def _tables(storage: Storage, blocks: Blocks) -> Iterator[pa.Table]:
    """The blocks' tables in order; a few files are fetched ahead."""
    ahead = 32
    for start in range(0, blocks.count, ahead):
        numbers = range(start, min(start + ahead, blocks.count))
        held: dict[int, bytes] = {}
        for i, data in storage.read_many([blocks.uri(number) for number in numbers]):
            if isinstance(data, Exception):
                raise data
            held[i] = data
        for i, number in enumerate(numbers):
            table = pq.read_table(io.BytesIO(held.pop(i)))
            if table.num_rows != len(blocks.rows(number)):
                raise SatrayError(
                    f"{blocks.uri(number)}: {table.num_rows} rows, not {len(blocks.rows(number))}; "
                    "remove it and rerun"
                )
            yield table
