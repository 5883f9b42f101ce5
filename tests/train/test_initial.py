"""What a training starts from; and what would stop it hours later, refused at once."""

import numpy as np
import pytest
import torch
from by_hand import planned
from train.small_archive import SIDE, make_recipe, make_run

from satray.config.train import CheckRecipe, LandscapeRecipe, TrainRecipe
from satray.data.augment import Augment
from satray.errors import InputError
from satray.models.backbones import build
from satray.storage import Storage
from satray.train import check, initial, job, range_test
from satray.train.initial import prepared
from satray.train.setup import set_up
from satray.train.step import train_input

THREE = {"towers": [{"name": "rgb", "backbone": "simple_cnn", "bands": ["blue", "green", "red"]}]}
NUMBERS = {"mean": [0.8, 0.7, 0.5], "std": [0.2, 0.2, 0.1]}


# What training sees


@pytest.mark.parametrize("size", [SIDE, 16])
def test_training_sees_what_scoring_will(small_archive, tmp_path, size):
    """Whatever is resized on the way: 16 px of tiles of 24 px."""
    wanted = {"size": size, "radiometry": "pil_compat", "normalize": NUMBERS}
    recipe = make_recipe(small_archive, tmp_path, variant=THREE, input=wanted)
    setup = set_up(recipe, Storage())
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(3_000, 9_000, (4, 4, SIDE, SIDE)).astype(np.uint16))
    still = Augment(size, "none", "centre")
    trained = train_input(pixels, np.arange(4), 0, setup.preprocess(), still)
    assert torch.equal(trained, setup.preprocess()(pixels))


# First weights


def of_backbone(name, *bands):
    return {"towers": [{"name": "rgb", "backbone": name, "bands": bands or ("red",)}]}


BATCH_NORM = of_backbone("resnet10t")
LATE = [{"trainable": "head", "pseudo_epochs": 1}, {"trainable": "all", "pseudo_epochs": 1}]
TWO = {"workers": 2, "gpus": "no"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stages": [LATE[0], {"trainable": "nonsense"}]},
         r"^stages\.1\.trainable='nonsense' is no block of tower rgb .*; accepted: head, all, b"),
        ({"variant": of_backbone("resnet19")},
         "backbone='resnet19' is not simple_cnn nor a timm model; nearest"),
        # the first stage's norms are frozen: only the second one's would stop the run
        ({"variant": BATCH_NORM, "stages": LATE, "batch": 1},
         "batch=1: one tile a worker, and batch norm needs two; take at least 2"),
        ({"variant": BATCH_NORM, "batch": 2, "resources": TWO},
         "batch=2: one tile a worker.* at least 4"),
    ],
)  # fmt: skip
def test_plan_and_driver_refuse_it_in_one_line(small_archive, tmp_path, changes, says):
    wanted = {"variant": of_backbone("simple_cnn", "red", "nir"), **changes}
    recipe = make_recipe(small_archive, tmp_path, **wanted)
    with pytest.raises(InputError, match=says) as refused:
        planned(job, recipe)
    run, _ = make_run(tmp_path / "out")
    with pytest.raises(InputError) as driven:
        initial.prepare(set_up(recipe, Storage()), run)
    assert str(refused.value) == str(driven.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("recipe", "module"),
    [(TrainRecipe, job), (CheckRecipe, check), (LandscapeRecipe, range_test)],
)
def test_every_plan_refuses_another_architectures_weights(small_archive, tmp_path, recipe, module):
    torch.save(build("resnet14t", 3).body.state_dict(), tmp_path / "w.pth")
    changes = {"weights": str(tmp_path / "w.pth"), "variant": BATCH_NORM, "first_conv": "mean"}
    given = recipe.model_validate(make_recipe(small_archive, tmp_path, **changes).model_dump())
    with pytest.raises(InputError, match=r"w\.pth: does not fit resnet10t: .* unexpected \(layer"):
        planned(module, given)
    torch.save(build("resnet10t", 3).body.state_dict(), tmp_path / "w.pth")
    lines = planned(module, given)
    assert any(line.startswith("weights of tower rgb: 70 tensors from") for line in lines)


def test_frozen_norms_bear_one_tile_a_worker(small_archive, tmp_path):
    alone = {"stages": LATE[:1], "batch": 1}
    recipe = make_recipe(small_archive, tmp_path, variant=BATCH_NORM, **alone)
    network, _ = prepared(set_up(recipe, Storage()), Storage())
    assert all(weight.requires_grad for weight in network.parameters())


def test_the_plan_lists_what_trainable_may_name(small_archive, tmp_path):
    one, two = (
        planned(job, make_recipe(small_archive, tmp_path, variant=variant))
        for variant in (of_backbone("simple_cnn"), "double4")
    )
    assert any("steps of 8 tiles on 1 worker: " in each for each in one)
    named = [each for each in (*one, *two) if each.startswith("trainable: ")]
    assert len(named) == 1 + 3
    assert named[0].endswith("(simple_cnn): block1, block2, block3, block4, block5")
    assert "tower nir (resnet18): conv1, bn1, layer1, layer2, layer3, layer4" in named[2]
