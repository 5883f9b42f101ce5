"""From the files of a block of tiles to arrays for the network: fetch, decode, pick bands.

What cannot be used stays as a row with its reason. Pixels are taken exactly as training takes them:
the bands that the bundle names, in its order, in the shape that it was trained on.

Legend: N tiles, C bands, H x W pixels of the bundle's tile shape.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from satray.data.bands import select
from satray.data.decode import decode, fitted, read_files, read_pixels
from satray.data.georeference import World, world_at
from satray.data.index import versions
from satray.data.raster import PagesKey
from satray.data.values import Units, units_of_file
from satray.errors import DecodeError, InputError, one_line
from satray.score.predictions import TileFacts
from satray.score.rasters import source_affine
from satray.storage import Storage


class MisfitError(DecodeError):
    """A tile that can be read, but is not what the bundle wants."""


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
    names: tuple[str, ...] | None
    """Names of the files' bands in order; None: what each file says."""
    indexed: bool
    """Whether size and georeference are known from a tile index, which named the bands too."""
    maps: bool
    """Whether maps are made: the valid pixels travel too."""
    units: Units = ()
    """What the bundle's pixels mean, a unit a band."""
    stated: Units = ()
    """What an index says that these tiles' mean, where a file states none."""
    pages: PagesKey = "bands"
    """Which pages of a TIFF are bands."""
    index_named: bool = False
    """Whether the recipe of the index named the bands."""

    @property
    def named(self) -> int:
        """How many bands are named by hand; see `read_pixels`."""
        return len(self.names or ()) if self.index_named or not self.indexed else 0

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
    seconds: float
    """Wall seconds of fetching and decoding."""
    bytes: int
    """Bytes fetched."""


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
    shape = (wanted.height, wanted.width)
    if wanted.indexed and not wanted.maps:
        take = _take(wanted.names or (), wanted)
        return ReadTile(known, _read(data, take, wanted, mask), None)
    try:
        names = wanted.names if wanted.named else None
        tile = decode(data, bands=names, mask=mask, world=world, pages=wanted.pages)
    except DecodeError as error:
        if not wanted.named:
            raise
        decode(data, mask=mask, pages=wanted.pages)
        raise MisfitError(str(error)) from None
    facts, header = known, tile.header
    if not wanted.indexed:
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
    take = _take(wanted.names or header.bands, wanted)
    if max(take) >= len(tile.pixels):
        raise MisfitError(f"has {len(tile.pixels)} bands, band {max(take) + 1} is missing")
    if wanted.maps:
        source_affine(facts.crs, facts.transform)
    valid_CHW = None if tile.measured is None else tile.measured[list(take)]
    found = [header.units[i] for i in take] if header.units else []
    units = (wanted.units, units_of_file(found, wanted.stated))
    pixels = fitted(tile.pixels[list(take)], valid_CHW, *shape, wanted.dtype, *units)
    if valid_CHW is None or valid_CHW.all() or not wanted.maps:
        return ReadTile(facts, pixels, None)
    return ReadTile(facts, pixels, np.asarray(valid_CHW.all(axis=0)))


def read_block(tiles: pa.Table, wanted: Wanted, storage: Storage) -> ReadBlock:
    """Fetch and decode the tiles of a block, many requests at once.

    Args:
        tiles: rows of a `TileSet`'s table.
        wanted: bands, dtype and shape.
        storage: where the tiles are.
    """
    begin = time.perf_counter()
    rows = tiles.to_pylist()
    uris = [row["uri"] for row in rows]
    block = ReadBlock(
        facts=[_known(row) for row in rows],
        uris=uris,
        stages=[None] * len(rows),
        pixels=np.zeros((len(rows), *wanted.shape), wanted.dtype),
        valid=[None] * len(rows),
        seconds=0.0,
        bytes=0,
    )
    masked = [row["mask"] for row in rows]
    for i, data, mask in read_files(storage, uris, masked, versions(tiles)):
        known, stage = block.facts[i], "read"
        try:
            if isinstance(data, Exception):
                raise data
            block.bytes += len(data)
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
    block.seconds = time.perf_counter() - begin
    return block


def _read(data: bytes, take: tuple[int, ...], wanted: Wanted, mask: bytes | None) -> NDArray[Any]:
    return read_pixels(
        data,
        take,
        wanted.height,
        wanted.width,
        wanted.dtype,
        units=wanted.units,
        stated=wanted.stated,
        pages=wanted.pages,
        named=wanted.named,
        mask=mask,
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
