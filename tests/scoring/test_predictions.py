"""The predictions table: schema, nulls, ground."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

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
    table = predictions(layout, [ground(), ground(crs=None)], numbers(2, 1))
    column = json.loads(table.schema.metadata[b"geo"])["columns"]["geometry"]
    west, south, east, north = column["bbox"]
    assert 2.29 < west < east < 2.33
    assert 48.82 < south < north < 48.86
    assert table.column("geometry").is_valid().to_pylist() == [True, False]
