"""Range tests over a real index, and `learning_rate: auto`, without Ray."""

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from by_hand import planned, worked
from train.small_archive import BANDS, generate, make_recipe, make_run

from satray.config.train import LandscapeRecipe, RangeOptions, StageOptions
from satray.errors import InputError, TrainingError
from satray.storage import Storage
from satray.train import job
from satray.train.landscape import auto, findings
from satray.train.landscape import job as landscape_job
from satray.train.landscape import task as explore
from satray.train.landscape.range_test import Curve
from satray.train.loop import step as inputs
from satray.train.plan.setup import set_up
from satray.train.workers import initial

RANGE = {"lowest": 1e-5, "highest": 10.0, "steps": 30, "seeds": 2, "smoothing": 0.9}


@pytest.fixture
def archive(small_archive):
    return small_archive


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
    recipe = make_recipe(archive, tmp_path, stages=stages, landscape=RANGE, precision="fp32")
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
    assert {message["sweep"] for message in here.sent if "sweep" in message} == {0, 1}
    assert [message for message in here.sent if "bf16" in message] == [{"bf16": False}]
    here.show({"bf16": True})
    assert said[-1] == "range test: precision: bf16 autocast"

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
    assert landscape_job.read(recipe, run.storage).digests.keys() == {"index"}
    outcome = worked(landscape_job, recipe, run)
    table = pq.read_table(run.uri("landscape.parquet"))
    assert table.column_names == ["seed", "step", "learning_rate", "loss", "smoothed"]
    assert set(table.column("seed").to_pylist()) == {0, 1}
    assert table.num_rows == outcome.counts["batches"]
    figures = json.loads(Path(run.uri("metrics.json")).read_text())
    assert figures["learning_rate"] == outcome.metrics["learning_rate"]
    assert {"valley", "steep", "minimum", "bounds", "seeds"} <= figures.keys()
    assert Path(run.uri("landscape.png")).read_bytes()[:4] == b"\x89PNG"
    assert "stages.0.learning_rate=" in outcome.summary[1]
    assert "2 sweeps of 30 batches of 8" in "\n".join(planned(landscape_job, recipe))


def test_a_stage_that_is_not_there(archive, tmp_path):
    recipe = LandscapeRecipe.model_validate(
        make_recipe(archive, tmp_path).model_dump() | {"stage": 1}
    )
    with pytest.raises(InputError, match=r"stage=1: the recipe has 1 stage; accepted: 0$"):
        landscape_job.read(recipe, Storage())


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


RESNET = {"towers": [{"name": "all4", "backbone": "resnet10t", "bands": BANDS}]}


def test_it_sweeps_as_the_recipe_would_train(archive, tmp_path, here, monkeypatch):
    """Repeatable kernels; batch norms that see what they will see, and never a single tile."""
    seen = []

    def sweep(*args, parts, **options):
        seen.append((torch.are_deterministic_algorithms_enabled(), parts))
        return Curve((1e-3,), (0.7,), (0.7,), 1)

    monkeypatch.setattr(explore, "sweep", sweep)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    team = {"resources": {"workers": 2, "gpus": "auto"}, "landscape": {"seeds": 1}}
    for batch, changes, expected in (
        (4, {"deterministic": False}, (False, 2)),
        (4, {}, (True, 2)),
        (4, {"sync_batchnorm": True}, (True, 1)),
        (2, {"sync_batchnorm": True}, (True, 1)),
        (2, {}, None),
    ):
        folder = tmp_path / str(len(seen))
        recipe = make_recipe(archive, folder, variant=RESNET, batch=batch, **team, **changes)
        run, _ = make_run(folder / "out")
        setup = set_up(recipe, run.storage)
        weights = initial.stage(setup, run, check=lambda *_: None)
        if expected is None:
            with pytest.raises(InputError, match="batch=2: one tile a worker"):
                explore.explore(setup, run, weights, (0,))
            continue
        explore.explore(setup, run, weights, (0,))
        assert seen[-1] == expected
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == (len(seen) > 1)
    assert len(seen) == 4
    assert not torch.are_deterministic_algorithms_enabled()


def test_each_pass_over_the_tiles_is_augmented_anew(archive, tmp_path, here, monkeypatch):
    recipe = make_recipe(
        archive, tmp_path, batch=24, input={"size": 16, "resize": 24}, augment={"mixup": 0.3}
    )
    setup, run, _, weights = prepared(archive, tmp_path, recipe)
    drawn, shared = [], []
    whole, share = inputs.train_input, explore.shares
    monkeypatch.setattr(
        inputs, "train_input", lambda x, rows, *a: (drawn.append(rows), whole(x, rows, *a))[1]
    )
    monkeypatch.setattr(explore, "shares", lambda *a: (shared.append(a[-1].tolist()), share(*a))[1])
    monkeypatch.setattr(explore, "mix", lambda x, labels, *_: (x, labels))
    passes = []

    def sweep(network, optimizer, batches, *args, **options):
        passes.extend(x_BCHW for x_BCHW, _ in itertools.islice(batches, 3))
        return Curve((1e-3,), (0.7,), (0.7,), 1)

    monkeypatch.setattr(explore, "sweep", sweep)
    setup = replace(setup, recipe=recipe.model_copy(update={"landscape": RangeOptions(seeds=1)}))
    explore.explore(setup, run, weights, (0,))
    assert shared == [rows.tolist() for rows in drawn]
    tiles = [x[np.argsort(rows % 2**40)] for x, rows in zip(passes, drawn, strict=True)]
    assert all(sorted((rows % 2**40).tolist()) == list(range(24)) for rows in drawn)
    for one, other in itertools.combinations(tiles, 2):
        alike = sum(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        assert alike <= 2  # of 24: 8 symmetries at 81 places


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


def test_a_landscape_refuses_only_what_it_uses(archive, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    stages = [{"trainable": "all"}, {"trainable": "nonsense"}]
    plain = make_recipe(archive, tmp_path, stages=stages, tracking="mlflow").model_dump()
    recipe = LandscapeRecipe.model_validate(plain)
    assert landscape_job.read(recipe, Storage()).digests.keys() == {"index"}
    planned(landscape_job, recipe)
    other = LandscapeRecipe.model_validate(plain | {"stage": 1})
    with pytest.raises(InputError, match=r"stages\.1\.trainable='nonsense' is no block"):
        planned(landscape_job, other)
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI"):
        job.read(recipe, Storage())
