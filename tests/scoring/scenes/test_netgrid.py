"""A scene's grid of net px: factors, affines, and what is said of them."""

import math

import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from scoring.scenes.scene_material import UTM, spec

from satray.errors import DecodeError
from satray.scoring.rasters import PIXEL_COORDINATES
from satray.scoring.scenes.metres import ground_pixel
from satray.scoring.scenes.netgrid import net_grid


def grid(height, width, crs, affine, gsd="auto", **more):
    return net_grid(height, width, crs, None if affine is None else affine[:6], spec(**more), gsd)


def test_the_bundles_own_ground_is_not_resampled():
    found = grid(300, 500, "EPSG:32631", UTM)
    assert not found.resampled
    assert (found.net_height, found.net_width) == (300, 500)
    assert found.affine_net == UTM
    assert found.why == "px of 10 m, the bundle's 10 m"


def test_coarser_scene_gets_more_net_px():
    found = grid(301, 500, "EPSG:32631", UTM @ Affine.scale(2))
    assert (found.net_height, found.net_width) == (602, 1000)
    assert (found.scale_x, found.scale_y) == (2, 2)
    assert found.affine_net.almost_equals(UTM)


def test_x_and_y_apart():
    found = grid(100, 100, "EPSG:32631", UTM @ Affine.scale(1, 2))
    assert (found.net_height, found.net_width) == (200, 100)
    assert found.why == "px of 10 x 20 m, the bundle's 10 m"


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
    assert not grid(10_000, 10_000, "EPSG:32631", UTM @ Affine.scale(1.0049)).resampled
    assert grid(10_000, 10_000, "EPSG:32631", UTM @ Affine.scale(1.0051)).resampled


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


def test_degrees_are_metres_on_the_ellipsoid():
    step = 1 / 3600
    affine = Affine(step, 0, 10, 0, -step, 60 + 50 * step)
    found = ground_pixel(100, 100, "EPSG:4326", affine)
    # a second of arc on WGS 84 at 60 degrees north
    assert found.x == pytest.approx(15.500, abs=2e-3)
    assert found.y == pytest.approx(30.948, abs=2e-3)
    same = grid(100, 1000, "EPSG:4326", affine, resolution=30.9)
    assert (same.net_height, same.net_width) == (100, round(1000 * found.x / 30.9))


def test_feet_are_feet():
    found = ground_pixel(10, 10, "EPSG:2263", Affine(1, 0, 9e5, 0, -1, 2e5))
    assert found.x == pytest.approx(0.3048, rel=1e-5)


def test_web_mercator_is_taken_at_its_word_and_told():
    y = 8399737.9  # 60 degrees north
    affine = Affine(10, 0, 1e6, 0, -10, y)
    found = grid(100, 100, "EPSG:3857", affine)
    assert not found.resampled
    assert "shows the ground 2.0" in found.why


@given(st.floats(0, 360), st.floats(-0.5, 0.5), st.floats(0.5, 30), st.floats(0.5, 30))
def test_rotated_and_skewed_by_column_norms(turn, skew, x, y):
    affine = UTM @ Affine.rotation(turn) @ Affine(1, skew, 0, 0, 1, 0) @ Affine.scale(x, y)
    found = ground_pixel(10, 20, "EPSG:32631", affine)
    assert found.x == pytest.approx(10 * x)
    assert found.y == pytest.approx(10 * y * math.hypot(1, skew))


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
    back = found.stored(found.net_height, found.net_width)
    assert back == pytest.approx((height, width))


@pytest.mark.parametrize("scale", [17, 1e9, 1 / 300, 1e-9])
def test_ground_too_far_from_the_bundles(scale):
    with pytest.raises(DecodeError, match="net px a px; accepted: 1/256 to 16"):
        grid(100, 100, "EPSG:32631", UTM @ Affine.scale(scale))
    assert not grid(100, 100, "EPSG:32631", UTM @ Affine.scale(scale), "none").resampled


def test_more_net_px_than_can_be():
    with pytest.raises(DecodeError, match="net px; at most"):
        grid(10**6, 10**6, "EPSG:32631", UTM @ Affine.scale(10))


def test_one_px_is_one_net_px_at_least():
    found = grid(1, 1, "EPSG:32631", UTM @ Affine.scale(0.01))
    assert (found.net_height, found.net_width) == (1, 1)


@pytest.mark.parametrize("lat", [89.9999, 91, 1e6, -95])
def test_degrees_beyond_the_pole(lat):
    found = grid(10, 10, "EPSG:4326", Affine(0.1, 0, 0, 0, -0.1, lat + 0.5), "auto")
    assert not found.resampled or lat < 90
