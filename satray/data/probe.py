"""Every image of an archive read once, and what is learnt of it kept in the run's state.

A block of images is read and decoded in one task, one request and one decode each. What is learnt
travels and is kept as Arrow tables; a run that was interrupted reads only what is not kept yet.
"""

import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import TypeAdapter

from satray.config.prepare import PrepareRecipe
from satray.data.decode import Kind, TileHeader, decode, read_files
from satray.data.georeference import world_at
from satray.data.index import IndexMeta
from satray.data.statistics import BandCounts, count_tile, merge
from satray.data.values import Units, refuse_empty, units_text
from satray.errors import counted, one_line
from satray.runs.executor import each_block
from satray.runs.run import Run
from satray.storage import Storage, join

FOLDER = "probed"
"""Folder of the run's state that blocks are kept in."""

MERGED = 16
"""Blocks, or merges of as many, whose counts are merged at once: few are in memory."""

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


class Probed(NamedTuple):
    """What was learnt of a block of images."""

    tiles: pa.Table
    """One row a tile: `PROBED`."""
    counts: pa.Table
    """Statistics of the train part: the fields of `BandCounts`, a band a row; the bands of one
    `kind` (`kind_text`) follow one another in their order."""


@dataclass(frozen=True)
class Archive:
    """What was learnt of an archive's tiles."""

    tiles: pa.Table
    """One row a tile, in the listing's order: `PROBED`."""
    counts: Counts
    """Statistics of the train part."""
    keys: pa.ChunkedArray
    """Paths of all images of the listing."""

    @cached_property
    def headers(self) -> tuple[TileHeader, ...]:
        """The different headers, without transforms."""
        texts = self.tiles["header"].combine_chunks().dictionary
        return tuple(map(_HEADER.validate_json, texts.to_pylist()))

    @cached_property
    def codes(self) -> NDArray[np.int64]:
        """(N,) number of each tile's header; -1 where it could not be read."""
        codes = self.tiles["header"].combine_chunks().indices
        return np.asarray(codes.fill_null(-1), np.int64)

    @cached_property
    def alike(self) -> list[Alike]:
        """Tiles that could be read, by their headers, in the order of their first rows."""
        codes, firsts, counts = np.unique(self.codes, return_index=True, return_counts=True)
        found = []
        for code, first, count in zip(codes.tolist(), firsts, counts.tolist(), strict=True):
            if code >= 0:
                row = self.tiles["row"][first].as_py()
                found.append(Alike(row, self.keys[row].as_py(), self.headers[code], count))
        return sorted(found, key=lambda group: group.row)

    @property
    def kinds(self) -> Counter[Kind]:
        """Number of tiles of each kind."""
        counts: Counter[Kind] = Counter()
        for group in self.alike:
            counts[group.header.kind] += group.count
        return counts


def kind_text(header: TileHeader) -> str:
    """What tiles have in common whose pixels are counted together."""
    return json.dumps([header.bands, header.dtype, header.units])


def archive_of(blocks: Sequence[pa.Table], counts: Counts, keys: pa.ChunkedArray) -> Archive:
    """Put tables of `PROBED` together, each of rows that follow one another, without a copy."""
    ordered = sorted(blocks, key=lambda block: int(block["row"][0].as_py()))
    return Archive(pa.concat_tables(ordered).unify_dictionaries(), counts, keys)


def block_of(listed: pa.Table, start: int, stop: int) -> pa.Table:
    """What reads some images of a listing: `row`, `uri`, `split`, `mask`, `world`."""
    rows = pa.array(np.arange(start, min(stop, len(listed))))
    some = listed.select(["uri", "split", "mask", "world"]).take(rows)
    return some.append_column("row", rows).combine_chunks()


def probe_block(block: pa.Table, recipe: PrepareRecipe, storage: Storage) -> Probed:
    """Read and decode a block of images; a bad one costs one row.

    Args:
        block: as `block_of` gives it.
        recipe: keys bands and pages.
        storage: reads them.
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
    bands = [(kind, band) for kind, tiles in parts.items() for band in merge(tiles)]
    counts = {
        "kind": [kind for kind, _ in bands],
        "bins": [band.bins for _, band in bands],
        "counts": [band.counts for _, band in bands],
        "tiles": [band.tiles.ravel() for _, band in bands],
    }
    seen.sort(key=lambda row: int(row["row"]))
    return Probed(pa.Table.from_pylist(seen, schema=PROBED), pa.table(counts))


def gather(listed: pa.Table, recipe: PrepareRecipe, run: Run) -> Archive:
    """Read every image of an archive that is not read yet.

    Args:
        listed: its images: columns key, uri, split, mask and world.
        recipe: keys bands, pages, tiles_per_task, resources.
        run: its state keeps what is read; `run.ray` says whether Ray's tasks read.
    """
    folder, storage = join(run.state, FOLDER), run.storage
    blocks: list[pa.Table] = []
    levels: list[list[Counts]] = []
    read = failed = 0

    def add(probed: Probed) -> None:
        nonlocal read, failed
        blocks.append(probed.tiles)
        counts = _counts_of(probed.counts)
        for level in levels:  # each holds merges of those below
            level.append(counts)
            if len(level) < MERGED:
                break
            counts = _together(level)
            level.clear()
        else:
            levels.append([counts])
        read, failed = read + len(probed.tiles), failed + probed.tiles["header"].null_count
        run.progress(f"{read:,} of {len(listed):,} images, {failed:,} unreadable")

    kept = sorted(storage.list(folder), key=lambda entry: entry.key)
    for _, data in storage.read_many([entry.uri for entry in kept]):
        if isinstance(data, Exception):
            raise data
        source = pa.BufferReader(data)
        add(Probed(*(pa.ipc.open_stream(source).read_all() for _ in Probed._fields)))
    if kept:
        run.say(f"{read:,} of {len(listed):,} images were read before")
    spans = [tuple(map(int, entry.key.partition(".")[0].split("-"))) for entry in kept]
    todo = (block_of(listed, *rows) for rows in _absent(spans, len(listed), recipe))
    task = partial(_read_block, recipe=recipe, storage=storage, folder=folder)
    for probed in each_block(task, todo, recipe.resources, ray=run.ray):
        add(probed)
    return archive_of(blocks, _together([c for level in levels for c in level]), listed["key"])


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


def _absent(
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
    """Read a block of images and keep what is learnt: the stream of its tiles, then its counts."""
    probed, rows = probe_block(block, recipe, storage), block["row"]
    sink, options = io.BytesIO(), pa.ipc.IpcWriteOptions(compression="zstd")
    for table in probed:
        with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
            writer.write_table(table)
    name = f"{rows[0].as_py():010d}-{rows[-1].as_py():010d}.arrow"
    storage.write(join(folder, name), sink.getvalue())
    return probed


def _counts_of(table: pa.Table) -> Counts:
    """Read `Probed.counts`."""
    found: Counts = {}
    for kind, *arrays in zip(*table.columns, strict=True):
        bins, counts, tiles = (array.values.to_numpy(zero_copy_only=False) for array in arrays)
        text = kind.as_py()
        band = BandCounts(json.loads(text)[1], bins, counts, tiles.reshape(-1, 5))
        found[text] = (*found.get(text, ()), band)
    return found


def _together(parts: Sequence[Counts]) -> Counts:
    kinds = sorted({kind for part in parts for kind in part})
    return {kind: merge([part[kind] for part in parts if kind in part]) for kind in kinds}


def count_of(groups: Sequence[Alike]) -> int:
    """How many tiles there are."""
    return sum(group.count for group in groups)


def _tiles(groups: Sequence[Alike]) -> str:
    return counted(count_of(groups), "tile")
