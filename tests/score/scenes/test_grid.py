"""Grids: factors, affines, files of one scene; windows equal that part of the scene as a whole."""

import numpy as np
import pytest
import torch
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasters import UTM
from score.scenes.scene_material import noise, opened, spec, write

from satray.data.georeference import pixel_size
from satray.errors import DecodeError
from satray.models.preprocess import resize_tiles
from satray.models.spec import TrainedPixels
from satray.score.outlines import SceneExtent
from satray.score.rasters import PIXEL_COORDINATES
from satray.score.scenes import read
from satray.score.scenes.grid import net_grid, ratios
from satray.score.scenes.read import read_window

ZONE, MERCATOR = "EPSG:32631", "EPSG:3857"
FOOT = 0.3048006
TALL = UTM @ Affine.scale(1, 2)
AUTO, AS_THEY_ARE = "auto", "px as they are: "
SAME, HUNDRED = (99, 99), (100, 100)
RGB = ("red", "green", "blue")


def grid(height, width, crs, affine, gsd="auto", **more):
    transform = None if affine is None else affine[:6]
    return net_grid(SceneExtent("a", height, width, crs, transform), spec(**more), gsd)


@pytest.mark.parametrize(
    ("size", "crs", "affine", "gsd", "more", "net", "why"),
    [
        ((300, 500), ZONE, UTM, AUTO, {}, (300, 500), "px of 10 m, the bundle's 10 m"),
        # whole factors are whole whatever the projection does
        ((300, 500), ZONE, UTM @ Affine.scale(2), AUTO, {}, (600, 1000), ""),
        ((300, 500), ZONE, UTM @ Affine.scale(3), AUTO, {}, (900, 1500), ""),
        ((300, 500), ZONE, UTM @ Affine.scale(0.5), AUTO, {}, (150, 250), ""),
        ((1, 1), ZONE, UTM @ Affine.scale(0.01), AUTO, {}, (1, 1), ""),
        # x and y apart
        (HUNDRED, ZONE, TALL, AUTO, {}, (200, 100),
         "px of 10 x 20.01 m, the bundle's 10 m"),
        (HUNDRED, ZONE, TALL, AUTO, {"resolution_y": 20.0}, HUNDRED, ""),
        (HUNDRED, ZONE, UTM, AUTO, {"resolution_y": 20.0}, (50, 100), ""),
        # metres are the ground's: Web Mercator at 60 degrees north has two of its own on one of it
        (SAME, MERCATOR, Affine(20, 0, 1669792, 0, -20, 8399738), AUTO, {}, SAME, ""),
        (HUNDRED, MERCATOR, Affine(20, 0, 1669792, 0, -20, 0), AUTO, {}, (199, 200), ""),
        (SAME, "EPSG:32633", Affine(10, 0, 500000, 0, -10, 6651411), AUTO, {}, SAME, ""),
        (SAME, "EPSG:2227", Affine(10 / FOOT, 0, 6e6, 0, -10 / FOOT, 2.1e6), AUTO, {}, SAME, ""),
        (HUNDRED, "EPSG:4326", Affine(1e-4, 0, 15, 0, -1e-4, 60), AUTO, {"resolution": 5.58},
         (200, 100), ""),
        # training resized its tiles
        ((2560, 2561), ZONE, UTM, AUTO, {"tile_shape": (256, 256), "size": 224}, (2240, 2241),
         "training resized tiles by 0.875"),
        (HUNDRED, ZONE, UTM, AUTO,
         {"tile_shape": (256, 300), "size": 224, "resize": 256, "evaluate": "centre"}, HUNDRED, ""),
        # as stated
        (SAME, ZONE, UTM @ Affine.scale(2), "none", {}, SAME, ""),
        (SAME, ZONE, UTM @ Affine.scale(2), 20.0, {}, SAME, ""),
        (SAME, ZONE, UTM @ Affine.scale(17), "none", {}, SAME, ""),
        (SAME, ZONE, UTM, AUTO, {"resolution": None}, SAME, ""),
        (SAME, ZONE, UTM, 5.0, {"resolution": None}, (198, 198), ""),
        # no ground
        (SAME, None, UTM, AUTO, {}, SAME, "without a place on the ground"),
        ((64, 64), None, None, AUTO, {"tile_shape": (64, 64)}, (32, 32), AS_THEY_ARE),
        (SAME, "EPSG:4978", UTM, AUTO, {}, SAME, AS_THEY_ARE),
        (SAME, 'LOCAL_CS["site",UNIT["metre",1]]', UTM, AUTO, {}, SAME, AS_THEY_ARE),
        (SAME, "no such thing", UTM, AUTO, {}, SAME, AS_THEY_ARE),
        ((9, 9), "EPSG:4326", Affine(0.1, 0, 0, 0, -0.1, 91.5), AUTO, {}, (9, 9), AS_THEY_ARE),
    ],
)  # fmt: skip
def test_net_px(size, crs, affine, gsd, more, net, why):
    found = grid(*size, crs, affine, gsd, **more)
    assert (found.net_height, found.net_width) == net
    assert found.resampled == (net != size)
    assert (found.scale_y, found.scale_x) == (net[0] / size[0], net[1] / size[1])
    assert why in found.why
    own = PIXEL_COORDINATES if affine is None else affine
    stored = own @ Affine.scale(size[1] / net[1], size[0] / net[0])
    assert found.affine_net.almost_equals(stored, 1e-9)
    assert (found.extent.crs, found.extent.affine) == (crs, own)


def test_pixels_of_the_tiles_own_grid_are_taken_as_they_are_where_tiles_were():
    px = TrainedPixels(MERCATOR, 20.0, 20.0, (10.0, 10.0), (14.0, 14.0))
    for y, own in ((8399737.9, True), (6446275.8, True), (0.0, False), (1.2e7, False)):
        for side in (20, 25):
            affine = Affine(side, 0, 0, 0, -side, y)
            found = grid(64, 64, MERCATOR, affine, resolution=12.0, trained_px=(px,))
            assert (not found.resampled) == (own and side == 20)
            other = grid(64, 64, "EPSG:3395", affine, resolution=12.0, trained_px=(px,))
            assert other.resampled


def test_half_a_percent_is_nothing():
    true = 10 * pixel_size(1, 1, ZONE, UTM[:6])[0] / 10
    for times in (1.0049, 0.9951):
        assert not grid(99, 99, ZONE, UTM @ Affine.scale(times), resolution=true).resampled
    assert grid(10_000, 10_000, ZONE, UTM @ Affine.scale(1.0051), resolution=true).resampled
    resized = grid(256, 256, ZONE, UTM, resolution=true * 1.004, tile_shape=(64, 64), size=50)
    assert (resized.net_height, resized.net_width) == (200, 200)


@pytest.mark.parametrize("scale", [17, 1e3, 1 / 300, 1e-6])
def test_ground_too_far_from_the_bundles(scale):
    with pytest.raises(DecodeError, match="net px a px; accepted: 1/256 to 16"):
        grid(100, 100, ZONE, UTM @ Affine.scale(scale))
    with pytest.raises(DecodeError, match="maps no area"):
        grid(10, 10, ZONE, Affine(10, 10, 0, 10, 10, 0))
    with pytest.raises(DecodeError, match="net px; at most"):
        grid(10**6, 10**6, ZONE, UTM @ Affine.scale(0.2), resolution=0.2)


@given(
    st.integers(1, 6), st.integers(1, 50), st.integers(1, 50), st.floats(-0.9, 0.9),
    st.floats(-1e6, 1e6),
)  # fmt: skip
def test_ratios_hold_for_any_affine(ratio, height, width, turn, origin):
    affine = Affine.translation(origin, -origin) @ Affine.rotation(turn * 90) @ Affine.scale(7, -7)
    fine = SceneExtent("fine", height * ratio, width * ratio, "EPSG:1", affine[:6])
    coarse = SceneExtent("coarse", height, width, "EPSG:1", (affine @ Affine.scale(ratio))[:6])
    _, lengths = ratios([coarse, fine])
    assert lengths == (ratio, 1)
    moved = affine @ Affine.scale(ratio) @ Affine.translation(0.1 / ratio, 0)
    with pytest.raises(DecodeError):
        ratios([fine, SceneExtent("coarse", height, width, "EPSG:1", moved[:6])])


# ---- windows


def grid_of(scene, **more):
    return net_grid(scene.facts.extent, spec(**more))


def whole_of(scene, grid):
    return read_window(scene, grid, 0, 0, grid.net_width, grid.net_height)


@pytest.mark.parametrize(
    ("scale", "tile", "size"),
    [(1.0, 32, 32), (1.0, 32, 28), (2.0, 32, 32), (0.37, 32, 28), (0.06, 32, 32)],
)
def test_window_is_a_part_of_the_whole(tmp_path, monkeypatch, scale, tile, size):
    """To the last digit, also where its strips and its edges fall elsewhere."""
    values = noise(3, 231, 307)
    path = write(tmp_path / "a.tif", values, RGB, transform=UTM @ Affine.scale(scale))
    with opened(path, RGB) as scene:
        grid = grid_of(scene, tile_shape=(tile, tile), size=size)
        height, width = grid.net_height, grid.net_width
        whole = whole_of(scene, grid)
        assert whole.pixels_CHW.dtype == (np.float32 if grid.resampled else np.uint16)
        x_1CHW = torch.from_numpy(values.astype(np.float32))[None]
        torchs = resize_tiles(x_1CHW, height, width)[0].numpy()
        np.testing.assert_allclose(whole.pixels_CHW, torchs, rtol=1e-4)
        monkeypatch.setattr(read, "STRIP", 3000)
        places = ((0, 0), (height // 3, width // 4), (height - 5, width - 7), (0, width // 2))
        for y, x, side in [(y, x, side) for y, x in places for side in (16, 50)] + [(0, width, 9)]:
            y, x = max(y, 0), max(x, 0)
            found = read_window(scene, grid, x, y, side, side + 3)
            assert found.pixels_CHW.shape == (3, side + 3, side)
            part = whole.pixels_CHW[:, y : y + side + 3, x : x + side]
            there = (slice(0, part.shape[1]), slice(0, part.shape[2]))
            np.testing.assert_array_equal(found.pixels_CHW[:, *there], part)
            expected = np.zeros((side + 3, side), dtype=bool)
            expected[there] = True
            np.testing.assert_array_equal(found.valid_HW, expected)
            assert not found.pixels_CHW[:, ~expected].any()


@pytest.mark.parametrize("scale", [1.0, 2.0, 0.5, 0.3])
@pytest.mark.parametrize(("dtype", "gap"), [("uint16", 0), ("float32", np.nan)])
def test_nodata_does_not_mix(tmp_path, scale, dtype, gap):
    values = np.full((3, 120, 160), 1000, dtype)
    values[:, 40:, :80] = gap
    affine = UTM @ Affine.scale(scale)
    with opened(write(tmp_path / "a.tif", values, RGB, nodata=0, transform=affine), RGB) as scene:
        grid = grid_of(scene, dtype=dtype)
        whole, part = whole_of(scene, grid), read_window(scene, grid, 5, 7, 30, 25)
    np.testing.assert_allclose(whole.pixels_CHW, 1000 * (whole.measured_CHW > 0), rtol=1e-6)
    np.testing.assert_array_equal(part.valid_HW, whole.valid_HW[7:32, 5:35])
    row, column = np.mgrid[: grid.net_height, : grid.net_width]
    y, x = (row + 0.5) / grid.scale_y, (column + 0.5) / grid.scale_x
    deep = 1 / min(grid.scale_x, 1)
    assert not whole.valid_HW[(y > 40 + deep) & (x < 80 - deep)].any()
    assert whole.valid_HW[(y < 40 - deep) | (x > 80 + deep)].all()
