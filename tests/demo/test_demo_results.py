"""Maps read back as the score job writes them, the games on them, and what is said."""

import math

import numpy as np
import pytest
from affine import Affine

from satray.demo.archive import geotiff
from satray.demo.results import MappedTile, match, pointing, read_tiles
from satray.score.products.names import product_path
from satray.score.rasters import cam_raster
from satray.storage import Storage

CELLS = Affine.scale(8)  # 8 x 8 cells on 64 x 64 px
PLACE = Affine(3.0, 0, 500_000, 0, -3.0, 5_800_000)


def mapped(cam, boxes=(), cells=CELLS):
    return MappedTile((64, 64), boxes, np.float32(cam), cells)


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
