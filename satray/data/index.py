"""The tile index: one row a tile in Parquet, and what holds for all of them in its metadata."""

import hashlib
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import TypeAdapter

from satray.data.raster import PagesKey
from satray.data.values import Units
from satray.errors import InputError, counted, one_line
from satray.runs.run import Run, find_run
from satray.storage import Storage, Version, join

META_KEY = b"satray"
"""Key of the schema metadata that holds `IndexMeta` as JSON."""

PARTS = ("train", "val", "test")
"""Of a split, in order."""

ROWS_PER_GROUP = 100_000
GROUPS_PER_FILE = 10

LOOKED_AT = 256
"""Tiles that `check_unchanged` looks at, spread evenly over an index: one HEAD request each, a
second in all."""

_AT_ONCE = 32

SCHEMA = pa.schema(
    [
        pa.field("tile_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("labels", pa.list_(pa.uint8()), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("bands", pa.list_(pa.string()), nullable=False),
        pa.field("dtype", pa.string(), nullable=False),
        pa.field("crs", pa.string()),
        pa.field("transform", pa.list_(pa.float64(), 6)),
        pa.field("nodata", pa.float64()),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("crc32", pa.uint32()),
        pa.field("mask", pa.bool_()),
        pa.field("resolution_x", pa.float64()),
        pa.field("resolution_y", pa.float64()),
    ]
)
"""Columns of the tile index. `mask`: whether a file of the
tile's name and `.msk` lies beside it. A px is `resolution_x` m wide and `resolution_y` m high on
the ground at the tile's centre, whatever the units of the CRS; null where that is not known."""


@dataclass(frozen=True)
class BandStatistics:
    """One band over the valid pixels of the train part, in stored units."""

    name: str
    """Band name."""
    mean: float
    """Arithmetic mean."""
    std: float
    """Standard deviation of the population (divided by n)."""
    min: float
    """Smallest valid value."""
    max: float
    """Largest valid value."""
    percentiles: dict[str, float]
    """Percent ("1" ... "99") -> value."""
    valid: int
    """Number of valid pixels counted."""


@dataclass(frozen=True)
class IndexMeta:
    """What holds for all tiles of an index."""

    task: str
    """`binary`, `multilabel` or `multiclass`."""
    classes: tuple[str, ...]
    """Class names, in the order of the labels."""
    bands: tuple[str, ...]
    """Band names, in the files' order."""
    dtype: str
    """NumPy name of the stored dtype."""
    tile_shape: tuple[int, int]
    """The most frequent (height, width), in px."""
    statistics: tuple[BandStatistics, ...]
    """One entry a band, in the order of `bands`."""
    provenance: dict[str, object]
    """Where it came from: archive, label table, recipe, run id, version."""
    named: bool = False
    """Whether the recipe named the bands: in files of as many, one tagged alpha is data then."""
    units: Units = ()
    """What the bands' numbers mean, in the order of `bands`; tiles that state another unit are
    brought to it. Empty where nobody states any."""
    pages: PagesKey = "bands"
    """Which pages of a TIFF are bands."""

    def units_of(self, bands: Sequence[str]) -> Units:
        """The units of some bands."""
        return tuple(self.units[self.bands.index(name)] for name in bands) if self.units else ()

    def to_json(self) -> str:
        """As JSON with sorted keys: equal metadata give equal bytes."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "IndexMeta":
        """Read `to_json`'s text. Raises ValueError where it is not that."""
        return _META.validate_json(text)


_META = TypeAdapter(IndexMeta)


@dataclass(frozen=True)
class TileIndex:
    """Tiles, one a row, and what holds for all of them."""

    table: pa.Table
    """Columns of `SCHEMA`."""
    meta: IndexMeta
    """Task, classes, bands, statistics."""
    digest: str = ""
    """SHA-256, in hexadecimal, of the index's file; of several files, of their digests in order.
    Empty where it was read from none."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def part(self, split: str) -> "TileIndex":
        """The tiles of one split, in the index's order. Raises InputError where there are none."""
        rows = np.flatnonzero(self.splits == split)
        if rows.size == 0:
            there = ", ".join(f"{k} ({counted(n, 'tile')})" for k, n in self.split_counts.items())
            raise InputError(f"split: no tile is in {split!r}; the index has {there or 'no tiles'}")
        return TileIndex(self.table.take(pa.array(rows)), self.meta, self.digest)

    @cached_property
    def splits(self) -> NDArray[np.object_]:
        """(N,) the split of each tile."""
        encoded = self.table["split"].combine_chunks().dictionary_encode()
        words = np.array(encoded.dictionary.to_pylist(), object)  # a row holds no text of its own
        return np.asarray(words[encoded.indices.to_numpy()])

    @cached_property
    def split_counts(self) -> dict[str, int]:
        """Split -> number of tiles; train, val, test first, then by name."""
        counts = Counter(self.splits.tolist())
        return {s: counts[s] for s in (*PARTS, *sorted(counts.keys() - set(PARTS))) if counts[s]}

    @cached_property
    def labels(self) -> NDArray[np.uint8]:
        """Targets (N, K), uint8, 0 or 1, in the order of `meta.classes`."""
        column = self.table.column("labels").combine_chunks()
        return np.asarray(column.flatten(), dtype=np.uint8).reshape(
            len(self), len(self.meta.classes)
        )


def table_with(meta: IndexMeta, table: pa.Table) -> pa.Table:
    """The table in the index's schema, with `meta` in its metadata.

    Columns that may be null need not be there: sizes of px are measured, others are null then.
    """
    columns = {name: table[name] for name in SCHEMA.names if name in table.column_names}
    needed = ("crs", "transform", "height", "width")
    if columns.keys() >= set(needed) and "resolution_x" not in columns:
        from satray.data.georeference import resolutions  # PROJ, for none that only read

        sizes_N2 = resolutions(*(columns[name].to_pylist() for name in needed))
        for place, axis in enumerate("xy"):
            column = pa.array(sizes_N2[:, place], pa.float64(), from_pandas=True)
            columns[f"resolution_{axis}"] = column
    for field in SCHEMA:
        if field.nullable and field.name not in columns:
            columns[field.name] = pa.nulls(len(table), field.type)
    whole = pa.table(columns).select(SCHEMA.names).cast(SCHEMA)
    return whole.replace_schema_metadata({META_KEY: meta.to_json().encode()})


def versions(table: pa.Table) -> list[Version | None]:
    """What the file of each row of an index must be; None where it does not say."""
    columns = (table[name].to_pylist() for name in ("bytes", "etag", "crc32"))
    return [
        None if size is None else Version(size, etag, crc)
        for size, etag, crc in zip(*columns, strict=True)
    ]


def write_index(groups: Iterable[pa.Table], run: Run) -> None:
    """Publish `index/tiles-NNNNN.parquet`.

    Args:
        groups: what is written (`table_with`), `ROWS_PER_GROUP` tiles each; one after another is
            in memory.
        run: whose products the files are.
    """
    groups = iter(groups)
    for number, first in enumerate(groups):
        sink, rows = io.BytesIO(), 0
        with pq.ParquetWriter(sink, first.schema, compression="zstd") as writer:
            for group in itertools.chain([first], itertools.islice(groups, GROUPS_PER_FILE - 1)):
                writer.write_table(group)
                rows += len(group)
        run.publish(f"index/tiles-{number:05d}.parquet", sink.getvalue(), rows=rows)


def read_index(uri: str, storage: Storage) -> TileIndex:
    """Read a tile index.

    Its digest is taken of the bytes that are read, not from run.json: they may have changed since.

    Args:
        uri: the `out` of a finished prepare run (exactly the files that its run.json lists are
            read), its `index/` folder, or one Parquet file.
        storage: where `uri` is.

    Raises:
        InputError: there is nothing, or what there is is no tile index.
    """
    tables: list[pa.Table] = []
    digests: list[str] = []
    for file, sha256 in _files(uri, storage):
        data = storage.read(file)
        digests.append(hashlib.sha256(data).hexdigest())
        if sha256 not in (None, digests[-1]):
            raise InputError(
                f"index: {file} is not the file that run.json lists; prepare again, or give its "
                "index/ folder, which is taken as it is"
            )
        try:
            table = pq.read_table(io.BytesIO(data))
            metadata = (table.schema.metadata or {})[META_KEY]
            meta = IndexMeta.from_json(metadata.decode())
            tables.append(
                table.select(SCHEMA.names).cast(SCHEMA.with_metadata({META_KEY: metadata}))
            )
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise InputError(
                f"index: {file} is no tile index ({one_line(error)}); accepted: the out= of a "
                "prepare run"
            ) from error
        # compared as bytes: a NaN in the statistics differs from itself
        if tables[0].schema.metadata != tables[-1].schema.metadata:
            raise InputError(f"index: {file} belongs to another index than its neighbours")
    digest = digests[0]
    if len(digests) > 1:
        digest = hashlib.sha256("".join(digests).encode()).hexdigest()
    return TileIndex(pa.concat_tables(tables).combine_chunks(), meta, digest)


def check_unchanged(index: TileIndex, uri: str, storage: Storage, budget: float) -> list[str]:
    """Refuse an index of which more tiles have changed, or are gone, than a budget allows.

    A look at some, before anything starts: whatever reads tiles of an index checks each
    (`Storage.read`), but a person need not wait for workers where an archive was overwritten.

    Args:
        index: the index.
        uri: its place, for messages.
        storage: where its tiles are.
        budget: `error_budget`.

    Returns:
        a line where some have changed, but no more than that; else nothing.

    Raises:
        InputError: more.
    """
    rows = np.unique(np.linspace(0, len(index) - 1, min(LOOKED_AT, len(index))).astype(np.int64))
    some = index.table.take(pa.array(rows))
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="look") as pool:
        reasons = list(pool.map(storage.unlike, some["uri"].to_pylist(), versions(some)))
    found = [i for i, reason in enumerate(reasons) if reason is not None]
    if not found:
        return []
    text = (
        f"{len(found):,} of {len(rows):,} tiles looked at are not those that prepare read, e.g. "
        f"{some['tile_id'][found[0]]}: {reasons[found[0]]}"
    )
    if len(found) > budget * len(rows):
        raise InputError(
            f"index={uri}: {text}; prepare again, or restore them (error_budget={budget:g})"
        )
    return [f"note: {text}"]


def _files(uri: str, storage: Storage) -> list[tuple[str, str | None]]:
    """The index's files, URI and the digest that a run.json lists, in order; at least one."""
    if uri.endswith(".parquet"):
        return [(uri, None)]
    if (record := find_run(storage, uri)) is not None:
        products = {p.path: p.sha256 for p in record.products if p.path.startswith("index/")}
        if not products:
            raise InputError(
                f"index: {uri} is a run of {record.job}, not of prepare: it holds no tile index"
            )
        return [(join(uri, path), sha256) for path, sha256 in sorted(products.items())]
    parts = (e for e in storage.list(uri) if re.fullmatch(r"tiles-[^/]*\.parquet", e.key))
    if uris := [entry.uri for entry in parts]:
        return [(uri, None) for uri in uris]
    if storage.list(join(uri, "state")):
        raise InputError(f"index: {uri} holds an unfinished run; rerun its command to go on")
    raise InputError(
        f"index: no tile index at {uri}; accepted: the out= of a finished prepare run, its "
        "index/ folder, or one .parquet file"
    )
