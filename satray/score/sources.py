"""Which tiles to score: the images below a prefix, or the rows of a tile index."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from satray.data.decode import decode, read_files
from satray.data.describe import describe_headers
from satray.data.georeference import world_files
from satray.data.index import TileIndex
from satray.data.match import is_image, tile_id
from satray.data.probe import Alike
from satray.data.raster import MASK, PagesKey
from satray.data.values import Units
from satray.errors import DecodeError, InputError
from satray.score.predictions import TileFacts
from satray.score.reading import MisfitError, Wanted, read_tile
from satray.storage import Entry, Storage, join

SCHEMA = pa.schema(
    [
        pa.field("tile_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("crs", pa.string()),
        pa.field("transform", pa.list_(pa.float64())),
        pa.field("bytes", pa.int64()),
        pa.field("etag", pa.string()),
        pa.field("crc32", pa.uint32()),
        pa.field("mask", pa.bool_()),
        pa.field("target", pa.list_(pa.uint8())),
        pa.field("world", pa.string()),
    ]
)
"""A tile to score; all but the first two are null where only the file knows. `mask`: whether a
`.msk` lies beside it."""

LOOKED_AT = 8
"""Tiles that are opened before anything starts, spread over the whole list."""


@dataclass(frozen=True)
class TileSet:
    """Tiles to score, in order."""

    table: pa.Table
    """Columns of `SCHEMA`."""
    names: tuple[str, ...] | None
    """Names of the files' bands in order; None: what each file says."""
    indexed: bool
    """Whether they come from a tile index."""
    pages: PagesKey = "bands"
    """Which pages of a TIFF are bands."""
    units: Units = ()
    """What an index says of the bands' numbers, in the order of `names`."""
    index_named: bool = False
    """Whether the recipe of the index named the bands."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def rows(self, some: range) -> pa.Table:
        """Tiles that follow one another, by their places; pickles as large as they are."""
        found = self.table.slice(some.start, len(some))  # of which few chunks are touched
        return found.take(pa.array(np.arange(len(some))))


def is_index(uri: str, storage: Storage) -> bool:
    """Tell whether a place is a tile index: a Parquet file, a run folder, or an index folder."""
    if uri.endswith(".parquet") or storage.exists(join(uri, "run.json")):
        return True
    return storage.exists(join(uri, "tiles-00000.parquet"))


def tiles_of_prefix(
    uri: str,
    entries: Sequence[Entry],
    names: tuple[str, ...] | None = None,
    pages: PagesKey = "bands",
) -> TileSet:
    """Take the images of a listed prefix, in the order of their paths.

    Raises:
        InputError: there is none, or two have one id.
    """
    images = [entry for entry in entries if is_image(entry.key)]
    if not images:
        found = f"{len(entries)} files, none of them an image" if entries else "nothing"
        raise InputError(
            f"tiles={uri}: found {found}; accepted: a prefix of JPEG, PNG or GeoTIFF files "
            "(by extension), or a tile index"
        )
    by_id: dict[str, Entry] = {}
    for entry in images:
        name = tile_id(entry.key)
        if name in by_id:
            raise InputError(
                f"tiles={uri}: {by_id[name].key} and {entry.key} have one id, {name}; "
                "accepted: one image an id (extensions=[...] chooses)"
            )
        by_id[name] = entry
    keys = {entry.key for entry in entries}
    beside = world_files(entries)
    columns = {name: pa.nulls(len(by_id), SCHEMA.field(name).type) for name in SCHEMA.names} | {
        "tile_id": list(by_id),
        "uri": [entry.uri for entry in by_id.values()],
        "mask": [entry.key + MASK in keys for entry in by_id.values()],
        "world": [beside[one.uri].uri if one.uri in beside else None for one in by_id.values()],
    }
    table = pa.table(columns, schema=SCHEMA)
    return TileSet(table, names, indexed=False, pages=pages)


def tiles_of_index(index: TileIndex, classes: Sequence[str] | None = None) -> TileSet:
    """Take the rows of an index.

    Args:
        index: the rows.
        classes: their labels become targets, in this order; None: no targets.
    """
    table = index.table
    if classes is None:
        target = pa.nulls(len(index), SCHEMA.field("target").type)
    else:
        order = [index.meta.classes.index(name) for name in classes]
        labels = np.ascontiguousarray(index.labels[:, order])
        offsets = np.arange(len(index) + 1, dtype=np.int32) * len(order)
        target = pa.ListArray.from_arrays(pa.array(offsets), pa.array(labels.reshape(-1)))
    columns = [table.column(name) for name in SCHEMA.names[:-2]]
    columns = [column.cast(field.type) for column, field in zip(columns, SCHEMA, strict=False)]
    world = pa.nulls(len(index), pa.string())  # what it says stands in the index
    found = pa.Table.from_arrays([*columns, target, world], schema=SCHEMA)
    return TileSet(
        found,
        index.meta.bands,
        indexed=True,
        pages=index.meta.pages,
        units=index.meta.units,
        index_named=index.meta.named,
    )


def look(tiles: TileSet, wanted: Wanted, storage: Storage) -> list[str]:
    """Open a few tiles; refuse the lot where none of those that can be read fits the bundle.

    Returns:
        One line for each that did not fit.

    Raises:
        InputError: every tile that can be read lacks a band or has another dtype.
    """
    uris, masked = _some(tiles)
    misfits: list[str] = []
    fitted = 0
    for i, data, mask in read_files(storage, uris, masked):
        if isinstance(data, Exception):
            continue
        try:
            read_tile(data, TileFacts(uris[i], uris[i]), wanted, mask)
            fitted += 1
        except MisfitError as error:
            misfits.append(f"{uris[i]}: {error}")
        except DecodeError:
            continue
    if misfits and not fitted:
        raise InputError(
            f"tiles: none of the {len(misfits)} looked at fits the bundle, e.g. {min(misfits)}; "
            "bands=[...] names the files' bands in order"
        )
    return sorted(misfits)


def described(tiles: TileSet, storage: Storage) -> list[str]:
    """Say what a few tiles hold besides plain bands: pages, and what their numbers mean."""
    (uris, _), opened = _some(tiles), []
    names = tiles.names if tiles.index_named or not tiles.indexed else None
    for i, data in storage.read_many(uris):
        if isinstance(data, Exception):
            continue
        with contextlib.suppress(DecodeError):
            header = decode(data, bands=names, pages=tiles.pages).header
            opened.append(Alike(i, uris[i], header, 1))
    opened.sort(key=lambda one: one.key)
    return [f"of {len(opened)} tiles opened, {line}" for line in describe_headers(opened)]


def _some(tiles: TileSet) -> tuple[list[str], list[bool | None]]:
    """Where a few tiles are, spread over all, and whether a `.msk` lies beside each."""
    some = np.unique(np.linspace(0, len(tiles) - 1, min(LOOKED_AT, len(tiles))).astype(int))
    taken = tiles.table.take(pa.array(some))
    return taken.column("uri").to_pylist(), taken.column("mask").to_pylist()
