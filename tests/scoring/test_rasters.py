"""CAM rasters: valid COGs on the exact grid."""

import os
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.io import MemoryFile
from rio_cogeo import cog_validate

from satray.errors import DecodeError, SatrayError
from satray.scoring.rasters import (
    PIXEL_COORDINATES,
    StripWriter,
    block_size,
    cam_path,
    cam_raster,
    cells_with_data,
    source_affine,
)

UTM = Affine(320, 0, 448000 - 155.0, 0, -320, 5411000 + 155.0)


def maps(k: int, h: int, w: int) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(k, h, w)).astype(np.float32)
    values[:, 0, 0] = np.nan
    return values


@pytest.mark.parametrize(("h", "w"), [(1, 1), (7, 8), (130, 200), (300, 600)])
def test_valid_cog_with_the_same_numbers(tmp_path, h: int, w: int) -> None:
    values, tags = maps(2, h, w), {"model_id": "m1", "tile_id": "a/é b", "kind": "dense"}
    path = tmp_path / "x.tif"
    path.write_bytes(cam_raster(values, ("haze & fog", "été"), UTM, "EPSG:32631", tags))
    valid, errors, warnings = cog_validate(path, strict=True, quiet=True)
    assert (valid, errors, warnings) == (True, [], [])
    with rasterio.open(path) as back:
        assert np.array_equal(back.read(), values, equal_nan=True)
        assert back.transform == UTM
        assert back.crs.to_epsg() == 32631
        assert back.descriptions == ("haze & fog", "été")
        assert np.isnan(back.nodata)
        assert back.dtypes == ("float32", "float32")
        assert tags.items() <= back.tags().items()
        assert back.compression.name == "deflate"
        assert bool(back.overviews(1)) == (max(h, w) > 512)


@pytest.mark.parametrize("affine", [Affine(7, -7, 4e5, -7, -7, 5e6), Affine(3, 0, 1, 0, 3, 2)])
def test_rotated_and_south_up_grids_stay_exact(affine: Affine) -> None:
    data = cam_raster(maps(1, 5, 6), ("a",), affine, "EPSG:32631", {})
    with MemoryFile(data) as memory, memory.open() as back:
        assert back.transform.almost_equals(affine, 1e-9)


def test_without_georeference_y_is_minus_row() -> None:
    affine = source_affine(None, None) @ Affine.translation(-15.5, -15.5) @ Affine.scale(32)
    data = cam_raster(maps(1, 7, 7), ("a",), affine, None, {})
    with MemoryFile(data) as memory, memory.open() as back:
        assert back.crs is None
        assert back.transform == affine
        assert back.transform @ (1, 1) == (16.5, -16.5)


def test_source_affine() -> None:
    assert source_affine(None, (1, 0, 0, 0, 1, 0)) == PIXEL_COORDINATES
    assert source_affine(None, (10, 0, 5, 0, -10, 7)) == Affine(10, 0, 5, 0, -10, 7)
    assert source_affine("EPSG:4326", (1, 0, 0, 0, 1, 0)) == Affine.identity()
    with pytest.raises(DecodeError, match="no area"):
        source_affine("EPSG:4326", (0, 0, 0, 0, 0, 0))
    with pytest.raises(DecodeError, match="no area"):
        source_affine("EPSG:4326", (1, 0, float("nan"), 0, 1, 0))


def test_cells_with_data_against_counting() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        height, width = rng.integers(1, 40, 2)
        valid = rng.random((height, width)) < 0.1
        step, origin = rng.uniform(1, 20), rng.uniform(-10, 10)
        h, w = rng.integers(1, 6, 2)
        cells = Affine(step, 0, origin, 0, step, origin)
        found = cells_with_data(valid, cells, h, w)
        for i in range(h):
            for j in range(w):
                top, left = np.floor([origin + step * i, origin + step * j]).astype(int)
                bottom, right = np.ceil([origin + step * (i + 1), origin + step * (j + 1)]).astype(
                    int
                )
                top, left = min(max(top, 0), height - 1), min(max(left, 0), width - 1)
                square = valid[top : max(bottom, top + 1), left : max(right, left + 1)]
                assert found[i, j] == square.any()


def test_cells_of_a_half_empty_tile() -> None:
    valid = np.ones((64, 64), dtype=bool)
    valid[:, :32] = False
    found = cells_with_data(valid, Affine.scale(16), 4, 4)
    assert np.array_equal(found, np.array([[False, False, True, True]] * 4))


@pytest.mark.parametrize(
    ("tile_id", "path"),
    [
        ("a/b-1.x", "cam/a/b-1.x__rgb.tif"),
        ("haze & fog/é", "cam/haze%20%26%20fog/%C3%A9__rgb.tif"),
        ("../../etc", "cam/%2E./%2E./etc__rgb.tif"),
        (".hidden", "cam/%2Ehidden__rgb.tif"),
        ("a//b", "cam/a/%2E%2E/b__rgb.tif"),
        ("100%", "cam/100%25__rgb.tif"),
    ],
)
def test_paths_are_safe(tile_id: str, path: str) -> None:
    assert cam_path(tile_id, "rgb") == path


def test_long_names_are_cut_and_stay_different() -> None:
    one, other = (cam_path("é" * 100 + end, "rgb") for end in "ab")
    assert one != other
    assert len(one.removeprefix("cam/")) < 200


TURNED = Affine(300, 40, 448000, 40, -300, 5411000)


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
from satray.scoring.rasters import StripWriter
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
