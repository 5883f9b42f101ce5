"""The job `check` over a real index, without Ray."""

import json
from pathlib import Path

import pytest
from by_hand import planned, worked
from train.small_archive import make_recipe, make_run

from satray.config.train import CheckRecipe
from satray.errors import InputError
from satray.storage import Storage
from satray.train.check import job as check_job
from satray.train.loop import losses


@pytest.fixture
def archive(small_archive):
    return small_archive


def recipe_of(archive, folder, check, **changes):
    plain = make_recipe(archive, folder, **changes).model_dump()
    return CheckRecipe.model_validate({**plain, "check": check})


def test_a_sound_set_up_passes_and_says_so(archive, tmp_path, here):
    run, said = make_run(tmp_path / "out")
    # what would keep a batch from being learnt by heart is off
    regular = {"augment": {"mixup": 0.4}, "dropout": 0.5, "loss": {"smoothing": 0.2}}
    check = {"steps": 250, "learning_rate": 1e-2, "permutations": 1}
    recipe = recipe_of(archive, tmp_path, check, **regular)
    outcome = worked(check_job, recipe, run)
    assert (outcome.status, outcome.verdict) == (0, None)
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
    outcome = worked(check_job, recipe_of(archive, tmp_path, check), run)
    assert "too low" in outcome.verdict
    assert "\n" not in outcome.verdict
    assert outcome.status == 1
    assert outcome.summary == ()
    assert outcome.counts["steps"] == 40
    document = json.loads(Path(run.uri("check.json")).read_text())
    assert document["looks_like"] == "rate_too_low"
    assert not document["passed"]


def test_a_batch_of_one_and_an_unknown_block_are_refused(archive, tmp_path, here):
    with pytest.raises(InputError, match=r"batch=1: .* at least 2"):
        check_job.read(recipe_of(archive, tmp_path, {}, batch=1), Storage())
    run, _ = make_run(tmp_path / "out")
    with pytest.raises(InputError, match="layer9"):
        worked(check_job, recipe_of(archive, tmp_path, {"trainable": "layer9"}), run)


def test_the_plan_refuses_an_unknown_block(archive, tmp_path):
    with pytest.raises(InputError, match=r"check\.trainable='layer9' is no block"):
        planned(check_job, recipe_of(archive, tmp_path, {"trainable": "layer9"}))


def test_the_recipes_loss_is_what_is_checked(archive, tmp_path, here, monkeypatch):
    """A focal loss that learns nothing does not pass."""
    monkeypatch.setattr(losses, "focal", lambda logits, labels, gamma: 0.3 + 0 * logits.mean(dim=1))
    check = {"steps": 40, "learning_rate": 1e-2, "permutations": 0}
    recipe = recipe_of(archive, tmp_path, check, loss={"name": "focal"})
    run, _ = make_run(tmp_path / "out")
    assert "flat loss" in worked(check_job, recipe, run).verdict


def test_positive_weights_count_in_the_check(archive, tmp_path, here):
    """The first loss is that of the weighted positives, not the plain one."""
    firsts = []
    for number, weight in enumerate((None, 50.0)):
        check = {"steps": 1, "learning_rate": 1e-6}
        loss = {"positive_weight": weight}
        run, _ = make_run(tmp_path / str(number))
        assert worked(check_job, recipe_of(archive, tmp_path, check, loss=loss), run).status == 1
        document = json.loads(Path(run.uri("check.json")).read_text())
        firsts.append(document["evidence"]["main"]["losses"][0])
    assert firsts[1] > 3 * firsts[0]


def test_a_check_refuses_only_what_it_uses(archive, tmp_path, here, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    idle = {"tracking": "mlflow", "resources": {"workers": 3, "gpus": "no"}}
    stages = [{"trainable": "nonsense"}]
    recipe = recipe_of(archive, tmp_path, {"steps": 1}, stages=stages, **idle)
    assert check_job.read(recipe, Storage()).digests.keys() == {"index"}
    planned(check_job, recipe)
    run, _ = make_run(tmp_path / "out")
    assert worked(check_job, recipe, run).status == 1  # one step is too few


def test_the_plan(archive, tmp_path):
    lines = planned(check_job, recipe_of(archive, tmp_path, {"steps": 77}))
    assert "8 tiles of the train split, up to 77 steps at learning rate 0.003" in lines[-1]
