"""Class activation maps as Cloud-Optimised GeoTIFFs: float32, one band a class, exact affine.

Legend: K classes mapped, h x w feature cells, H x W pixels of the tile. Cells at the border of a
tile saw the network's zero padding; a tile's own map keeps them, and says so in its tags.

GDAL keeps blocks in a cache of its own, by default 5 % of the machine's memory: processes with a
bound set `GDAL_CACHEMAX` (in MB) before their first raster.
"""

import contextlib
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from satray.errors import DecodeError, SatrayError

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


def data_shares(
    valid_HW: NDArray[np.bool_],
    cells: Affine,
    h: int,
    w: int,
    inside: tuple[int, int] | None = None,
) -> NDArray[np.float64]:
    """Share of each feature cell's pixels that are valid, 0 to 1.

    Args:
        valid_HW: where the tile, or a window of a scene, has data.
        cells: affine from cell corners to its pixel corners, axis-parallel.
        h: rows of cells.
        w: columns of cells.
        inside: rows and columns of pixels that count, where the rest lies beyond the scene.

    Returns:
        (h, w). A cell's square is `cells` of the unit square, in whole pixels and cut to the tile;
        one beyond the tile's edge counts as the nearest pixel. 0 beyond the scene.
    """
    height, width = valid_HW.shape
    # counts of valid pixels above and left of each pixel corner
    sums = np.pad(valid_HW.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))
    top, bottom = _edges(cells.f, cells.e, h, height)
    left, right = _edges(cells.c, cells.a, w, width)
    rows_h2w = sums[bottom][:, [left, right]] - sums[top][:, [left, right]]
    down, across = (
        np.minimum(high, end) - np.minimum(low, end)
        for low, high, end in zip(
            (top, left), (bottom, right), inside or (height, width), strict=True
        )
    )
    counts_hw = rows_h2w[:, 1] - rows_h2w[:, 0]
    return np.asarray(counts_hw / np.maximum(np.outer(down, across), 1))


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

    shape = maps_Khw.shape
    with MemoryFile() as plain, MemoryFile() as optimised:
        with _created(plain.name, shape, classes, affine, crs, tags) as target:
            target.write(maps_Khw.astype(np.float32, copy=False))
        _optimise(plain.name, optimised.name, block_size(*shape[1:]))
        return bytes(optimised.getbuffer())


class StripWriter:
    """Writes a scene's raster; a context manager that closes its working file.

    Blocks go into a plain tiled GeoTIFF on the local disk, which GDAL copies into a Cloud-Optimised
    one, as `cam_raster` makes it. Cells never written are NaN.
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
            path: of the working file, on the local disk, in a folder that is removed later.
            shape: (K, h, w).
            classes: K band descriptions.
            affine: cell corners to CRS units (pixel units without a CRS).
            crs: authority string or WKT; None without georeference.
            tags: dataset tags.

        Raises:
            SatrayError: the disk does not take it.
        """
        self._path, self._side = path, block_size(*shape[1:])
        blocks = {"tiled": True, "blockxsize": self._side, "blockysize": self._side}
        more = {"interleave": "band", "SPARSE_OK": "TRUE", "BIGTIFF": "IF_SAFER", **blocks}
        self._written: list[tuple[Any, int]] = []
        with _in_words(path):
            self._file = _created(path, shape, classes, affine, crs, tags, **more)

    def write(self, maps_Khw: NDArray[np.float32], row: int, col: int = 0) -> None:
        """Write a block of cells; blocks may come in any order, no cell twice.

        Args:
            maps_Khw: float32; NaN where there is no data.
            row: first row of cells.
            col: first column of cells.

        Raises:
            SatrayError: the disk does not take it.
        """
        from rasterio.windows import Window

        window = Window(col, row, maps_Khw.shape[2], maps_Khw.shape[1])
        values = np.ascontiguousarray(maps_Khw, dtype=np.float32)
        with _in_words(self._path):
            self._file.write(values, window=window)
        self._written.append((window, zlib.crc32(values.tobytes())))

    def optimise(self, target: Path) -> Path:
        """Make the Cloud-Optimised GeoTIFF on the local disk in place of the working file.

        All blocks are read back: on a full disk GDAL drops what it has in its cache, and says
        nothing.

        Raises:
            SatrayError: the disk does not take it.
        """
        import rasterio

        self._file.close()
        with _in_words(target):
            _optimise(self._path, target, self._side)
            with rasterio.open(target) as back:
                for window, crc in self._written:
                    if zlib.crc32(back.read(window=window).tobytes()) != crc:
                        raise OSError("not what was written; is the local disk full?")
        self._path.unlink()
        return target

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the working file."""
        self._file.close()


def block_size(height: int, width: int) -> int:
    """Side of a raster's blocks: 128, 256 or 512 cells."""
    side = max(height, width)
    return next((size for size in (128, 256) if side <= size), 512)


def _created(
    path: str | Path,
    shape: tuple[int, ...],
    classes: Sequence[str],
    affine: Affine,
    crs: str | None,
    tags: Mapping[str, str],
    **more: Any,
) -> Any:
    """The plain GeoTIFF that is written first, open."""
    import rasterio

    count, height, width = shape
    size = {"count": count, "height": height, "width": width}
    place = {"crs": crs, "transform": affine, "nodata": math.nan}
    made = rasterio.open(path, "w+", driver="GTiff", dtype="float32", **size, **place, **more)
    made.descriptions = tuple(classes)
    made.update_tags(**tags)
    return made


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


@contextlib.contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """GDAL's errors (rasterio._err), which share no public base, as one line."""
    try:
        yield
    except Exception as error:
        raise SatrayError(f"{path}: cannot be written: {error}") from error


def _edges(
    origin: float, step: float, cells: int, pixels: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First pixel, and the one after the last, of each cell along one axis."""
    starts = origin + step * np.arange(cells)
    low = np.clip(np.floor(starts), 0, pixels - 1).astype(np.int64)
    high = np.clip(np.ceil(starts + step), low + 1, pixels).astype(np.int64)
    return low, high
