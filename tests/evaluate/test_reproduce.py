"""All logits count, matched by id; and the reasons are told."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satray.config.score import EvaluateRecipe
from satray.errors import InputError
from satray.evaluate.quality import Predicted
from satray.evaluate.reproduce import Earlier, causes, compare, earlier
from satray.runs.run import Product, RunRecord, library_versions
from satray.score.predictions import Layout, Numbers, TileFacts, predictions
from satray.storage import Storage

CLASSES = ("ship", "haze & fog")
NAN = np.nan


def logits(ids, values) -> Predicted:
    values = np.asarray(values, dtype=float).reshape(-1, 2)
    return Predicted(tuple(ids), values, np.zeros_like(values), "m")


@settings(max_examples=30)
@given(st.permutations(range(6)), st.integers(0, 5), st.integers(2, 50_000))
def test_order_does_not_matter_and_one_logit_is_found(order, row, change) -> None:
    values = np.random.default_rng(0).normal(size=(6, 2))
    ids = [f"t{i}" for i in range(6)]
    moved = values.copy()
    moved[row, 1] += change / 10_000
    now = logits([ids[i] for i in order], values[list(order)])
    assert compare(now, logits(ids, values), CLASSES, 0).same
    found = compare(now, logits(ids, moved), CLASSES, 1e-4)
    assert (found.same, found.over) == (False, (f"t{row}",))
    assert found.largest == pytest.approx(change / 10_000)
    assert found.where == f"haze & fog of t{row}"


@pytest.mark.parametrize(
    ("now", "then", "same", "said"),
    [
        # the report's routine summed signed differences of the first tile
        ([1, 2, 3, 4], [1, 2, 3.5, 3.5], False, "by more than 0.0001, at most by 0.5 (ship of b)"),
        ([0, 0, 0, 0], [1e-5, -1e-5, 0, 0], True, "differ by 1e-05 at most"),
        ([0, 0, 1, 1], [0, 0, 1, NAN], False, "does not reproduce"),
        ([0, 0, 1, NAN], [0, 0, 1, NAN], False, "(haze & fog of b)"),
    ],
)
def test_differences_do_not_cancel_and_no_number_is_not_the_same(now, then, same, said) -> None:
    found = compare(logits("ab", now), logits("ab", then), CLASSES, 1e-4)
    assert found.same == same
    assert found.over == (() if same else ("b",))
    assert said in found.line()


def test_tiles_of_one_run_only() -> None:
    found = compare(logits("abc", np.zeros(6)), logits("bcd", np.ones(6)), CLASSES, 1e-4)
    assert "1 tile (a) only in this run" in found.line()
    assert "1 tile (d) only in the earlier run" in found.line()
    plain = json.loads(json.dumps(found.document()))
    names = ("same", "compared", "over", "only_here", "only_there")
    assert [plain[name] for name in names] == [False, 2, 2, 1, 1]
    none = compare(logits("a", [0, 0]), logits("b", [0, 0]), CLASSES, 1e-4)
    assert not none.same
    assert "no tile in both runs" in none.line()


def a_record(**more) -> RunRecord:
    values = {
        "job": "evaluate", "run_id": "e" * 12, "started": "", "finished": "", "inputs": {},
        "config": {"split": "val", "batch": 64, "symmetries": "none"},
        "versions": library_versions(),
        "products": tuple(Product(f"predictions/part-0000{n}.parquet", 1, "") for n in (0, 1)),
    }  # fmt: skip
    return RunRecord(**(values | more))


def recipe(folder: Path) -> EvaluateRecipe:
    return EvaluateRecipe(bundle="b", index="i", reproduce=str(folder))


@pytest.fixture
def run(tmp_path) -> Path:
    """An earlier run of tiles a, b, c and a broken one, in two parts."""
    values = np.append(np.arange(6), [0, 0]).reshape(4, 2).astype(np.float32)
    facts = [TileFacts(name, name, target=(0, 1)) for name in "abc"]
    facts.append(TileFacts("broken", "broken", error="gone"))
    table = predictions(
        Layout(CLASSES, (), "m", "r" * 12), facts, Numbers(values, values, values.astype(np.uint8))
    )
    (tmp_path / "predictions").mkdir()
    for part, rows in enumerate(([0], [1, 2, 3])):
        path = tmp_path / "predictions" / f"part-0000{part}.parquet"
        pq.write_table(table.take(pa.array(rows)), path)
    document = {"classes": list(CLASSES), "bundle": {}, "device": "cpu"}
    (tmp_path / "metrics.json").write_text(json.dumps(document))
    (tmp_path / "run.json").write_bytes(a_record().to_json())
    return tmp_path


def test_an_earlier_run_is_read_part_by_part_without_its_failures(run) -> None:
    found = earlier(recipe(run), CLASSES, Storage()).predicted(Storage())
    assert (found.ids, found.model_id) == (("a", "b", "c"), "m")
    assert np.array_equal(found.logits, np.arange(6).reshape(3, 2))
    assert np.array_equal(found.labels, [[0, 1]] * 3)


@pytest.mark.parametrize(
    ("more", "classes", "said"),
    [
        ({"job": "score"}, CLASSES, "a run of score; accepted: of evaluate"),
        ({"config": {"split": "test"}}, CLASSES, "predicted split test; give split=test"),
        ({"products": ()}, CLASSES, "the run holds no predictions"),
        ({}, ("ship",), "its classes are ship, haze & fog, the bundle's ship"),
        (None, CLASSES, "no run.json"),
        (b"[1]", CLASSES, "metrics.json: not a metrics.json that satray wrote"),
        (b'{"classes": []}', CLASSES, "not a metrics.json that satray wrote"),
        (b'{"clas', CLASSES, "not a metrics.json that satray wrote"),
    ],
)
def test_what_cannot_be_reproduced_is_refused(run, more, classes, said) -> None:
    (run / "run.json").unlink()
    if isinstance(more, bytes):
        (run / "metrics.json").write_bytes(more)
        more = {}
    if more is not None:
        (run / "run.json").write_bytes(replace(a_record(), **more).to_json())
    with pytest.raises(InputError) as caught:
        earlier(recipe(run), classes, Storage())
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


MADE = {"device": "cpu", "bundle": {"model.json": "1", "model.safetensors": "2"}}


@pytest.mark.parametrize(
    ("more", "now", "expected"),
    [
        ({}, {}, None),
        ({"inputs": {"index": "0" * 64}}, {}, f"tile index differs: {'0' * 12} then, 1 now"),
        ({"versions": library_versions() | {"torch": "1.0"}}, {}, "torch differs: 1.0 then, "),
        ({"config": {"batch": 32, "symmetries": "none"}}, {}, "batch differs: 32 then, 64 now"),
        ({}, {"device": "gpu (H100)"}, "device differs: cpu then, gpu (H100) now"),
        ({}, {"bundle": MADE["bundle"] | {"model.json": "3"}},
         "the bundle's model.json differs: 1 then, 3 now"),
    ],
)  # fmt: skip
def test_causes_are_told(tmp_path, more, now, expected) -> None:
    before = Earlier("old", a_record(**({"inputs": {"index": "1"}} | more)), MADE)
    lines = causes(recipe(tmp_path), before, MADE | now, "1")
    assert len(lines) == (expected is not None)
    assert all(line.startswith(expected) for line in lines)
