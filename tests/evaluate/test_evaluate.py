"""The job `evaluate` without Ray: what it says, and what comes of a run that is not reproduced."""

import json
from pathlib import Path

import pytest
import report_material
from matplotlib.figure import Figure
from page_checker import save_nothing

from satray.config.score import EvaluateRecipe
from satray.evaluate import job as evaluate
from satray.models.spec import BundleSpec
from satray.runs import job as performing
from satray.runs.job import Job, perform
from satray.runs.run import Run, library_versions, read_run, run_id
from satray.storage import Storage

JOB = Job("evaluate", EvaluateRecipe, evaluate.read, evaluate.plan, evaluate.work)
TILES = 7


@pytest.fixture(autouse=True)
def _scored(tmp_path, monkeypatch) -> None:
    """A bundle, an index and its tiles; three tiles a block."""
    report_material.findings(tmp_path, tiles=TILES)
    monkeypatch.setattr(Figure, "savefig", save_nothing)
    monkeypatch.setattr("satray.score.blocks.BLOCK_TILES", 3)


def recipe(root: Path, **more: object) -> EvaluateRecipe:
    values = {
        "bundle": str(root / "bundle"), "index": str(root / "index"), "bootstrap": 0,
        "error_budget": 1, "resources": {"workers": 1, "gpus": "no"}, **more,
    }  # fmt: skip
    return EvaluateRecipe.model_validate(values)


def do(root: Path, name: str, **more: object) -> tuple:
    given = recipe(root, **more)
    found = evaluate.read(given, Storage())
    run = Run(
        "evaluate", run_id("evaluate", given, found.digests), str(root / name), Storage(), ray=False
    )
    record = perform(JOB, given, found, run)
    metrics = json.loads((root / name / "metrics.json").read_text())
    assert metrics["engine"] == "eager fp32"
    assert metrics["caution"] in record.summary  # who reads figures alone is told, too
    return record, metrics["reproduction"]


def test_what_is_not_reproduced_is_a_finished_run_with_a_verdict(tmp_path) -> None:
    first, _ = do(tmp_path, "first")
    assert (first.status, first.verdict) == (0, None)
    same, found = do(tmp_path, "same", reproduce=str(tmp_path / "first"))
    assert (same.status, found["same"], found["compared"]) == (0, True, TILES)

    place = tmp_path / "bundle" / "model.json"
    spec = BundleSpec.from_json(place.read_bytes(), str(place))
    values = {name: getattr(spec, name) for name in spec.__dataclass_fields__}
    place.write_bytes(BundleSpec(**values | {"mean": (1900.0,) * 3}).to_json())
    other, found = do(tmp_path, "other", reproduce=str(tmp_path / "first"))
    assert (other.status, found["same"]) == (1, False)
    assert "the bundle's model.json differs: " in other.verdict
    assert "model.safetensors" not in other.verdict
    assert {"report.html", "metrics.json"} <= {product.path for product in other.products}
    assert not any("reproduce" in line for line in other.summary)  # it is said once
    # it is a run as any other: the next can be compared with it
    assert do(tmp_path, "again", reproduce=str(tmp_path / "other"))[0].status == 0
    assert read_run(Storage(), str(tmp_path / "other")).verdict == other.verdict


def test_finished_blocks_are_scored_again_for_a_reproduction_only(tmp_path, monkeypatch) -> None:
    do(tmp_path, "first")
    monkeypatch.setattr(performing, "drop_state", lambda run: None)  # as if cut short at the end
    compared = {"reproduce": str(tmp_path / "first")}
    do(tmp_path, "plain")
    do(tmp_path, "again", **compared)
    for tile in (tmp_path / "tiles").iterdir():
        tile.unlink()
    assert do(tmp_path, "plain")[0].failed == 0
    outcome, found = do(tmp_path, "again", **compared)
    assert (outcome.failed, found["only_there"], found["same"]) == (TILES, TILES, False)
    assert "only in the earlier run: this one's failures.parquet" in outcome.verdict


def test_what_computes_is_part_of_a_reproductions_run_id(tmp_path, monkeypatch) -> None:
    do(tmp_path, "first")

    def ids(**more: object) -> list[str]:
        plain, compared = recipe(tmp_path, **more), recipe(
            tmp_path, reproduce=str(tmp_path / "first"), **more
        )  # fmt: skip
        found = [evaluate.read(one, Storage()).digests for one in (plain, compared)]
        return [run_id("evaluate", one, d) for one, d in zip((plain, compared), found, strict=True)]

    before = ids()
    assert [a == b for a, b in zip(ids(), before, strict=True)] == [True, True]
    assert [a == b for a, b in zip(ids(batch=3), before, strict=True)] == [True, False]
    other = library_versions() | {"torch": "0.1"}
    monkeypatch.setattr(evaluate, "library_versions", lambda: other)
    assert [a == b for a, b in zip(ids(), before, strict=True)] == [True, False]
