"""The job `check` over a real index, without Ray."""

import json
from pathlib import Path

import pytest
from training.small_archive import generate, make_recipe, make_run
from training.stand_in import Here

from satray.config.check import CheckRecipe
from satray.errors import InputError, TrainingError
from satray.storage import Storage
from satray.training import check_job, check_task


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("archive"), tiles=32)


@pytest.fixture
def here(monkeypatch):
    stand_in = Here()
    monkeypatch.setattr(check_task, "cluster", stand_in)
    return stand_in


def recipe_of(archive, folder, check, **changes):
    plain = make_recipe(archive, folder, **changes).model_dump()
    return CheckRecipe.model_validate({**plain, "check": check})


def test_a_sound_set_up_passes_and_says_so(archive, tmp_path, here):
    run, said = make_run(tmp_path / "out")
    # what would keep a batch from being learnt by heart is off
    regular = {"augment": {"mixup": 0.4}, "dropout": 0.5, "loss": {"smoothing": 0.2}}
    check = {"steps": 250, "learning_rate": 1e-2, "permutations": 1}
    recipe = recipe_of(archive, tmp_path, check, **regular)
    outcome = check_job.work(recipe, run)
    document = json.loads(Path(run.uri("check.json")).read_text())
    assert document["passed"]
    assert document["looks_like"] == "passed"
    assert document["evidence"]["main"]["losses"][-1] < 0.01
    assert document["evidence"]["main"]["accuracy"] == 1
    assert len(document["tile_ids"]) == 8
    assert document["labels"] in outcome.summary
    assert outcome.summary[0].startswith("passed: 8 tiles learnt in")
    assert any("on a CPU" in line for line in said)
    assert here.sent


def test_a_failure_ends_in_one_line_and_leaves_its_evidence(archive, tmp_path, here):
    run, _ = make_run(tmp_path / "out")
    check = {"steps": 40, "learning_rate": 1e-7}
    with pytest.raises(TrainingError, match="too low") as error:
        check_job.work(recipe_of(archive, tmp_path, check), run)
    assert "\n" not in str(error.value)
    assert error.value.exit_status == 1
    document = json.loads(Path(run.uri("check.json")).read_text())
    assert document["looks_like"] == "rate_too_low"
    assert not document["passed"]


def test_a_batch_of_one_and_an_unknown_block_are_refused(archive, tmp_path, here):
    with pytest.raises(InputError, match=r"batch=1: .* at least 2"):
        check_job.inputs(recipe_of(archive, tmp_path, {}, batch=1), Storage())
    run, _ = make_run(tmp_path / "out")
    with pytest.raises(InputError, match="layer9"):
        check_job.work(recipe_of(archive, tmp_path, {"trainable": "layer9"}), run)


def test_the_plan(archive, tmp_path):
    lines = check_job.plan(recipe_of(archive, tmp_path, {"steps": 77}), Storage())
    assert "8 tiles of the train split, up to 77 steps at learning rate 0.003" in lines[-1]
