"""Small scenes, their references, and a bundle's spec, for the tests of reading."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine

from satray.score.scenes.find import BandSource, SceneRef
from satray.score.scenes.open import Scene
from satray.storage import Storage

STORE = Storage()
UTM = Affine(10, 0, 448000, 0, -10, 5411000)
NOW = datetime(2026, 5, 1, tzinfo=UTC)


def noise(count: int = 3, height: int = 90, width: int = 120, dtype: str = "uint16") -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.integers(1, 200 if dtype == "uint8" else 4000, (count, height, width)).astype(dtype)


def write(path: Path, values: np.ndarray, names: tuple[str, ...] | None = None, **more: Any) -> str:
    """A raster; its path. GeoTIFF in UTM unless told otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask, colormap = more.pop("mask", None), more.pop("colormap", None)
    tags = more.pop("tags", None)
    profile: dict[str, Any] = {"driver": "GTiff", "crs": "EPSG:32631", "transform": UTM, **more}
    count, height, width = values.shape
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
    return str(path)


def ref(uri: str, *bands: BandSource) -> SceneRef:
    size = Path(bands[0].uri if bands else uri).stat().st_size
    return SceneRef(uri.rpartition("/")[2], uri, bands or None, "e", size, NOW)


def opened(uri: str, wanted: tuple[str, ...], names: Any = None, **more: Any) -> Scene:
    return Scene(ref(uri), wanted, names, STORE, **more)


def spec(**more: Any) -> Any:
    """A bundle's spec: three bands, tiles of 32 px at 10 m."""
    from scoring_material import GRID, one_tower

    from satray.models.spec import BundleSpec

    values: dict[str, Any] = {
        "variant": one_tower(),
        "task": "multilabel",
        "classes": ("ship",),
        "bands": ("red", "green", "blue"),
        "mean": (2000.0,) * 3,
        "std": (1000.0,) * 3,
        "dtype": "uint16",
        "size": 32,
        "resize": None,
        "evaluate": "whole",
        "tile_shape": (32, 32),
        "resolution": 10.0,
        "thresholds": (0.5,),
        "temperature": 1.0,
        "grids": {"rgb": GRID},
        **more,
    }
    return BundleSpec(**values)
