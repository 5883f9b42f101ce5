"""The predictions table: schema, nulls, ground."""

import io
import itertools
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rasterio.warp import transform

from satray.scoring.footprints import SEGMENTS, Outline, footprints, merge_geo, read_wkb
from satray.scoring.predictions import Layout, Numbers, TileFacts, matrix, predictions

UTM = (10.0, 0.0, 448000.0, 0.0, -10.0, 5411000.0)
CLASSES = ("haze & fog", "été/été", "share_x", "ship")


def numbers(n: int, k: int, towers: tuple[str, ...] = ()) -> Numbers:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(n, k)).astype(np.float32)
    return Numbers(
        logits=logits,
        scores=(1 / (1 + np.exp(-logits))).astype(np.float32),
        preds=(logits > 0).astype(np.uint8),
        shares={tower: rng.normal(size=(n, k)).astype(np.float32) for tower in towers},
    )


def ground(tile_id: str = "a/b", **more: object) -> TileFacts:
    facts = {"height": 256, "width": 256, "crs": "EPSG:32631", "transform": UTM} | more
    return TileFacts(tile_id, tile_id, **facts)  # type: ignore[arg-type]


def test_columns_are_the_designs_and_odd_class_names_stay() -> None:
    layout = Layout(CLASSES, ("rgb", "nir"), "m" * 12, "r" * 12)
    names = predictions(layout, [ground()], numbers(1, 4, ("rgb", "nir"))).column_names
    first = ["scene", "tile_id", "row", "col", "height", "width", "geometry", "crs", "transform"]
    per_class = [
        f"{kind}_{c}"
        for c in CLASSES
        for kind in ("target", "logit", "score", "pred", "share_rgb", "share_nir")
    ]
    assert names == [*first, *per_class, "status", "error", "model_id", "run_id"]


def test_one_tower_has_no_shares() -> None:
    names = Layout(CLASSES, ("rgb",), "m", "r").schema().names
    assert not [name for name in names if name.startswith("share_rgb")]


def test_failed_rows_have_no_numbers_and_the_others_have_theirs() -> None:
    layout = Layout(("a", "b"), ("t",), "m", "r")
    tiles = [
        ground("x", target=(1, 0)),
        TileFacts("y", "y", error="truncated"),
        TileFacts("z", "z", height=8, width=9),
    ]
    given = numbers(3, 2)
    sink = io.BytesIO()
    pq.write_table(predictions(layout, tiles, given), sink)
    back = pq.read_table(sink)
    assert back.column("status").to_pylist() == ["ok", "failed", "ok"]
    assert back.column("error").to_pylist() == [None, "truncated", None]
    assert back.column("target_a").to_pylist() == [1, None, None]
    assert back.column("pred_b").type == pa.uint8()
    for kind, expected in (("logit", given.logits), ("score", given.scores)):
        read = matrix(back, kind, layout.classes)
        assert np.array_equal(read[[0, 2]], expected[[0, 2]].astype(np.float64))
        assert np.isnan(read[1]).all()
    assert back.column("geometry").to_pylist()[1:] == [None, None]
    assert back.column("transform").to_pylist()[0] == list(UTM)


def test_geo_metadata_only_where_there_is_ground() -> None:
    layout = Layout(("a",), ("t",), "m", "r")
    bare = predictions(layout, [TileFacts("z", "z", height=8, width=9)], numbers(1, 1))
    assert not bare.schema.metadata
    table = predictions(layout, [ground()], numbers(1, 1))
    geo = json.loads(table.schema.metadata[b"geo"])
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    column = geo["columns"]["geometry"]
    assert column["encoding"] == "WKB"
    assert column["geometry_types"] == ["Polygon"]
    assert "crs" not in column  # absent means OGC:CRS84
    west, south, east, north = column["bbox"]
    assert 2.29 < west < east < 2.33
    assert 48.82 < south < north < 48.86


def corners(ring: list[tuple[float, float]]) -> np.ndarray:
    return np.array(ring)


def outline(**more: object) -> Outline:
    base = {"crs": "EPSG:32631", "transform": UTM, "row": 0, "col": 0, "height": 256, "width": 256}
    return Outline(**(base | more))  # type: ignore[arg-type]


def test_small_tile_is_four_true_corners_counterclockwise() -> None:
    (shape,) = footprints([outline(row=100, col=50)])
    assert shape is not None
    (ring,) = read_wkb(shape)
    x0, y0 = 448000 + 500, 5411000 - 1000
    xs = [x0, x0, x0 + 2560, x0 + 2560]
    ys = [y0, y0 - 2560, y0 - 2560, y0]
    lon, lat = transform("EPSG:32631", "EPSG:4326", xs, ys)
    assert np.allclose(ring, [*zip(lon, lat, strict=True), (lon[0], lat[0])], atol=1e-9)
    area = sum(a * d - c * b for (a, b), (c, d) in itertools.pairwise(ring))
    assert area > 0


@pytest.mark.parametrize(
    "affine", [(10.0, 0.0, 4e5, 0.0, 10.0, 5e6), (7.0, -7.0, 4e5, -7.0, -7.0, 5e6)]
)
def test_flipped_and_rotated_tiles_are_counterclockwise_too(affine: tuple[float, ...]) -> None:
    (shape,) = footprints([outline(transform=affine)])
    (ring,) = read_wkb(shape or b"")
    assert sum(a * d - c * b for (a, b), (c, d) in itertools.pairwise(ring)) > 0


def test_long_edges_are_bent() -> None:
    (shape,) = footprints([outline(height=10980, width=10980)])
    (ring,) = read_wkb(shape or b"")
    assert len(ring) > 2 * SEGMENTS
    # the middle of the upper edge lies where the projection says, not on the chord
    lon, lat = transform("EPSG:32631", "EPSG:4326", [448000 + 54900.0], [5411000.0])
    assert min(np.hypot(x - lon[0], y - lat[0]) for x, y in ring) < 1e-9


def test_antimeridian_is_cut() -> None:
    affine = (10.0, 0.0, 170000.0, 0.0, -10.0, 1107000.0)
    (shape,) = footprints([outline(crs="EPSG:32601", transform=affine)])
    rings = read_wkb(shape or b"")
    assert len(rings) == 2
    assert all(np.ptp([x for x, _ in ring]) < 0.1 for ring in rings)


def test_bad_ground_is_null_and_takes_nobody_with_it() -> None:
    engineering = 'LOCAL_CS["x",UNIT["m",1]]'
    wild = (10.0, 0.0, 1e12, 0.0, -10.0, 5411000.0)
    shapes = footprints(
        [outline(), outline(crs=engineering), outline(transform=wild), outline(crs="no crs"), None]
    )
    assert [shape is not None for shape in shapes] == [True, False, False, False, False]


def test_merged_geo_spans_all() -> None:
    layout = Layout(("a",), ("t",), "m", "r")
    east = (10.0, 0.0, 548000.0, 0.0, -10.0, 5411000.0)
    tables = [
        predictions(layout, [tile], numbers(1, 1))
        for tile in (ground("x"), TileFacts("z", "z"), ground("y", transform=east))
    ]
    merged = merge_geo([(table.schema.metadata or {}).get(b"geo") for table in tables])
    both = predictions(layout, [ground("x"), ground("y", transform=east)], numbers(2, 1))
    assert json.loads(merged or b"") == json.loads(both.schema.metadata[b"geo"])
    assert merge_geo([None, None]) is None
