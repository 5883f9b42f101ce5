"""Class activation maps as Cloud-Optimised GeoTIFFs: float32, one band a class, exact affine.

Legend: K classes mapped, h x w feature cells, H x W pixels of the tile. Cells at the border of a
tile saw the network's zero padding; a tile's own map keeps them, and says so in its tags.

GDAL keeps blocks in a cache of its own, by default 5 % of the machine's memory: processes with a
bound set `GDAL_CACHEMAX` (in MB) before their first raster.
"""

import math
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from satray.errors import DecodeError, SatrayError
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
    """Encode a tile's maps as a Cloud-Optimised GeoTIFF.

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
    from rasterio.io import MemoryFile  # here, so that tables without maps need no GDAL

    with MemoryFile() as plain, MemoryFile() as optimised:
        with plain.open(**_profile(maps_Khw.shape, affine, crs)) as target:
            target.write(maps_Khw.astype(np.float32, copy=False))
            target.descriptions = tuple(classes)
            target.update_tags(**tags)
        _optimise(plain.name, optimised.name, block_size(*maps_Khw.shape[1:]))
        return bytes(optimised.getbuffer())


class StripWriter:
    """Writes a scene's raster; a context manager that removes its working file at the end.

    Strips go into a plain tiled GeoTIFF on the local disk, which GDAL copies into a Cloud-Optimised
    one. Cells never written are NaN.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        classes: Sequence[str],
        affine: Affine,
        crs: str | None,
        tags: Mapping[str, str],
    ) -> None:
        """Create the working file.

        Args:
            path: of the working file, on the local disk.
            shape: (K, h, w).
            classes: K band descriptions.
            affine: cell corners to CRS units (pixel units without a CRS).
            crs: authority string or WKT; None without georeference.
            tags: dataset tags.

        Raises:
            SatrayError: the disk does not take it.
        """
        import rasterio

        _, self._height, self._width = shape
        self._path = path
        self._block = block_size(self._height, self._width)
        try:
            self._file: Any = rasterio.open(
                path,
                "w+",
                **_profile(shape, affine, crs),
                tiled=True,
                blockxsize=self._block,
                blockysize=self._block,
                interleave="band",
                SPARSE_OK="TRUE",
                BIGTIFF="IF_SAFER",
            )
        except rasterio.errors.RasterioError as error:
            raise SatrayError(f"{path}: cannot be written: {error}") from error
        self._written: list[tuple[int, int, int, int, int]] = []
        self._file.descriptions = tuple(classes)
        self._file.update_tags(**tags)

    def write(self, maps_Khw: NDArray[np.float32], row: int, col: int = 0) -> None:
        """Write a block of cells; blocks may come in any order, no cell twice.

        Args:
            maps_Khw: float32; NaN where there is no data.
            row: first row of cells.
            col: first column of cells.

        Raises:
            ValueError: it reaches beyond the raster.
            SatrayError: the disk does not take it.
        """
        from rasterio.errors import RasterioError
        from rasterio.windows import Window

        h, w = maps_Khw.shape[1:]
        if min(row, col) < 0 or row + h > self._height or col + w > self._width:
            raise ValueError(
                f"cells {row}..{row + h} x {col}..{col + w} of {self._height} x {self._width}"
            )
        values = np.ascontiguousarray(maps_Khw, dtype=np.float32)
        try:
            self._file.write(values, window=Window(col, row, w, h))
        except RasterioError as error:
            raise SatrayError(f"{self._path}: cannot be written: {error}") from error
        self._written.append((row, col, h, w, zlib.crc32(values.tobytes())))

    def optimise(self, target: Path) -> Path:
        """Make the Cloud-Optimised GeoTIFF on the local disk, and close the working file.

        DEFLATE with the floating-point predictor, nodata NaN, averaged overviews where it is
        larger than one block. All blocks are read back: on a full disk GDAL drops what it has in
        its cache, and says nothing.

        Raises:
            SatrayError: the disk does not take it.
        """
        self._file.close()
        try:
            _optimise(self._path, target, self._block)
        except Exception as error:  # GDAL's errors (rasterio._err) share no public base
            raise SatrayError(f"{target}: cannot be written: {error}") from error
        self._compare(target)
        return target

    def _compare(self, target: Path) -> None:
        import rasterio
        from rasterio.windows import Window

        try:
            with rasterio.open(target) as back:
                same = all(
                    zlib.crc32(back.read(window=Window(col, row, w, h)).tobytes()) == crc
                    for row, col, h, w, crc in self._written
                )
        except rasterio.errors.RasterioError as error:
            raise SatrayError(f"{target}: cannot be read back: {error}") from error
        if not same:
            raise SatrayError(f"{target}: not what was written; is the local disk full?")

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close and remove the working file."""
        self._file.close()
        self._path.unlink(missing_ok=True)
        Path(f"{os.fspath(self._path)}.aux.xml").unlink(missing_ok=True)


def block_size(height: int, width: int) -> int:
    """Side of a raster's blocks: 128, 256 or 512 cells."""
    side = max(height, width)
    return next((size for size in (128, 256) if side <= size), 512)


def cam_path(tile_id: str, tower: str) -> str:
    """Path of a tile's map below the run folder: `cam/TILE_ID__TOWER.tif`.

    Letters, digits and `-._~` of each part of the id stay; all else is percent-encoded, as is a
    leading dot. A part too long for a file system keeps its start, then a digest.
    """
    parts = [safe_part(part) for part in tile_id.split("/")]
    return f"cam/{'/'.join(parts)}__{tower}.tif"


def _profile(shape: Sequence[int], affine: Affine, crs: str | None) -> dict[str, Any]:
    """Of the plain GeoTIFF that is written first."""
    return {
        "driver": "GTiff",
        "dtype": "float32",
        "count": shape[0],
        "height": shape[1],
        "width": shape[2],
        "crs": crs,
        "transform": affine,
        "nodata": math.nan,
    }


def _optimise(source: str | Path, target: str | Path, block: int) -> None:
    """Copy a GeoTIFF into a Cloud-Optimised one."""
    from rasterio.shutil import copy

    copy(
        source,
        target,
        driver="COG",
        COMPRESS="DEFLATE",
        PREDICTOR="FLOATING_POINT",
        OVERVIEW_RESAMPLING="AVERAGE",
        BLOCKSIZE=block,
        BIGTIFF="IF_SAFER",
    )


def _edges(
    origin: float, step: float, cells: int, pixels: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First pixel, and the one after the last, of each cell along one axis."""
    starts = origin + step * np.arange(cells)
    low = np.clip(np.floor(starts), 0, pixels - 1).astype(np.int64)
    high = np.clip(np.ceil(starts + step), low + 1, pixels).astype(np.int64)
    return low, high
