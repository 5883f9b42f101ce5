"""The ground that tiles cover: blocks of it to split by, and which tiles meet on it."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from satray.config.prepare import PrepareRecipe
from satray.data.decode import TileHeader, read_header
from satray.data.georeference import lonlat, world_at
from satray.data.index import SCHEMA
from satray.errors import DecodeError
from satray.storage import Storage

EARTH = 6_371_000.0
"""Mean radius of the Earth, m."""

MEET = 0.01
"""Tiles that lie this share of a px apart touch: corners are rounded sums."""

AT_ONCE = 50_000
"""Tiles whose neighbours are sought at once; outlines of millions take gigabytes."""


@dataclass(frozen=True)
class Footprints:
    """Where N tiles lie, in numbers."""

    names: tuple[str, ...]
    """The CRSs there are: authority strings or WKT."""
    crs: NDArray[np.int64]
    """(N,) number of each tile's CRS; -1 where it lacks a CRS or a transform."""
    affines: NDArray[np.float64]
    """(N, 6) affine px -> CRS in rasterio's order; NaN without."""
    shapes: NDArray[np.int64]
    """(N, 2) rows and columns, px."""

    @classmethod
    def of_table(cls, table: pa.Table) -> "Footprints":
        """From columns crs, transform, height and width, as of the tile index."""
        encoded = table["crs"].combine_chunks().dictionary_encode()
        transform = table["transform"].combine_chunks()
        known_N = pc.and_(encoded.is_valid(), transform.is_valid())
        crs_N = np.asarray(pc.if_else(known_N, encoded.indices.cast(pa.int64()), -1))
        affines_N6 = np.full((len(table), 6), np.nan)
        filled_N = np.asarray(transform.is_valid())
        affines_N6[filled_N] = np.asarray(transform.drop_null().flatten()).reshape(-1, 6)
        shapes_N2 = np.stack([np.asarray(table[name]) for name in ("height", "width")], axis=1)
        names = tuple(encoded.dictionary.to_pylist())
        return cls(names, crs_N, affines_N6, shapes_N2.astype(np.int64))

    @property
    def known(self) -> NDArray[np.bool_]:
        """(N,) whether a tile has a CRS and a transform."""
        return np.asarray(self.crs >= 0)

    def places(
        self, rows: NDArray[np.int64], down: Sequence[float], along: Sequence[float]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Coordinates in the CRS, (M, P) each, at shares of some tiles' rows and columns."""
        a, b, c, d, e, f = self.affines[rows].T[:, :, None]
        height, width = self.shapes[rows].T[:, :, None]
        x, y = width * np.asarray(along), height * np.asarray(down)
        return a * x + b * y + c, d * x + e * y + f


def read_footprints(
    listed: pa.Table, recipe: PrepareRecipe, storage: Storage
) -> tuple[NDArray[np.int64], Footprints]:
    """Read the headers of N images.

    Args:
        listed: columns `uri`, and `world`, the URI of the world file beside each.
        recipe: keys bands and pages.
        storage: reads them.

    Returns:
        (M,) int64, the places of those that can be read, rising; their footprints.
    """
    headers: dict[int, TileHeader] = {}
    for place, data in storage.read_many(listed["uri"].to_pylist()):
        if not isinstance(data, Exception):
            world = world_at(listed["world"][place].as_py(), storage)
            with suppress(DecodeError):
                headers[place] = read_header(
                    data, bands=recipe.bands, world=world, pages=recipe.pages
                )
    rows = sorted(headers)
    columns = [SCHEMA.field(name) for name in ("crs", "transform", "height", "width")]
    found = [{field.name: getattr(headers[row], field.name) for field in columns} for row in rows]
    table = pa.Table.from_pylist(found, pa.schema(columns))
    return np.array(rows, np.int64), Footprints.of_table(table)


def ground_blocks(tiles: Footprints, size: float) -> NDArray[np.int64]:
    """The block of ground that the centre of each tile lies in, whatever the CRS.

    Blocks are `size` m high and wide: bands of latitude, cut into equal lengths from Greenwich
    east (the last of a band may be shorter).

    Args:
        tiles: N tiles.
        size: edge of a block, m.

    Returns:
        (N,) int64, numbers from 0 in order of place; -1 for tiles without a place on the ground.
    """
    lon_N, lat_N = np.full((2, len(tiles.crs)), np.nan)
    for number, name in enumerate(tiles.names):
        rows = np.flatnonzero(tiles.crs == number)
        x, y = tiles.places(rows, [0.5], [0.5])
        lon_N[rows], lat_N[rows] = lonlat(name, x[:, 0], y[:, 0])
    known_N = np.isfinite(lon_N) & np.isfinite(lat_N)
    band = np.floor(np.radians(lat_N[known_N] + 90) * EARTH / size)
    middle = (band + 0.5) * size / EARTH - np.pi / 2
    east = np.radians(lon_N[known_N] % 360) * np.maximum(np.cos(middle), 0) * EARTH
    blocks_N = np.full(len(tiles.crs), -1, np.int64)
    places = np.stack([band, np.floor(east / size)], axis=1)
    blocks_N[known_N] = np.unique(places, axis=0, return_inverse=True)[1].reshape(-1)
    return blocks_N


def count_meeting(
    tiles: Footprints, these_N: NDArray[np.bool_], others_N: NDArray[np.bool_]
) -> int:
    """How many of some tiles touch or overlap at least one of others in the same CRS.

    Args:
        tiles: N tiles; those without a place meet none.
        these_N: (N,) bool, the tiles to count.
        others_N: (N,) bool, those they may meet.
    """
    import shapely  # for tiles with a place only

    def outlines(rows: NDArray[np.int64]) -> NDArray[np.object_]:
        x, y = tiles.places(rows, [0, 0, 1, 1], [0, 1, 1, 0])
        polygons: NDArray[np.object_] = shapely.polygons(np.stack([x, y], axis=-1))
        return polygons

    found = 0
    for number in range(len(tiles.names)):
        rows = np.flatnonzero(tiles.crs == number)
        x, _ = tiles.places(rows, [0, 0, 1, 1], [0, 1, 1, 0])
        a, b, _, d, e, _ = tiles.affines[rows].T
        near = MEET * np.minimum(np.hypot(a, d), np.hypot(b, e))
        west, east = x.min(axis=1) - near, x.max(axis=1) + near
        order = np.argsort(west, kind="stable")
        order = order[these_N[rows[order]]]
        for start in range(0, len(order), AT_ONCE):
            mine = order[start : start + AT_ONCE]
            beside = (east >= west[mine].min()) & (west <= east[mine].max())
            tree = shapely.STRtree(outlines(rows[others_N[rows] & beside]))
            met = tree.query(outlines(rows[mine]), predicate="dwithin", distance=near[mine])
            found += len(np.unique(met[0]))
    return found
