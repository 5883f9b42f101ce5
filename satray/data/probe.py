"""Every image of an archive read once, and what is learnt of it kept in the run's state.

A block of images is read and decoded in one task, one request and one decode each. What is learnt
travels, is kept and is held as compressed Arrow streams, a few bytes a tile; a run that was
interrupted reads only what is not kept yet.
"""

import contextlib
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import TypeAdapter

from satray import __version__
from satray.config.prepare import PrepareRecipe
from satray.data.decode import TileHeader, decode, read_files
from satray.data.georeference import world_at
from satray.data.index import IndexMeta
from satray.data.statistics import BandCounts, count_tile, merge
from satray.data.values import Units, refuse_empty, units_text
from satray.errors import counted, one_line
from satray.runs.executor import each_block
from satray.runs.run import Run
from satray.storage import Storage, join

FOLDER = "blocks"
"""Folder of the run's state that blocks are kept in."""

BLOCKS, MOST = 32, 1024
"""Blocks that an archive is cut into at least, and tiles of a block at most."""

MERGED = 16
"""Tiles, or blocks, whose counts are merged at once: few are in memory."""

T = TypeVar("T")

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
`header`: `TileHeader` without transform as JSON, which most tiles share."""

Counts = dict[str, tuple[BandCounts, ...]]
"""Statistics by `kind_text`, one entry a band."""


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


class Archive:
    """What is learnt of an archive's N tiles: blocks of them are added, in any order."""

    def __init__(self, tiles: int) -> None:
        self.codes: NDArray[np.int32] = np.full(tiles, -1, np.int32)
        """(N,) number of each tile's header; -1 where it could not be read, or is not yet."""
        self.read = self.unreadable = self.bytes = 0
        """Tiles added, those of them that could not be read, and bytes of all of them."""
        self._numbers: dict[str, int] = {}  # of headers, as in `PROBED`
        self._blocks: dict[int, bytes] = {}  # by first row
        self._counts: list[Counts] = []

    def add(self, block: bytes) -> None:
        """Add tiles whose rows follow one another, as `packed`."""
        source = pa.BufferReader(block)
        counts = _counts_of(pa.ipc.open_stream(source).read_all())
        at = source.tell()
        tiles = pa.ipc.open_stream(source).read_all()
        first, header = tiles["row"][0].as_py(), tiles["header"].combine_chunks()
        numbers = [
            self._numbers.setdefault(text, len(self._numbers))
            for text in header.dictionary.to_pylist()
        ]
        codes = np.asarray(header.indices.fill_null(len(numbers)))
        self.codes[first : first + len(tiles)] = np.array([*numbers, -1])[codes]
        self._blocks[first] = block[at:]
        self.read += len(tiles)
        self.unreadable += header.null_count
        self.bytes += pc.sum(tiles["bytes"]).as_py()
        self._counts.append(counts)
        if len(self._counts) == MERGED:
            self._counts = [self.counts]

    def tiles(self, rows: NDArray[np.int64]) -> pa.Table:
        """What was learnt of the tiles of some rows, rising: `PROBED`."""
        starts = sorted(self._blocks)
        parts = np.split(rows, np.searchsorted(rows, starts[1:]))
        found = [
            pa.ipc.open_stream(self._blocks[start]).read_all().take(pa.array(part - start))
            for start, part in zip(starts, parts, strict=True)
            if part.size
        ]
        return pa.concat_tables([PROBED.empty_table(), *found]).combine_chunks()

    @property
    def counts(self) -> Counts:
        """Statistics of the train part."""
        parts, kinds = self._counts, sorted({kind for part in self._counts for kind in part})
        return {kind: merge([part[kind] for part in parts if kind in part]) for kind in kinds}

    @property
    def headers(self) -> tuple[TileHeader, ...]:
        """The different headers, without transforms."""
        return tuple(map(_HEADER.validate_json, self._numbers))

    def alike(self, key: Callable[[int], str]) -> list[Alike]:
        """Tiles that could be read, by their headers, in the order of their first rows.

        `key` gives the path below the archive of a row's tile.
        """
        firsts = np.zeros(len(self._numbers) + 1, np.int64)
        firsts[self.codes[::-1]] = np.arange(len(self.codes))[::-1]  # of equal ones the last stays
        counts = np.bincount(self.codes + 1, minlength=len(firsts))[1:]
        rows = firsts[:-1].tolist()
        groups = map(Alike, rows, map(key, rows), self.headers, counts.tolist())
        return sorted(groups, key=lambda group: group.row)


def kind_text(header: TileHeader) -> str:
    """What tiles have in common whose pixels are counted together."""
    return json.dumps([header.bands, header.dtype, header.units])


def tally(groups: Sequence[Alike], what: Callable[[TileHeader], T]) -> Counter[T]:
    """Number of tiles by something that their headers say."""
    counts: Counter[T] = Counter()
    for group in groups:
        counts[what(group.header)] += group.count
    return counts


def block_of(listed: pa.Table, start: int, stop: int) -> pa.Table:
    """What reads some images of a listing: `row`, `uri`, `split`, `mask`, `world`."""
    some = listed.select(["uri", "split", "mask", "world"]).slice(start, stop - start)
    rows = pa.array(np.arange(start, start + len(some)))
    # copied: a slice travels with the whole that it is of
    return some.take(pa.array(np.arange(len(some)))).append_column("row", rows).combine_chunks()


def probe_block(block: pa.Table, recipe: PrepareRecipe, storage: Storage) -> bytes:
    """Read and decode a block of images; a bad one costs one row.

    Args:
        block: as `block_of` gives it.
        recipe: keys bands and pages.
        storage: reads them.

    Returns:
        What was learnt, as `packed`.
    """
    columns = (block[name].to_pylist() for name in ("row", "uri", "split", "mask", "world"))
    rows, uris, splits, masked, worlds = columns
    seen: list[dict[str, Any]] = []
    parts: dict[str, list[tuple[BandCounts, ...]]] = {}
    for position, data, mask in read_files(storage, uris, masked):
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
        row |= {
            "crc32": zlib.crc32(data),
            "header": json.dumps({**vars(tile.header), "transform": None}),
            "transform": tile.header.transform,
        }
        if splits[position] == "train":
            of_kind = parts.setdefault(kind_text(tile.header), [])
            of_kind.append(count_tile(tile.pixels, tile.measured))
            if len(of_kind) == MERGED:
                of_kind[:] = [merge(of_kind)]
    seen.sort(key=lambda row: int(row["row"]))
    counts = {kind: merge(tiles) for kind, tiles in parts.items()}
    return packed(pa.Table.from_pylist(seen, schema=PROBED), counts)


def packed(tiles: pa.Table, counts: Counts) -> bytes:
    """What was learnt of a block, one row a tile (`PROBED`), and its statistics of the train part.

    Two streams, that of the statistics first: one row a band, those of a kind in their order.
    """
    bands = [
        {"kind": kind, **vars(band), "sums": list(map(str, band.sums))}
        for kind, some in counts.items()
        for band in some
    ]
    sink, options = io.BytesIO(), pa.ipc.IpcWriteOptions(compression="zstd")
    for table in (pa.Table.from_pylist(bands), tiles):
        with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
            writer.write_table(table)
    return sink.getvalue()


def gather(listed: pa.Table, recipe: PrepareRecipe, run: Run) -> Archive:
    """Read every image of an archive that is not read yet.

    Args:
        listed: its images: columns uri, split, mask and world.
        recipe: keys bands, pages, resources.
        run: its state keeps what is read; `run.ray` says whether Ray's tasks read.
    """
    folder, storage = join(run.state, FOLDER), run.storage
    archive = Archive(len(listed))

    def add(block: bytes) -> None:
        archive.add(block)
        run.progress(
            f"{archive.read:,} of {len(listed):,} images, {archive.unreadable:,} unreadable"
        )

    size = max(1, min(MOST, -(-len(listed) // BLOCKS)))
    starts = {_name(row, min(row + size, len(listed))): row for row in range(0, len(listed), size)}
    # blocks of another size or version, and those that a disk has damaged, are read anew
    kept = [entry for entry in storage.list(folder) if entry.key in starts]
    for place, data in storage.read_many([entry.uri for entry in kept]):
        if isinstance(data, Exception):
            raise data
        with contextlib.suppress(pa.ArrowException, OSError, IndexError):
            archive.add(data)
            del starts[kept[place].key]
    if archive.read:
        run.say(f"{archive.read:,} of {len(listed):,} images were read before")
    todo = (block_of(listed, row, row + size) for row in starts.values())
    task = partial(_read_block, recipe=recipe, storage=storage, folder=folder)
    if starts:
        for block in each_block(task, todo, recipe.resources, ray=run.ray, say=run.say):
            add(block)
    return archive


def describe_headers(groups: Sequence[Alike], meta: IndexMeta | None = None) -> list[str]:
    """What files hold besides plain bands: pages, places that are not plain, numbers' meanings.

    Args:
        groups: tiles of like headers, by their first.
        meta: of the finished index; None where there is none yet.
    """
    lines = []
    if paged := [group for group in groups if group.header.pages]:
        lines.append(
            f"pages: {_tiles(paged)} of several pages, taken as bands where size and dtype agree "
            f"(pages=first takes the first only), e.g. {paged[0].key}: {paged[0].header.pages}"
        )
    for note in sorted({group.header.note for group in groups} - {""}):
        some = [group for group in groups if group.header.note == note]
        lines.append(f"ground: {_tiles(some)}: {note}, e.g. {some[0].key}")
    stated: dict[Units, list[Alike]] = {}
    for group in groups:
        stated.setdefault(group.header.units, []).append(group)
    if stated.keys() <= {()} and not (meta and meta.units):
        return lines
    line = "units: " + "; ".join(
        f"{_tiles(some)} state {units_text(some[0].header.bands, units) if units else 'none'}"
        for units, some in sorted(stated.items(), key=lambda p: (-count_of(p[1]), repr(p[0])))
    )
    if meta is not None and stated.keys() != {meta.units}:
        to = units_text(meta.bands, meta.units) if meta.units else "the same scale without offset"
        line += f"; all brought to {to}"
    return [*lines, line]


def _name(start: int, stop: int) -> str:
    """The file of a block: its first and its last row, and what wrote it."""
    return f"{start:010d}-{stop - 1:010d}-{__version__}.arrow"


def _read_block(block: pa.Table, recipe: PrepareRecipe, storage: Storage, folder: str) -> bytes:
    """Read a block of images, keep what is learnt, and return it: `packed`."""
    data, first = probe_block(block, recipe, storage), block["row"][0].as_py()
    storage.write(join(folder, _name(first, first + len(block))), data)
    return data


def _counts_of(table: pa.Table) -> Counts:
    """Read the counts of a block."""
    found: Counts = {}
    for kind, dtype, bins, counts, ends, sums in zip(*table.columns, strict=True):
        pixels = bins.values.to_numpy(), counts.values.to_numpy()
        (low, high), (total, squares) = ends.as_py(), map(Fraction, sums.as_py())
        band = BandCounts(dtype.as_py(), *pixels, (low, high), (total, squares))
        found[kind.as_py()] = (*found.get(kind.as_py(), ()), band)
    return found


def count_of(groups: Sequence[Alike]) -> int:
    """How many tiles there are."""
    return sum(group.count for group in groups)


def _tiles(groups: Sequence[Alike]) -> str:
    return counted(count_of(groups), "tile")
