"""Maps written strip by strip: valid COGs, in any order, on the exact grid."""

import os
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rio_cogeo import cog_validate

from satray.errors import SatrayError
from satray.scoring.products.strips import StripWriter, block_size
from satray.scoring.rasters import PIXEL_COORDINATES, cam_raster

UTM = Affine(320, 0, 448000 - 155.0, 0, -320, 5411000 + 155.0)
TURNED = Affine(300, 40, 448000, 40, -300, 5411000)


def maps(k: int, h: int, w: int) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(k, h, w)).astype(np.float32)
    values[:, :2, :3] = np.nan
    return values


@pytest.mark.parametrize("affine", [UTM, TURNED, UTM @ Affine.scale(0.31)])
@pytest.mark.parametrize(("h", "w"), [(1, 1), (40, 130), (530, 700)])
def test_strips_are_one_valid_cog(tmp_path, h: int, w: int, affine: Affine) -> None:
    values, tags = maps(2, h, w), {"model_id": "m1", "scene": "a/é b"}
    names = ("haze & fog", "été")
    starts = list(range(0, h, 37))
    with StripWriter(
        tmp_path / "work.tif", values.shape, names, affine, "EPSG:32631", tags
    ) as writer:
        for row in reversed(starts):
            writer.write(values[:, row : row + 37], row)
        assert np.array_equal(writer.read(1), values[1], equal_nan=True)
        target = writer.optimise(tmp_path / "cam.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["cam.tif"]
    assert cog_validate(target, strict=True, quiet=True) == (True, [], [])
    with rasterio.open(target) as back:
        assert np.array_equal(back.read(), values, equal_nan=True)
        assert back.transform.almost_equals(affine, 1e-9)
        assert back.crs.to_epsg() == 32631
        assert back.descriptions == names
        assert np.isnan(back.nodata)
        assert tags.items() <= back.tags().items()
        assert back.compression.name == "deflate"
        assert bool(back.overviews(1)) == (max(h, w) > 512)
        assert back.block_shapes[0] == (block_size(h, w),) * 2


def test_same_numbers_and_overviews_as_a_raster_written_at_once(tmp_path) -> None:
    values = maps(1, 600, 640)
    whole = tmp_path / "whole.tif"
    whole.write_bytes(cam_raster(values, ("a",), UTM, "EPSG:32631", {}))
    with StripWriter(tmp_path / "w.tif", values.shape, ("a",), UTM, "EPSG:32631", {}) as writer:
        for row in range(0, 600, 64):
            writer.write(values[:, row : row + 64], row)
        target = writer.optimise(tmp_path / "cam.tif")
    with (
        rasterio.open(whole, overview_level=0) as one,
        rasterio.open(target, overview_level=0) as other,
    ):
        assert np.array_equal(one.read(), other.read(), equal_nan=True)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 25), st.randoms())
def test_blocks_in_any_order_and_the_rest_is_nodata(tmp_path, h, w, side, random) -> None:
    values = np.random.default_rng(1).normal(size=(1, h, w)).astype(np.float32)
    blocks = [(i, j) for i in range(0, h, side) for j in range(0, w, side)]
    random.shuffle(blocks)
    written = blocks[: len(blocks) - len(blocks) // 3]
    expected = np.full_like(values, np.nan)
    target = tmp_path / "cam.tif"
    target.unlink(missing_ok=True)
    with StripWriter(
        tmp_path / "work.tif", values.shape, ("a",), PIXEL_COORDINATES, None, {}
    ) as writer:
        for i, j in written:
            some = values[:, i : i + side, j : j + side]
            writer.write(some, i, j)
            expected[:, i : i + side, j : j + side] = some
        writer.optimise(target)
    with rasterio.open(target) as back:
        assert np.array_equal(back.read(), expected, equal_nan=True)
        assert back.crs is None
        assert back.transform @ (2, 3) == (2, -3)


def test_blocks_beyond_the_raster_are_refused(tmp_path) -> None:
    block = np.zeros((1, 4, 4), np.float32)
    with StripWriter(tmp_path / "w.tif", (1, 6, 6), ("a",), UTM, None, {}) as writer:
        for row, col in ((3, 0), (0, 3), (-1, 0)):
            with pytest.raises(ValueError, match="of 6 x 6"):
                writer.write(block, row, col)


def test_no_file_is_left_after_an_error(tmp_path) -> None:
    def fail() -> None:
        with StripWriter(tmp_path / "w.tif", (1, 6, 6), ("a",), UTM, None, {}):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SatrayError, match="cannot be written"):
        StripWriter(tmp_path / "no" / "w.tif", (1, 6, 6), ("a",), UTM, None, {})


FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from affine import Affine
from satray.scoring.products.strips import StripWriter
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
