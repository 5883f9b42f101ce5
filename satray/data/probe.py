"""Every image of an archive read once, and what is learnt of it kept in the run's state.

A block of images is read and decoded in one task, one request and one decode each. What is learnt
travels as Arrow tables that the driver sums up and lets go, so that its memory does not grow with
them; a run that was interrupted reads only what is not kept yet.
"""

import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import TypeAdapter

from satray.config.prepare import PrepareRecipe
from satray.data.decode import TileHeader, decode, read_files
from satray.data.georeference import world_at
from satray.data.statistics import BandCounts, count_tile, counts_of, counts_table, merge
from satray.data.values import Units, as_units, refuse_empty
from satray.errors import listed, one_line
from satray.runs.executor import each_block
from satray.runs.run import Run
from satray.storage import Storage, join

FOLDER = "probed"
"""Folder of the run's state that blocks are kept in."""

MERGED = 16
"""Parts of counts that are merged at once, so that few are in memory and none is merged often."""

_HEADER = TypeAdapter(TileHeader)
_WORD = pa.dictionary(pa.int32(), pa.string())

PROBED = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("stage", _WORD),
        pa.field("error", pa.string()),
        pa.field("crc32", pa.uint32()),
        pa.field("header", _WORD),
        pa.field("transform", pa.list_(pa.float64(), 6)),
    ]
)
"""A tile that was read, or the reason why not. `row`: of the listing; `bytes`: read; `stage`,
`error`: `read` or `decode` and why, null where it went well; the rest is null where it did not.
`header`: `header_text`, which most tiles share."""


class Kind(NamedTuple):
    """Tiles of one kind can be trained on together."""

    bands: tuple[str, ...]
    """Band names, in the files' order."""
    dtype: str
    """Stored dtype."""

    def __str__(self) -> str:
        plural = "s" * (len(self.bands) != 1)
        return f"{len(self.bands)} band{plural} ({listed(self.bands, 6)}) {self.dtype}"


@dataclass(frozen=True)
class Alike:
    """Tiles of equal headers, but for their places: one of them, and how many there are."""

    row: int
    """The first one's row of the listing."""
    key: str
    """Its path below the archive."""
    header: TileHeader
    """Its header, without its transform."""
    count: int
    """How many."""

    @property
    def kind(self) -> Kind:
        """What they have in common with others that can be trained on together."""
        return Kind(self.header.bands, self.header.dtype)


class Probed(NamedTuple):
    """What was learnt of a block of images."""

    tiles: pa.Table
    """One row a tile: `PROBED`."""
    counts: pa.Table
    """Statistics of the train part: `statistics.COUNTS`, a `kind` of which is the JSON of a tile's
    bands, dtype and units."""


@dataclass
class Archive:
    """What was learnt of an archive's tiles, in little memory."""

    keys: pa.ChunkedArray
    """Of all images of the listing."""
    attempted: int = 0
    """Tiles read, or tried."""
    failed: int = 0
    """Those that could not be."""
    bytes: int = 0
    """Read from storage."""
    groups: dict[str, Alike] = field(default_factory=dict)
    """The others, by the text of their headers."""
    parts: list[list[pa.Table]] = field(default_factory=list)
    """Counts of the train part: of single blocks, of `MERGED` blocks, of `MERGED` of these, ..."""
    files: tuple[str, ...] = ()
    """URIs of the blocks, in the listing's order."""

    def add(self, block: "Probed") -> None:
        """Add what was learnt of a block."""
        tiles, part = block
        for level in self.parts:
            level.append(part)
            if len(level) < MERGED:
                break
            part = counts_table(counts_of(level))
            level.clear()
        else:
            self.parts.append([part])
        self.attempted += len(tiles)
        self.failed += tiles["header"].null_count
        self.bytes += pc.sum(tiles["bytes"]).as_py() or 0
        good = tiles.filter(tiles["header"].is_valid()).sort_by("row")
        codes, texts = header_codes(good)
        _, firsts, counts = np.unique(codes, return_index=True, return_counts=True)
        for first, count in zip(firsts.tolist(), counts.tolist(), strict=True):
            text, row = texts[codes[first]], good["row"][first].as_py()
            known = self.groups.get(text)
            total = count + (known.count if known else 0)
            if known is not None and known.row < row:
                self.groups[text] = replace(known, count=total)
            else:
                self.groups[text] = Alike(row, self.keys[row].as_py(), header_of(text), total)

    def alike(self, kind: Kind | None = None) -> list[Alike]:
        """All groups, or those of a kind, by their first rows."""
        some = (g for g in self.groups.values() if kind is None or g.kind == kind)
        return sorted(some, key=lambda group: group.row)

    def kinds(self) -> Counter[Kind]:
        """Number of tiles of each kind."""
        counts: Counter[Kind] = Counter()
        for group in self.groups.values():
            counts[group.kind] += group.count
        return counts

    def counts(self) -> dict[tuple[Kind, Units], tuple[BandCounts, ...]]:
        """Statistics of the train part by kind and unit, one entry a band."""
        found = {}
        for text, counts in counts_of([part for level in self.parts for part in level]).items():
            bands, dtype, units = json.loads(text)
            found[Kind(tuple(bands), dtype), as_units(units)] = counts
        return found

    def blocks(self, storage: Storage) -> Iterator[pa.Table]:
        """Tables of `PROBED`, in the listing's order."""
        for uri in self.files:
            source = pa.BufferReader(storage.read(uri))
            yield pa.ipc.open_stream(source).read_all().sort_by("row")


def header_text(header: TileHeader) -> str:
    """A header as a word of `PROBED`: without transform."""
    return json.dumps({**vars(header), "transform": None})


def header_of(text: str) -> TileHeader:
    """Read `header_text`."""
    return _HEADER.validate_json(text)


def header_codes(tiles: pa.Table) -> tuple[NDArray[np.int64], list[str]]:
    """(N,) number of each tile's header text, -1 where it has none; and the texts."""
    words = tiles["header"].combine_chunks().cast(pa.string()).dictionary_encode()
    return np.asarray(words.indices.fill_null(-1), np.int64), words.dictionary.to_pylist()


def block_of(listed: pa.Table, start: int, stop: int) -> pa.Table:
    """What reads some images of a listing: `row`, `uri`, `split`, `mask`, `world`."""
    rows = pa.array(np.arange(start, min(stop, len(listed))))
    some = listed.select(["uri", "split", "mask", "world"]).take(rows)
    return some.append_column("row", rows).combine_chunks()


def probe_block(
    block: pa.Table, recipe: PrepareRecipe, storage: Storage, concurrency: int = 32
) -> Probed:
    """Read and decode a block of images; a bad one costs one row.

    Args:
        block: as `block_of` gives it.
        recipe: keys bands and pages.
        storage: reads them.
        concurrency: requests under way at once.
    """
    columns = (block[name].to_pylist() for name in ("row", "uri", "split", "mask", "world"))
    rows, uris, splits, masked, worlds = columns
    seen: list[dict[str, Any]] = []
    parts: dict[str, list[tuple[BandCounts, ...]]] = {}
    for position, data, mask in read_files(storage, uris, masked, concurrency=concurrency):
        row: dict[str, Any] = {"row": rows[position], "bytes": 0}
        seen.append(row)
        if isinstance(data, Exception):
            row |= {"stage": "read", "error": one_line(data)}
            continue
        row["bytes"] = len(data)
        try:
            world = world_at(worlds[position], storage)
            tile = decode(data, bands=recipe.bands, mask=mask, world=world, pages=recipe.pages)
            refuse_empty(tile.measured, tile.header.bands)
        except Exception as error:  # whatever a file does to GDAL costs this row only
            row |= {"stage": "decode", "error": one_line(error)}
            continue
        header = tile.header
        row |= {
            "crc32": zlib.crc32(data),
            "header": header_text(header),
            "transform": header.transform,
        }
        if splits[position] == "train":
            kind = json.dumps([header.bands, header.dtype, header.units])
            parts.setdefault(kind, []).append(count_tile(tile.pixels, tile.measured))
    return Probed(
        pa.Table.from_pylist(seen, schema=PROBED),
        counts_table({kind: merge(tiles) for kind, tiles in parts.items()}),
    )


def gather(listed: pa.Table, recipe: PrepareRecipe, run: Run) -> Archive:
    """Read every image of an archive that is not read yet.

    Args:
        listed: its images: columns key, uri, split, mask and world.
        recipe: keys bands, pages, tiles_per_task, resources.
        run: its state keeps what is read; `run.ray` says whether Ray's tasks read.
    """
    folder, storage = join(run.state, FOLDER), run.storage
    archive = Archive(listed["key"])

    def add(block: Probed) -> None:
        archive.add(block)
        run.progress(
            f"{archive.attempted:,} of {len(listed):,} images, {archive.failed:,} unreadable"
        )

    kept = sorted(storage.list(folder), key=lambda entry: entry.key)
    for _, data in storage.read_many([entry.uri for entry in kept]):
        if isinstance(data, Exception):
            raise data
        add(_unpacked(data))
    if kept:
        run.say(f"{archive.attempted:,} of {len(listed):,} images were read before")
    spans = [tuple(map(int, entry.key.partition(".")[0].split("-"))) for entry in kept]
    todo = (block_of(listed, *rows) for rows in _blocks(spans, len(listed), recipe))
    read = partial(_read_block, recipe=recipe, storage=storage, folder=folder)
    for block in each_block(read, todo, recipe.resources, ray=run.ray):
        add(block)
    archive.files = tuple(sorted(entry.uri for entry in storage.list(folder)))
    return archive


def forget(run: Run) -> None:
    """Drop what is kept of a run's blocks."""
    run.storage.delete(join(run.state, FOLDER))


def _blocks(
    kept: Sequence[tuple[int, ...]], tiles: int, recipe: PrepareRecipe
) -> Iterator[tuple[int, int]]:
    """Rows from and to (exclusive) of the blocks to read: what lies between those kept."""
    readers = recipe.resources.read_tasks
    at_once = readers if isinstance(readers, int) else 8
    size = max(1, min(recipe.tiles_per_task, -(-tiles // (4 * at_once))))
    start = 0
    for first, last in (*kept, (tiles, tiles)):
        for at in range(start, first, size):
            yield at, min(at + size, first)
        start = last + 1


def _read_block(block: pa.Table, recipe: PrepareRecipe, storage: Storage, folder: str) -> Probed:
    """Read a block of images and keep what is learnt."""
    probed, rows = probe_block(block, recipe, storage), block["row"]
    sink, options = io.BytesIO(), pa.ipc.IpcWriteOptions(compression="zstd")
    for table in probed:
        with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
            writer.write_table(table)
    name = f"{rows[0].as_py():010d}-{rows[-1].as_py():010d}.arrow"
    storage.write(join(folder, name), sink.getvalue())
    return probed


def _unpacked(data: bytes) -> Probed:
    """What is kept of a block: the stream of its tiles, then that of its counts."""
    source = pa.BufferReader(data)
    return Probed(pa.ipc.open_stream(source).read_all(), pa.ipc.open_stream(source).read_all())
