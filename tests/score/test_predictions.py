"""The predictions table: schema, nulls, ground."""

import io
import json

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from satray.score.outlines import SceneExtent
from satray.score.predictions import (
    Layout,
    Numbers,
    PredictionsWriter,
    TileFacts,
    matrix,
    predictions,
    scene_predictions,
)

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
    return TileFacts(tile_id, **({"scene": tile_id} | facts))  # type: ignore[arg-type]


def test_columns_are_the_designs_and_odd_class_names_stay() -> None:
    layout = Layout(CLASSES, ("rgb", "nir"), "m" * 12, "r" * 12)
    names = predictions(layout, [ground()], numbers(1, 4, ("rgb", "nir"))).column_names
    first = ["scene", "tile_id", "row", "col", "height", "width", "geometry", "bbox", "crs"]
    first += ["transform"]
    per_class = [
        f"{kind}_{c}"
        for c in CLASSES
        for kind in ("target", "logit", "score", "pred", "share_rgb", "share_nir")
    ]
    assert names == [*first, *per_class, "status", "error", "model_id", "run_id"]
    one = Layout(CLASSES, ("rgb",), "m", "r").schema().names
    assert one == [name for name in names if not name.startswith(("share_rgb", "share_nir"))]


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
    table = predictions(layout, [ground(), ground(crs=None)], numbers(2, 1))
    geo = json.loads(table.schema.metadata[b"geo"])
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    assert "crs" not in geo["columns"]["geometry"]  # absent means OGC:CRS84
    box = table.column("bbox")[0].as_py()
    assert 2.29 < box["xmin"] < box["xmax"] < 2.33
    assert 48.82 < box["ymin"] < box["ymax"] < 48.86
    for name in ("geometry", "bbox"):
        assert table.column(name).is_valid().to_pylist() == [True, False]


LAYOUT = Layout(("haze & fog", "ship"), ("rgb", "nir"), "m" * 12, "r" * 12)


def table_of(n: int, scored: np.ndarray | None = None, **more) -> pa.Table:
    """Of n tiles of a scene, seven a row."""
    rows, cols = np.divmod(np.arange(n), 7) * np.full((2, 1), 56.0)
    scored = np.ones(n, bool) if scored is None else scored
    given = numbers(n, 2, ("rgb", "nir"))
    return scene_predictions(LAYOUT, scene(**more), rows, cols, (224.0, 224.0), scored, given)


def scene(**more) -> SceneExtent:
    given = {"scene": "a/é.tif", "height": 5000, "width": 5000, "crs": "EPSG:32631"}
    return SceneExtent(**(given | {"transform": UTM} | more))


def test_same_columns_and_numbers_as_the_tiles_own_table() -> None:
    table = table_of(20)
    places = [(n // 7 * 56, n % 7 * 56) for n in range(20)]
    facts = [
        ground(f"a/é.tif#{row}_{col}", scene="a/é.tif", row=row, col=col, height=224, width=224)
        for row, col in places
    ]
    expected = predictions(LAYOUT, facts, numbers(20, 2, ("rgb", "nir")))
    assert table.schema.equals(expected.schema.remove_metadata())
    for name in expected.column_names:
        if name != "geometry":
            assert table.column(name).equals(expected.column(name)), name
    theirs, ours = (
        geopandas.GeoSeries.from_wkb(one.column("geometry").to_pylist())
        for one in (expected, table)
    )
    assert ours.normalize().equals(theirs.normalize())


def test_scenes_are_streamed_into_one_file_whose_parts_are_read_by_place(tmp_path) -> None:
    path = tmp_path / "p.parquet"
    many = pa.concat_tables([table_of(13, scene="bare", crs=None)] * 6_000)
    with PredictionsWriter(path, LAYOUT) as writer:
        writer.write(many)
    assert b"geo" not in (pq.read_schema(path).metadata or {})
    with PredictionsWriter(path, LAYOUT) as writer:
        writer.write(table_of(4))
        writer.write(many)
        writer.write(table_of(29, scene="b"))
    assert writer.rows == 78_033
    metadata = pq.ParquetFile(path).metadata
    sizes = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
    assert (sum(sizes), max(sizes)) == (78_033, 65_536)
    assert pq.read_schema(path).equals(LAYOUT.schema(), check_metadata=False)
    frame = geopandas.read_parquet(path)
    assert frame.crs == "OGC:CRS84"
    assert frame.geometry.isna().sum() == 78_000
    west, south, east, _ = frame.total_bounds
    some = geopandas.read_parquet(path, bbox=(west - 1, south - 1, east + 1, south))
    assert 0 < len(some) < 33
    assert frame.geometry.is_valid.sum() == 33
    assert all(shape.exterior.is_ccw for shape in frame.geometry.dropna())
    nothing = tmp_path / "none.parquet"
    with PredictionsWriter(nothing, LAYOUT):
        pass
    assert pq.read_table(nothing).schema.equals(LAYOUT.schema(), check_metadata=False)
