"""Writes rasters of any kind for the tests, without the network's libraries."""

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine

UTM = Affine(10, 0, 448000, 0, -10, 5411000)


def write_raster(
    path: Path,
    values: np.ndarray,
    names: tuple[str, ...] | None = None,
    crs: str | None = "EPSG:32631",
    transform: Affine | None = UTM,
    *,
    mask: np.ndarray | None = None,
    colormap: dict[int, tuple[int, ...]] | None = None,
    tags: dict[str, str] | None = None,
    **profile: Any,
) -> Path:
    """A raster of values (C, H, W); a GeoTIFF unless its name or `driver` says otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    profile = {"driver": "PNG" if path.suffix == ".png" else "GTiff", **profile}
    if crs is not None:
        profile |= {"crs": crs, "transform": transform}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", dtype=values.dtype, count=count, height=height, width=width, **profile
        ) as target,
    ):
        target.write(values)
        if names:
            target.descriptions = names
        if colormap:
            target.write_colormap(1, colormap)
        if mask is not None:
            target.write_mask(mask)
        if tags:
            target.update_tags(**tags)
    return path
