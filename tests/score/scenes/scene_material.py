"""Small scenes, their references, and a bundle's spec, for the tests of reading."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rasters import write_raster

from satray.score.scenes.find import BandSource, SceneRef
from satray.score.scenes.open import Scene
from satray.storage import Storage

STORE = Storage()
NOW = datetime(2026, 5, 1, tzinfo=UTC)


def noise(count: int = 3, height: int = 90, width: int = 120, dtype: str = "uint16") -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.integers(1, 200 if dtype == "uint8" else 4000, (count, height, width)).astype(dtype)


def write(path: Path, values: np.ndarray, names: tuple[str, ...] | None = None, **more: Any) -> str:
    """A raster; its path. GeoTIFF in UTM unless told otherwise."""
    return str(write_raster(path, values, names, **{"driver": "GTiff", **more}))


def ref(uri: str, *bands: BandSource) -> SceneRef:
    size = Path(bands[0].uri if bands else uri).stat().st_size
    return SceneRef(uri.rpartition("/")[2], uri, bands or None, "e", size, NOW)


def opened(uri: str, wanted: tuple[str, ...], names: Any = None, **more: Any) -> Scene:
    return Scene(ref(uri), wanted, names, STORE, **more)


def spec(**more: Any) -> Any:
    """A bundle's spec: three bands, tiles of 32 px at 10 m, one class."""
    from scoring_material import GRID, one_tower, spec  # torch

    about = {"classes": ("ship",), "tile_shape": (32, 32), "temperature": 1.0}
    return spec(**{"variant": one_tower(), "grids": {"rgb": GRID}, **about, **more})
