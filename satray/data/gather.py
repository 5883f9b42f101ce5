"""Every image of an archive read once, and what is learnt of it kept in the run's state.

A run that was interrupted reads only what is not kept yet. Headers come back as Arrow tables that
the driver sums up and lets go; pixel counts are merged where blocks are read, so that the driver's
memory does not grow with them.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from satray.config.prepare import PrepareRecipe
from satray.data.decode import TileHeader
from satray.data.describe import describe_mixed
from satray.data.probe import TILES as HEADERS
from satray.data.probe import Kind, Probed, header_of, probe
from satray.data.raster import PagesKey
from satray.data.statistics import counts_of, counts_table
from satray.data.survey import Survey
from satray.errors import InputError
from satray.runs.executor import each_block
from satray.runs.run import Run
from satray.storage import Storage, join

FOLDER = "probed"
"""Folder of the run's state that blocks are kept in."""

TILES, COUNTS = "tiles.arrow", "counts.arrow"
"""Ends of the names of a block's two files; that of its tiles is written last."""

MERGED = 16
"""Least number of blocks whose counts are merged in one task, and most that it holds."""


@dataclass(frozen=True)
class Alike:
    """Tiles of equal headers, but for their places: one of them, and how many there are."""

    row: int
    """The first one's row of the survey."""
    header: TileHeader
    """Of that one."""
    count: int
    """How many."""

    @property
    def kind(self) -> Kind:
        """What they have in common with others that can be trained on together."""
        return Kind(self.header.bands, self.header.dtype)


@dataclass
class Seen:
    """What was learnt of the tiles read so far, in little memory."""

    attempted: int = 0
    """Tiles read, or tried."""
    failed: int = 0
    """Those that could not be."""
    bytes: int = 0
    """Read from storage."""
    groups: dict[tuple[object, ...], Alike] = field(default_factory=dict)
    """The others, by what their headers have in common."""

    def add(self, tiles: pa.Table) -> None:
        """Add a block of tiles: `probe.TILES`."""
        self.attempted += len(tiles)
        self.failed += tiles.column("kind").null_count
        self.bytes += pc.sum(tiles.column("bytes")).as_py() or 0
        good = tiles.filter(tiles.column("kind").is_valid()).combine_chunks()
        keys = {
            "kind": good.column("kind").cast(pa.string()),
            "units": good.column("units").cast(pa.string()),
            **{name: good.column(name) for name in ("height", "width", "nodata", "alpha")},
            "note": pc.replace_substring_regex(good.column("note"), r" \(.*", ""),
            "paged": pc.greater(good.column("pages"), 1),
            "left": pc.greater(pc.list_value_length(good.column("pages_left")), 0),
        }
        at = pa.array(np.arange(len(good)))
        found = pa.table({**keys, "row": good.column("row"), "at": at}).group_by(list(keys))
        for group in found.aggregate([("row", "min"), ("row", "count"), ("at", "min")]).to_pylist():
            key = tuple(group[name] for name in keys)
            known, count = self.groups.get(key), group["row_count"]
            row = group["row_min"]
            if known is None or row < known.row:
                (one,) = good.filter(pc.equal(good.column("row"), row)).to_pylist()
                header = header_of(one)
                assert header is not None
                self.groups[key] = Alike(row, header, count + (known.count if known else 0))
            else:
                self.groups[key] = Alike(known.row, known.header, known.count + count)

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


@dataclass(frozen=True)
class Gathered:
    """An archive, read."""

    seen: Seen
    """What was learnt of all tiles."""
    probed: Probed
    """No tiles, and the pixel counts of all."""
    files: tuple[str, ...]
    """URIs of the blocks' tiles, in the survey's order."""

    def blocks(self, storage: Storage) -> Iterator[pa.Table]:
        """Tables of `probe.TILES`, in the survey's order."""
        for uri in self.files:
            yield _read(storage, uri).sort_by("row")


@dataclass(frozen=True)
class ReadBlock:
    """Reads a block of images and keeps what it learns: what one task does."""

    storage: Storage
    """Reads images, keeps blocks."""
    folder: str
    """Where blocks are kept."""
    bands: tuple[str, ...] | None
    """The recipe's band names, or None."""
    pages: PagesKey
    """Which pages of a TIFF are bands."""
    probe: Callable[..., Probed] = probe
    """Looks at the images."""

    def __call__(self, block: pa.Table) -> pa.Table:
        """Read a block of `Survey.block`; gives the table of its tiles."""
        names = ("row", "uri", "counted", "mask", "world")
        rows, uris, counted, masked, worlds = (block.column(n).to_pylist() for n in names)
        probed = self.probe(
            rows, uris, counted, self.storage, self.bands, masked, worlds, self.pages
        )
        for table, end in ((probed.counts, COUNTS), (probed.tiles, TILES)):
            uri = join(self.folder, f"{rows[0]:010d}-{rows[-1]:010d}.{end}")
            self.storage.write(uri, _written(table))
        return probed.tiles


@dataclass(frozen=True)
class MergeCounts:
    """Merges the pixel counts of some blocks."""

    storage: Storage
    """Where they are."""

    def __call__(self, uris: Sequence[str]) -> pa.Table:
        """Read them one after another; gives one table of `statistics.COUNTS`."""
        tables: list[pa.Table] = []
        for _, data in self.storage.read_many(uris):
            if isinstance(data, Exception):
                raise data
            tables.append(pa.ipc.open_stream(data).read_all())
            if len(tables) == MERGED:
                tables = [counts_table(counts_of(tables))]
        return counts_table(counts_of(tables))


def gather(
    found: Survey, recipe: PrepareRecipe, run: Run, look: Callable[..., Probed] = probe
) -> Gathered:
    """Read every image of an archive that is not read yet.

    Args:
        found: the archive.
        recipe: keys bands, pages, mixed, tiles_per_task, resources.
        run: its state keeps what is read; `run.ray` says whether Ray's tasks read.
        look: looks at images, as `probe` does.

    Raises:
        InputError: bands or dtypes differ, and the recipe refuses that.
    """
    folder = join(run.state, FOLDER)
    kept = {
        tuple(map(int, entry.key.partition(".")[0].split("-"))): entry.uri
        for entry in run.storage.list(folder)
        if entry.key.endswith(TILES)
    }
    seen = Seen()

    def add(tiles: pa.Table) -> None:
        seen.add(tiles)
        kinds = seen.kinds()
        if len(kinds) > 1 and recipe.mixed == "refuse":
            examples = {group.kind: found.key(group.row) for group in reversed(seen.alike())}
            raise InputError(describe_mixed(kinds, examples, recipe, seen.attempted))
        run.progress(f"{seen.attempted:,} of {len(found):,} images, {seen.failed:,} unreadable")

    for _, data in run.storage.read_many(kept.values()):
        if isinstance(data, Exception):
            raise data
        add(pa.ipc.open_stream(data).read_all())
    if kept:
        run.say(f"{seen.attempted:,} of {len(found):,} images were read before")
    blocks = _blocks(sorted(kept), len(found), recipe)
    read = ReadBlock(run.storage, folder, recipe.bands, recipe.pages, look)
    todo = (found.block(np.arange(start, stop)) for start, stop in blocks)
    for tiles in each_block(read, todo, recipe.resources, ray=run.ray):
        add(tiles)
    files = sorted(entry.uri for entry in run.storage.list(folder))
    counts = [uri for uri in files if uri.endswith(COUNTS)]
    size = max(MERGED, math.isqrt(len(counts)))
    parts = [counts[i : i + size] for i in range(0, len(counts), size)]
    merge = MergeCounts(run.storage)
    merged = list(each_block(merge, parts, recipe.resources, ray=run.ray and len(parts) > 1))
    return Gathered(
        seen,
        Probed(HEADERS.empty_table(), counts_table(counts_of(merged))),
        tuple(uri for uri in files if uri.endswith(TILES)),
    )


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


def _written(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _read(storage: Storage, uri: str) -> pa.Table:
    return pa.ipc.open_stream(storage.read(uri)).read_all()
