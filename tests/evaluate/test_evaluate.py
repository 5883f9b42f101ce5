"""The job `evaluate` without Ray: what comes of a run that is not reproduced."""

import json
from pathlib import Path

import pytest
import report_material
from by_hand import planned
from matplotlib.figure import Figure
from page_checker import save_nothing

from satray.config.score import EvaluateRecipe
from satray.errors import InputError
from satray.evaluate import job as evaluate
from satray.models.spec import BundleSpec
from satray.runs import job as performing
from satray.runs.job import Job, perform
from satray.runs.run import Run, library_versions, read_run, run_id
from satray.storage import Storage

JOB = Job("evaluate", EvaluateRecipe, evaluate.read, evaluate.plan, evaluate.work)
TILES = 7


@pytest.fixture
def scored(tmp_path, monkeypatch) -> None:
    """A bundle, an index and its tiles; three tiles a block."""
    report_material.findings(tmp_path, tiles=TILES)
    monkeypatch.setattr(Figure, "savefig", save_nothing)
    monkeypatch.setattr("satray.score.blocks.BLOCK_TILES", 3)


def recipe(root: Path, **more: object) -> EvaluateRecipe:
    values = {
        "bundle": str(root / "bundle"),
        "index": str(root / "index"),
        "bootstrap": 0,
        "gallery": [],
        "error_budget": 1,
        "resources": {"workers": 1, "gpus": "no"},
        **more,
    }
    return EvaluateRecipe.model_validate(values)


def do(root: Path, name: str, **more: object) -> tuple:
    given = recipe(root, **more)
    found = evaluate.read(given, Storage())
    run = Run(
        "evaluate", run_id("evaluate", given, found.digests), str(root / name), Storage(), ray=False
    )
    outcome, record = perform(JOB, given, found, run)
    metrics = json.loads((root / name / "metrics.json").read_text())
    return outcome, record, metrics["reproduction"]


def retouch(root: Path, **more: object) -> None:
    """Edit the bundle's model.json."""
    place = root / "bundle" / "model.json"
    spec = BundleSpec.from_json(place.read_bytes(), str(place))
    values = {name: getattr(spec, name) for name in spec.__dataclass_fields__} | more
    place.write_bytes(BundleSpec(**values).to_json())


def test_what_is_not_reproduced_is_a_finished_run_with_a_verdict(tmp_path, scored) -> None:
    first, record, _ = do(tmp_path, "first")
    assert (first.status, record.verdict) == (0, None)
    same, _, found = do(tmp_path, "same", reproduce=str(tmp_path / "first"))
    assert (same.status, found["same"], found["compared"]) == (0, True, TILES)

    retouch(tmp_path, mean=(1900.0,) * 3)
    other, record, found = do(tmp_path, "other", reproduce=str(tmp_path / "first"))
    assert (other.status, record.status, found["same"]) == (1, 1, False)
    assert record.verdict == other.verdict
    assert "the bundle's model.json differs: " in record.verdict
    assert "model.safetensors" not in record.verdict
    assert {"report.html", "metrics.json"} <= {product.path for product in record.products}
    assert not any("reproduce" in line for line in other.summary)  # it is said once
    # it is a run as any other: the next can be compared with it
    again, _, _ = do(tmp_path, "again", reproduce=str(tmp_path / "other"))
    assert again.status == 0
    assert read_run(Storage(), str(tmp_path / "other")).verdict == other.verdict


def test_finished_blocks_are_scored_again_for_a_reproduction_only(
    tmp_path, scored, monkeypatch
) -> None:
    do(tmp_path, "first")
    monkeypatch.setattr(performing, "drop_state", lambda run: None)  # as if cut short at the end
    compared = {"reproduce": str(tmp_path / "first")}
    do(tmp_path, "plain")
    do(tmp_path, "again", **compared)
    for tile in (tmp_path / "tiles").iterdir():
        tile.unlink()
    assert do(tmp_path, "plain")[0].failed == 0
    assert do(tmp_path, "again", **compared)[0].failed == TILES


def test_small_work_needs_no_ray(tmp_path, scored) -> None:
    given = recipe(tmp_path)
    assert not evaluate.large(given, evaluate.read(given, Storage()))


def test_what_computes_is_part_of_a_reproductions_run_id(tmp_path, scored, monkeypatch) -> None:
    do(tmp_path, "first")

    def ids(**more: object) -> tuple[str, str]:
        plain, compared = (
            recipe(tmp_path, **more),
            recipe(tmp_path, reproduce=str(tmp_path / "first"), **more),
        )
        return tuple(
            run_id("evaluate", one, evaluate.read(one, Storage()).digests)
            for one in (plain, compared)
        )

    before = ids()
    assert ids() == before
    assert ids(batch=3)[0] == before[0]
    assert ids(batch=3)[1] != before[1]
    other = library_versions() | {"torch": "0.1"}
    monkeypatch.setattr(evaluate, "library_versions", lambda: other)
    assert ids()[0] == before[0]
    assert ids()[1] != before[1]


@pytest.mark.parametrize("lost", ["deleted", "rubbish"])
def test_a_tile_that_only_the_earlier_run_could_read_is_named(tmp_path, scored, lost) -> None:
    do(tmp_path, "first")
    tile = tmp_path / "tiles" / "a&b3.tif"
    if lost == "deleted":
        tile.unlink()
    else:
        tile.write_bytes(b"rubbish")
    outcome, _, found = do(tmp_path, "again", reproduce=str(tmp_path / "first"))
    assert (found["only_there"], found["over"], found["same"]) == (1, 0, False)
    assert "1 tiles (a&b3) only in the earlier run: this one's failures.parquet" in outcome.verdict
    assert outcome.failed == 1


def test_a_gallery_of_no_class_is_refused(tmp_path, scored) -> None:
    with pytest.raises(InputError, match="gallery: no boat in the bundle; accepted: ship, "):
        evaluate.read(recipe(tmp_path, gallery=["boat"]), Storage())


def test_the_plan_tells_of_symmetries_and_of_the_comparison(tmp_path, scored) -> None:
    do(tmp_path, "first")
    plain = planned(evaluate, recipe(tmp_path))
    assert not any("eight forward passes" in line for line in plain)
    given = recipe(tmp_path, symmetries="d4", reproduce=str(tmp_path / "first"))
    lines = planned(evaluate, given)
    assert any("eight forward passes a tile" in line for line in lines)
    assert any(line.startswith("compared with run ") for line in lines)


@pytest.mark.parametrize(
    ("resources", "device"),
    [
        ({"CPU": 4.0}, "cpu"),
        ({"CPU": 4.0, "GPU": 1.0, "accelerator_type:H100": 1.0}, "gpu (H100)"),
        ({"CPU": 4.0, "GPU": 1.0}, "gpu"),
    ],
)
def test_the_device_has_its_name(tmp_path, monkeypatch, resources, device) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: resources)
    given = EvaluateRecipe(bundle="b", index="i", resources={"gpus": "auto"})
    run = Run("evaluate", "a" * 12, str(tmp_path), Storage())
    assert evaluate.device(given, run) == device
