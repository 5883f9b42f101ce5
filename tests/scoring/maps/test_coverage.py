"""Px without data by cell: what windows count adds up to what the whole mask says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring.dense.test_windows import geometry

from satray.scoring.dense.windows import plan_scene
from satray.scoring.maps.coverage import coverage_of
from satray.scoring.maps.plan import owned, rows_of

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
    rows = rows_of(plan)
    last = [0, 0]
    for row, down in zip(rows, owned([r.px for r in rows], size[0]), strict=True):
        for part, across in zip(
            row.parts, owned([p.col.px for p in row.parts], size[1]), strict=True
        ):
            y, x = part.row.px, part.col.px
            window = padded[y.start : y.stop, x.start : x.stop]
            found = coverage.gaps(window, (y.start, x.start), down, across)
            gaps[found.row : found.row + len(found.counts)] += found.counts
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
