"""Where a scene lies: its size, its affine, and the way from its pixels to longitude and latitude.

Coordinates of pixels are pixel-edge ones: the first pixel's centre is at (0.5, 0.5).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from satray.data.georeference import lonlat
from satray.scoring.outlines import outlines
from satray.scoring.rasters import source_affine

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
        """Stored pixel corners to CRS units; to x = column, y = -row where it has none.

        Raises:
            DecodeError: it maps no area.
        """
        return source_affine(self.crs, self.transform)

    def points(self, cols: Floats, rows: Floats) -> tuple[Floats, Floats]:
        """The x and y of places in stored px, as `affine` has them."""
        a, b, c, d, e, f = tuple(self.affine)[:6]
        return a * cols + b * rows + c, d * cols + e * rows + f

    def lonlat(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Longitude and latitude of places in CRS units; NaN where there are none."""
        if self.crs is None or self.transform is None:
            return np.full(len(x), np.nan), np.full(len(x), np.nan)
        return lonlat(self.crs, x, y)

    def shapes(self, rows: Floats, cols: Floats, heights: Floats, widths: Floats) -> NDArray[Any]:
        """Polygons of N tiles in longitude and latitude, as `outlines`, edges in stored px."""
        if self.crs is None or self.transform is None:
            return np.full(len(rows), None, dtype=object)
        affine_16 = np.array([self.transform[:6]], dtype=np.float64)
        return outlines(self.crs, affine_16, rows, cols, heights, widths)

    def outline(self) -> Any:
        """Polygon of the whole scene, as `shapes`; None without ground."""
        zero = np.zeros(1)
        return self.shapes(zero, zero, zero + self.height, zero + self.width)[0]
