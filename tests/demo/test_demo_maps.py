"""Maps are read back as the score job writes them, played with, drawn and told of."""

import io
import json

import numpy as np
import pytest
from affine import Affine
from PIL import Image

from satray.demo.generator import geotiff
from satray.demo.maps import pointing_score, read_map, read_tiles
from satray.demo.picture import overview
from satray.demo.pointing import Score
from satray.demo.results import Result, result_lines, seconds_lines
from satray.demo.scene_ships import Found
from satray.demo.world import World
from satray.scoring.rasters import cam_path, cam_raster
from satray.storage import Storage

CRS = "EPSG:32631"


@pytest.fixture
def scored(tmp_path):
    """One tile of the world, and its maps from two towers, as a score job leaves them."""
    window = World(0).render(12_000, 9_000, 64, 64)
    storage = Storage()
    uri = str(tmp_path / "tiles" / "t1.tif")
    storage.write(uri, geotiff(window.pixels, window.transform))
    cells = window.transform @ Affine.scale(8)
    maps = np.zeros((2, 2, 8, 8), np.float32)  # tower, class, h, w
    maps[0, 1, 2, 5], maps[1, 1, 2, 5], maps[1, 1, 6, 6] = 1.0, 1.0, 1.5
    for tower, values in zip(("rgb", "nir"), maps, strict=True):
        data = cam_raster(values, ["sea", "ship"], cells, CRS, {})
        storage.write(str(tmp_path / "score" / cam_path("t1", tower)), data)
    return storage, str(tmp_path / "score"), uri, window


def test_towers_add_up_to_the_networks_map(scored):
    storage, out, _, window = scored
    both = read_map(storage, out, "t1", ("rgb", "nir"), "ship")
    assert np.unravel_index(both.values.argmax(), (8, 8)) == (2, 5)
    alone = read_map(storage, out, "t1", ("nir",), "ship")
    assert np.unravel_index(alone.values.argmax(), (8, 8)) == (6, 6)
    assert both.transform == window.transform @ Affine.scale(8)


def test_towers_on_different_grids_are_refused(scored):
    storage, out, _, window = scored
    data = cam_raster(
        np.zeros((1, 4, 4), np.float32), ["ship"], window.transform @ Affine.scale(16), CRS, {}
    )
    storage.write(f"{out}/{cam_path('t1', 'nir')}", data)
    with pytest.raises(ValueError, match="t1: towers rgb, nir lie on different grids"):
        read_map(storage, out, "t1", ("rgb", "nir"), "ship")


def test_tile_and_map_meet_on_the_ground(scored):
    storage, out, uri, window = scored
    boxes = {"t1": ((18.0, 40.0, 22.0, 50.0),)}  # around (20, 44), the centre of cell (2, 5)
    (tile,) = read_tiles(storage, out, [("t1", uri)], boxes, ("rgb", "nir"), "ship")
    np.testing.assert_array_equal(tile.pixels, window.pixels)
    score = pointing_score([tile])
    assert (score.hits, score.expected) == (1, pytest.approx(12 * 18 / 64**2))
    (tile,) = read_tiles(storage, out, [("t1", uri)], boxes, ("nir",), "ship")
    assert pointing_score([tile]).hits == 0


def test_overview_is_a_picture_with_a_row_a_network(scored):
    storage, out, uri, _ = scored
    tiles = read_tiles(
        storage, out, [("t1", uri)] * 2, {"t1": ((18.0, 40.0, 22.0, 50.0),)}, ("rgb",), "ship"
    )
    one, two = (
        Image.open(io.BytesIO(overview(dict.fromkeys(names, tiles), "ship")))
        for names in (["a"], ["a", "b"])
    )
    assert one.format == "PNG"
    assert two.height > one.height
    assert two.width == one.width
    # It shows something: not one colour.
    assert len(np.unique(np.asarray(two.convert("L")))) > 50


def a_result(**keys):
    values = {
        "name": "simple_cnn",
        "tiles": 120,
        "accuracy": 0.98,
        "majority": 0.75,
        "map": 0.99,
        "prevalence": 0.45,
        "auc": 0.97,
        "pointing": Score(40, 38, 4.7, 2.0),
        "scene": Found(100, 80, 60, 0.125, 2.5),
    }
    return Result(**{**values, **keys})


def test_every_figure_stands_beside_its_chance():
    text = "\n".join(result_lines([a_result()]))
    for said in ("0.980 (0.750)", "0.990 (0.450)", "0.970 (0.500)", "38 of 40 (4.7 ± 2.0)"):
        assert said in text
    assert max(map(len, text.splitlines())) <= 100


def test_what_is_not_defined_is_null_in_json():
    nothing = Found(0, 0, 0, 0.0, float("nan"))
    tree = a_result(auc=float("nan"), pointing=Score(0, 0, 0.0, 0.0), scene=nothing).to_dict()
    assert tree["auc"] is None
    assert tree["pointing"]["rate"] is None
    assert tree["scene"]["recall"] is tree["scene"]["precision"] is None
    json.dumps(tree, allow_nan=False)


def test_seconds_name_the_longest_parts_first():
    lines = seconds_lines(
        {"train": 50.0, "score": 9.0},
        {
            "train": {
                "evaluating": 3.0,
                "training": 30.0,
                "total": 50.0,
                "reading (all processes)": 9,
            }
        },
    )
    assert lines[1].split() == ["train", "50.0", "training", "30.0,", "evaluating", "3.0"]
    assert lines[2].split() == ["score", "9.0"]
