"""Plans of windows and tiles: what must hold for any network, scene and stride."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satray.errors import InputError
from satray.models.geometry import FeatureGrid
from satray.score.windows import (
    DenseGeometry,
    axis_tiles,
    choose,
    geometry_of,
    least_side,
    plan_scene,
)


def geometry(size: int = 224, *towers: tuple[int, int | None, int, float]) -> DenseGeometry:
    """Towers of (stride, halo, short, centre)."""
    names = {f"t{n}": tower for n, tower in enumerate(towers or ((32, 7, 0, 0.5),))}
    cells = {
        name: max(1, math.ceil(size / stride) - short)
        for name, (stride, _, short, _) in names.items()
    }
    grids = {name: FeatureGrid(s, c, halo) for name, (s, halo, _, c) in names.items()}
    return geometry_of(grids, size, cells, {name: tower[2] for name, tower in names.items()})


RESNET18 = geometry()
INCEPTION = geometry(299, (32, 20, 2, 37.5))

towers = st.tuples(
    st.sampled_from([8, 16, 32]),
    st.integers(0, 9),
    st.integers(0, 2),
    st.sampled_from([0.5, 3.5, 16.0]),
)
geometries = st.builds(
    lambda size, some: geometry(size, *some),
    st.integers(65, 320),  # at which networks that are two cells short give one
    st.lists(towers, min_size=1, max_size=2),
)
lengths = st.integers(1, 5000)
steps = st.integers(1, 700)
windows = st.integers(1, 2500)


@given(geometries, lengths, steps, windows, st.booleans())
@settings(max_examples=300)
def test_cores_and_tiles_partition_the_scene(geo, length, step, window, argmax):
    plan = plan_scene(length, 64, geo, step=step, window=window, argmax=argmax)
    padded = geo.padded(length)
    axes = list(dict.fromkeys(id(w.row) for w in plan.windows))
    rows = [next(w.row for w in plan.windows if id(w.row) == place) for place in axes]
    sides = {len(row.px) for row in rows}
    assert len(sides) == 1  # one shape for all, so that engines may be made for it
    assert sides.pop() <= max(window + geo.block, least_side(geo), geo.shortest)
    assert all(row.px.start >= 0 and row.px.stop <= padded for row in rows)
    assert all(row.px.start % geo.block == 0 and len(row.px) % geo.block == 0 for row in rows)
    assert rows[-1].px.stop == padded
    # every tile once, in order
    assert [t for row in rows for t in range(row.tiles.start, row.tiles.stop)] == list(
        range(len(plan.rows))
    )
    for tower in geo.towers:
        kept = [c for row in rows for c in range(*vars(row.cells[tower.name]).values())]
        assert kept == list(range(tower.cells(padded)))
        for row in rows:
            exact, core = row.exact[tower.name], row.cells[tower.name]
            assert not len(core) or exact.start <= core.start < core.stop <= exact.stop
            # what zero padding inside the scene can reach is not exact
            first, halo = row.px.start // tower.stride, tower.halo
            assert exact.start == (first + halo if row.px.start else 0)
            end = first + tower.cells(len(row.px))
            assert exact.stop <= end - (halo if row.px.stop < padded else 0)
            if argmax:
                assert core.start % tower.tile_cells == 0 or not len(core)
            for tile in range(row.tiles.start, row.tiles.stop):
                start = plan.rows.starts[tower.name][tile]
                assert exact.start <= start
                assert start + plan.rows.counts[tower.name] <= exact.stop
                origin = plan.rows.origins[tile]
                assert row.px.start <= origin
                assert origin + plan.rows.size <= row.px.stop


@given(geometries, lengths, steps)
def test_tiles_lie_within_the_scene_and_reach_its_edge(geo, length, step):
    tiles = axis_tiles(length, geo, step)
    assert tiles.origins[0] == 0
    assert list(tiles.origins) == sorted(set(tiles.origins))
    assert tiles.origins[-1] + tiles.size <= length
    assert length - (tiles.origins[-1] + tiles.size) < geo.block
    for tower in geo.towers:
        total = tower.cells(geo.padded(length))
        for origin, start in zip(tiles.origins, tiles.starts[tower.name], strict=True):
            assert start >= 0
            assert start + tiles.counts[tower.name] <= total
            if length >= geo.size:
                # the nearest cell, exactly where the stride is one of cells
                assert abs(start * tower.stride - origin) <= tower.stride / 2 + (
                    tower.stride if start + tower.tile_cells == total else 0
                )
                if origin % tower.stride == 0:
                    assert start == origin // tower.stride
    if length < geo.size:
        assert len(tiles) == 1


@given(geometries, lengths, lengths, st.integers(20, 700), st.integers(1, 1500))
@settings(max_examples=100)
def test_pieces_hold_each_tile_once(geo, height, width, step, side):
    plan = plan_scene(height, width, geo, step=step, window=side, mode="tiles")
    seen = set()
    for piece in plan.windows:
        for axis, tiles in ((piece.row, plan.rows), (piece.col, plan.cols)):
            assert len(axis.px) <= max(side, geo.size) + 2 * geo.block
            for tile in range(axis.tiles.start, axis.tiles.stop):
                assert axis.px.start <= tiles.origins[tile]
                assert tiles.origins[tile] + geo.size <= axis.px.stop
        for i in range(piece.row.tiles.start, piece.row.tiles.stop):
            for j in range(piece.col.tiles.start, piece.col.tiles.stop):
                assert (i, j) not in seen
                seen.add((i, j))
    assert len(seen) == plan.tiles == len(plan.rows) * len(plan.cols)


@given(geometries, lengths, steps)
def test_each_cell_that_tiles_reach_is_the_nearest_ones(geo, length, step):
    tiles = axis_tiles(length, geo, step)
    for tower in geo.towers:
        count = min(tiles.counts[tower.name], tower.tile_cells)
        starts, cores = tiles.starts[tower.name], tiles.cores(tower)
        owners = {cell: t for t, core in enumerate(cores) for cell in range(core.start, core.stop)}
        assert sum(map(len, cores)) == len(owners)
        assert set(owners) == {cell for start in starts for cell in range(start, start + count)}
        for cell, tile in owners.items():
            off = [abs(2 * start + count - 1 - 2 * cell) for start in starts]
            assert off[tile] == min(off)


def test_a_large_scenes_kept_part_approaches_the_bound_of_the_notes():
    plan = plan_scene(20_000, 20_000, RESNET18, window=2048)
    assert plan.windows[0].height <= 2048
    assert 0.5 < plan.kept < (1 - 14 / 64) ** 2 + 0.05
    assert plan.tiles == math.ceil(20_000 / 224) ** 2


def test_no_halo_means_tiles_and_says_why():
    geo = geometry(64, (8, None, 0, 4.0))
    with pytest.raises(InputError, match=r"mode=dense: found halo: null .tower t0"):
        plan_scene(500, 500, geo)
    mode, why = choose(geo)
    assert mode == "tiles"
    assert "halo: null" in why


def test_strides_that_are_no_whole_pixels_are_refused():
    with pytest.raises(InputError, match=r"stride of 7\.5 px"):
        geometry_of({"a": FeatureGrid(7.5, 3.0, 2)}, 64, {"a": 8}, {"a": 0})


def test_auto_takes_tiles_without_overlap_and_windows_with_much():
    mode, why = choose(RESNET18, window=2048)
    assert mode == "tiles"
    assert float(re.search(r"would cost (\S+) x as much", why)[1]) > 1
    mode, why = choose(RESNET18, step=56, window=2048)
    assert mode == "dense"
    assert float(re.search(r"look at (\S+) x as many px", why)[1]) > 5


def test_averaged_maps_are_centred():
    (tower,) = geometry(256, (32, 7, 0, 0.5)).turned(tiles=False).towers
    assert tower.centre == 16
    (tower,) = INCEPTION.turned(tiles=False).towers
    assert tower.centre == 48
    # a tile of 299 px has 8 cells in Inception: 37.5 ... 261.5, centred already
    (tower,) = INCEPTION.turned(tiles=True).towers
    assert tower.centre == 37.5
    (tower,) = RESNET18.turned(tiles=True).towers
    assert tower.centre == 16
