"""A bright dot at a known place: its cell, its tile and its detection lie there."""

import maps_material as material
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import Geod, Transformer

from satray.models.bundle import load_bundle
from satray.storage import Storage

DEGREES = Affine(1.37e-4, 0, 2.3, 0, -9e-5, 48.9)  # 10 m a px there
TURNED = Affine.translation(448000, 5411000) @ Affine.rotation(33) @ Affine.scale(10, -10)
SKEWED = Affine(10, 1.5, 448000, -0.8, -10, 5411000)
PLACES = {
    "projected": ("EPSG:32631", material.UTM),
    "geographic": ("EPSG:4326", DEGREES),
    "rotated": ("EPSG:32631", TURNED),
    "skewed": ("EPSG:32631", SKEWED),
    "south up": ("EPSG:32631", Affine(10, 0, 448000, 0, 10, 5411000)),
    "finer px": ("EPSG:32631", Affine(6, 0, 448000, 0, -6, 5411000)),
    "coarser px": ("EPSG:32631", Affine(20, 0, 448000, 0, -20, 5411000)),
    "other x than y": ("EPSG:32631", Affine(8, 0, 448000, 0, -15, 5411000)),
    "rotated, finer": ("EPSG:32631", TURNED @ Affine.scale(0.7)),
}
NET = (300, 420)
"""Scene, net px."""
DOT = (141, 268)
"""Its place, net px."""


def one_dot(path, crs, transform, scale_x, scale_y):
    """A scene with a dot of 12 net px; the dot's row and column in stored px."""
    shape = round(NET[0] / scale_y), round(NET[1] / scale_x)
    pixels = material.field(*shape)
    row, col = round(DOT[0] / scale_y), round(DOT[1] / scale_x)
    down, right = round(6 / scale_y), round(6 / scale_x)
    pixels[:, row - down : row + down, col - right : col + right] = 60000
    material.write_scene(path, pixels, crs, transform)
    return row, col


def metres(crs, transform):
    """m a px: columns' and rows'."""
    if crs == "EPSG:4326":
        geod = Geod(ellps="WGS84")
        x, y = transform @ (NET[1] / 2, NET[0] / 2)
        right = geod.inv(x, y, x + transform.a, y)[2]
        return right, geod.inv(x, y, x, y + transform.e)[2]
    return np.hypot(transform.a, transform.d), np.hypot(transform.b, transform.e)


@pytest.mark.parametrize(
    ("place", "mode"),
    [(place, "dense") for place in PLACES] + [("projected", "tiles"), ("rotated, finer", "tiles")],
)
def test_a_dot_is_where_it_is(bundle, inline, tmp_path, place, mode):
    crs, transform = PLACES[place]
    scales = (m / 10 for m in metres(crs, transform))
    scale_x, scale_y = (1.0 if abs(scale - 1) < 0.005 else scale for scale in scales)
    row, col = one_dot(tmp_path / "scenes" / "a.tif", crs, transform, scale_x, scale_y)
    given = material.recipe(bundle(), tmp_path / "scenes", mode=mode, stride=1 / 3)
    run, outcome, _, _ = material.scored(given, tmp_path / "out")
    assert outcome.counts["detections"] == 1
    half_x, half_y = 16 / scale_x, 16 / scale_y  # half a cell, stored px

    # the raster: exactly where the network's cells lie, and brightest at the dot
    spec = load_bundle(str(bundle()), Storage()).spec
    grid = spec.grids["rgb"]
    with rasterio.open(run.uri("cam/a.tif.tif")) as source:
        assert source.crs == rasterio.CRS.from_user_input(crs)
        assert source.descriptions == ("dot", "dark")
        with rasterio.open(tmp_path / "scenes" / "a.tif") as scene:
            height, width = scene.shape
        net_height, net_width = round(height * scale_y), round(width * scale_x)
        first = grid.centre - grid.stride / 2
        expected = (
            transform
            @ Affine.scale(width / net_width, height / net_height)
            @ Affine.translation(first, first)
            @ Affine.scale(grid.stride)
        )
        assert source.transform.almost_equals(expected, 1e-9 if crs == "EPSG:4326" else 1e-6)
        cam = source.read(1)
        i, j = np.unravel_index(np.nanargmax(cam), cam.shape)
        x, y = source.transform @ (j + 0.5, i + 0.5)
        c, r = ~transform @ (x, y)
        assert abs(c - col) <= half_x + 1
        assert abs(r - row) <= half_y + 1
        assert np.nanmax(source.read(2)) <= 0

    # the detection
    (found,) = material.rows_of(run, "detections/a.tif.parquet")
    assert (found["class"], found["scene"]) == ("dot", "a.tif")
    assert found["score"] > 0.5
    assert abs(found["col"] - col) <= half_x
    assert abs(found["row"] - row) <= half_y
    assert np.allclose(transform @ (found["col"], found["row"]), (found["x"], found["y"]))
    to_degrees = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    lon, lat = to_degrees.transform(found["x"], found["y"])
    assert np.allclose((found["lon"], found["lat"]), (lon, lat), atol=1e-9)
    there = to_degrees.transform(*(transform @ (col, row)))
    off = Geod(ellps="WGS84").inv(*there, found["lon"], found["lat"])[2]
    assert off <= 160 * np.sqrt(2) * 1.02

    # the tiles
    tiles = material.tiles_of(run)
    best = max(tiles, key=lambda tile: tile["score_dot"])
    assert best["row"] <= row <= best["row"] + best["height"]
    assert best["col"] <= col <= best["col"] + best["width"]
    for tile in tiles:
        holds = (
            tile["row"] <= row < tile["row"] + tile["height"]
            and tile["col"] <= col < tile["col"] + tile["width"]
        )
        outline = shapely.from_wkb(tile["geometry"])
        assert outline.buffer(1e-4).contains(shapely.Point(there)) or not holds
        corner = to_degrees.transform(*(transform @ (tile["col"], tile["row"])))
        px = 1.5 * max(abs(v) for v in (DEGREES.a, transform.a / 1e5, transform.e / 1e5))
        assert outline.distance(shapely.Point(corner)) < px  # rounded to whole stored px
        assert (tile["height"], tile["width"]) == (round(96 / scale_y), round(96 / scale_x))


@pytest.mark.parametrize("mode", ["dense", "tiles"])
@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_maps_add_up_to_the_tiles_logits(bundle, inline, tmp_path, pooling, mode):
    """GAP: the mean of the dense map; GMP: the sum of the argmax map; and the bias."""
    pixels = material.dotted(material.field(288, 384, bands=4), (50, 60), (200, 300))
    names = (*material.BANDS, "nir")
    material.write_scene(tmp_path / "scenes" / "a.tif", pixels, names=names)
    folder = bundle(pooling=pooling, towers=2)
    given = material.recipe(folder, tmp_path / "scenes", mode=mode)
    run, outcome, _, _ = material.scored(given, tmp_path / "out")
    kind = "argmax" if pooling == "max" else "cam"
    total, dense = 0.0, 0.0
    for tower in ("rgb", "nir"):
        with rasterio.open(run.uri(f"{kind}/a.tif__{tower}.tif")) as source:
            cells = source.read().reshape(2, 3, 3, 4, 3)
            total = total + (cells.sum((2, 4)) if pooling == "max" else cells.mean((2, 4)))
        with rasterio.open(run.uri(f"cam/a.tif__{tower}.tif")) as source:
            dense = dense + source.read()
    assert any(path.startswith("argmax/") for path in material.digests(run)) == (pooling == "max")
    bias = np.array([-4.0, -6.0])[:, None, None]
    tiles = material.tiles_of(run)
    found = np.array([[t["logit_dot"], t["logit_dark"]] for t in tiles]).T.reshape(2, 3, 4)
    np.testing.assert_allclose(total + bias, found, atol=1e-3)
    shares = np.array([t["share_rgb_dot"] + t["share_nir_dot"] for t in tiles]).reshape(3, 4)
    np.testing.assert_allclose(shares + bias[0], found[0], atol=1e-3)
    assert outcome.counts["detections"] == 2
    # what is detected is the sum of the towers' dense maps
    points = material.rows_of(run, "detections/a.tif.parquet")
    top = 1 / (1 + np.exp(-(dense[0].max() - 4)))
    assert points[0]["score"] == pytest.approx(top, abs=0.02)


@pytest.mark.parametrize("mode", ["dense", "tiles"])
def test_detections_need_data_in_the_scenes_own_mask(bundle, inline, tmp_path, mode):
    pixels = material.dotted(material.field(*NET), DOT)
    row, col = 141, 108
    pixels[:, row - 20 : row + 20, col - 20 : col + 20] = 60000  # brighter by far, of which
    gaps = np.ones((96, 96), bool)
    gaps[::2, ::2] = False  # one px in four has data: any 2 x 2 px of a picture has some
    pixels[:, row - 48 : row + 48, col - 48 : col + 48][:, gaps] = 0
    material.write_scene(tmp_path / "scenes" / "a.tif", pixels, nodata=0)
    given = material.recipe(bundle(), tmp_path / "scenes", mode=mode, stride=1 / 3, min_valid=0.0)
    run, _, _, _ = material.scored(given, tmp_path / "out")
    with rasterio.open(run.uri("cam/a.tif.tif")) as source:
        there = source.read(1)[row // 32, col // 32]
    assert there > 4  # the logit there is above 0
    (found,) = material.rows_of(run, "detections/a.tif.parquet")
    assert abs(found["row"] - DOT[0]) <= 16
    assert abs(found["col"] - DOT[1]) <= 16
