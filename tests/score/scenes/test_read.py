"""Windows of a scene equal the same part of the whole scene, resampled at once."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from score.scenes.scene_material import UTM, noise, opened, spec, write

from satray.models.preprocess import resize_tiles
from satray.score.scenes import read
from satray.score.scenes.grid import net_grid
from satray.score.scenes.lanes import lane, resampled
from satray.score.scenes.read import read_window

RGB = ("red", "green", "blue")


def grid_of(scene, **more):
    return net_grid(scene.facts.extent, spec(**more))


@given(st.integers(1, 200), st.integers(1, 200), st.data())
@settings(max_examples=60)
def test_lanes_are_torchs(size, wanted, data):
    start = data.draw(st.integers(0, wanted - 1))
    stop = data.draw(st.integers(start + 1, wanted))
    x_N = np.random.default_rng(size).uniform(0, 4000, size)
    y_n = F.interpolate(
        torch.from_numpy(np.stack([x_N] * 4))[None, None],  # torch 2.15 errs on images 1 px wide
        (4, wanted),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )[0, 0, 0].numpy()
    part = lane(start, stop, size, wanted)
    assert 0 <= part.first < part.stop <= size
    got = part.matrix @ x_N[part.first : part.stop]
    np.testing.assert_allclose(got, y_n[start:stop], rtol=1e-9, atol=1e-6)


@pytest.fixture(
    params=[(1.0, 32, 32), (1.0, 32, 28), (2.0, 32, 32), (0.37, 32, 28), (0.06, 32, 32)],
    ids=lambda p: f"{p[0]}-{p[1]}-{p[2]}",
)
def case(request, tmp_path):
    """A scene, its grid, and the whole scene resampled as preprocessing does."""
    scale, tile, size = request.param
    values = noise(3, 231, 307)
    path = write(tmp_path / "a.tif", values, RGB, transform=UTM @ Affine.scale(scale))
    with opened(path, RGB) as scene:
        grid = grid_of(scene, tile_shape=(tile, tile), size=size)
        whole = resize_tiles(
            torch.from_numpy(values.astype(np.float32))[None], grid.net_height, grid.net_width
        )[0].numpy()
        yield scene, grid, whole


def windows_of(grid):
    height, width = grid.net_height, grid.net_width
    for y, x in ((0, 0), (height // 3, width // 4), (height - 5, width - 7), (0, width // 2)):
        for side in (16, 50):
            yield max(x, 0), max(y, 0), side, side + 3
    yield width + 8, 0, 16, 16  # wholly beyond the scene


def test_window_is_a_part_of_the_whole(case, monkeypatch):
    """To the last digit, also where its strips and its edges fall elsewhere."""
    scene, grid, torchs = case
    whole = read_window(scene, grid, 0, 0, grid.net_width, grid.net_height)
    assert whole.pixels_CHW.dtype == (np.float32 if grid.resampled else np.uint16)
    np.testing.assert_allclose(whole.pixels_CHW, torchs, rtol=1e-4)
    monkeypatch.setattr(read, "STRIP", 3000)
    for x, y, width, height in windows_of(grid):
        found = read_window(scene, grid, x, y, width, height)
        assert found.pixels_CHW.shape == (3, height, width)
        part = whole.pixels_CHW[:, y : y + height, x : x + width]
        there = (slice(0, part.shape[1]), slice(0, part.shape[2]))
        np.testing.assert_array_equal(found.pixels_CHW[:, *there], part)
        expected = np.zeros((height, width), dtype=bool)
        expected[there] = True
        np.testing.assert_array_equal(found.valid_HW, expected)
        assert not found.pixels_CHW[:, ~expected].any()


@pytest.mark.parametrize("scale", [1.0, 2.0, 0.5, 0.3])
def test_nodata_does_not_mix(tmp_path, scale):
    values = np.full((3, 120, 160), 1000, np.uint16)
    values[:, 40:, :80] = 0
    affine = UTM @ Affine.scale(scale)
    path = write(tmp_path / "a.tif", values, RGB, nodata=0, transform=affine)
    with opened(path, RGB) as scene:
        grid = grid_of(scene)
        whole = read_window(scene, grid, 0, 0, grid.net_width, grid.net_height)
        part = read_window(scene, grid, 5, 7, 30, 25)
    np.testing.assert_allclose(whole.pixels_CHW, 1000 * (whole.measured_CHW > 0), rtol=1e-6)
    np.testing.assert_array_equal(part.valid_HW, whole.valid_HW[7:32, 5:35])
    row, column = np.mgrid[: grid.net_height, : grid.net_width]
    y, x = (row + 0.5) / grid.scale_y, (column + 0.5) / grid.scale_x
    deep = 1 / min(grid.scale_x, 1)
    assert not whole.valid_HW[(y > 40 + deep) & (x < 80 - deep)].any()
    assert whole.valid_HW[(y < 40 - deep) | (x > 80 + deep)].all()


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_not_finite_does_not_mix(tmp_path, scale):
    values = noise(3, 60, 60, "float32")
    values[1, 20:30] = np.nan
    values[0, 5, 5] = np.inf
    path = write(tmp_path / "a.tif", values, RGB, transform=UTM @ Affine.scale(scale))
    with opened(path, RGB) as scene:
        grid = grid_of(scene, dtype="float32")
        found = read_window(scene, grid, 0, 0, grid.net_width, grid.net_height)
    assert np.isfinite(found.pixels_CHW).all()
    assert not found.valid_HW.all()
    assert found.valid_HW[: int(19 * scale)].sum() > 0


def test_a_bright_dot_stays_at_its_place(tmp_path):
    """Through reading and resampling: the centre of mass on the ground."""
    values = np.zeros((3, 200, 240), np.uint16)
    values[:, 113, 77] = 60000
    affine = UTM @ Affine.rotation(25) @ Affine.scale(1.7, 0.8)
    path = write(tmp_path / "a.tif", values, RGB, transform=affine)
    with opened(path, RGB) as scene:
        grid = grid_of(scene)
        found = read_window(scene, grid, 0, 0, grid.net_width, grid.net_height)
    w_HW = found.pixels_CHW[0].astype(float)
    row, column = np.mgrid[: grid.net_height, : grid.net_width] + 0.5
    centre = ((w_HW * column).sum() / w_HW.sum(), (w_HW * row).sum() / w_HW.sum())
    there, wanted = grid.affine_net @ centre, affine @ (77.5, 113.5)
    assert np.hypot(there[0] - wanted[0], there[1] - wanted[1]) < 5  # m; a net px is 10


def test_weights_of_valid_px_alone():
    x_CHW = np.array([[[1, 1000, 3, 5]]], np.uint16)
    valid_CHW = np.array([[[True, False, True, True]]])
    rows, columns = lane(0, 1, 1, 1), lane(0, 2, 4, 2)
    y_CHW, weight_CHW = resampled(x_CHW, valid_CHW, rows, columns)
    # taps 1 3 3 1 over their sum, cut at the edge: 3 3 1 of px 0 1 2, and 1 3 3 of px 1 2 3
    np.testing.assert_allclose(y_CHW[0, 0], [(3 * 1 + 1 * 3) / 4, (3 * 3 + 3 * 5) / 6])
    np.testing.assert_allclose(weight_CHW, [[[4 / 7, 6 / 7]]])
