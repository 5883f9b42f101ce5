"""CAM rasters of scenes, written strip by strip and then optimised: memory is bounded.

Legend: K classes mapped, h x w feature cells.

Strips go into a plain tiled GeoTIFF on the local disk; GDAL copies it into a Cloud-Optimised one.
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

from satray.errors import SatrayError


class StripWriter:
    """Writes one raster; a context manager that removes its working file at the end.

    Cells never written are NaN.
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

        count, self._height, self._width = shape
        self._path = path
        self._block = block_size(self._height, self._width)
        try:
            self._file: Any = rasterio.open(
                path,
                "w+",
                driver="GTiff",
                dtype="float32",
                count=count,
                height=self._height,
                width=self._width,
                crs=crs,
                transform=affine,
                nodata=math.nan,
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

    def read(self, k: int) -> NDArray[np.float32]:
        """The whole map of one class (h, w), as written so far: 4 bytes a cell."""
        values: NDArray[np.float32] = self._file.read(k + 1)
        return values

    def optimise(self, target: Path) -> Path:
        """Make the Cloud-Optimised GeoTIFF on the local disk, and close the working file.

        DEFLATE with the floating-point predictor, nodata NaN, averaged overviews where it is
        larger than one block. All blocks are read back: on a full disk GDAL drops what it has in
        its cache, and says nothing.

        Raises:
            SatrayError: the disk does not take it.
        """
        from rasterio.shutil import copy

        self._file.close()
        try:
            copy(
                self._path,
                target,
                driver="COG",
                COMPRESS="DEFLATE",
                PREDICTOR="FLOATING_POINT",
                OVERVIEW_RESAMPLING="AVERAGE",
                BLOCKSIZE=self._block,
                BIGTIFF="IF_SAFER",
            )
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
    """Side of the blocks: 128, 256 or 512 cells, as `rasters.cam_raster` chooses."""
    side = max(height, width)
    return next((size for size in (128, 256) if side <= size), 512)
