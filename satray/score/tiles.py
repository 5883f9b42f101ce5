"""Tiles to score: which they are, and from their files to arrays for the network.

What cannot be used stays as a row with its reason. Pixels are taken exactly as training takes them:
the bands that the bundle names, in its order, in the shape that it was trained on.

Legend: N tiles, C bands, H x W pixels of the bundle's tile shape.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from satray.data.bands import select
from satray.data.decode import PixelSpec, Tile, decode, fitted, read_files, read_pixels
from satray.data.georeference import World, world_at, world_files
from satray.data.index import TileIndex, versions
from satray.data.match import is_image, tile_id
from satray.data.probe import Alike, describe_headers
from satray.data.raster import MASK, PagesKey
from satray.data.values import Units, as_units, units_of_file
from satray.errors import DecodeError, InputError, MisfitError, one_line
from satray.score.predictions import TileFacts
from satray.score.rasters import source_affine
from satray.storage import Entry, Storage, join
from satray.storage.names import as_text

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec

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
"""Tiles, or scenes, that are opened before anything starts, spread over all."""


@dataclass(frozen=True)
class Source:
    """What is known of the bands of tiles' files before they are opened."""

    names: tuple[str, ...] | None = None
    """Names in order; None: what each file says."""
    by_hand: bool = False
    """Whether a recipe gave the names: this one's, or that of the index."""
    indexed: bool = False
    """Whether the tiles are of an index: names, size and georeference are known."""
    units: Units = ()
    """What an index says of the bands' numbers, in the order of `names`."""
    pages: PagesKey = "bands"
    """Which pages of a TIFF are bands."""

    @property
    def named(self) -> int:
        """How many bands are named by hand; see `read_pixels`."""
        return len(self.names or ()) if self.by_hand else 0


@dataclass(frozen=True)
class Wanted:
    """What a bundle wants of every tile."""

    bands: tuple[str, ...]
    """Bands in the network's input order."""
    dtype: str
    """Stored dtype that it was trained on (NumPy name)."""
    height: int
    """Rows delivered (px); tiles of another size are resampled, as in training."""
    width: int
    """Columns delivered (px)."""
    source: Source
    """Of what."""
    maps: bool = False
    """Whether maps are made: the valid pixels travel too."""
    units: Units = ()
    """What the bundle's pixels mean, a unit a band."""

    @functools.cached_property
    def stated(self) -> Units:
        """What an index says of these bands; one that it lacks is refused elsewhere."""
        by_name = dict(zip(self.source.names or (), self.source.units, strict=False))
        return tuple(by_name.get(band) for band in self.bands) if by_name else ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a delivered tile."""
        return len(self.bands), self.height, self.width

    @property
    def tile_bytes(self) -> int:
        """Bytes of a delivered tile."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class ReadTile:
    """One tile, as the network wants it."""

    facts: TileFacts
    """Size and georeference."""
    pixels: NDArray[Any]
    """(C, H, W) in the stored dtype."""
    valid: NDArray[np.bool_] | None
    """Valid pixels in the file's own shape; None where all are, or nobody asked."""


@dataclass
class ReadBlock:
    """A block of tiles; row i of every field is the same tile."""

    facts: list[TileFacts]
    """N tiles; `error` is set on those that failed."""
    uris: list[str]
    """Where each is."""
    stages: list[str | None]
    """Where each failed: read, decode; None where it did not."""
    pixels: NDArray[Any]
    """(N, C, H, W) in the stored dtype; zeros for failed tiles."""
    valid: list[NDArray[np.bool_] | None]
    """As in `ReadTile`."""


@dataclass(frozen=True)
class TileSet:
    """Tiles to score, in order."""

    table: pa.Table
    """Columns of `SCHEMA`."""
    source: Source
    """What is known of their bands."""

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
        # a name that is no UTF-8 costs its row: so written it leads nowhere
        "tile_id": list(map(as_text, by_id)),
        "uri": [as_text(entry.uri) for entry in by_id.values()],
        "mask": [entry.key + MASK in keys for entry in by_id.values()],
        "world": [
            as_text(beside[one.uri].uri) if one.uri in beside else None for one in by_id.values()
        ],
    }
    table = pa.table(columns, schema=SCHEMA)
    return TileSet(table, Source(names, names is not None, pages=pages))


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
    meta = index.meta
    return TileSet(found, Source(meta.bands, meta.named, True, meta.units, meta.pages))


def wanted_of(spec: "BundleSpec", tiles: TileSet, *, maps: bool = False) -> Wanted:
    """What a bundle wants of these tiles; `maps` of them are made or not."""
    units = as_units(spec.units)
    return Wanted(spec.bands, spec.dtype, *spec.tile_shape, tiles.source, maps, units)


def look(tiles: TileSet, wanted: Wanted, storage: Storage) -> list[str]:
    """Open a few tiles; refuse the lot where none of those that can be read fits the bundle.

    Returns:
        What they hold besides plain bands: pages, and what their numbers mean; a line each.

    Raises:
        InputError: every tile that can be read lacks a band or has another dtype.
    """
    taken = tiles.table.take(pa.array(spread(len(tiles)), pa.int64()))
    uris, masked = (taken.column(name).to_pylist() for name in ("uri", "mask"))
    opened: list[Alike] = []
    misfits: list[str] = []
    fitted = 0
    for i, data, mask in read_files(storage, uris, masked):
        try:
            if isinstance(data, Exception):
                continue
            tile = _decoded(data, wanted.source, mask)
            opened.append(Alike(i, uris[i], tile.header, 1))
            _delivered(tile, TileFacts(uris[i], uris[i]), wanted)
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
    opened.sort(key=lambda one: one.key)
    return [f"of {len(opened)} tiles opened, {line}" for line in describe_headers(opened)]


def spread(count: int) -> list[int]:
    """Numbers of the few that are looked at first, of so many."""
    some = min(LOOKED_AT, count)
    return [round(i * (count - 1) / max(1, some - 1)) for i in range(some)]


def read_tile(
    data: bytes,
    known: TileFacts,
    wanted: Wanted,
    mask: bytes | None = None,
    world: World | None = None,
) -> ReadTile:
    """Decode one tile and pick its bands.

    Args:
        data: the file.
        known: its id, and what an index says of it.
        wanted: bands, dtype and shape.
        mask: the `.msk` file beside it.
        world: the world file beside it.

    Raises:
        MisfitError: a band that it lacks, another band count than named, another dtype.
        DecodeError: not an image, cut short, no valid pixel, an affine without area, ...
    """
    if wanted.source.indexed and not wanted.maps:
        take = _take(wanted.source.names or (), wanted)
        return ReadTile(known, read_pixels(data, _spec(take, wanted), mask), None)
    return _delivered(_decoded(data, wanted.source, mask, world), known, wanted)


def read_block(tiles: pa.Table, wanted: Wanted, storage: Storage) -> ReadBlock:
    """Fetch and decode the tiles of a block, many requests at once.

    Args:
        tiles: rows of a `TileSet`'s table.
        wanted: bands, dtype and shape.
        storage: where the tiles are.
    """
    rows = tiles.to_pylist()
    uris = [row["uri"] for row in rows]
    block = ReadBlock(
        facts=[_known(row) for row in rows],
        uris=uris,
        stages=[None] * len(rows),
        pixels=np.zeros((len(rows), *wanted.shape), wanted.dtype),
        valid=[None] * len(rows),
    )
    masked = [row["mask"] for row in rows]
    for i, data, mask in read_files(storage, uris, masked, versions(tiles)):
        known, stage = block.facts[i], "read"
        try:
            if isinstance(data, Exception):
                raise data
            stage = "decode"
            world = world_at(rows[i]["world"], storage)
            tile = read_tile(data, known, wanted, mask, world)
            block.facts[i], block.valid[i] = tile.facts, tile.valid
            block.pixels[i] = tile.pixels
        except Exception as error:  # one bad tile costs one row
            block.stages[i] = stage
            block.facts[i] = TileFacts(
                known.tile_id, known.scene, target=known.target, error=one_line(error)
            )
    return block


def _decoded(data: bytes, source: Source, mask: bytes | None, world: World | None = None) -> Tile:
    names = source.names if source.by_hand else None
    return decode(data, bands=names, mask=mask, world=world, pages=source.pages)


def _delivered(tile: Tile, known: TileFacts, wanted: Wanted) -> ReadTile:
    """A tile that is decoded, with the bands and in the shape that are wanted."""
    facts, header, source = known, tile.header, wanted.source
    if not source.indexed:
        facts = TileFacts(
            known.tile_id,
            known.scene,
            height=header.height,
            width=header.width,
            crs=header.crs,
            transform=header.transform,
            note=header.note,
        )
    stated = any(header.units or wanted.stated)
    if header.dtype != wanted.dtype and not stated:
        raise MisfitError(f"dtype is {header.dtype}, the bundle's is {wanted.dtype}")
    take = _take(source.names or header.bands, wanted)
    if max(take) >= len(tile.pixels):
        raise MisfitError(f"has {len(tile.pixels)} bands, band {max(take) + 1} is missing")
    if wanted.maps:
        source_affine(facts.crs, facts.transform)
    valid_CHW = None if tile.measured is None else tile.measured[list(take)]
    units = units_of_file([header.units[i] for i in take] if header.units else [], wanted.stated)
    pixels = fitted(tile.pixels[list(take)], valid_CHW, _spec(take, wanted), units)
    if valid_CHW is None or valid_CHW.all() or not wanted.maps:
        return ReadTile(facts, pixels, None)
    return ReadTile(facts, pixels, np.asarray(valid_CHW.all(axis=0)))


def _spec(take: tuple[int, ...], wanted: Wanted) -> PixelSpec:
    return PixelSpec(
        take,
        wanted.height,
        wanted.width,
        wanted.dtype,
        units=wanted.units,
        stated=wanted.stated,
        named=wanted.source.named,
        pages=wanted.source.pages,
    )


def _take(names: tuple[str, ...], wanted: Wanted) -> tuple[int, ...]:
    try:
        return select(names, wanted.bands)
    except InputError:
        absent = [band for band in wanted.bands if band not in names]
        raise MisfitError(
            f"no band {', '.join(absent)}; the tile has {', '.join(names)}, "
            f"the bundle wants {', '.join(wanted.bands)}"
        ) from None


def _known(row: Mapping[str, Any]) -> TileFacts:
    transform, target = row["transform"], row["target"]
    return TileFacts(
        row["tile_id"],
        row["tile_id"],
        height=row["height"],
        width=row["width"],
        crs=row["crs"],
        transform=None if transform is None else tuple(transform),
        target=None if target is None else tuple(target),
    )
