"""Where a scene lies: its size, its affine, and the way from its pixels to longitude and latitude.

Coordinates of pixels are pixel-edge ones: the first pixel's centre is at (0.5, 0.5).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from satray.scoring.footprints import LONGITUDE_LATITUDE, Outline, Ring, footprints, read_wkb
from satray.scoring.rasters import PIXEL_COORDINATES, source_affine

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SceneGround:
    """A scene's name, size and place."""

    scene: str
    """Id of the scene: its path below `scenes=`, or what its list or Item calls it."""
    height: int
    """Rows of the stored raster, px."""
    width: int
    """Columns of the stored raster, px."""
    crs: str | None = None
    """Authority string or WKT; None without georeference."""
    transform: tuple[float, ...] | None = None
    """6 numbers in rasterio's order: stored pixel corners to CRS units."""

    @property
    def grounded(self) -> bool:
        """Whether it has a CRS and an affine; else all coordinates are pixels."""
        return self.crs is not None and self.transform is not None

    @property
    def affine(self) -> Affine:
        """Stored pixel corners to CRS units; to x = column, y = -row where there is no ground.

        Raises:
            DecodeError: it maps no area.
        """
        return source_affine(self.crs, self.transform) if self.grounded else PIXEL_COORDINATES

    def points(self, cols: Floats, rows: Floats) -> tuple[Floats, Floats]:
        """The x and y of places in stored px, in CRS units (pixel coordinates without ground)."""
        a, b, c, d, e, f = tuple(self.affine)[:6]
        return a * cols + b * rows + c, d * cols + e * rows + f

    def lonlat(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Longitude and latitude of places in CRS units; NaN where there are none."""
        nothing = np.full(len(x), np.nan)
        if not self.grounded or not len(x):
            return nothing, nothing.copy()
        # here, so that scenes without ground need no GDAL
        from rasterio.warp import transform

        try:
            moved = transform(self.crs, LONGITUDE_LATITUDE, x, y)
        except Exception:  # GDAL's errors (rasterio._err) share no public base
            return nothing, nothing.copy()
        lon, lat = (np.asarray(values, dtype=np.float64) for values in moved[:2])
        good = np.isfinite(lon) & np.isfinite(lat)
        return np.where(good, lon, np.nan), np.where(good, lat, np.nan)

    def rings(self) -> list[Ring]:
        """Outline in longitude and latitude: one ring, two across the antimeridian, or none."""
        if self.crs is None or self.transform is None:
            return []
        whole = Outline(self.crs, self.transform, 0, 0, self.height, self.width)
        (shape,) = footprints([whole])
        return read_wkb(shape) if shape is not None else []


def geometry_of(rings: list[Ring]) -> dict[str, Any] | None:
    """GeoJSON (RFC 7946) of outlines; None of none."""
    if not rings:
        return None
    parts = [[[list(point) for point in ring]] for ring in rings]
    if len(parts) == 1:
        return {"type": "Polygon", "coordinates": parts[0]}
    return {"type": "MultiPolygon", "coordinates": parts}


def bbox_of(rings: list[Ring]) -> list[float] | None:
    """West, south, east, north; west > east across the antimeridian (RFC 7946, 5.2)."""
    if not rings:
        return None
    lats = [lat for ring in rings for _, lat in ring]
    spans = [(min(lon for lon, _ in ring), max(lon for lon, _ in ring)) for ring in rings]
    west, east = min(low for low, _ in spans), max(high for _, high in spans)
    if len(rings) > 1 and west <= -180 + 1e-9 and east >= 180 - 1e-9:  # parts touch it from inside
        west = min((low for low, high in spans if high >= 180 - 1e-9), default=west)
        east = max((high for low, high in spans if low <= -180 + 1e-9), default=east)
    return [west, min(lats), east, max(lats)]
