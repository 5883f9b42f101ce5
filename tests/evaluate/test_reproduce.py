"""All logits count, matched by id; and the reasons are told."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satray.config.score import EvaluateRecipe
from satray.errors import InputError
from satray.evaluate.quality import Predicted
from satray.evaluate.reproduce import Earlier, causes, compare, earlier
from satray.runs.run import Product, RunRecord, library_versions
from satray.scoring.predictions import Layout, Numbers, TileFacts, predictions
from satray.storage import Storage

CLASSES = ("ship", "haze & fog")


def logits(ids, values) -> Predicted:
    values = np.asarray(values, dtype=float).reshape(-1, 2)
    return Predicted(tuple(ids), values, np.zeros_like(values), "m")


def test_signed_differences_do_not_cancel() -> None:
    """The report's routine summed signed differences of the first tile: here they are all seen."""
    now = logits("ab", [[1, 2], [3, 4]])
    before = logits("ab", [[1, 2], [3.5, 3.5]])
    found = compare(now, before, CLASSES, 1e-4)
    assert (found.largest, found.over, found.same) == (0.5, ("b",), False)
    assert found.where == "ship of b"


@given(st.permutations(range(6)), st.integers(0, 5), st.integers(2, 50_000))
def test_order_does_not_matter_and_one_logit_is_found(order, row, change) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(6, 2))
    ids = [f"t{i}" for i in range(6)]
    moved = values.copy()
    moved[row, 1] += change / 10_000
    now = logits([ids[i] for i in order], values[list(order)])
    assert compare(now, logits(ids, values), CLASSES, 0).same
    found = compare(now, logits(ids, moved), CLASSES, 1e-4)
    assert not found.same
    assert found.over == (f"t{row}",)
    assert found.largest == pytest.approx(change / 10_000)
    assert found.where == f"haze & fog of t{row}"


def test_tiles_of_one_run_only() -> None:
    found = compare(logits("abc", np.zeros(6)), logits("bcd", np.zeros(6)), CLASSES, 1e-4)
    assert (found.only_here, found.only_there, found.compared) == (("a",), ("d",), 2)
    assert not found.same
    assert "1 tiles (a) only in this run" in found.line()
    none = compare(logits("a", np.zeros(2)), logits("b", np.zeros(2)), CLASSES, 1e-4)
    assert not none.same
    assert "no tile in both runs" in none.line()


def test_within_tolerance_is_the_same() -> None:
    found = compare(logits("a", [0, 0]), logits("a", [1e-5, -1e-5]), CLASSES, 1e-4)
    assert found.same
    assert "differ by 1e-05 at most" in found.line()
    assert not compare(logits("a", [0, 0]), logits("a", [1e-5, 0]), CLASSES, 1e-6).same


def write_run(folder: Path, record: RunRecord, ids, values, model: str = "m") -> RunRecord:
    layout = Layout(CLASSES, (), model, "r" * 12)
    values = np.asarray(values, dtype=np.float32)
    facts = [TileFacts(name, name, target=(0, 1)) for name in ids]
    facts.append(TileFacts("broken", "broken", error="gone"))
    padded = np.concatenate([values, np.zeros((1, 2), np.float32)])
    numbers = Numbers(padded, padded, padded.astype(np.uint8))
    (folder / "predictions").mkdir(parents=True)
    for part, rows in enumerate(([0], list(range(1, len(facts))))):
        table = predictions(layout, facts, numbers).take(pa.array(rows))
        pq.write_table(table, folder / "predictions" / f"part-0000{part}.parquet")
    told = {"classes": list(CLASSES), "bundle": {}, "device": "cpu"}
    (folder / "metrics.json").write_text(json.dumps(told))
    products = tuple(Product(f"predictions/part-0000{n}.parquet", 1, "") for n in (0, 1))
    record = replace(record, products=products)
    (folder / "run.json").write_bytes(record.to_json())
    return record


def a_record(**more) -> RunRecord:
    values = {
        "job": "evaluate", "run_id": "e" * 12, "started": "", "finished": "",
        "config": {"split": "val", "index": "/nowhere", "batch": 64, "symmetries": "none"},
        "inputs": {}, "versions": library_versions(),
    }  # fmt: skip
    return RunRecord(**(values | more))


def recipe(folder: Path, **more) -> EvaluateRecipe:
    return EvaluateRecipe.model_validate(
        {"bundle": "b", "index": str(folder / "index"), "reproduce": str(folder / "old")} | more
    )


def test_an_earlier_run_is_read_part_by_part_without_its_failures(tmp_path) -> None:
    values = np.arange(6).reshape(3, 2)
    write_run(tmp_path / "old", a_record(), "abc", values)
    found = earlier(recipe(tmp_path), CLASSES, Storage()).predicted(Storage())
    assert found.ids == ("a", "b", "c")
    assert np.array_equal(found.logits, values)
    assert found.model_id == "m"


@pytest.mark.parametrize(
    ("more", "metrics", "said"),
    [
        ({"job": "score"}, None, "a run of score; accepted: of evaluate"),
        ({"config": {"split": "test"}}, None, "predicted split test; give split=test"),
        ({}, {"classes": ["ship"], "bundle": {}, "device": ""},
         "its classes are ship, the bundle's ship, haze & fog"),
        ({}, [1], "metrics.json: not a metrics.json that satray wrote"),
        ({}, {}, "metrics.json: not a metrics.json that satray wrote"),
        ({}, {"classes": list(CLASSES)}, "metrics.json: not a metrics.json that satray wrote"),
        ({"products": ()}, None, "the run holds no predictions"),
        (None, None, "no run.json"),
    ],
)  # fmt: skip
def test_what_cannot_be_reproduced_is_refused(tmp_path, more, metrics, said) -> None:
    record = write_run(tmp_path / "old", a_record(), "ab", np.zeros((2, 2)))
    if more is None:
        (tmp_path / "old" / "run.json").unlink()
    else:
        (tmp_path / "old" / "run.json").write_bytes(replace(record, **more).to_json())
    if metrics is not None:
        (tmp_path / "old" / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(InputError) as caught:
        earlier(recipe(tmp_path), CLASSES, Storage())
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("nan_in", ["now", "before", "both"])
def test_no_number_is_not_the_same(nan_in) -> None:
    good, bad = logits("ab", [[0, 0], [1, 1]]), logits("ab", [[0, 0], [1, np.nan]])
    found = compare(
        good if nan_in == "before" else bad, good if nan_in == "now" else bad, CLASSES, 1e-4
    )
    assert (found.same, found.over, found.where) == (False, ("b",), "haze & fog of b")
    assert "does not reproduce" in found.line()


MADE = {"device": "cpu", "bundle": {"model.json": "1", "model.safetensors": "2"}}


@pytest.mark.parametrize(
    ("more", "now", "lines"),
    [
        ({}, {}, []),
        ({"inputs": {"index": "0" * 64}}, {}, [f"tile index differs: {'0' * 12} then, 1 now"]),
        ({"versions": library_versions() | {"torch": "1.0"}}, {}, ["torch differs: 1.0 then, "]),
        ({"config": {"batch": 32, "symmetries": "none"}}, {}, ["batch differs: 32 then, 64 now"]),
        ({}, {"device": "gpu (H100)"}, ["device differs: cpu then, gpu (H100) now"]),
        ({}, {"bundle": MADE["bundle"] | {"model.json": "3"}},
         ["the bundle's model.json differs: 1 then, 3 now"]),
    ],
)  # fmt: skip
def test_causes_are_told(tmp_path, more, now, lines) -> None:
    before = Earlier("old", replace(a_record(inputs={"index": "1"}), **more), MADE)
    found = causes(recipe(tmp_path), before, MADE | now, "1")
    assert len(found) == len(lines)
    assert all(line.startswith(start) for line, start in zip(found, lines, strict=True))


def test_the_document_is_json(tmp_path) -> None:
    found = compare(logits("abc", np.zeros(6)), logits("bcd", np.ones(6)), CLASSES, 1e-4)
    plain = json.loads(json.dumps(found.document()))
    assert (plain["same"], plain["over"], plain["only_here"], plain["only_there"]) == (
        False, 2, 1, 1,
    )  # fmt: skip
