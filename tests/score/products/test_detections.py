"""Peaks are regional maxima; detections lie where they are; files of them open elsewhere."""

import io
import itertools
import json
import sqlite3
from datetime import UTC, datetime

import geopandas
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pyogrio
import pytest
from affine import Affine
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.warp import transform
from score.scenes.scene_material import spec

from satray.metrics.scored import Rule, decide
from satray.score.outlines import SceneExtent
from satray.score.products.detections import (
    LAYER,
    detect,
    in_tiles_given,
    summed,
    vector_files,
)
from satray.score.windows import AxisTiles

UTM = (10.0, 0.0, 448000.0, 0.0, -10.0, 5411000.0)
TURNED = (8.0, 6.0, 448000.0, 6.0, -8.0, 5411000.0)
CELLS = Affine.translation(0.5 - 16, 0.5 - 16) @ Affine.scale(32)  # centre 0.5, stride 32
NOW = datetime(2026, 5, 1, 10, tzinfo=UTC)
MADE = {"model_id": "m", "run_id": "r", "engine": "eager"}
NAMES = ("ship", "haze & été")
HOSTILE = 'a/é "\n\\</script>\u2028.tif'
SMALL = arrays(np.float64, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.one_of(
    st.integers(1, 4).map(float), st.just(float("nan"))))  # fmt: skip


def peaks(
    maps: np.ndarray, task: str = "multilabel", distance: float = 0.0, **more
) -> pd.DataFrame:
    """Detections whose rows and columns are cells; classes are numbers."""
    count, h, w = maps.shape
    bias, names = more.pop("bias", (0.0,) * count), tuple(str(k) for k in range(count))
    mostly = more.pop("mostly", np.ones((h, w), bool))
    of = spec(task=task, classes=names, **({"thresholds": (0.5,) * count} | more))
    given = maps.astype(np.float32), Affine.identity(), mostly
    return detect(*given, SceneExtent("a", h, w), of, bias, distance)


def bump(h: int, w: int, row: float, col: float, width: float = 1.5) -> np.ndarray:
    """A parabola with its top at a place in edge coordinates."""
    i, j = np.arange(h)[:, None] + 0.5, np.arange(w) + 0.5
    return 4 - ((i - row) ** 2 + (j - col) ** 2) / width**2


def by_flooding(values: np.ndarray) -> list[list[tuple[int, int]]]:
    """Regional maxima by flooding each plateau."""
    h, w = values.shape
    seen: set[tuple[int, int]] = set()
    found = []
    for start in itertools.product(range(h), range(w)):
        if start in seen or np.isnan(values[start]):
            continue
        plateau, todo, top = set(), [start], True
        while todo:
            i, j = todo.pop()
            if (i, j) in plateau:
                continue
            plateau.add((i, j))
            for a, b in itertools.product((i - 1, i, i + 1), (j - 1, j, j + 1)):
                if not (0 <= a < h and 0 <= b < w) or np.isnan(values[a, b]):
                    continue
                if values[a, b] == values[i, j]:
                    todo.append((a, b))
                top &= values[a, b] <= values[i, j]
        seen |= plateau
        if top:
            found.append(sorted(plateau))
    return found


@settings(max_examples=150, deadline=None)
@given(SMALL)
def test_regional_maxima_are_those_of_flooding(values: np.ndarray) -> None:
    """One each: in its cell, or at the middle of its plateau."""
    found = peaks(values[None])
    places = list(zip(found.row, found.col, strict=True))
    expected = by_flooding(values)
    assert len(found) == len(expected)
    for plateau in expected:
        row, col = np.mean(plateau, axis=0) + 0.5
        near = [abs(r - row) <= 0.5 and abs(c - col) <= 0.5 for r, c in places]
        assert any(near)
        if len(plateau) > 1:
            assert any(np.allclose(place, (row, col)) for place in places)


@settings(max_examples=80, deadline=None)
@given(st.floats(3, 8), st.floats(3, 9))
def test_a_parabola_is_found_exactly(row: float, col: float) -> None:
    assume(min(abs(at - round(at)) for at in (row, col)) > 1e-3)  # else two cells are as high
    found = peaks(bump(11, 12, row, col)[None], distance=3)
    assert len(found) == 1
    assert (found.row[0], found.col[0]) == pytest.approx((row, col), abs=1e-3)


def test_borders_missing_neighbours_and_nothing() -> None:
    values = bump(6, 6, 0.2, 3.3)
    found = peaks(values[None])
    assert (found.row[0], found.col[0]) == (0.5, pytest.approx(3.3, abs=1e-3))
    values[0, 2] = np.nan
    assert peaks(values[None]).col[0] == 3.5
    for nothing in (np.full((1, 4, 4), np.nan), np.full((1, 4, 4), -9.0)):
        assert len(peaks(nothing)) == 0
    assert len(peaks(np.full((2, 1, 1), 3.0))) == 2


def test_a_cell_with_little_data_takes_no_peak_from_its_neighbours() -> None:
    values, mostly = bump(6, 6, 2.5, 2.5), np.ones((6, 6), bool)
    values[2, 3], mostly[2, 3] = 9, False
    found = peaks(values[None], distance=3, mostly=mostly)
    assert (found.row.to_list(), found.col.to_list()) == ([2.5], [2.5])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.3, 4), st.floats(0.05, 0.95))
def test_scores_reach_thresholds_and_are_those_of_the_table(seed, temperature, threshold) -> None:
    maps = np.random.default_rng(seed).normal(0, 3, (2, 9, 9)).astype(np.float32)
    bias, thresholds = (0.3, -0.2), (threshold, 0.5)
    found = peaks(maps, bias=bias, temperature=temperature, thresholds=thresholds)
    k, i, j = (found[name].to_numpy().astype(int) for name in ("class", "row", "col"))
    assert (found.score >= np.array(thresholds)[k]).all()
    logits = maps[:, i, j].T.astype(np.float64) + np.array(bias)
    given_NK = decide(logits, "multilabel", Rule(temperature, thresholds))
    assert given_NK[np.arange(len(k)), k].all()
    scores = 1 / (1 + np.exp(-logits / temperature))
    assert np.allclose(found.score, scores[np.arange(len(k)), k])
    for each in range(2):
        assert (np.diff(found.score[k == each]) <= 0).all()


def test_multiclass_needs_the_highest_logit_and_gives_softmax() -> None:
    tops = [bump(9, 9, 2.5, 2.5), bump(9, 9, 6.5, 6.5), bump(9, 9, 6.5, 6.5) - 1]
    maps = np.maximum(np.stack(tops), 0)
    found = peaks(maps, "multiclass", temperature=0.5, thresholds=(0.4,) * 3)
    assert found["class"].tolist() == ["0", "1"]
    z = maps[:, found.row.astype(int), found.col.astype(int)].T / 0.5
    softmax = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    assert np.allclose(found.score, softmax[[0, 1], [0, 1]])
    # finite, and at its place, where it is sure
    maps[:] = 0
    maps[1] = 900 * bump(9, 9, 3.5, 3.5)
    found = peaks(maps, "multiclass")
    assert np.isfinite(found.score).all()
    at = found["class"].tolist().index("1")
    assert (found.row[at], found.col[at]) == (3.5, 3.5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 6))
def test_spacing_is_greedy_by_strength(seed: int, distance: float) -> None:
    maps = np.random.default_rng(seed).uniform(0.1, 9, (1, 12, 12))
    every, kept = peaks(maps), peaks(maps, distance=distance)
    among = {(r, c) for r, c in zip(kept.row, kept.col, strict=True)}
    rows, cols = every.row.to_numpy(), every.col.to_numpy()
    away = np.hypot(rows[:, None] - rows, cols[:, None] - cols)
    chosen = [n for n in range(len(every)) if (every.row[n], every.col[n]) in among]
    assert len(chosen) == len(kept)
    for n, m in itertools.combinations(chosen, 2):
        assert away[n, m] >= distance
    for n in set(range(len(every))) - set(chosen):
        assert [m for m in chosen if away[n, m] < distance and every.score[m] >= every.score[n]]


# ---- on the ground, and in files


def dots(*places: tuple[int, int, int]) -> np.ndarray:
    maps = np.full((2, 12, 15), -4, np.float32)
    for klass, row, col in places:
        maps[klass, row, col] = 3
    return maps


def scene(crs: str | None = "EPSG:32631", affine=UTM, name: str = "a/é b.tif") -> SceneExtent:
    return SceneExtent(name, 384, 480, crs, affine)


def found_of(maps: np.ndarray, where: SceneExtent, names=NAMES, wanted=None) -> pd.DataFrame:
    of, data = spec(classes=names, thresholds=(0.5, 0.5)), np.ones(maps.shape[1:], bool)
    return detect(maps, CELLS, data, where, of, (0.0, 0.0), 3.0, wanted)


@pytest.mark.parametrize(
    ("crs", "affine"),
    [
        ("EPSG:32631", UTM), ("EPSG:32631", TURNED), (None, UTM), (None, None),
        ("EPSG:4326", (1e-4, 0.0, 2.3, 0.0, -1e-4, 48.8)),
        ("EPSG:3857", (10.0, 0.0, 4e5, 0.0, 10.0, 5e6)), ('LOCAL_CS["x",UNIT["m",1]]', UTM),
    ],
)  # fmt: skip
def test_a_dot_is_where_it_is_in_all_files(crs: str | None, affine) -> None:
    """Without an affine places are pixels, without a CRS the affine's: x and y of the maps."""
    where = scene(crs, affine, HOSTILE)
    found = found_of(dots((0, 5, 7), (1, 2, 2)), where)
    assert found["class"].tolist() == list(NAMES)
    assert (found.row.tolist(), found.col.tolist()) == ([160.5, 64.5], [224.5, 64.5])
    x, y = Affine(*(affine or (1, 0, 0, 0, -1, 0))) @ (224.5, 160.5)
    assert (found.x[0], found.y[0]) == pytest.approx((x, y), abs=1e-6)
    files = vector_files(found, where, MADE, NOW)
    assert vector_files(found, where, MADE, NOW) == files
    data = io.BytesIO(files["detections_parquet"])
    package = pyogrio.read_dataframe(io.BytesIO(files["detections"]), layer=LAYER)
    for ours, theirs in ((found.x, package.geometry.x), (found.y, package.geometry.y)):
        assert np.array_equal(ours, theirs)
    assert np.array_equal(package.row, found.row)
    if crs is None or "EPSG" not in crs:
        assert np.isnan(found.lon).all()
        assert package.crs is None or not (package.crs.is_geographic or package.crs.is_projected)
        if crs is None:
            frame = geopandas.read_parquet(data)
            assert frame.crs is None
            assert (frame.geometry[0].x, frame.geometry[0].y) == (found.x[0], found.y[0])
            assert "detections_geojson" not in files
        else:  # which leads nowhere: a null, no error
            assert pq.read_table(data).column("geometry").to_pylist() == [None] * 2
            assert json.loads(files["detections_geojson"])["features"] == []
        return
    tree = json.loads(files["detections_geojson"])
    assert "crs" not in tree  # RFC 7946
    assert {feature["properties"]["scene"] for feature in tree["features"]} == {HOSTILE}
    lon, lat = transform(crs, "EPSG:4326", [x], [y])
    assert (found.lon[0], found.lat[0]) == pytest.approx((lon[0], lat[0]), abs=1e-9)
    assert package.crs.to_string() == crs
    frame = geopandas.read_parquet(data)
    assert frame.crs == "OGC:CRS84"
    assert list(frame["class"]) == list(package["class"]) == list(NAMES)
    assert set(frame.scene) == {HOSTILE}
    assert np.allclose(frame.geometry.x, found.lon)
    assert np.allclose(frame.score, found.score)
    geo = json.loads(pq.read_schema(data).metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    assert np.allclose(geo["columns"]["geometry"]["bbox"], frame.total_bounds)


def test_wanted_classes_edges_and_far_points(tmp_path) -> None:
    maps = dots((0, 5, 7), (1, 2, 2))
    assert found_of(maps, scene(), wanted=["haze & été"])["class"].tolist() == ["haze & été"]
    assert len(found_of(maps, scene(), wanted=[])) == 0
    found = found_of(dots((0, 11, 14)), SceneExtent("a", 350, 400, "EPSG:32631", UTM))
    assert (found.row[0], found.col[0]) == (350, 400)
    over = scene("EPSG:3832", (1e3, 0.0, 3.2e6, 0.0, -1e3, 2e6))
    found = found_of(dots((0, 5, 1), (1, 2, 13)), over)
    assert (found.lon[0] > 178, found.lon[1] < -177) == (True, True)
    data = io.BytesIO(vector_files(found, over, MADE, NOW)["detections_parquet"])
    near = geopandas.read_parquet(data, bbox=(-180, -90, -177, 90))
    assert near["class"].tolist() == ["haze & été"]
    # this scene lies beyond its projection's range
    far = scene("EPSG:32631", (1e12, 0.0, 0.0, 0.0, -10.0, 5411000.0))
    wild = found_of(dots((0, 5, 7)), far)
    assert np.isnan(wild.lon).all()
    data = io.BytesIO(vector_files(wild, far, MADE, NOW)["detections_parquet"])
    assert pq.read_table(data)["geometry"].null_count == 1
    # none are valid files
    none = found_of(dots(), scene())
    assert len(none) == 0
    files, path = vector_files(none, scene(), MADE, NOW), tmp_path / "d.gpkg"
    path.write_bytes(files["detections"])
    assert len(pyogrio.read_dataframe(path)) == 0
    assert len(geopandas.read_parquet(io.BytesIO(files["detections_parquet"]))) == 0
    assert json.loads(files["detections_geojson"])["features"] == []
    with sqlite3.connect(path) as database:
        assert database.execute("select table_name from gpkg_contents").fetchall() == [(LAYER,)]


# ---- towers, data and tiles


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


@settings(max_examples=40)
@given(st.data())
def test_any_tile_around_a_point_will_do(data) -> None:
    """Any of those that overlap; the strip beyond the last counts as the last one's."""
    draw, K = data.draw, 3
    size, step = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    axes = [
        AxisTiles(tuple(step * i for i in range(draw(st.integers(1, 6)))), size, {}, {})
        for _ in range(2)
    ]
    (T, U), rng = map(len, axes), np.random.default_rng(draw(st.integers(0, 999)))
    decided = rng.random((T, U, K)) < 0.3
    ends = np.array([one.origins[-1] + size for one in axes])
    places = rng.random((50, 2)) * (ends + 5)
    klass = rng.integers(0, K, 50)
    wanted = [
        any(
            decided[t, u, k]
            for t, top in enumerate(axes[0].origins)
            for u, left in enumerate(axes[1].origins)
            if top <= y < top + size and left <= x < left + size
        )
        for k, (y, x) in zip(klass, np.minimum(places, ends - 1e-9), strict=True)
    ]
    found = in_tiles_given(decided, tuple(axes), klass, places[:, 0], places[:, 1])
    assert found.tolist() == wanted
    none = in_tiles_given(decided, tuple(axes), [], np.zeros(0), np.zeros(0))
    assert none.tolist() == []
