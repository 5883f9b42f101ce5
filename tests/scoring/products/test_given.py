"""Tiles around a point, by sums, against a look at each."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from satray.scoring.dense.windows import AxisTiles
from satray.scoring.products.given import GivenTiles


def axis(origins: list[int], size: int) -> AxisTiles:
    return AxisTiles(tuple(origins), size, {}, {})


@settings(max_examples=40)
@given(st.data())
def test_any_tile_around_a_point_will_do(data) -> None:
    draw = data.draw
    size, step = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    axes = [
        axis([step * i for i in range(draw(st.integers(1, 6)))], size) for _ in ("rows", "cols")
    ]
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    T, U, K = len(axes[0]), len(axes[1]), 3
    decided = rng.random((T, U, K)) < 0.3
    tiles = GivenTiles(*axes, K)
    cut = draw(st.integers(0, T - 1))
    for start, rows in ((0, decided[:cut]), (cut, decided[cut:])):
        tiles.add(start, rows.reshape(-1, K))
    ends = [one.origins[-1] + size for one in axes]
    places = rng.random((50, 2)) * ends
    klass = rng.integers(0, K, 50)
    wanted = [
        any(
            decided[t, u, k]
            for t, top in enumerate(axes[0].origins)
            for u, left in enumerate(axes[1].origins)
            if top <= y < top + size and left <= x < left + size
        )
        for k, (y, x) in zip(klass, places, strict=True)
    ]
    assert tiles.holds(klass, places[:, 0], places[:, 1]).tolist() == wanted


def test_the_strip_beyond_the_last_tile_is_the_last_tiles() -> None:
    tiles = GivenTiles(axis([0, 64], 64), axis([0], 64), 1)
    tiles.add(0, np.array([[False], [True]]))
    beyond, inside = np.array([128.0, 140.0, 10.0]), np.array([70.0, 0.0, 70.0])
    assert tiles.holds([0, 0, 0], beyond, inside).tolist() == [True, True, False]
    assert tiles.holds([], np.zeros(0), np.zeros(0)).tolist() == []
