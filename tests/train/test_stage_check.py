"""What the run would refuse at a stage, hours later, the plan and the driver refuse at once."""

import pytest
import torch
from by_hand import planned
from train.small_archive import generate, make_recipe, make_run

from satray.config.train import CheckRecipe, LandscapeRecipe, TrainRecipe
from satray.errors import InputError
from satray.models.backbones import build
from satray.models.network import Network
from satray.models.variant import resolve
from satray.storage import Storage
from satray.train import check, initial, job, range_test
from satray.train.initial import block_lines, prepared
from satray.train.setup import set_up

LATE = [{"trainable": "head", "pseudo_epochs": 1}, {"trainable": "all", "pseudo_epochs": 1}]
BATCH_NORM = {"towers": [{"name": "rgb", "backbone": "resnet10t", "bands": ["red"]}]}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("archive"), tiles=32)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stages": [LATE[0], {"trainable": "nonsense"}]},
         r"^stages\.1\.trainable='nonsense' is no block of tower all .*; accepted: head, all, b"),
        ({"variant": {"towers": [{"name": "a", "backbone": "resnet19", "bands": ["red"]}]}},
         "backbone='resnet19' is not simple_cnn nor a timm model; nearest"),
        # the first stage's norms are frozen: only the second one's would stop the run
        ({"variant": BATCH_NORM, "stages": LATE, "batch": 1},
         "batch=1: one tile a worker, and batch norm needs two; take at least 2"),
        ({"variant": BATCH_NORM, "stages": LATE, "batch": 2,
          "resources": {"workers": 2, "gpus": "no"}}, "batch=2: one tile a worker.* at least 4"),
    ],
)  # fmt: skip
def test_plan_and_driver_refuse_it_in_one_line(archive, tmp_path, changes, says):
    if changes.get("variant") is None:
        changes = {**changes, "variant": {"towers": [{"name": "all", "backbone": "simple_cnn",
                                                      "bands": ["red", "nir"]}]}}  # fmt: skip
    recipe = make_recipe(archive, tmp_path, **changes)
    job.read(recipe, Storage())
    with pytest.raises(InputError, match=says) as refused:
        planned(job, recipe)
    run, _ = make_run(tmp_path / "out")
    with pytest.raises(InputError) as driven:
        initial.stage(set_up(recipe, Storage()), run)
    assert str(refused.value) == str(driven.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("recipe", "module"),
    [(TrainRecipe, job), (CheckRecipe, check), (LandscapeRecipe, range_test)],
)
def test_every_plan_refuses_another_architectures_weights(archive, tmp_path, recipe, module):
    torch.save(build("resnet14t", 3).body.state_dict(), tmp_path / "w.pth")
    changes = {"weights": str(tmp_path / "w.pth"), "variant": BATCH_NORM, "first_conv": "mean"}
    given = make_recipe(archive, tmp_path, **changes).model_dump()
    with pytest.raises(InputError, match=r"w\.pth: does not fit resnet10t: .* unexpected \(layer"):
        planned(module, recipe.model_validate(given))
    torch.save(build("resnet10t", 3).body.state_dict(), tmp_path / "w.pth")
    lines = planned(module, recipe.model_validate(given))
    assert any(line.startswith("weights of tower rgb: 70 tensors from") for line in lines)


@pytest.mark.parametrize(
    "changes",
    [
        {"stages": LATE[:1], "batch": 1},  # frozen norms
        {"batch": 2, "sync_batchnorm": True, "resources": {"workers": 2}},  # norms over both
    ],
)
def test_norms_that_need_no_second_tile_bear_one_a_worker(archive, tmp_path, changes):
    recipe = make_recipe(archive, tmp_path, variant=BATCH_NORM, **changes)
    network, _ = prepared(set_up(recipe, Storage()), Storage())
    assert all(weight.requires_grad for weight in network.parameters())


def test_the_plan_lists_what_trainable_may_name(archive, tmp_path):
    lines = planned(job, make_recipe(archive, tmp_path))
    (line,) = [each for each in lines if each.startswith("trainable: ")]
    (backbone,) = set_up(make_recipe(archive, tmp_path), Storage()).network().backbones().values()
    assert line.endswith(f"(simple_cnn): {', '.join(backbone.blocks)}")
    assert any("steps of 8 tiles on 1 worker: " in each for each in lines)
    two = Network(resolve("double4"), 2)
    assert [each.split(":")[0] for each in block_lines(two)] == ["trainable"] * 3
    assert "tower nir (resnet18): conv1, bn1, layer1, layer2, layer3, layer4" in block_lines(two)[1]
    two.set_trainable("nir.layer2")
