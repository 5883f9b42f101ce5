"""The pointing game by hand-made maps and boxes."""

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from satray.demo.pointing import Point, covered, half_cell, peak, play, total

TILE = Affine(3.0, 0, 500_000, 0, -3.0, 5_800_000)  # 64 x 64 px of 3 m
CELLS = TILE @ Affine.scale(8)  # 8 x 8 cells


def a_map(row, col, cells=8):
    cam = np.zeros((cells, cells), np.float32)
    cam[row, col] = 1.0
    return cam


def test_peak_is_the_centre_of_the_highest_cell_in_tile_pixels():
    assert peak(a_map(2, 5), CELLS, TILE) == pytest.approx((20.0, 44.0))


def test_peak_goes_through_the_maps_own_transform():
    """A shifted, finer grid: cells of 4 px that start at (-1.5, -1.5) px."""
    cells = TILE @ Affine.translation(-1.5, -1.5) @ Affine.scale(4)
    assert peak(a_map(3, 0, 16), cells, TILE) == pytest.approx((12.5, 0.5))


def test_nan_cells_do_not_count_and_the_first_of_equals_wins():
    cam = np.array([[np.nan, 2.0], [2.0, 1.0]], np.float32)
    assert peak(cam, TILE @ Affine.scale(32), TILE) == pytest.approx((16.0, 48.0))


def test_tolerance_is_half_a_cell():
    assert half_cell(CELLS, TILE) == pytest.approx((4.0, 4.0))
    # Centre of cell (2, 5) is (20, 44).
    inside, at_the_edge, outside = (18, 40, 22, 50), (24, 40, 30, 50), (24.1, 40, 30, 50)
    hits = [
        play(a_map(2, 5), CELLS, TILE, (64, 64), [box]).hit
        for box in (inside, at_the_edge, outside)
    ]
    assert hits == [True, True, False]


def test_any_of_several_ships_will_do():
    boxes = [(0, 0, 5, 5), (18, 40, 22, 50)]
    assert play(a_map(2, 5), CELLS, TILE, (64, 64), boxes).hit
    assert not play(a_map(7, 7), CELLS, TILE, (64, 64), boxes).hit


def test_chance_is_the_share_that_the_widened_boxes_cover():
    point = play(a_map(0, 0), CELLS, TILE, (64, 64), [(20, 20, 30, 40)])
    assert point.chance == pytest.approx((18 * 28) / 64**2)


def test_what_overlaps_counts_once_and_what_lies_outside_not_at_all():
    assert covered([(0, 0, 10, 10), (5, 5, 15, 15)], 20, 20) == pytest.approx(175 / 400)
    assert covered([(-10, -10, 10, 10)], 20, 20) == pytest.approx(0.25)
    assert covered([(-10, -10, -1, -1)], 20, 20) == 0.0
    assert covered([], 20, 20) == 0.0
    assert covered([(-1, -1, 21, 21)], 20, 20) == 1.0


@given(
    st.lists(st.tuples(*[st.integers(-4, 20)] * 4), min_size=1, max_size=5).map(
        lambda boxes: [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in boxes]
    )
)
def test_cover_equals_counting_pixels(boxes):
    mask = np.zeros((16, 16), bool)
    for top, left, bottom, right in boxes:
        mask[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = True
    assert covered(boxes, 16, 16) == pytest.approx(mask.mean())


def test_total_counts_and_expects():
    score = total([Point(True, 0.1), Point(False, 0.2), Point(True, 0.3)])
    assert (score.tiles, score.hits) == (3, 2)
    assert score.expected == pytest.approx(0.6)
    assert score.spread == pytest.approx(np.sqrt(0.09 + 0.16 + 0.21))
    assert (score.rate, score.chance) == pytest.approx((2 / 3, 0.2))
    assert np.isnan(total([]).rate)


def test_random_maps_hit_as_often_as_chance_says():
    """The two halves of the game are commensurate: blind peaks score what `expected` predicts."""
    rng = np.random.default_rng(0)
    points = []
    for _ in range(3000):
        top, left = rng.uniform(0, 50, 2)
        cam = rng.standard_normal((8, 8)).astype(np.float32)
        points.append(play(cam, CELLS, TILE, (64, 64), [(top, left, top + 10, left + 14)]))
    score = total(points)
    assert abs(score.hits - score.expected) < 4 * score.spread
