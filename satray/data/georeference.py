"""Where a raster lies, by its CRS, its affine and what lies beside it; and pixels on the ground.

One rule for tiles and scenes. A CRS without an affine places nothing, and neither does what no
affine describes; control points and world files count where they define one to half a pixel.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS

from satray.errors import SatrayError
from satray.storage import Entry, Storage

if TYPE_CHECKING:
    import pyproj  # a tenth of a second

Floats = NDArray[np.float64]

Transform = tuple[float, float, float, float, float, float]

NOWHERE = ((1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
"""What GDAL gives where a file has no affine, and what programs write who mean none."""

WITHIN = 0.5
"""Pixels by which control points may miss the affine through them."""

PIXELS = "pixel coordinates"

LONGEST = 4096
"""Bytes of a world file at most."""

APART = 0.02
"""Share by which a pixel may be longer than wide before both are told."""

World = Callable[[], bytes]
"""Reads the text of six numbers beside an image, its affine; SatrayError where out of reach."""


@dataclass(frozen=True)
class Georeference:
    """Where a raster lies."""

    crs: str | None
    """`AUTHORITY:CODE` where the CRS equals that definition, else WKT; None without a place."""
    transform: Transform | None
    """Affine of pixel corners, rasterio's order (a, b, c, d, e, f); None without one."""
    note: str = ""
    """What to know about it."""


def locate(source: Any, world: World | None = None) -> Georeference:
    """What an open raster says of its place.

    Args:
        source: rasterio's dataset, opened without neighbours.
        world: reads the world file beside it, where the raster has no affine of its own.
    """
    crs = _crs_of(source.crs)
    transform: Transform = (*source.transform,)[:6]
    if transform not in NOWHERE:
        note = "" if crs else "an affine without a CRS: no longitude and latitude"
        return Georeference(crs, transform, note)
    points, points_crs = source.gcps
    if points:
        found = _of_points(points, _crs_of(points_crs))
        if found.transform or world is None:
            return found
    if world is not None:
        return _of_world(world, crs)
    if crs:
        return Georeference(None, None, f"a CRS without a transform: {PIXELS}")
    if source.tags(ns="RPC"):
        return Georeference(None, None, f"rational polynomials (RPC), which are not used: {PIXELS}")
    return Georeference(None, None)


def world_at(uri: str | None, storage: Storage) -> World | None:
    """What reads the world file at a place; None of none."""
    return partial(storage.read, uri) if uri else None


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


def world_files(entries: Sequence[Entry]) -> dict[str, Entry]:
    """World files of a listing, by the URI of the image that each lies beside."""
    small = {entry.key.lower(): entry for entry in entries if entry.size <= LONGEST}
    there = {key: entry for key, entry in small.items() if key.endswith(("w", ".wld"))}
    found: dict[str, Entry] = {}
    for entry in entries if there else ():
        stem, _, ending = entry.key.lower().rpartition(".")
        for suffix in world_suffixes(ending):
            beside = there.get(f"{stem}.{suffix}", entry)
            if beside is not entry:
                found.setdefault(entry.uri, beside)
    return found


def pixel_size(
    height: int, width: int, crs: str | None, transform: tuple[float, ...] | None
) -> tuple[float, float] | None:
    """Measure a px at an image's centre.

    Args:
        height: rows.
        width: columns.
        crs: authority string or WKT; None without.
        transform: affine of px corners, 6 numbers in rasterio's order; None without.

    Returns:
        Length of a step of one column and of one row on the ellipsoid, m; None where the image has
        no place, or its centre none on the ground.
    """
    x, y = resolutions([crs], [transform[:6] if transform else None], [height], [width])[0].tolist()
    return (x, y) if math.isfinite(x) and math.isfinite(y) else None


def resolutions(
    crs: Sequence[str | None],
    transforms: Sequence[Sequence[float] | None],
    heights: Sequence[int],
    widths: Sequence[int],
) -> NDArray[np.float64]:
    """Size of a px on the ground at the centres of N images, (N, 2): along x and y, m.

    Metres are those of the CRS's own ellipsoid, whatever the projection makes of them; NaN where
    there is no way to it.
    """
    sizes_N2 = np.full((len(crs), 2), np.nan)
    members: dict[str, list[int]] = {}
    for row, (name, transform) in enumerate(zip(crs, transforms, strict=True)):
        if name is not None and transform is not None:
            members.setdefault(name, []).append(row)
    for name, rows in members.items():
        system = system_of(name)
        base = system.geodetic_crs if system else None
        geod = base.get_geod() if base else None
        if system is None or base is None or geod is None:
            continue
        import pyproj

        # half a px left, right, above and below the centre
        wide, tall = (np.asarray(v, np.float64)[rows, None] for v in (widths, heights))
        across, down = wide / 2 + (-0.5, 0.5, 0, 0), tall / 2 + (0, 0, -0.5, 0.5)
        a, b, c, d, e, f = np.array([transforms[row] for row in rows], np.float64).T[:, :, None]
        x, y = a * across + b * down + c, d * across + e * down + f
        way = pyproj.Transformer.from_crs(system, base, always_xy=True)
        unit = math.degrees(base.axis_info[0].unit_conversion_factor)
        lon_N4, lat_N4 = (np.asarray(v) * unit for v in way.transform(x, y))
        good_N4 = np.isfinite(lon_N4) & (np.abs(lat_N4) <= 90)
        lon_N4, lat_N4 = (np.where(good_N4, v, np.nan) for v in (lon_N4, lat_N4))
        ends = ((lon_N4[:, n], lat_N4[:, n], lon_N4[:, n + 1], lat_N4[:, n + 1]) for n in (0, 2))
        sizes = np.stack([geod.inv(*pair)[2] for pair in ends], axis=1)
        known = (sizes > 0).all(axis=1, keepdims=True) & (a * e != b * d)
        sizes_N2[rows] = np.where(known, sizes, np.nan)
    return sizes_N2


def lonlat(crs: str, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Longitude (-180 to 180) and latitude, WGS 84, of places in a CRS; NaN where there are none.

    Coordinates are east, north whatever order of axes the CRS's authority prefers.
    """
    way = _way(crs)
    if way is None:
        return np.full(np.shape(x), np.nan), np.full(np.shape(y), np.nan)
    lon, lat = (np.asarray(v, dtype=np.float64) for v in way.transform(x, y))
    good = np.isfinite(lon) & np.isfinite(lat) & (np.abs(lat) <= 90)
    lon, lat = np.where(good, lon, np.nan), np.where(good, lat, np.nan)
    return np.where(np.abs(lon) > 180, wrapped(lon), lon), lat


def wrapped(degrees: Floats) -> Floats:
    """The same directions between -180 and 180."""
    turned: Floats = (degrees + 180) % 360 - 180
    return turned


@lru_cache(maxsize=64)
def system_of(crs: str) -> "pyproj.CRS | None":
    """The horizontal part of a CRS, if it leads to longitude and latitude."""
    import pyproj

    with contextlib.suppress(pyproj.exceptions.ProjError):
        system = pyproj.CRS.from_user_input(crs)
        if system.is_compound:
            system = system.sub_crs_list[0]
        if system.is_projected or system.is_geographic:
            # PROJ knows some by name only (ESRI:54050)
            pyproj.Transformer.from_crs(system, system.geodetic_crs)
            return system
    return None


def _crs_of(crs: Any) -> str | None:
    return crs_name(crs.to_wkt(version="WKT2_2019")) if crs else None


def _of_points(points: Sequence[GroundControlPoint], crs: str | None) -> Georeference:
    """The affine through control points, where it meets all of them."""
    # not rasterio's from_gcps, which gives anything for points on a line
    places_N4 = np.array([(p.col, p.row, p.x, p.y) for p in points], np.float64)
    if np.isfinite(places_N4).all():
        col, row, x, y = places_N4.T
        pixels_N3 = np.stack([col, row, np.ones(len(col))], axis=1)
        found, _, rank, _ = np.linalg.lstsq(pixels_N3, places_N4[:, 2:], rcond=None)
        (a, d), (b, e), (c, f) = found.tolist()
        if rank == 3 and a * e != b * d:
            found_col, found_row = ~rasterio.Affine(a, b, c, d, e, f) @ (x, y)
            if np.hypot(found_col - col, found_row - row).max() <= WITHIN:
                return Georeference(crs, (a, b, c, d, e, f), _placed("control points", crs))
    return Georeference(None, None, f"control points that no affine meets: {PIXELS}")


def _of_world(world: World, crs: str | None) -> Georeference:
    try:
        a, d, b, e, x, y = (float(word) for word in world().decode("utf-8-sig").split())
    except SatrayError:
        return Georeference(None, None, f"a world file out of reach: {PIXELS}")
    except ValueError:
        return Georeference(None, None, f"a world file that is none: {PIXELS}")
    if not all(map(math.isfinite, (a, b, d, e, x, y))) or a * e == b * d:
        return Georeference(None, None, f"a world file without area: {PIXELS}")
    # it gives the centre of the first pixel
    transform = (a, b, x - (a + b) / 2, d, e, y - (d + e) / 2)
    return Georeference(crs, transform, _placed("a world file", crs))


def _placed(by: str, crs: str | None) -> str:
    return f"placed by {by}" + ("" if crs else " without a CRS: no longitude and latitude")


@lru_cache(maxsize=64)
def _way(crs: str) -> "pyproj.Transformer | None":
    import pyproj

    with contextlib.suppress(pyproj.exceptions.ProjError):
        if (system := system_of(crs)) is not None:
            return pyproj.Transformer.from_crs(system, "OGC:CRS84", always_xy=True)
    return None
