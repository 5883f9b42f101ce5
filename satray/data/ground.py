"""From a CRS to the ground: longitude and latitude of places, and the size of pixels in metres."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyproj

Floats = NDArray[np.float64]

LONGITUDE_LATITUDE = "OGC:CRS84"

APART = 0.02
"""Share by which a pixel may be longer than wide before both are told."""


@dataclass(frozen=True)
class GroundPixel:
    """Size of a px at an image's centre."""

    x: float | None
    """Length of a step of one column on the ellipsoid, m; None where it is not known."""
    y: float | None
    """Length of a step of one row, m."""
    note: str
    """Why it is not known; empty where it is."""


def ground_pixel(
    height: int, width: int, crs: str | None, transform: tuple[float, ...] | None
) -> GroundPixel:
    """Measure a px at an image's centre.

    Args:
        height: rows.
        width: columns.
        crs: authority string or WKT; None without.
        transform: affine of px corners, 6 numbers in rasterio's order; None without.
    """
    if crs is None or transform is None:
        return GroundPixel(None, None, "no georeference: pixel coordinates")
    a, b, _, d, e, _ = transform[:6]
    if not all(map(math.isfinite, transform[:6])) or a * e == b * d:
        return GroundPixel(None, None, "an affine that maps no area")
    system = system_of(crs)
    if system is None:
        return GroundPixel(None, None, "a CRS that does not lead to longitude and latitude")
    sizes = pixel_sizes(crs, np.array([transform[:6]]), np.array([height]), np.array([width]))
    x, y = sizes[0].tolist()
    if not (math.isfinite(x) and math.isfinite(y)):
        return GroundPixel(None, None, "its centre is not on the ground")
    return GroundPixel(x, y, "")


def pixel_sizes(crs: str, affines_N6: Floats, heights: Floats, widths: Floats) -> Floats:
    """Size of a px at the centres of N images of one CRS, (N, 2): along x and y, m.

    Metres are those of the CRS's own ellipsoid, whatever the projection makes of them; NaN where
    there is no way to it.
    """
    import pyproj

    count = len(affines_N6)
    system = system_of(crs)
    geod = system.get_geod() if system is not None else None
    if system is None or geod is None:
        return np.full((count, 2), np.nan)
    # half a px left, right, above and below the centre
    col = widths[:, None] / 2 + np.array([-0.5, 0.5, 0, 0])
    row = heights[:, None] / 2 + np.array([0, 0, -0.5, 0.5])
    a, b, c, d, e, f = (affines_N6[:, n, None] for n in range(6))
    x, y = a * col + b * row + c, d * col + e * row + f
    base = system.geodetic_crs
    assert base is not None
    way = pyproj.Transformer.from_crs(system, base, always_xy=True)
    unit = math.degrees(base.axis_info[0].unit_conversion_factor)
    lon_N4, lat_N4 = (np.asarray(v) * unit for v in way.transform(x, y))
    good = np.isfinite(lon_N4) & np.isfinite(lat_N4) & (np.abs(lat_N4) <= 90)
    lon_N4, lat_N4 = np.where(good, lon_N4, 0), np.where(good, lat_N4, 0)
    _, _, across = geod.inv(lon_N4[:, 0], lat_N4[:, 0], lon_N4[:, 1], lat_N4[:, 1])
    _, _, down = geod.inv(lon_N4[:, 2], lat_N4[:, 2], lon_N4[:, 3], lat_N4[:, 3])
    sizes = np.stack([across, down], axis=1)
    known = good.all(axis=1) & np.isfinite(sizes).all(axis=1) & (sizes.min(axis=1) > 0)
    return np.where(known[:, None], sizes, np.nan)


def resolutions(
    crs: Sequence[str | None],
    transforms: Sequence[Sequence[float] | None],
    heights: Sequence[int],
    widths: Sequence[int],
) -> NDArray[np.float64]:
    """Size of a px on the ground at the centres of N tiles, (N, 2): x and y, m; NaN if unknown."""
    sizes_N2 = np.full((len(crs), 2), np.nan)
    members: dict[str, list[int]] = {}
    for row, (name, transform) in enumerate(zip(crs, transforms, strict=True)):
        if name is not None and transform is not None:
            members.setdefault(name, []).append(row)
    tall, wide = np.asarray(heights, np.float64), np.asarray(widths, np.float64)
    for name, rows in members.items():
        affines = np.array([transforms[row] for row in rows], dtype=np.float64)
        sizes_N2[rows] = pixel_sizes(name, affines, tall[rows], wide[rows])
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


def folds(crs: str) -> bool:
    """Whether there are places in a CRS that come back elsewhere: beyond the edge of its world.

    Cylinders go round and round, and transverse ones end far from all that they are used for.
    """
    system = system_of(crs)
    if system is not None and system.is_bound:
        system = system.source_crs
    way = system.coordinate_operation if system is not None and system.is_projected else None
    return way is not None and not any(
        word in way.method_name for word in ("Mercator", "Cylindrical", "Gauss")
    )


def there_and_back(crs: str, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Places after a way to longitude and latitude, of the CRS's own datum, and back again."""
    import pyproj

    system = system_of(crs)
    assert system is not None
    way = pyproj.Transformer.from_crs(system, system.geodetic_crs, always_xy=True)
    back = way.transform(*way.transform(x, y), direction="INVERSE")
    return np.asarray(back[0]), np.asarray(back[1])


def wrapped(degrees: Floats) -> Floats:
    """The same directions between -180 and 180."""
    turned: Floats = (degrees + 180) % 360 - 180
    return turned


@lru_cache(maxsize=64)
def system_of(crs: str) -> "pyproj.CRS | None":
    """The horizontal part of a CRS, if it leads to longitude and latitude."""
    import pyproj

    try:
        system = pyproj.CRS.from_user_input(crs)
    except pyproj.exceptions.CRSError:
        return None
    if system.is_compound:
        system = system.sub_crs_list[0]
    return system if system.is_projected or system.is_geographic else None


@lru_cache(maxsize=64)
def _way(crs: str) -> "pyproj.Transformer | None":
    import pyproj

    system = system_of(crs)
    if system is None:
        return None
    try:
        return pyproj.Transformer.from_crs(system, LONGITUDE_LATITUDE, always_xy=True)
    except pyproj.exceptions.ProjError:
        return None
