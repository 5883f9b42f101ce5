"""Units of work: many are one, none is done twice, and a run that died goes on."""

import functools
import io

import maps_material as material
import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from satray.errors import SatrayError
from satray.scoring.dense.by_tile import Patch
from satray.scoring.dense.windows import Span
from satray.scoring.maps import deliver, plan
from satray.scoring.maps.ahead import Ahead
from satray.scoring.maps.coverage import GapPart
from satray.scoring.maps.piece import (
    PicturePart,
    PieceOfWork,
    Strip,
    TileRows,
    from_bytes,
    to_bytes,
)
from satray.scoring.predictions import Numbers

WINDOW = 512
"""The least side that the small network's windows may have."""


@pytest.fixture
def cut(monkeypatch):
    """Each row of windows is a unit."""
    monkeypatch.setattr(plan, "cut", functools.partial(plan.cut, most=1))


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


def test_units_are_some_rows_of_windows():
    assert plan.cut([3, 3, 3], most=6) == (Span(0, 2), Span(2, 3))
    assert plan.cut([9, 1, 1, 9], most=2) == (Span(0, 1), Span(1, 3), Span(3, 4))
    assert plan.cut([5]) == (Span(0, 1),)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 100))
def test_units_take_each_row_once(costs, most):
    units = plan.cut(costs, most)
    assert [row for unit in units for row in range(unit.start, unit.stop)] == list(
        range(len(costs))
    )
    for unit in units:
        assert len(unit) == 1 or sum(costs[unit.start : unit.stop]) <= most


@pytest.mark.parametrize(
    ("mode", "pooling", "towers"), [("dense", "max", 2), ("tiles", "avg", 1), ("tiles", "max", 1)]
)
def test_several_units_are_one(
    bundle, inline, scenes, tmp_path, monkeypatch, mode, pooling, towers
):
    folder = bundle(pooling=pooling, towers=towers)
    window = WINDOW if mode == "dense" else WINDOW // 2
    wanted = material.recipe(folder, scenes, mode=mode, stride=0.5, window=window)
    one, outcome, _, _ = material.scored(wanted, tmp_path / "one")
    assert inline.done == [(0, 0)]
    assert outcome.counts["detections"] == 4
    monkeypatch.setattr(plan, "cut", functools.partial(plan.cut, most=1))
    many, _, record, _ = material.scored(wanted, tmp_path / "many")
    assert len(inline.done) >= 3  # at least two of them of the second run
    assert material.digests(many) == material.digests(one)  # bit by bit
    assert record.counts == outcome.counts
    assert not list((tmp_path / "many").glob("state/*/pieces/*"))


def test_windows_are_the_whole_scene(bundle, inline, wide, tmp_path):
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
    tables = [material.rows_of(run, "predictions/part-00000.parquet") for run in runs]
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


def test_a_rerun_does_what_is_missing(bundle, inline, cut, scenes, tmp_path):
    wanted = material.recipe(bundle(), scenes, mode="dense", window=WINDOW)
    whole, _, _, _ = material.scored(wanted, tmp_path / "whole")
    units = len(inline.done)
    px, inline.px = inline.px, 0
    assert units >= 2

    def dies(number, unit):
        if unit == units - 1:
            raise KeyboardInterrupt

    inline.before = dies
    with pytest.raises(KeyboardInterrupt):
        material.scored(wanted, tmp_path / "out")
    assert not (tmp_path / "out" / "cam").exists()
    inline.before, inline.done[:] = None, []
    run, _, _, said = material.scored(wanted, tmp_path / "out")
    assert inline.done == [(0, units - 1)]
    assert any(f"going on: {units - 1} units of work are there already" in line for line in said)
    assert inline.px == px
    assert material.digests(run) == material.digests(whole)


def test_death_while_a_scene_is_put_together(bundle, inline, cut, scenes, tmp_path, monkeypatch):
    wanted = material.recipe(bundle(), scenes, mode="dense", window=WINDOW)

    def dies(*more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(deliver.Delivery, "deliver", dies)
        with pytest.raises(KeyboardInterrupt):
            material.scored(wanted, tmp_path / "out")
    units = len(inline.done) + 1
    inline.done[:], inline.px = [], 0
    _, outcome, _, _ = material.scored(wanted, tmp_path / "out")
    assert inline.done == [(0, units - 1)]
    assert inline.px == 0  # its pieces were there
    assert outcome.counts["detections"] == 4


def test_scenes_that_are_done_are_not_looked_at_again(
    bundle, inline, scenes, tmp_path, monkeypatch
):
    for name in ("a", "b", "c"):
        pixels = material.dotted(material.field(120, 130), (72, 72))
        material.write_scene(tmp_path / "scenes" / f"{name}.tif", pixels)
    wanted = material.recipe(bundle(), tmp_path / "scenes", mode="dense")

    def dies(number, unit):
        if number == 2:
            raise KeyboardInterrupt

    inline.before = dies
    with pytest.raises(KeyboardInterrupt):
        material.scored(wanted, tmp_path / "out")
    inline.before, inline.done[:] = None, []
    run, outcome, _, said = material.scored(wanted, tmp_path / "out")
    assert inline.done == [(2, 0)]
    assert any("going on: 2 of 3 scenes are done already" in line for line in said)
    assert [row["scene"] for row in material.rows_of(run, "scenes.parquet")] == [
        "a.tif",
        "b.tif",
        "c.tif",
    ]
    assert outcome.counts["detections"] == 3
    assert not list((tmp_path / "out").glob("state/*/results/*"))


shapes = st.tuples(st.integers(1, 2), st.integers(1, 3), st.just(2))
values = st.sampled_from([0.0, -1.5, 3e38, np.inf, np.nan])
floats = arrays.arrays(np.float32, shapes, elements=values)


@given(floats, st.integers(0, 10**9), st.sampled_from([("dense",), ("dense", "argmax")]))
def test_pieces_come_back_as_they_were(values, place, kinds):
    h = values.shape[1]
    numbers = Numbers(values[0], values[0] / 2, values[0] > 0, {"rgb": values[0]})
    patches = tuple(
        Patch(place + n, 3, dict.fromkeys(kinds, values), values[0], values[0] > 0)
        for n in range(12)
    )
    piece = PieceOfWork(
        {"rgb": (Strip(place, dict.fromkeys(kinds, values)), Strip(place + h, {"dense": values}))},
        {"nir": patches},
        (TileRows(place, numbers, values[0, :, 0] > 0),),
        (PicturePart(place, values, values[0] > 0),),
        (GapPart(place, np.arange(6, dtype=np.int32).reshape(2, 3)),),
        {"reading": 1.5},
        place,
    )
    again = from_bytes(to_bytes(piece), "here")
    assert (again.seconds, again.px) == (piece.seconds, piece.px)
    assert [strip.row for strip in again.strips["rgb"]] == [place, place + h]
    assert list(again.strips["rgb"][0].maps) == list(kinds)
    assert [patch.row for patch in again.patches["nir"]] == [place + n for n in range(12)]
    for name in kinds:
        np.testing.assert_array_equal(again.patches["nir"][11].sums[name], values)
        np.testing.assert_array_equal(again.strips["rgb"][0].maps[name], values)
    np.testing.assert_array_equal(again.patches["nir"][0].data, values[0] > 0)
    (rows,) = again.tiles
    assert rows.start == place
    np.testing.assert_array_equal(rows.numbers.shares["rgb"], values[0])
    np.testing.assert_array_equal(rows.scored, values[0, :, 0] > 0)
    np.testing.assert_array_equal(again.picture[0].pixels, values)
    assert again.gaps[0].row == place
    np.testing.assert_array_equal(again.gaps[0].counts, piece.gaps[0].counts)


def test_what_is_no_piece():
    sink = io.BytesIO()
    np.savez(sink, other=np.zeros(3))
    good = to_bytes(PieceOfWork({}, {}, (), (), (), {}, 0))
    for data in (b"", b"PK\3\4", good[: len(good) // 2], sink.getvalue()):
        with pytest.raises(SatrayError, match=r"x\.npz: not a piece that satray wrote") as error:
            from_bytes(data, "x.npz")
        assert "\n" not in str(error.value)


def test_reads_run_ahead_by_one_and_in_order():
    begun = []

    def read(n):
        begun.append(n)
        if n == 3:
            raise SatrayError("cut short")
        return n

    reads = Ahead([functools.partial(read, n) for n in range(5)])
    found = iter(reads)
    for value in range(3):
        assert next(found) == value
        assert set(begun) <= set(range(value + 2))
    with pytest.raises(SatrayError, match="cut short"):
        next(found)
    assert 4 not in begun
    assert list(Ahead([])) == []
