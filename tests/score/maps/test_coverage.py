"""Px without data by cell: what windows count adds up to what the whole mask says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from score.dense.test_windows import geometry

from satray.score.layout import owned
from satray.score.overview import coverage_of
from satray.score.windows import plan_scene

GEOMETRIES = (geometry(64, (16, 1, 0, 8.0)), geometry(96, (32, 1, 0, 0.5), (16, 2, 0, 7.5)))


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(GEOMETRIES),
    st.tuples(st.integers(40, 400), st.integers(40, 400)),
    st.booleans(),
    st.integers(0, 99),
)
def test_windows_add_up_to_the_scene(geo, size, tiles, seed):
    valid_HW = np.random.default_rng(seed).random(size) < 0.7
    plan = (
        plan_scene(*size, geo, window=128, mode="tiles")
        if tiles
        else plan_scene(*size, geo, window=128)
    )
    coverage = coverage_of(size, plan)
    padded = np.zeros((size[0] + 1024, size[1] + 1024), bool)
    padded[: size[0], : size[1]] = valid_HW
    gaps = np.zeros(coverage.shape, np.int32)
    across = sum(w.row.px == plan.windows[0].row.px for w in plan.windows)
    rows = owned([w.row.px.start for w in plan.windows[::across]], size[0])
    cols = owned([w.col.px.start for w in plan.windows[:across]], size[1])
    last = [0, 0]
    for number, window in enumerate(plan.windows):
        y, x = window.row.px, window.col.px
        seen = padded[y.start : y.stop, x.start : x.stop]
        alone = rows[number // across], cols[number % across]
        found = coverage.gaps(seen, (y.start, x.start), *alone)
        h, w = found.counts.shape
        gaps[found.row : found.row + h, found.col : found.col + w] += found.counts
        last = [min(y.stop, size[0]), min(x.stop, size[1])]
    tower = min((geo.tower(t.name) for t in geo.towers), key=lambda t: t.stride)
    corner = tower.centre - tower.stride / 2
    for i in range(coverage.shape[0]):
        for j in range(coverage.shape[1]):
            # px whose centre lies in the cell, as far as any window looks
            top, left = (max(0, int(np.ceil(corner + n * tower.stride - 0.5))) for n in (i, j))
            bottom, right = (
                min(end, int(np.ceil(corner + (n + 1) * tower.stride - 0.5)))
                for n, end in ((i, last[0]), (j, last[1]))
            )
            assert gaps[i, j] == (~valid_HW[top:bottom, left:right]).sum()


@pytest.mark.parametrize(("share", "kept"), [(0.49, False), (0.51, True), (1.0, True)])
def test_a_cell_has_data_from_a_half_on(share, kept):
    plan = plan_scene(64, 72, GEOMETRIES[0])
    coverage = coverage_of((64, 72), plan)
    counts = np.full(coverage.shape, round((1 - share) * 256), np.int32)
    counts[:, -1] //= 2  # of the last column the scene holds a half
    mostly = coverage.mostly_data(counts)
    assert mostly[:, :5].all() == kept
