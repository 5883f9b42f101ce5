"""The invented coast: a pure function of seed and place, and plausible."""

import numpy as np
import pytest

from satray.demo.noise import Noise, uniform
from satray.demo.ships import Ship, draw_ship, hull_area
from satray.demo.world import World


def test_any_window_agrees_with_any_other():
    world = World(3)
    whole = world.render(5000, 7000, 160, 160)
    for row, col in ((0, 0), (37, 61), (96, 96)):
        part = world.render(5000 + row, 7000 + col, 64, 64)
        inside = (slice(row, row + 64), slice(col, col + 64))
        np.testing.assert_array_equal(part.pixels, whole.pixels[:, *inside])
        np.testing.assert_array_equal(part.land, whole.land[inside])


def test_seed_decides_everything():
    first, again, other = (World(seed).render(900, 900, 48, 48).pixels for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.9


def test_noise_at_places_is_noise_in_windows_and_has_unit_variance():
    noise = Noise(5, 40.0, 4)
    window = noise.window(100, 2000, 300, 300)
    rows, cols = np.meshgrid(np.arange(100, 400) + 0.5, np.arange(2000, 2300) + 0.5, indexing="ij")
    scattered = noise.at(rows.ravel(), cols.ravel()).reshape(300, 300)
    np.testing.assert_allclose(scattered, window, atol=1e-12)
    wide = Noise(5, 4.0, 2).window(0, 0, 900, 900)
    assert abs(wide.mean()) < 0.05
    assert wide.std() == pytest.approx(1.0, abs=0.05)


def test_uniform_is_uniform_and_keyed():
    y, x = np.mgrid[0:200, -100:100]
    values = uniform(7, y, x)
    assert values.min() >= 0.0
    assert values.max() < 1.0
    assert values.mean() == pytest.approx(0.5, abs=0.01)
    assert len(np.unique(values)) == values.size
    assert (uniform(8, y, x) != values).all()


def test_near_infrared_tells_water_from_land():
    window = World(0).render(12_000, 9_000, 512, 512)
    clear = window.cloud < 0.05
    far_from_ships = np.ones_like(clear)
    for ship, _ in window.ships:
        top, left, bottom, right = (int(edge) for edge in ship.box)
        far_from_ships[
            max(top - window.row - 70, 0) : max(bottom - window.row + 70, 0),
            max(left - window.col - 70, 0) : max(right - window.col + 70, 0),
        ] = False
    land, sea = window.land & clear, ~window.land & clear & far_from_ships
    assert min(land.sum(), sea.sum()) > 1000
    nir = window.pixels[3]
    assert np.percentile(nir[land], 5) > np.percentile(nir[sea], 95)


def test_brightness_alone_does_not_tell_ships():
    """Land holds pixels as bright as any ship, far more of them than there are ship pixels."""
    window = World(0).render(12_000, 9_000, 512, 512)
    hulls = [ship.paint for ship, seen in window.ships if seen > 0.9]
    green = window.pixels[1]
    bright_land = (green[window.land & (window.cloud < 0.05)] > np.median(hulls)).sum()
    assert len(hulls) > 5
    assert bright_land > sum(hull_area(ship) for ship, seen in window.ships if seen > 0.9)


@pytest.mark.parametrize("heading", [0.0, 0.7, np.pi / 2, 4.0])
def test_hull_fills_its_box_and_nothing_else(heading):
    ship = Ship(64.3, 61.8, heading, 20.0, 4.5, 3000.0, 0.0)
    canvas = np.zeros((4, 128, 128))
    here, hull = draw_ship(ship, canvas, 0, 0, np.ones((128, 128), np.bool_))
    drawn = np.zeros((128, 128))
    drawn[here] = hull
    rows, cols = np.nonzero(drawn > 0.5)
    found = (rows.min(), cols.min(), rows.max() + 1, cols.max() + 1)
    np.testing.assert_allclose(found, ship.box, atol=2.0)  # the bow is pointed
    assert 0.6 * 20 * 4.5 < drawn.sum() < 1.3 * 20 * 4.5
    assert drawn.sum() == pytest.approx(hull_area(ship))


def test_ships_float():
    world = World(0)
    window = world.render(12_000, 9_000, 512, 512)
    for ship, _ in window.ships:
        row, col = int(ship.row) - window.row, int(ship.col) - window.col
        if 0 <= row < 512 and 0 <= col < 512:
            assert not window.land[row, col]
