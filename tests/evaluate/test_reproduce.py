"""All logits count, matched by id; and the reasons are told."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import report_material
from hypothesis import given
from hypothesis import strategies as st

from satray.config.score import EvaluateRecipe
from satray.data.index import read_index
from satray.errors import InputError, SatrayError
from satray.evaluate.quality import Predicted
from satray.evaluate.reproduce import causes, changed_files, compare, earlier, read_predicted
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
    assert "1 tiles only in this run (a)" in found.line()
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
    record = earlier(recipe(tmp_path), CLASSES, Storage())
    found = read_predicted(str(tmp_path / "old"), record, CLASSES, Storage())
    assert found.ids == ("a", "b", "c")
    assert np.array_equal(found.logits, values)
    assert found.model_id == "m"


@pytest.mark.parametrize(
    ("record", "classes", "said"),
    [
        (a_record(job="score"), CLASSES, "a run of score; accepted: of evaluate"),
        (a_record(config={"split": "test"}), CLASSES, "predicted split test; give split=test"),
        (a_record(), ("ship",), "its classes are ship, haze & fog, the bundle's ship"),
    ],
)
def test_what_cannot_be_reproduced_is_refused(tmp_path, record, classes, said) -> None:
    write_run(tmp_path / "old", record, "ab", np.zeros((2, 2)))
    with pytest.raises(InputError, match=said) as caught:
        earlier(recipe(tmp_path), classes, Storage())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[1]", "{}", '{"classes": ["ship", "haze & fog"]}'])
def test_another_metrics_json_is_refused(tmp_path, text) -> None:
    write_run(tmp_path / "old", a_record(), "ab", np.zeros((2, 2)))
    (tmp_path / "old" / "metrics.json").write_text(text)
    with pytest.raises(InputError, match=r"metrics\.json: not a metrics\.json that satray wrote"):
        earlier(recipe(tmp_path), CLASSES, Storage())


def test_a_run_without_predictions_is_refused(tmp_path) -> None:
    record = write_run(tmp_path / "old", a_record(), "ab", np.zeros((2, 2)))
    (tmp_path / "old" / "run.json").write_bytes(replace(record, products=()).to_json())
    with pytest.raises(InputError, match="the run holds no predictions"):
        earlier(recipe(tmp_path), CLASSES, Storage())


def test_no_run_to_reproduce(tmp_path) -> None:
    with pytest.raises(InputError, match=r"no run\.json"):
        earlier(recipe(tmp_path), CLASSES, Storage())


@pytest.mark.parametrize("nan_in", ["now", "before", "both"])
def test_no_number_is_not_the_same(nan_in) -> None:
    good, bad = logits("ab", [[0, 0], [1, 1]]), logits("ab", [[0, 0], [1, np.nan]])
    found = compare(
        good if nan_in == "before" else bad, good if nan_in == "now" else bad, CLASSES, 1e-4
    )
    assert (found.same, found.over, found.where) == (False, ("b",), "haze & fog of b")
    assert "does not reproduce" in found.line()


MADE = {"device": "cpu", "bundle": {"model.json": "1", "model.safetensors": "2"}}


def test_causes_are_told(tmp_path) -> None:
    report_material.findings(tmp_path, tiles=1)
    index = read_index(str(tmp_path / "index"), Storage())
    same = a_record(inputs={"index": index.digest})

    def told(record=same, now=MADE, then=MADE) -> tuple[str, ...]:
        return causes(recipe(tmp_path), record, (now, then), index, (), Storage())

    assert told() == ()
    other = a_record(
        inputs={"index": "0" * 64},
        versions=library_versions() | {"torch": "1.0"},
        config={"split": "val", "batch": 32, "symmetries": "none"},
    )
    lines = told(other)
    assert lines[0] == f"data differ: tile index {'0' * 12} then, {index.digest[:12]} now"
    assert lines[1].startswith("versions differ: torch 1.0 then, ")
    assert lines[2:] == ("batch differs: 32 then, 64 now",)
    for name, more in (("model.json", "; the weights are the same"), ("model.safetensors", "")):
        now = MADE | {"bundle": MADE["bundle"] | {name: "3"}}
        assert told(now=now) == (f"bundle differs in {name}{more}",)


@pytest.mark.parametrize(
    ("now", "then", "differs"),
    [
        ("gpu (H100)", "gpu (H100)", False),
        ("gpu (H100)", "gpu (A100)", True),
        ("gpu (H100)", "gpu", False),  # recorded without a name: not known to differ
        ("gpu (H100)", "cpu", True),
        ("cpu", "gpu", True),
    ],
)
def test_devices(tmp_path, now, then, differs) -> None:
    report_material.findings(tmp_path, tiles=1)
    index = read_index(str(tmp_path / "index"), Storage())
    same = a_record(inputs={"index": index.digest})
    made = MADE | {"device": now}, MADE | {"device": then}
    lines = causes(recipe(tmp_path), same, made, index, (), Storage())
    assert lines == ((f"device differs: {then} then, {now} now",) if differs else ())


def test_files_that_changed_are_told(tmp_path) -> None:
    found = report_material.findings(tmp_path, tiles=4)
    storage = Storage()
    assert changed_files(found.index, found.predicted.ids, storage) == []
    (tmp_path / "tiles" / "a&b2.tif").unlink()
    (tmp_path / "tiles" / "a&b1.tif").write_bytes(b"another")
    (said,) = changed_files(found.index, [*found.predicted.ids, "of no index"], storage)
    assert "2 of 4 tiles looked at (a&b1, a&b2 (cannot be read))" in said
    assert changed_files(found.index, ["a&b0", "a&b3"], storage) == []
    assert changed_files(found.index, [], storage) == []


def test_a_store_that_fails_costs_the_reason_only(tmp_path, monkeypatch) -> None:
    found = report_material.findings(tmp_path, tiles=2)
    same = a_record(inputs={"index": found.index.digest})

    def broken(self, uri):
        raise SatrayError(f"{uri}: the store failed")

    monkeypatch.setattr(Storage, "head", broken)
    made = MADE | {"device": "gpu"}, MADE
    ids = found.predicted.ids
    lines = causes(recipe(tmp_path), same, made, found.index, ids, Storage())
    assert lines[0] == "device differs: cpu then, gpu now"
    assert lines[1].startswith("not everything could be looked at: ")
    assert lines[1].endswith("a&b0.tif: the store failed")


def test_the_document_is_json(tmp_path) -> None:
    found = compare(logits("abc", np.zeros(6)), logits("bcd", np.ones(6)), CLASSES, 1e-4)
    plain = json.loads(json.dumps(found.document()))
    assert (plain["same"], plain["over"], plain["only_here"], plain["only_there"]) == (
        False, 2, 1, 1,
    )  # fmt: skip
