"""How long a px is on the ground, along its rows and its columns."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from affine import Affine

if TYPE_CHECKING:
    import pyproj

TRUE_ENOUGH = 0.02
"""Share by which a projection's metres may differ from the ground's without a word."""


@dataclass(frozen=True)
class GroundPixel:
    """Size of a px at a scene's centre."""

    x: float | None
    """Length of a step of one column, m; None where it is not known."""
    y: float | None
    """Length of a step of one row, m."""
    note: str
    """Why it is not known, or what to know about it; empty where all is plain."""


def ground_pixel(height: int, width: int, crs: str | None, affine: Affine | None) -> GroundPixel:
    """Measure a px at a scene's centre.

    A projected CRS's units are taken at their word, as `train` takes them for a bundle's
    resolution; where the projection stretches the ground there (Web Mercator does), the note says
    by how much. Degrees are measured on the CRS's own ellipsoid.

    Args:
        height: rows of the scene.
        width: columns.
        crs: authority string or WKT; None without.
        affine: px corners to CRS units; None without.
    """
    if crs is None or affine is None:
        return GroundPixel(None, None, "no georeference: pixel coordinates")
    if not all(map(math.isfinite, affine[:6])) or affine.determinant == 0:
        return GroundPixel(None, None, "an affine that maps no area")
    system = _system(crs)
    if system is None:
        return GroundPixel(None, None, "a CRS that PROJ does not know")
    if system.is_projected:
        unit = system.axis_info[0].unit_conversion_factor
        x, y = (math.hypot(*step) * unit for step in _steps(affine))
        centre = affine @ (width / 2, height / 2)
        return GroundPixel(x, y, _stretch(system, centre))
    geod = system.get_geod() if system.is_geographic else None
    if geod is None:
        return GroundPixel(None, None, "a CRS without metres or degrees")
    lon, lat = affine @ (width / 2, height / 2)
    if not -90 <= lat <= 90:
        return GroundPixel(None, None, f"its centre at latitude {lat:g}")
    lengths = []
    for dx, dy in _steps(affine):
        unit = math.degrees(system.axis_info[0].unit_conversion_factor)
        west, south, east, north = (
            v * unit for v in (lon - dx / 2, lat - dy / 2, lon + dx / 2, lat + dy / 2)
        )
        lengths.append(float(geod.inv(west, south, east, north)[2]))
    x, y = lengths
    if not (math.isfinite(x) and math.isfinite(y) and min(x, y) > 0):
        return GroundPixel(None, None, f"its centre at latitude {lat:g}")
    return GroundPixel(x, y, "")


def _steps(affine: Affine) -> tuple[tuple[float, float], tuple[float, float]]:
    """What one column, and one row, further is in CRS units."""
    return (affine.a, affine.d), (affine.b, affine.e)


def _stretch(system: "pyproj.CRS", centre: tuple[float, float]) -> str:
    """A note where the projection's metres are not the ground's."""
    import pyproj

    try:
        projection = pyproj.Proj(system)
        lon, lat = projection(*centre, inverse=True)
        factors = projection.get_factors(lon, lat)
        scale = math.sqrt(factors.areal_scale)
    except (pyproj.exceptions.ProjError, ValueError):
        return ""
    if not math.isfinite(scale) or abs(scale - 1) <= TRUE_ENOUGH:
        return ""
    return f"its CRS shows the ground {scale:.2f} times as large there"


@lru_cache(maxsize=64)
def _system(crs: str) -> "pyproj.CRS | None":
    import pyproj

    try:
        system = pyproj.CRS.from_user_input(crs)
    except pyproj.exceptions.CRSError:
        return None
    if system.is_compound:
        system = system.sub_crs_list[0]
    return system
