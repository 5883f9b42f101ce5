"""Range tests over a real index, and `learning_rate: auto`, without Ray."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from training.small_archive import generate, make_recipe, make_run
from training.stand_in import Here

from satray.config.landscape import LandscapeRecipe
from satray.config.stages import StageOptions
from satray.errors import InputError, TrainingError
from satray.storage import Storage
from satray.training import auto, explore, findings, initial, landscape_job
from satray.training.range_test import Curve
from satray.training.setup import set_up

RANGE = {"lowest": 1e-5, "highest": 10.0, "steps": 30, "seeds": 2, "smoothing": 0.9}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("archive"), tiles=32)


@pytest.fixture
def here(monkeypatch):
    stand_in = Here()
    monkeypatch.setattr(explore, "cluster", stand_in)
    return stand_in


def prepared(archive, folder, recipe):
    run, said = make_run(folder / "out")
    setup = set_up(recipe, run.storage)
    return setup, run, said, initial.stage(setup, run)


def test_auto_fills_the_open_stages_once_and_keeps_the_rest(archive, tmp_path, here):
    stages = [
        {"trainable": "head", "learning_rate": "auto", "pseudo_epochs": 1},
        {"trainable": "all", "learning_rate": 2e-4, "pseudo_epochs": 1},
        {"trainable": "head", "learning_rate": "auto", "pseudo_epochs": 1},
    ]
    recipe = make_recipe(archive, tmp_path, stages=stages, landscape=RANGE)
    setup, run, said, weights = prepared(archive, tmp_path, recipe)
    with pytest.raises(ValueError, match="auto"):
        setup.plan.learning_rate(0)
    before = Path(weights).read_bytes()

    settled, found = auto.settle(setup, run, weights)

    (finding,) = found  # one test speaks for both stages
    assert finding.stages == (0, 2)
    assert len(finding.curves) == 2
    peaks = [stage.peak for stage in settled.plan.stages]
    assert peaks == [finding.learning_rate, 2e-4, finding.learning_rate]
    assert RANGE["lowest"] < finding.learning_rate < RANGE["highest"]
    assert finding.learning_rate <= finding.suggestions.bounds[1]
    assert any("range test of stages[0, 2] (head)" in line for line in said)
    assert Path(weights).read_bytes() == before
    assert {message["sweep"] for message in here.sent} == {0, 1}

    # a run that goes on finds what was found
    again, kept = auto.settle(setup, run, weights)
    assert here.calls == 1
    assert kept == found
    assert again.plan == settled.plan


def test_without_an_open_stage_nothing_is_run(archive, tmp_path, here):
    setup, run, _, weights = prepared(archive, tmp_path, make_recipe(archive, tmp_path))
    assert auto.settle(setup, run, weights) == (setup, ())
    assert here.calls == 0


def test_the_same_seed_gives_the_same_curves_and_another_another(archive, tmp_path, here):
    recipe = make_recipe(archive, tmp_path, landscape=RANGE, augment={"mixup": 0.2})
    setup, run, _, weights = prepared(archive, tmp_path, recipe)
    (first,) = explore.explore(setup, run, weights, (0,))
    Path(run.state, explore.FILE).unlink()
    (second,) = explore.explore(setup, run, weights, (0,))
    assert first == second
    assert first.curves[0].losses != first.curves[1].losses
    assert first.curves[0].losses[0] == pytest.approx(first.curves[1].losses[0], rel=0.5)


def test_the_job_writes_curve_picture_and_figures(archive, tmp_path, here):
    plain = make_recipe(archive, tmp_path, landscape=RANGE).model_dump()
    recipe = LandscapeRecipe.model_validate(plain)
    run, _ = make_run(tmp_path / "job")
    assert landscape_job.inputs(recipe, run.storage).keys() == {"index"}
    outcome = landscape_job.work(recipe, run)
    table = pq.read_table(run.uri("landscape.parquet"))
    assert table.column_names == ["seed", "step", "learning_rate", "loss", "smoothed"]
    assert set(table.column("seed").to_pylist()) == {0, 1}
    assert table.num_rows == outcome.counts["batches"]
    figures = json.loads(Path(run.uri("metrics.json")).read_text())
    assert figures["learning_rate"] == outcome.metrics["learning_rate"]
    assert {"valley", "steep", "minimum", "bounds", "seeds"} <= figures.keys()
    assert Path(run.uri("landscape.png")).read_bytes()[:4] == b"\x89PNG"
    assert "stages.0.learning_rate=" in outcome.summary[1]
    assert "2 sweeps of 30 batches of 8" in "\n".join(landscape_job.plan(recipe, run.storage))


def test_a_stage_that_is_not_there(archive, tmp_path):
    recipe = LandscapeRecipe.model_validate(
        make_recipe(archive, tmp_path).model_dump() | {"stage": 1}
    )
    with pytest.raises(InputError, match="stage=1: the recipe has 1 stages; accepted: 0 to 0"):
        landscape_job.inputs(recipe, Storage())


def test_tiles_that_cannot_be_read_are_left_out_within_the_budget(tmp_path, here):
    spoilt = generate(tmp_path / "spoilt", tiles=32, spoil=(5,))
    for budget, fits in ((0.1, True), (0.01, False)):
        folder = tmp_path / str(fits)
        recipe = make_recipe(spoilt, folder, landscape=RANGE, error_budget=budget)
        setup, run, _, weights = prepared(spoilt, folder, recipe)
        if fits:
            assert explore.explore(setup, run, weights, (0,))
            continue
        with pytest.raises(TrainingError, match=r"could not be read .error_budget=0\.01.") as error:
            explore.explore(setup, run, weights, (0,))
        assert "\n" not in str(error.value)


def test_stages_that_train_alike_share_a_test():
    def stage(**options):
        return StageOptions(learning_rate="auto", **options)

    options = (
        stage(trainable="head"),
        stage(),
        stage(layer_decay=0.5),
        stage(trainable="head"),
        stage(trainable="head", dropout=0.3),
    )
    assert explore.alike(options, range(5)) == [(0, 3), (1,), (2,), (4,)]
    assert explore.alike(options, (3, 1)) == [(3,), (1,)]


def test_findings_survive_the_journey_through_json():
    curve = Curve((1e-3, 1e-2), (0.7, 1 / 3), (0.7, 0.5), 100)
    found = (findings.Finding((0, 2), "head", (curve, curve), "steep"),)
    assert findings.from_bytes(findings.to_bytes(found)) == found
