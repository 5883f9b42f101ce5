"""Maps read back as the score job writes them, the games on them, and what is said."""

import math

import numpy as np
import pytest
from affine import Affine

from satray.demo.archive import geotiff
from satray.demo.results import MappedTile, match, pointing, read_tiles, result_lines
from satray.score.products.names import product_path
from satray.score.rasters import cam_raster
from satray.storage import Storage

CELLS = Affine.scale(8)  # 8 x 8 cells on 64 x 64 px
PLACE = Affine(3.0, 0, 500_000, 0, -3.0, 5_800_000)


def mapped(cam, boxes=(), cells=CELLS):
    return MappedTile((64, 64), boxes, np.float32(cam), cells)


def one_peak(row, col, cells=8):
    cam = np.zeros((cells, cells))
    cam[row, col] = 1
    return cam


@pytest.mark.parametrize(
    ("cam", "cells", "peak"),
    [
        (one_peak(2, 5), CELLS, (20.0, 44.0)),
        # A shifted, finer grid: cells of 4 px that start at (-1.5, -1.5) px.
        (one_peak(3, 0, 16), Affine.translation(-1.5, -1.5) @ Affine.scale(4), (12.5, 0.5)),
        # NaN cells do not count, and the first of equals wins.
        ([[math.nan, 2.0], [2.0, 1.0]], Affine.scale(32), (16.0, 48.0)),
    ],
)
def test_peak_is_the_centre_of_the_highest_cell_in_tile_pixels(cam, cells, peak):
    assert mapped(cam, cells=cells).peak == pytest.approx(peak)


@pytest.mark.parametrize(
    ("boxes", "hits"),
    [
        ([(18, 40, 22, 50)], 1),  # around (20, 44), the peak
        ([(24, 40, 30, 50)], 1),  # half a cell away
        ([(24.1, 40, 30, 50)], 0),
        ([(0, 0, 5, 5), (18, 40, 22, 50)], 1),  # any of several ships will do
    ],
)
def test_a_peak_hits_within_half_a_cell(boxes, hits):
    found = pointing([mapped(one_peak(2, 5), boxes), mapped(one_peak(7, 0), [(20, 20, 30, 40)])])
    assert (found["tiles"], found["hits"]) == (2, hits)
    assert 18 * 28 / 64**2 < found["expected"] < 0.4
    assert pointing([]) == {"tiles": 0, "hits": 0, "expected": 0}


def test_random_maps_hit_as_often_as_chance_says():
    rng = np.random.default_rng(0)
    found = pointing(
        mapped(rng.standard_normal((8, 8)), [(top, left, top + 10, left + 14)])
        for top, left in rng.uniform(0, 50, (3000, 2))
    )
    assert abs(found["hits"] - found["expected"]) < 4 * math.sqrt(found["expected"])


SHIPS = [(10.0, 10.0, 20.0, 14.0), (10.0, 18.0, 20.0, 22.0), (60.0, 60.0, 64.0, 70.0)]
BETWEEN = (15, 16)  # two of them


@pytest.mark.parametrize(
    ("points", "slack", "hits"),
    [
        # Each ship is found once.
        ([(15, 12, 0.8), (15, 12, 0.9), (62, 66, 0.7), (90, 90, 0.6)], 1.0, 2),
        # A second point finds the ship beside it.
        ([(*BETWEEN, 0.9), (*BETWEEN, 0.8)], 2.0, 2),
        ([(*BETWEEN, 0.9)], 1.9, 0),
        ([], 1.0, 0),
    ],
)
def test_detections_are_matched_with_ships(points, slack, hits):
    found = match(points, SHIPS, slack, (100, 100))
    assert (found["ships"], found["detections"], found["hits"]) == (3, len(points), hits)
    # by chance: the share of the widened boxes; what overlaps counts once, what lies outside not
    if slack == 1.0:
        assert found["chance"] == pytest.approx((12 * 6 * 3) / 100**2)
    if slack == 2.0:
        assert found["chance"] == pytest.approx((14 * 16 + 8 * 14) / 100**2)
    assert match(points, SHIPS, 0.0, (100, 70))["chance"] == pytest.approx(120 / 7000)
    assert match(points, SHIPS, 0.0, (62, 70))["chance"] == pytest.approx(100 / 4340)


def test_maps_of_towers_add_up(tmp_path):
    """A tile, and its maps from two towers as a score job leaves them."""
    storage = Storage()
    pixels = np.random.default_rng(0).integers(300, 3000, (4, 64, 64), dtype=np.uint16)
    storage.write(str(tmp_path / "tiles" / "t1.tif"), geotiff(pixels, PLACE))
    maps = np.zeros((2, 2, 8, 8), np.float32)  # tower, class, h, w
    maps[0, 1, 2, 5], maps[1, 1, 2, 5], maps[1, 1, 6, 6] = 1.0, 1.0, 1.5
    for tower, values in zip(("rgb", "nir"), maps, strict=True):
        data = cam_raster(values, ["sea", "ship"], PLACE @ CELLS, "EPSG:32631", {})
        storage.write(str(tmp_path / "score" / product_path("cam", "t1", tower)), data)
    tiles = []
    for towers in (("rgb", "nir"), ("nir",)):
        folders = str(tmp_path / "tiles"), str(tmp_path / "score")
        ships = {"t1": [(18.0, 40.0, 22.0, 50.0)]}
        tiles += read_tiles(storage, *folders, ships, towers, "ship")
        assert tiles[-1].shape == (64, 64)
    assert [tile.peak for tile in tiles] == [pytest.approx((20, 44)), pytest.approx((52, 52))]
    assert pointing(tiles)["hits"] == 1


def test_every_figure_stands_beside_its_chance():
    metrics = {"accuracy": 0.98, "baseline_accuracy": 0.75, "map": 0.99, "baseline_map": 0.45}
    game = {"tiles": 40, "hits": 38, "expected": 4.7}
    found = {"ships": 100, "detections": 80, "hits": 60, "chance": 0.125}
    one = {"name": "simple_cnn", "tiles": 120, "metrics": metrics, "auc": 0.97}
    lines = result_lines([one | {"pointing": game, "scene": found}], "ship")
    table, scene = "\n".join(lines).split("\n\n")
    for figure in ("0.980 (0.750)", "0.990 (0.450)", "0.970 (0.500)", "38 of 40 (4.7)"):
        assert figure in table
    assert "60 of 100 found by 80 points (precision 0.75, 0.12 by chance; recall 0.60)" in scene
    assert max(map(len, table.splitlines())) <= 100
