"""Detections lie where they are, in pixels, in the CRS and on the globe; files open elsewhere."""

import io
import json
import sqlite3
from datetime import UTC, datetime

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.warp import transform

from satray.score.outlines import SceneExtent
from satray.score.products.detections import Detections, GivenTiles, detect, on_data, summed
from satray.score.products.peaks import PeakRule
from satray.score.products.vectors import LAYER, geojson, geopackage, geoparquet
from satray.score.windows import AxisTiles

UTM = (10.0, 0.0, 448000.0, 0.0, -10.0, 5411000.0)
TURNED = (8.0, 6.0, 448000.0, 6.0, -8.0, 5411000.0)
CELLS = Affine.translation(0.5 - 16, 0.5 - 16) @ Affine.scale(32)  # centre 0.5, stride 32
NOW = datetime(2026, 5, 1, 10, tzinfo=UTC)
RULE = PeakRule("multilabel", (0.0, 0.0), 1.0, (0.5, 0.5), 3.0)
NAMES = ("ship", "haze & été")


def dots(*places: tuple[int, int, int], k: int = 2, h: int = 12, w: int = 15) -> np.ndarray:
    maps = np.full((k, h, w), -4, np.float32)
    for klass, row, col in places:
        maps[klass, row, col] = 3
    return maps


def scene(crs: str | None = "EPSG:32631", affine=UTM, name: str = "a/é b.tif") -> SceneExtent:
    return SceneExtent(name, 384, 480, crs, affine)


@pytest.mark.parametrize(
    ("crs", "affine"),
    [
        ("EPSG:32631", UTM),
        ("EPSG:32631", TURNED),
        ("EPSG:4326", (1e-4, 0.0, 2.3, 0.0, -1e-4, 48.8)),
        ("EPSG:3857", (10.0, 0.0, 4e5, 0.0, 10.0, 5e6)),
        (None, UTM),
        (None, None),
        ('LOCAL_CS["x",UNIT["m",1]]', UTM),
    ],
)
def test_a_dot_is_where_it_is_in_all_files(crs: str | None, affine) -> None:
    """Without an affine places are pixels, without a CRS the affine's: x and y of the maps."""
    found = detect(dots((0, 5, 7), (1, 2, 2)), CELLS, RULE, NAMES, scene(crs, affine))
    assert found.klass == NAMES
    assert (found.row.tolist(), found.col.tolist()) == ([160.5, 64.5], [224.5, 64.5])
    x, y = Affine(*(affine or (1, 0, 0, 0, -1, 0))) @ (224.5, 160.5)
    assert (found.x[0], found.y[0]) == pytest.approx((x, y), abs=1e-6)
    data = io.BytesIO(geoparquet(found, "m", "r"))
    package = pyogrio.read_dataframe(io.BytesIO(geopackage(found, "m", "r", NOW)), layer=LAYER)
    assert np.array_equal(package.geometry.x, found.x)
    assert np.array_equal(package.geometry.y, found.y)
    assert np.array_equal(package.row, found.row)
    if crs is None or "EPSG" not in crs:
        assert np.isnan(found.lon).all()
        assert package.crs is None or not (package.crs.is_geographic or package.crs.is_projected)
        if crs is None:
            frame = geopandas.read_parquet(data)
            assert frame.crs is None
            assert (frame.geometry[0].x, frame.geometry[0].y) == (found.x[0], found.y[0])
            assert geojson(found, "m", "r") is None
        else:  # which leads nowhere: a null, no error
            assert pq.read_table(data).column("geometry").to_pylist() == [None] * 2
            assert json.loads(geojson(found, "m", "r") or b"")["features"] == []
        return
    lon, lat = transform(crs, "EPSG:4326", [x], [y])
    assert (found.lon[0], found.lat[0]) == pytest.approx((lon[0], lat[0]), abs=1e-9)
    assert package.crs.to_string() == crs
    frame = geopandas.read_parquet(data)
    assert frame.crs == "OGC:CRS84"
    assert list(frame["class"]) == list(package["class"]) == list(NAMES)
    assert set(frame.scene) == {"a/é b.tif"}
    assert np.allclose(frame.geometry.x, found.lon)
    assert np.allclose(frame.score, found.score)
    geo = json.loads(pq.read_schema(data).metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    assert np.allclose(geo["columns"]["geometry"]["bbox"], frame.total_bounds)


def test_wanted_classes_only_and_points_stay_in_the_scene() -> None:
    maps = dots((0, 5, 7), (1, 2, 2))
    assert detect(maps, CELLS, RULE, NAMES, scene(), ["haze & été"]).klass == ("haze & été",)
    assert len(detect(maps, CELLS, RULE, NAMES, scene(), [])) == 0
    small = SceneExtent("a", 350, 400, "EPSG:32631", UTM)
    found = detect(dots((0, 11, 14)), CELLS, RULE, NAMES, small)
    assert (found.row[0], found.col[0]) == (350, 400)


def test_detections_over_the_antimeridian_have_a_box_each() -> None:
    over = scene("EPSG:3832", (1e3, 0.0, 3.2e6, 0.0, -1e3, 2e6))
    found = detect(dots((0, 5, 1), (1, 2, 13)), CELLS, RULE, NAMES, over)
    assert (found.lon[0] > 178, found.lon[1] < -177) == (True, True)
    data = io.BytesIO(geoparquet(found, "m", "r"))
    boxes = pq.read_table(data).column("bbox").to_pylist()
    assert [(box["xmin"], box["xmax"]) for box in boxes] == [(lon, lon) for lon in found.lon]
    near = geopandas.read_parquet(data, bbox=(-180, -90, -177, 90))
    assert near["class"].tolist() == ["haze & été"]


def test_the_same_detections_give_the_same_bytes() -> None:
    found = detect(dots((0, 5, 7)), CELLS, RULE, NAMES, scene())
    assert geopackage(found, "m", "r", NOW) == geopackage(found, "m", "r", NOW)
    assert geoparquet(found, "m", "r") == geoparquet(found, "m", "r")


def test_no_detections_are_valid_files(tmp_path) -> None:
    found = detect(dots(), CELLS, RULE, NAMES, scene())
    assert len(found) == 0
    path = tmp_path / "d.gpkg"
    path.write_bytes(geopackage(found, "m", "r", NOW))
    assert len(pyogrio.read_dataframe(path)) == 0
    assert len(geopandas.read_parquet(io.BytesIO(geoparquet(found, "m", "r")))) == 0
    assert json.loads(geojson(found, "m", "r") or b"")["features"] == []
    with sqlite3.connect(path) as database:
        assert database.execute("select table_name from gpkg_contents").fetchall() == [(LAYER,)]


def test_geojson_is_longitude_latitude_and_survives_hostile_names(tmp_path) -> None:
    name = 'x"\n\\</script>\u2028.tif'
    found = detect(dots((0, 5, 7)), CELLS, RULE, ('a"b', "c"), scene(name=name))
    data = geojson(found, "m", "r") or b""
    tree = json.loads(data)
    (feature,) = tree["features"]
    assert "crs" not in tree
    assert feature["properties"]["scene"] == name
    assert feature["properties"]["class"] == 'a"b'
    lon, lat = feature["geometry"]["coordinates"]
    assert (lon, lat) == pytest.approx((found.lon[0], found.lat[0]), abs=1e-7)
    path = tmp_path / "d.geojson"
    path.write_bytes(data)
    assert pyogrio.read_dataframe(path).crs.to_epsg() == 4326


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_a_coarser_tower_is_interpolated_onto_the_finer(seed: int) -> None:
    a, b, c = np.random.default_rng(seed).normal(size=3)
    fine = Affine.translation(4, 4) @ Affine.scale(16)

    def plane(cells: Affine, h: int, w: int) -> np.ndarray:
        x = cells.a * (np.arange(w) + 0.5) + cells.c
        y = cells.e * (np.arange(h)[:, None] + 0.5) + cells.f
        return (a * x / 100 + b * y / 100 + c)[None].astype(np.float32)

    total, cells = summed([plane(CELLS, 6, 7), plane(fine, 10, 12)], [CELLS, fine])
    assert cells == fine
    inner = (slice(None), slice(0, 9), slice(0, 11))  # beyond the coarse centres it goes on flat
    assert np.allclose(total[inner], 2 * plane(fine, 10, 12)[inner], atol=1e-4)


def test_missing_cells_stay_missing_and_count_for_nobody() -> None:
    one = np.random.default_rng(0).normal(size=(1, 4, 4)).astype(np.float32)
    one[0, 1, 1] = np.nan
    total, cells = summed([one, one * 2], [CELLS, CELLS])
    assert cells == CELLS
    assert np.array_equal(total, one * 3, equal_nan=True)
    coarse = np.full((1, 4, 4), 3, np.float32)
    coarse[0, :, 2:] = np.nan
    total, _ = summed([coarse, np.ones((1, 8, 8), np.float32)], [CELLS, CELLS @ Affine.scale(0.5)])
    assert set(np.unique(total[0, :, :4])) == {4}
    assert np.isnan(total[0, :, 6:]).all()


def test_far_points_have_no_longitude_but_the_others_do() -> None:
    # the last column of this scene lies beyond the projection's range
    wild = SceneExtent("a", 384, 480, "EPSG:32631", (1e12, 0.0, 0.0, 0.0, -10.0, 5411000.0))
    found = detect(dots((0, 5, 7)), CELLS, RULE, NAMES, wild)
    assert isinstance(found, Detections)
    assert np.isnan(found.lon).all()
    geoparquet(found, "m", "r")


def test_a_point_beyond_the_datas_edge_is_no_detection() -> None:
    mostly = np.zeros((13, 25), bool)
    mostly[:, :13] = True  # cells of 16 px
    rows, cols = np.array([50.0, 50.0, 50.0, 199.9]), np.array([100.0, 198.0, 220.0, 0.0])
    values = np.arange(4.0)
    found = Detections(scene(), ("a", "b", "c", "d"), values, rows, cols, *(4 * [values]))
    keep = on_data(found, mostly, Affine.scale(16))
    assert keep.tolist() == [True, True, False, True]
    assert found.kept(keep).klass == ("a", "b", "d")
    assert found.kept(keep).col.tolist() == [100.0, 198.0, 0.0]


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
