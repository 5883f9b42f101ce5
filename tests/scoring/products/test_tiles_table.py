"""The table of a scene's tiles: streamed, null where there is no data, open elsewhere."""

import io
import json

import geopandas
import numpy as np
import pyarrow.parquet as pq

from satray.scoring.predictions import Layout, Numbers, TileFacts, predictions
from satray.scoring.products import tiles_table
from satray.scoring.products.ground import SceneGround
from satray.scoring.products.tiles_table import (
    NODATA,
    SceneTiles,
    TilesWriter,
    scene_table,
)

UTM = (10.0, 0.0, 448000.0, 0.0, -10.0, 5411000.0)
LAYOUT = Layout(("haze & fog", "ship"), ("rgb", "nir"), "m" * 12, "r" * 12)


def join_tables(parts, target, layout):
    with TilesWriter(target, layout) as writer:
        for part in parts:
            writer.append(part)
    return writer.rows


def numbers(n: int, towers: tuple[str, ...] = ("rgb", "nir")) -> Numbers:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(n, 2)).astype(np.float32)
    return Numbers(
        logits,
        (1 / (1 + np.exp(-logits))).astype(np.float32),
        (logits > 0).astype(np.uint8),
        {tower: rng.normal(size=(n, 2)).astype(np.float32) for tower in towers},
    )


def tiles(n: int, side: float = 224.0, scored: np.ndarray | None = None) -> SceneTiles:
    number = np.arange(n, dtype=np.float64)
    return SceneTiles(
        (number // 7) * side / 4,
        (number % 7) * side / 4,
        np.full(n, side),
        np.full(n, side),
        np.ones(n, bool) if scored is None else scored,
        numbers(n),
    )


def ground(**more) -> SceneGround:
    given = {"scene": "a/é.tif", "height": 5000, "width": 5000, "crs": "EPSG:32631"}
    return SceneGround(**(given | {"transform": UTM} | more))


def test_same_columns_and_numbers_as_the_tiles_own_table(tmp_path) -> None:
    some = tiles(20)
    table = scene_table(LAYOUT, ground(), some)
    facts = [
        TileFacts(
            f"a/é.tif#{int(row)}_{int(col)}", "a/é.tif", int(row), int(col), 224, 224,
            "EPSG:32631", UTM,
        )
        for row, col in zip(some.rows, some.cols, strict=True)
    ]  # fmt: skip
    expected = predictions(LAYOUT, facts, some.numbers)
    assert table.schema.equals(expected.schema.remove_metadata())
    for name in expected.column_names:
        if name != "geometry":
            assert table.column(name).equals(expected.column(name)), name
    theirs, ours = (
        geopandas.GeoSeries.from_wkb(one.column("geometry").to_pylist())
        for one in (expected, table)
    )
    assert ours.normalize().equals(theirs.normalize())


def test_tiles_without_data_have_no_numbers_and_no_error() -> None:
    scored = np.array([True, False, True])
    table = scene_table(LAYOUT, ground(), tiles(3, scored=scored))
    assert table.column("status").to_pylist() == ["ok", NODATA, "ok"]
    assert table.column("error").to_pylist() == [None] * 3
    for kind in ("logit", "score", "pred", "share_rgb"):
        assert table.column(f"{kind}_ship").is_valid().to_pylist() == scored.tolist()
    assert table.column("geometry").null_count == 0


def test_streamed_in_row_groups_with_one_box_around_all(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tiles_table, "GROUP_ROWS", 10)
    path = tmp_path / "p.parquet"
    with TilesWriter(path, LAYOUT) as writer:
        writer.write(ground(), tiles(4))
        writer.write(ground(scene="bare", crs=None, transform=None), tiles(13))
        writer.write(ground(scene="b"), tiles(29))
    assert writer.rows == 46
    file = pq.ParquetFile(path)
    sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert sum(sizes) == 46
    assert max(sizes) <= 20
    frame = geopandas.read_parquet(path)
    assert frame.crs == "OGC:CRS84"
    assert frame.geometry.isna().sum() == 13
    geo = json.loads(pq.read_schema(path).metadata[b"geo"])
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    assert np.allclose(geo["columns"]["geometry"]["bbox"], frame.total_bounds)
    assert frame.geometry.is_valid.sum() == 33
    assert all(shape.exterior.is_ccw for shape in frame.geometry.dropna())


def test_files_of_scenes_become_one(tmp_path) -> None:
    parts = []
    for number, place in enumerate((ground(), ground(crs=None, transform=None))):
        parts.append(tmp_path / f"{number}.parquet")
        with TilesWriter(parts[-1], LAYOUT) as writer:
            writer.write(place, tiles(5 + number))
    whole = tmp_path / "all.parquet"
    assert join_tables(parts, whole, LAYOUT) == 11
    frame = geopandas.read_parquet(whole)
    assert len(frame) == 11
    assert np.allclose(frame.total_bounds, geopandas.read_parquet(parts[0]).total_bounds)
    assert b"geo" not in (pq.read_schema(parts[1]).metadata or {})
    assert pq.read_schema(whole).equals(LAYOUT.schema(), check_metadata=False)
    nothing = tmp_path / "none.parquet"
    assert join_tables([], nothing, LAYOUT) == 0
    assert pq.read_table(nothing).schema.equals(LAYOUT.schema(), check_metadata=False)


def test_no_ground_no_shape() -> None:
    for place in (ground(crs=None, transform=None), ground(crs='LOCAL_CS["x",UNIT["m",1]]')):
        sink = io.BytesIO()
        pq.write_table(scene_table(LAYOUT, place, tiles(2)), sink)
        assert pq.read_table(sink).column("geometry").null_count == 2
