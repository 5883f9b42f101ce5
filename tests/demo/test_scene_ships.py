"""Detections matched with the ships of a scene."""

import math

import pytest

from satray.demo.scene_ships import match

SHIPS = [(10.0, 10.0, 20.0, 14.0), (10.0, 18.0, 20.0, 22.0), (60.0, 60.0, 64.0, 70.0)]


def found(*points, slack=1.0):
    row, col, score = zip(*points, strict=True) if points else ((), (), ())
    return match(row, col, score, SHIPS, slack, (100, 100))


def test_each_ship_is_found_once_and_by_the_likeliest():
    told = found((15, 12, 0.9), (15, 12, 0.8), (62, 66, 0.7), (90, 90, 0.6))
    assert (told.ships, told.detections, told.hits) == (3, 4, 2)
    assert told.precision == 0.5
    assert told.recall == pytest.approx(2 / 3)
    assert told.error_px == 0.5  # of 0 and 1


def test_a_second_point_finds_the_ship_beside_it():
    between = (15, 16)
    assert found((*between, 0.9), (*between, 0.8), slack=2.0).hits == 2
    assert found((*between, 0.9), slack=1.9).hits == 0


def test_chance_is_the_share_of_the_widened_boxes():
    assert found(slack=0.0).chance == pytest.approx((40 + 40 + 40) / 100**2)
    assert found(slack=1.0).chance == pytest.approx((12 * 6 * 2 + 6 * 12) / 100**2)


def test_nothing_found_is_no_precision():
    told = found()
    assert told.recall == 0
    assert math.isnan(told.precision)
    assert math.isnan(told.error_px)
