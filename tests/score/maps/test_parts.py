"""Parts of scenes: many are one, windows are the whole scene, and a run that died goes on."""

import time

import maps_material as material
import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from score.dense.test_windows import geometry

from satray.score import assemble, layout
from satray.score.layout import SceneLayout, owned
from satray.score.windows import plan_scene

WINDOW = 512
"""The least side that the small network's windows may have."""


def write(root, width, *places):
    """Some windows, with a gap, and dots on centres of cells, some near the windows' borders."""
    pixels = material.dotted(material.field(760, width, bands=4), *places)
    pixels[:, 500:600, 100:200] = 0
    names = (*material.BANDS, "nir")
    material.write_scene(root / "a.tif", pixels, names=names, nodata=0)
    return root


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """One scene of two windows, one above the other."""
    root = tmp_path_factory.mktemp("scenes")
    return write(root, 260, (136, 136), (392, 200), (680, 200), (680, 40))


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """One scene of four windows."""
    root = tmp_path_factory.mktemp("wide")
    return write(root, 600, (136, 136), (392, 392), (680, 552), (680, 40))


@given(
    st.tuples(st.integers(40, 900), st.integers(40, 900)),
    st.integers(1, 16),
    st.sampled_from([1 << 16, 1 << 18, 1 << 30]),
)
def test_parts_take_each_window_once(size, px_bytes, most):
    plan = plan_scene(*size, geometry(64, (16, 1, 0, 8.0)), window=128)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "PART_BYTES", most)
        parts = SceneLayout(plan, (), (), None).parts(px_bytes)
    assert [n for part in parts for n in part] == list(range(len(plan.windows)))
    for part in parts:
        some = [plan.windows[n] for n in part]
        assert len(part) == 1 or sum(w.height * w.width * px_bytes for w in some) <= most


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.integers(1, 400))
def test_each_px_is_shown_by_one_window(steps, length):
    spans = owned(np.cumsum([0, *steps]).tolist(), length)
    assert [px for span in spans for px in range(span.start, span.stop)] == list(range(length))


@pytest.mark.parametrize(
    ("mode", "pooling", "towers"), [("dense", "max", 2), ("tiles", "avg", 1), ("tiles", "max", 1)]
)
def test_several_parts_are_one(
    bundle, inline, scenes, tmp_path, monkeypatch, mode, pooling, towers
):
    folder = bundle(pooling=pooling, towers=towers)
    window = WINDOW if mode == "dense" else WINDOW // 2
    wanted = material.recipe(folder, scenes, mode=mode, stride=0.5, window=window)
    one, outcome, _, _ = material.scored(wanted, tmp_path / "one")
    assert inline.done == [(0, 0)]
    assert outcome.counts["detections"] == 4
    monkeypatch.setattr(layout, "PART_BYTES", 1)
    monkeypatch.setattr(assemble, "ROWS", 1)
    many, _, record, _ = material.scored(wanted, tmp_path / "many")
    assert len(inline.done) >= 3  # at least two of them of the second run
    assert material.digests(many) == material.digests(one)  # bit by bit
    assert record.counts == outcome.counts


def test_windows_are_the_whole_scene(bundle, wide, tmp_path):
    """Stitched by the job: as if the scene were read and seen at once."""
    runs = [
        material.scored(
            material.recipe(bundle(), wide, mode="dense", stride=1 / 3, window=window),
            tmp_path / str(window),
        )[0]
        for window in (WINDOW, 2048)
    ]
    parts, whole = (run.uri("cam/a.tif.tif") for run in runs)
    with rasterio.open(parts) as one, rasterio.open(whole) as other:
        assert one.transform == other.transform
        np.testing.assert_allclose(one.read(), other.read(), rtol=1e-4, atol=1e-4)
        assert np.isnan(one.read(1)).any()
    tables = [
        sorted(material.tiles_of(run), key=lambda tile: (tile["row"], tile["col"])) for run in runs
    ]
    assert len(tables[0]) > 100
    assert any(tile["status"] == "nodata" for tile in tables[0])
    for one, other in zip(*tables, strict=True):
        assert {k: v for k, v in one.items() if k[:5] not in ("logit", "score")} == {
            k: v for k, v in other.items() if k[:5] not in ("logit", "score")
        }
        for name in ("logit_dot", "score_dot", "logit_dark"):
            assert one[name] == pytest.approx(other[name], abs=1e-4)
    points = [material.rows_of(run, "detections/a.tif.parquet") for run in runs]
    for one, other in zip(*points, strict=True):
        assert (one["row"], one["col"]) == pytest.approx((other["row"], other["col"]), abs=1e-2)


def test_a_rerun_scores_the_scenes_that_are_missing(bundle, inline, tmp_path):
    for name in ("a", "b", "c"):
        pixels = material.dotted(material.field(120, 130), (72, 72))
        material.write_scene(tmp_path / "scenes" / f"{name}.tif", pixels)
    wanted = material.recipe(bundle(), tmp_path / "scenes", mode="dense")
    whole, _, _, _ = material.scored(wanted, tmp_path / "whole")
    out, lost = tmp_path / "out", []

    def dies(number, part):
        if len(inline.done) == 2:  # scenes are looked at in the order in which they are read
            lost.append((number, part))
            until = time.monotonic() + 60
            while len(list(out.glob("state/*/results/*"))) < 2:
                assert time.monotonic() < until
                time.sleep(0.05)
            raise KeyboardInterrupt

    inline.before, inline.done = dies, []
    with pytest.raises(KeyboardInterrupt):
        material.scored(wanted, out)
    inline.before, inline.done = None, []
    run, outcome, _, said = material.scored(wanted, out)
    assert inline.done == lost
    assert any("going on: 2 of 3 scenes are done already" in line for line in said)
    scenes = [row["scene"] for row in material.rows_of(run, "scenes.parquet")]
    assert scenes == ["a.tif", "b.tif", "c.tif"]
    assert outcome.counts["detections"] == 3
    assert material.digests(run) == material.digests(whole)
    assert not list(out.glob("state/*/results/*"))
