"""Class activation maps as Cloud-Optimised GeoTIFFs: float32, one band a class, exact affine.

Legend: K classes mapped, h x w feature cells, H x W pixels of the tile. Cells at the border of a
tile saw the network's zero padding; a tile's own map keeps them, and says so in its tags.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from satray.errors import DecodeError
from satray.scoring.safe import safe_part

PIXEL_COORDINATES = Affine(1, 0, 0, 0, -1, 0)
"""Affine of an image without georeference: x = column, y = -row, as GIS programs draw it."""

BORDER_CELLS = "kept: they saw the zero padding at the tile's edge"
"""Value of the tag `border_cells` of a tile's own map."""


def source_affine(crs: str | None, transform: Sequence[float] | None) -> Affine:
    """Affine of a source: its own, or pixel coordinates where it has none.

    Raises:
        DecodeError: it maps all pixels to one line, or is not finite.
    """
    if transform is None or (crs is None and Affine(*transform) == Affine.identity()):
        return PIXEL_COORDINATES
    affine = Affine(*transform)
    if not all(map(math.isfinite, transform)) or affine.determinant == 0:
        raise DecodeError(f"affine {tuple(transform)} maps no area")
    return affine


def cells_with_data(
    valid_HW: NDArray[np.bool_], cells: Affine, h: int, w: int
) -> NDArray[np.bool_]:
    """Tell which feature cells hold any valid pixel.

    Args:
        valid_HW: where the tile has data.
        cells: affine from cell corners to pixel corners of the tile, axis-parallel.
        h: rows of cells.
        w: columns of cells.

    Returns:
        (h, w) bool. A cell's square is `cells` of the unit square, cut to the tile; one beyond the
        tile's edge counts as the nearest pixel.
    """
    height, width = valid_HW.shape
    # counts of valid pixels above and left of each pixel corner
    sums = np.zeros((height + 1, width + 1), dtype=np.int64)
    sums[1:, 1:] = valid_HW.cumsum(0, dtype=np.int64).cumsum(1)
    top, bottom = _edges(cells.f, cells.e, h, height)
    left, right = _edges(cells.c, cells.a, w, width)
    counts = (
        sums[bottom[:, None], right]
        - sums[top[:, None], right]
        - sums[bottom[:, None], left]
        + sums[top[:, None], left]
    )
    found: NDArray[np.bool_] = counts > 0
    return found


def cam_raster(
    maps_Khw: NDArray[np.float32],
    classes: Sequence[str],
    affine: Affine,
    crs: str | None,
    tags: Mapping[str, str],
) -> bytes:
    """Encode maps as a Cloud-Optimised GeoTIFF.

    Args:
        maps_Khw: float32; NaN where there is no data.
        classes: K band descriptions.
        affine: cell corners to CRS units (pixel units without a CRS).
        crs: authority string or WKT; None without georeference.
        tags: dataset tags.

    Returns:
        The file: DEFLATE with the floating-point predictor, nodata NaN, averaged overviews where
        it is larger than one block (128, 256 or 512 cells, by its size).
    """
    # here, so that tables without maps need no GDAL
    from rasterio.io import MemoryFile
    from rasterio.shutil import copy

    count, height, width = maps_Khw.shape
    side = max(height, width)
    block = next((size for size in (128, 256) if side <= size), 512)
    with MemoryFile() as plain, MemoryFile() as optimised:
        with plain.open(
            driver="GTiff",
            dtype="float32",
            count=count,
            height=height,
            width=width,
            crs=crs,
            transform=affine,
            nodata=math.nan,
        ) as target:
            target.write(maps_Khw.astype(np.float32, copy=False))
            target.descriptions = tuple(classes)
            target.update_tags(**tags)
        copy(
            plain.name,
            optimised.name,
            driver="COG",
            COMPRESS="DEFLATE",
            PREDICTOR="FLOATING_POINT",
            OVERVIEW_RESAMPLING="AVERAGE",
            BLOCKSIZE=block,
        )
        return bytes(optimised.getbuffer())


def cam_path(tile_id: str, tower: str) -> str:
    """Path of a tile's map below the run folder: `cam/TILE_ID__TOWER.tif`.

    Letters, digits and `-._~` of each part of the id stay; all else is percent-encoded, as is a
    leading dot. A part too long for a file system keeps its start, then a digest.
    """
    parts = [safe_part(part) for part in tile_id.split("/")]
    return f"cam/{'/'.join(parts)}__{tower}.tif"


def _edges(
    origin: float, step: float, cells: int, pixels: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First pixel, and the one after the last, of each cell along one axis."""
    starts = origin + step * np.arange(cells)
    low = np.clip(np.floor(starts), 0, pixels - 1).astype(np.int64)
    high = np.clip(np.ceil(starts + step), low + 1, pixels).astype(np.int64)
    return low, high
