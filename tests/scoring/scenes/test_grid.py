"""Grids: factors, affines and what is said of them; files of one scene on one grid."""

import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from scoring.scenes.scene_material import UTM, spec

from satray.data.georeference import ground_pixel
from satray.errors import DecodeError
from satray.models.spec import TrainedPixels
from satray.scoring.rasters import PIXEL_COORDINATES
from satray.scoring.scenes.grid import FileGrid, net_grid, ratios


def grid(height, width, crs, affine, gsd="auto", **more):
    return net_grid(height, width, crs, None if affine is None else affine[:6], spec(**more), gsd)


def test_the_bundles_own_ground_is_not_resampled():
    found = grid(300, 500, "EPSG:32631", UTM)
    assert not found.resampled
    assert (found.net_height, found.net_width) == (300, 500)
    assert found.affine_net == UTM
    assert found.why == "px of 10 m, the bundle's 10 m"


@pytest.mark.parametrize(("times", "factor"), [(2, 2), (3, 3), (0.5, 0.5), (0.25, 0.25)])
def test_whole_factors_are_whole_whatever_the_projection_does(times, factor):
    found = grid(300, 500, "EPSG:32631", UTM @ Affine.scale(times))
    assert (found.net_height, found.net_width) == (300 * factor, 500 * factor)
    assert found.affine_net.almost_equals(UTM, 0.1)


def test_x_and_y_apart():
    found = grid(100, 100, "EPSG:32631", UTM @ Affine.scale(1, 2))
    assert (found.net_height, found.net_width) == (200, 100)
    assert found.why == "px of 10 x 20.01 m, the bundle's 10 m"
    same = grid(100, 100, "EPSG:32631", UTM @ Affine.scale(1, 2), resolution_y=20.0)
    assert not same.resampled
    square = grid(100, 100, "EPSG:32631", UTM, resolution_y=20.0)
    assert (square.net_height, square.net_width) == (50, 100)


def test_metres_are_the_grounds_not_the_maps():
    """Web Mercator at 60 degrees north has two of its metres on one of the ground."""
    mercator = Affine(20, 0, 1669792, 0, -20, 8399737.9)
    utm = Affine(10, 0, 500000, 0, -10, 6651411)
    assert not grid(100, 100, "EPSG:3857", mercator).resampled
    assert not grid(100, 100, "EPSG:32633", utm).resampled
    equator = grid(100, 100, "EPSG:3857", Affine(20, 0, 1669792, 0, -20, 0))
    assert (equator.net_height, equator.net_width) == (199, 200)
    feet = Affine(10 / 0.3048006, 0, 6.0e6, 0, -10 / 0.3048006, 2.1e6)
    assert not grid(100, 100, "EPSG:2227", feet).resampled
    degrees = grid(100, 100, "EPSG:4326", Affine(1e-4, 0, 15, 0, -1e-4, 60), resolution=5.58)
    assert (degrees.net_height, degrees.net_width) == (200, 100)


def test_pixels_of_the_tiles_own_grid_are_taken_as_they_are_where_tiles_were():
    px = TrainedPixels("EPSG:3857", 20.0, 20.0, (10.0, 10.0), (14.0, 14.0))
    for y, own in ((8399737.9, True), (6446275.8, True), (0.0, False), (1.2e7, False)):
        for side in (20, 25):
            affine = Affine(side, 0, 0, 0, -side, y)
            found = grid(64, 64, "EPSG:3857", affine, resolution=12.0, trained_px=(px,))
            assert (not found.resampled) == (own and side == 20)
            other = grid(64, 64, "EPSG:3395", affine, resolution=12.0, trained_px=(px,))
            assert other.resampled


def test_training_resized_its_tiles():
    found = grid(2560, 2561, "EPSG:32631", UTM, tile_shape=(256, 256), size=224)
    assert (found.net_height, found.net_width) == (2240, round(2561 * 0.875))
    assert found.scale_x == found.net_width / 2561
    assert "training resized tiles by 0.875" in found.why
    centred = grid(
        100, 100, "EPSG:32631", UTM, tile_shape=(256, 300), size=224, resize=256, evaluate="centre"
    )
    assert not centred.resampled


def test_half_a_percent_is_nothing():
    true = 10 * ground_pixel(1, 1, "EPSG:32631", UTM[:6]).x / 10
    for times in (1.0049, 0.9951):
        assert not grid(99, 99, "EPSG:32631", UTM @ Affine.scale(times), resolution=true).resampled
    assert grid(10_000, 10_000, "EPSG:32631", UTM @ Affine.scale(1.0051), resolution=true).resampled
    resized = grid(
        256, 256, "EPSG:32631", UTM, resolution=true * 1.004, tile_shape=(64, 64), size=50
    )
    assert (resized.net_height, resized.net_width) == (200, 200)


@pytest.mark.parametrize("gsd", ["none", 20.0])
def test_gsd_as_stated(gsd):
    affine = UTM @ Affine.scale(2)
    assert not grid(100, 100, "EPSG:32631", affine, gsd).resampled


def test_a_stated_gsd_serves_a_bundle_without():
    assert not grid(100, 100, "EPSG:32631", UTM, resolution=None).resampled
    found = grid(100, 100, "EPSG:32631", UTM, 5.0, resolution=None)
    assert found.scale_x == 2


def test_pixel_coordinates():
    found = grid(100, 100, None, None)
    assert (found.resampled, found.crs, found.affine) == (False, None, PIXEL_COORDINATES)
    assert found.why == "px as they are: no georeference: pixel coordinates"
    resized = grid(64, 64, None, None, tile_shape=(64, 64))
    assert resized.affine_net == PIXEL_COORDINATES @ Affine.scale(2)
    assert not grid(100, 100, None, UTM).resampled


@pytest.mark.parametrize("crs", ["EPSG:4978", 'LOCAL_CS["site",UNIT["metre",1]]', "no such thing"])
def test_crs_without_ground(crs):
    found = grid(100, 100, crs, UTM)
    assert not found.resampled
    assert found.why.startswith("px as they are: ")


@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.floats(0.01, 15),
    st.floats(0.01, 15),
    st.floats(0, 360),
)
def test_corners_stay_where_they_are(height, width, x, y, turn):
    affine = UTM @ Affine.rotation(turn) @ Affine.scale(x, y)
    found = grid(height, width, "EPSG:32631", affine)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        net = found.affine_net @ (column * found.net_width, row * found.net_height)
        stored = affine @ (column * width, row * height)
        assert net == pytest.approx(stored, abs=1e-3)


@pytest.mark.parametrize("scale", [17, 1e3, 1 / 300, 1e-6])
def test_ground_too_far_from_the_bundles(scale):
    with pytest.raises(DecodeError, match="net px a px; accepted: 1/256 to 16"):
        grid(100, 100, "EPSG:32631", UTM @ Affine.scale(scale))
    assert not grid(100, 100, "EPSG:32631", UTM @ Affine.scale(scale), "none").resampled


def test_more_net_px_than_can_be():
    with pytest.raises(DecodeError, match="net px; at most"):
        grid(10**6, 10**6, "EPSG:32631", UTM @ Affine.scale(0.2), resolution=0.2)


def test_one_px_is_one_net_px_at_least():
    found = grid(1, 1, "EPSG:32631", UTM @ Affine.scale(0.01))
    assert (found.net_height, found.net_width) == (1, 1)


@pytest.mark.parametrize("lat", [89.9999, 91, 1e6, -95])
def test_degrees_beyond_the_pole(lat):
    found = grid(10, 10, "EPSG:4326", Affine(0.1, 0, 0, 0, -0.1, lat + 0.5), "auto")
    assert not found.resampled or lat < 90


@given(
    st.integers(1, 6),
    st.integers(1, 50),
    st.integers(1, 50),
    st.floats(-0.9, 0.9),
    st.floats(-1e6, 1e6),
)
def test_ratios_hold_for_any_affine(ratio, height, width, turn, origin):
    affine = Affine.translation(origin, -origin) @ Affine.rotation(turn * 90) @ Affine.scale(7, -7)
    fine = FileGrid("fine", height * ratio, width * ratio, "EPSG:1", affine[:6])
    coarse = FileGrid("coarse", height, width, "EPSG:1", (affine @ Affine.scale(ratio))[:6])
    _, lengths = ratios([coarse, fine])
    assert lengths == (ratio, 1)
    moved = affine @ Affine.scale(ratio) @ Affine.translation(0.1 / ratio, 0)
    with pytest.raises(DecodeError):
        ratios([fine, FileGrid("coarse", height, width, "EPSG:1", moved[:6])])
