"""Where a raster says that it lies: its CRS, its affine, and a word where either is not plain.

One rule for tiles and scenes. A CRS without an affine places nothing, and neither does what no
affine describes; control points and world files count where they define one to half a pixel.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import rasterio
from rasterio.crs import CRS

from satray.errors import SatrayError
from satray.storage import Entry, Storage, name

Transform = tuple[float, float, float, float, float, float]

NOWHERE = ((1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
"""What GDAL gives where a file has no affine, and what programs write who mean none."""

WITHIN = 0.5
"""Pixels by which control points may miss the affine through them."""

PIXELS = "pixel coordinates"

WORLD_SUFFIXES = frozenset(
    "wld tfw tifw tiffw pgw pngw jgw jpgw jpegw j2w jp2w".split()  # noqa: SIM905
)
"""Extensions of world files, lower case."""

LONGEST = 4096
"""Bytes of a world file at most."""


@dataclass(frozen=True)
class WorldFile:
    """A text of six numbers beside an image: its affine."""

    name: str
    """For notes."""
    read: Callable[[], bytes]
    """Gives its content; raises SatrayError where that is out of reach."""


@dataclass(frozen=True)
class Georeference:
    """Where a raster lies."""

    crs: str | None
    """`AUTHORITY:CODE` where the CRS equals that definition, else WKT; None without a place."""
    transform: Transform | None
    """Affine of pixel corners, rasterio's order (a, b, c, d, e, f); None without one."""
    note: str = ""
    """What to know about it; particulars of the one file stand in brackets at its end."""


def georeference(source: Any, world: WorldFile | None = None) -> Georeference:
    """What an open raster says of its place.

    Args:
        source: rasterio's dataset, opened without neighbours.
        world: the world file beside it; read only where the raster has no affine of its own.
    """
    crs = _crs_of(source.crs)
    transform: Transform = (*source.transform,)[:6]
    if transform not in NOWHERE:
        note = "" if crs else "an affine without a CRS: no longitude and latitude"
        return Georeference(crs, transform, note)
    points, points_crs = source.gcps
    if points:
        places = [(point.col, point.row, point.x, point.y) for point in points]
        found = _of_points(np.array(places, dtype=np.float64), points_crs)
        if found.transform or world is None:
            return found
    if world is not None:
        return _of_world(world, crs)
    if crs:
        return Georeference(None, None, f"a CRS without a transform: {PIXELS}")
    if source.tags(ns="RPC"):
        return Georeference(None, None, f"rational polynomials (RPC), which are not used: {PIXELS}")
    return Georeference(None, None)


def world_at(uri: str | None, storage: Storage) -> WorldFile | None:
    """The world file at a place; None of none."""
    return WorldFile(name(uri), partial(storage.read, uri)) if uri else None


@lru_cache(maxsize=64)
def crs_name(wkt: str) -> str:
    """`AUTHORITY:CODE` where that is the very definition, else WKT2.

    GDAL names a code for what looks alike, too: a CRS that names no datum gets some country's.
    """
    crs = CRS.from_wkt(wkt)
    authority = crs.to_authority()
    if authority and CRS.from_authority(*authority) == crs:
        return ":".join(authority)
    return wkt


def world_suffixes(ending: str) -> tuple[str, ...]:
    """Extensions of the world files of an image, by the image's own; lower case."""
    short = ending.lower()
    return (f"{short[0]}{short[-1]}w", f"{short}w", "wld") if short else ()


def world_files(entries: Iterable[Entry]) -> dict[str, Entry]:
    """World files of a listing, by the URI of the image that each lies beside."""
    entries = list(entries)
    there = {
        entry.key.lower(): entry
        for entry in entries
        if _ending(entry) in WORLD_SUFFIXES and entry.size <= LONGEST
    }
    found: dict[str, Entry] = {}
    for entry in entries if there else ():
        stem, ending = entry.key.lower().rpartition(".")[0], _ending(entry)
        for suffix in () if ending in WORLD_SUFFIXES else world_suffixes(ending):
            if f"{stem}.{suffix}" in there:
                found.setdefault(entry.uri, there[f"{stem}.{suffix}"])
    return found


def _ending(entry: Entry) -> str:
    return entry.key.rpartition("/")[2].lower().rpartition(".")[2]


def _crs_of(crs: Any) -> str | None:
    return crs_name(crs.to_wkt(version="WKT2_2019")) if crs else None


def _of_points(points_N4: Any, crs: Any) -> Georeference:
    """The affine through control points: columns, rows, x and y of N."""
    if not np.isfinite(points_N4).all():
        return Georeference(None, None, f"control points without numbers: {PIXELS}")
    col, row, x, y = points_N4.T
    if crs and crs.is_geographic:  # a turn apart, over the antimeridian
        turn = 2 * math.pi / crs.units_factor[1]
        x = x - turn * np.rint((x - x[0]) / turn)
    pixels_N3 = np.stack([col, row, np.ones(len(col))], axis=1)
    found, _, rank, _ = np.linalg.lstsq(pixels_N3, np.stack([x, y], axis=1), rcond=None)
    # without what rounding leaves: a millionth of a pixel over all of them
    digits = 6 - math.floor(math.log10(np.abs(found[:2]).max() or 1))
    more = math.ceil(math.log10(np.abs(pixels_N3).max()))
    (a, d), (b, e) = np.round(found[:2], digits + more).tolist()
    c, f = np.round(found[2], digits).tolist()
    if rank < 3 or a * e == b * d:
        return Georeference(None, None, f"control points that lie on a line: {PIXELS}")
    back = ~rasterio.Affine(a, b, c, d, e, f) @ (x, y)
    worst = float(np.hypot(back[0] - col, back[1] - row).max())
    if not worst <= WITHIN:
        return Georeference(
            None, None, f"control points that no affine meets: {PIXELS} (off by {worst:.3g} px)"
        )
    known = _crs_of(crs)
    said = f"placed by control points ({len(col)}, off by {round(worst, 3):g} px at most)"
    return Georeference(known, (a, b, c, d, e, f), said if known else _bare(said))


def _of_world(world: WorldFile, crs: str | None) -> Georeference:
    try:
        a, d, b, e, x, y = (float(word) for word in world.read().decode("utf-8-sig").split())
    except SatrayError as error:
        return Georeference(None, None, f"a world file out of reach: {PIXELS} ({error})")
    except ValueError:
        return Georeference(None, None, f"a world file that is none: {PIXELS} ({world.name})")
    if not all(map(math.isfinite, (a, b, d, e, x, y))) or a * e == b * d:
        return Georeference(None, None, f"a world file without area: {PIXELS} ({world.name})")
    # it gives the centre of the first pixel
    transform = (a, b, x - (a + b) / 2, d, e, y - (d + e) / 2)
    said = f"placed by a world file ({world.name})"
    return Georeference(crs, transform, said if crs else _bare(said))


def _bare(said: str) -> str:
    what, _, more = said.partition(" (")
    return f"{what} without a CRS: no longitude and latitude ({more}"
