"""The ground size of training's pixels: in the bundle, and in scenes of the same grid."""

import numpy as np
import pyarrow as pa
import pyproj
import pytest
from score.scenes.scene_material import spec

from satray.data.index import SCHEMA, BandStatistics, IndexMeta, TileIndex, table_with
from satray.score.outlines import SceneExtent
from satray.score.scenes.grid import net_grid
from satray.train.products import resolution

SIDE = 64
UTM = (10.0, 0.0, 5e5, 0.0, -10.0, 5.3e6)
BAND = BandStatistics("red", 1, 1, 0, 2, {}, 9)
META = IndexMeta("binary", ("ship",), ("red",), "uint8", (SIDE, SIDE), (BAND,), {})

Place = tuple[str | None, tuple[float, ...] | None]


def index(*places: Place) -> TileIndex:
    """Tiles of 64 px, as an index from before resolution was a column."""
    rows = [
        {"tile_id": f"t{n}", "uri": f"/t{n}.tif", "split": "train", "labels": [n % 2],
         "height": SIDE, "width": SIDE, "bands": ["red"], "dtype": "uint8", "crs": crs,
         "transform": transform, "nodata": None, "bytes": 9, "etag": None}
        for n, (crs, transform) in enumerate(places)
    ]  # fmt: skip
    older = pa.schema([field for field in SCHEMA if not field.name.startswith("resolution")])
    return TileIndex(table_with(META, pa.Table.from_pylist(rows, older)), META)


def at(crs: str, lon: float, lat: float, x: float, y: float | None = None) -> Place:
    """A tile whose centre is there, with px of so many units of the CRS."""
    y = x if y is None else y
    way = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True)
    left, top = way.transform(lon, lat)
    return crs, (x, 0.0, left - x * SIDE / 2, 0.0, -y, top + y * SIDE / 2)


def test_the_index_keeps_metres_of_the_ground_and_the_bundle_their_median() -> None:
    tiles = [at("EPSG:3857", 15, 60, 20), at("EPSG:32633", 15, 60, 10), (None, None)]
    made = index(*tiles, at("EPSG:4326", 15, 0, 9e-5))
    found = made.table.column("resolution_x").to_pylist()
    assert found[2] is None
    assert found[:2] + found[3:] == pytest.approx([10.01, 10.004, 10.02], abs=0.02)
    x, y, trained = resolution(made)
    assert (x, y) == (pytest.approx(10.01, abs=0.01), None)
    assert resolution(index((None, None), (None, (1.0, 0, 0, 0, 1.0, 3)))) == (None, None, ())
    assert all(pixels.crs == "EPSG:4326" for pixels in trained)


def test_x_and_y_apart_where_they_differ() -> None:
    x, y, trained = resolution(index(at("EPSG:4326", 10, 60, 1e-4)))
    assert (x, y) == (pytest.approx(5.58, rel=2e-3), pytest.approx(11.14, rel=2e-3))
    assert trained == ()
    _, square, _ = resolution(index(at("EPSG:4326", 10, 8, 1e-4)))
    assert square is None


@pytest.mark.parametrize(
    ("crs", "px", "lats"),
    [
        ("EPSG:32633", (10, 10), (5, 40, 60)),
        ("EPSG:32633", (10, 20), (5, 40, 60)),
        ("EPSG:3857", (20, 20), (0, 30, 45, 60, 70)),
        ("EPSG:4326", (1e-4, 1e-4), (0, 8, 30, 45, 60)),
        ("EPSG:4326", (1e-4, 1e-4), (8, 8.2)),
        ("EPSG:3413", (30, 30), (60, 70, 88)),
        ("ESRI:54009", (100, 100), (0, 30, 60)),
        ("EPSG:2227", (30, 30), (37, 37.5)),
    ],
)
def test_pixels_of_training_are_never_resampled_as_scenes(crs, px, lats) -> None:
    lon = -120.5 if crs == "EPSG:2227" else 16
    tiles = [at(crs, lon, lat, *px) for lat in lats]
    x, y, trained = resolution(index(*tiles))
    known = spec(resolution=x, resolution_y=y, trained_px=trained, tile_shape=(SIDE, SIDE), size=48)
    between = [at(crs, lon, lat, *px) for lat in np.linspace(lats[0], lats[-1], 7)]
    for name, transform in (*tiles, *between):
        grid = net_grid(SceneExtent("a", SIDE * 3, SIDE * 3, name, transform), known)
        assert (grid.net_height, grid.net_width) == (144, 144), grid.why
    wide = SceneExtent("a", SIDE, SIDE, *at(crs, lon, lats[0], px[0] * 2, px[1] * 2))
    away = net_grid(wide, known)
    assert away.net_width > 48
