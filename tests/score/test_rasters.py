"""CAM rasters: valid COGs on the exact grid."""

import os
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.io import MemoryFile
from rio_cogeo import cog_validate

from satray.errors import DecodeError, SatrayError
from satray.score.rasters import (
    PIXEL_COORDINATES,
    StripWriter,
    block_size,
    cam_raster,
    data_shares,
    source_affine,
)

UTM = Affine(320, 0, 448000 - 155.0, 0, -320, 5411000 + 155.0)
TURNED = Affine(300, 40, 448000, 40, -300, 5411000)
TAGS = {"model_id": "m1", "tile_id": "a/é b", "kind": "dense"}
NAMES = ("haze & fog", "été")


def maps(k: int, h: int, w: int) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(k, h, w)).astype(np.float32)
    values[:, 0, 0] = np.nan
    return values


@pytest.mark.parametrize(
    ("h", "w", "affine"),
    [(1, 1, UTM), (7, 8, TURNED), (130, 200, UTM @ Affine.scale(0.31)), (530, 700, UTM)],
)
def test_valid_cogs_with_the_same_numbers_either_way(tmp_path, h, w, affine) -> None:
    values, overviews = maps(2, h, w), []
    about = NAMES, affine, "EPSG:32631", TAGS
    with StripWriter(tmp_path / "work.tif", values.shape, *about) as writer:
        for row in reversed(range(0, h, 37)):
            writer.write(values[:, row : row + 37], row)
        writer.optimise(tmp_path / "strips.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["strips.tif"]
    (tmp_path / "once.tif").write_bytes(cam_raster(values, *about))
    for path in tmp_path.iterdir():
        assert cog_validate(path, strict=True, quiet=True) == (True, [], [])
        with rasterio.open(path) as back:
            assert np.array_equal(back.read(), values, equal_nan=True)
            assert back.transform.almost_equals(affine, 1e-9)
            assert back.crs.to_epsg() == 32631
            assert back.descriptions == NAMES
            assert np.isnan(back.nodata)
            assert back.dtypes == ("float32", "float32")
            assert TAGS.items() <= back.tags().items()
            assert back.compression.name == "deflate"
            assert bool(back.overviews(1)) == (max(h, w) > 512)
            assert back.block_shapes[0] == (block_size(h, w),) * 2
        if max(h, w) > 512:
            with rasterio.open(path, overview_level=0) as back:
                overviews.append(back.read())
    assert not overviews or np.array_equal(*overviews, equal_nan=True)


def test_without_georeference_y_is_minus_row() -> None:
    affine = source_affine(None, None) @ Affine.translation(-15.5, -15.5) @ Affine.scale(32)
    data = cam_raster(maps(1, 7, 7), ("a",), affine, None, {})
    with MemoryFile(data) as memory, memory.open() as back:
        assert back.crs is None
        assert back.transform == affine
        assert back.transform @ (1, 1) == (16.5, -16.5)
    assert source_affine(None, (1, 0, 0, 0, 1, 0)) == PIXEL_COORDINATES
    assert source_affine(None, (10, 0, 5, 0, -10, 7)) == Affine(10, 0, 5, 0, -10, 7)
    assert source_affine("EPSG:4326", (1, 0, 0, 0, 1, 0)) == Affine.identity()
    for flat in ((0, 0, 0, 0, 0, 0), (1, 0, float("nan"), 0, 1, 0)):
        with pytest.raises(DecodeError, match="no area"):
            source_affine("EPSG:4326", flat)


@pytest.mark.parametrize("density", [0.1, 0.5])
def test_shares_with_data_against_counting(density) -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        height, width = rng.integers(1, 40, 2)
        valid = rng.random((height, width)) < density
        step, origin = rng.uniform(1, 20), rng.uniform(-10, 10)
        h, w = rng.integers(1, 6, 2)
        cells = Affine(step, 0, origin, 0, step, origin)
        found = data_shares(valid, cells, h, w)
        # a window that reaches over its scene: what lies beyond has no data, and does not count
        beyond = np.pad(valid, ((0, 20), (0, 30)))
        in_window = data_shares(beyond, cells, h, w, inside=valid.shape)
        for i in range(h):
            for j in range(w):
                (top, bottom), (left, right) = (
                    (int(np.floor(origin + step * n)), int(np.ceil(origin + step * (n + 1))))
                    for n in (i, j)
                )
                assert in_window[i, j] == (found[i, j] if top < height and left < width else 0)
                top, left = min(max(top, 0), height - 1), min(max(left, 0), width - 1)
                square = valid[top : max(bottom, top + 1), left : max(right, left + 1)]
                assert found[i, j] == square.mean()


def test_what_the_disk_does_not_take_is_one_line(tmp_path) -> None:
    with pytest.raises(SatrayError, match="cannot be written"):
        StripWriter(tmp_path / "no" / "w.tif", (1, 6, 6), ("a",), UTM, None, {})
    with StripWriter(tmp_path / "w.tif", (1, 6, 6), ("a",), UTM, None, {}) as writer:
        for row, col in ((3, 0), (0, 3), (-1, 0)):
            with pytest.raises(SatrayError, match="cannot be written"):
                writer.write(np.zeros((1, 4, 4), np.float32), row, col)


FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from affine import Affine
from satray.score.rasters import StripWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
values = np.random.default_rng(0).normal(size=(1, 1000, 1000)).astype(np.float32)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
folder = Path(sys.argv[2])
with StripWriter(folder / "w.tif", values.shape, ("a",), Affine.scale(2), None, {}) as writer:
    for row in range(0, 1000, 100):
        writer.write(values[:, row : row + 100], row)
    writer.optimise(folder / "cam.tif")
"""


@pytest.mark.parametrize("limit", [900_000, 3_600_000])
def test_a_full_disk_is_an_error_not_missing_data(tmp_path, limit: int) -> None:
    """GDAL itself is silent at these sizes: the lost blocks would be nodata."""
    command = [sys.executable, "-c", FULL, str(limit), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert run.returncode == 1
    assert "satray.errors.SatrayError" in run.stderr
