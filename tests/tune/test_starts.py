"""What trials share, and when they do."""

import pytest
import torch
from train.small_archive import SIDE, generate, make_recipe, make_run

from satray.config.train import TrainRecipe
from satray.data.index import read_index
from satray.errors import SatrayError
from satray.storage import Storage
from satray.train.checkpoints import from_bytes
from satray.train.setup import set_up
from satray.tune.feature_table import head_only, views_of
from satray.tune.starts import prepare, settle, start_key

HEAD = {"trainable": "head", "pseudo_epochs": 2}
STILL = {"crop": "random", "flips": "none", "brightness": 0.0, "contrast": 0.0}
"""Augmentation that draws where to crop alone."""


def recipe(**changes):
    tree = {"index": "nowhere", "weights": "none", "stages": [HEAD], **changes}
    return TrainRecipe.model_validate(tree)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"variant": "simple_cnn_dense"}, "a dense head sees whole maps"),
        ({"dropout": 0.5, "repeat": 0.1, "average": {"ema": 0.99}}, None),
        ({"stages": (HEAD, {"trainable": "all"})}, "stages.1.trainable=all"),
        ({"augment": {"mixup": 0.2}}, "augment.mixup=0.2"),
        ({"augment": {"cutmix": 0.2}}, "augment.cutmix=0.2"),
        ({"input": {"evaluate_flip": True}}, "input.evaluate_flip=true"),
        ({"average": {"swa": True}}, "average.swa=true"),
    ],
    ids=str,
)
def test_which_recipes_train_from_features(changes, reason) -> None:
    found = head_only(recipe(**changes))
    assert found is None if reason is None else found.startswith(reason)


@pytest.mark.parametrize(
    ("augment", "given", "shape", "views"),
    [
        ({}, {}, (256, 256), 1),  # resized to the crop: no room
        ({}, {}, (256, 300), 8),
        ({}, {"resize": 225}, (256, 256), 8),
        ({"crop": "centre"}, {"resize": 300}, (256, 300), 1),
        ({"crop": "resized"}, {}, (256, 256), 8),
        ({"flips": "horizontal"}, {}, (256, 256), 8),
        ({"flips": "horizontal", "views": 3}, {}, (256, 256), 3),
        ({"brightness": 0.1}, {}, (256, 256), 8),
        ({"contrast": 0.1}, {}, (256, 256), 8),
        ({"erase": 0.1}, {}, (256, 256), 8),
        ({"mixup": 0.1, "views": 3}, {}, (256, 256), 1),  # it blends what has been drawn
    ],
)
def test_views_are_the_recipes_else_eight_or_one(augment, given, shape, views) -> None:
    assert views_of(recipe(augment=STILL | augment, input=given), shape) == views


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("archive"), tiles=32)


def key(archive, folder, digest="d", contents="c", **changes):
    settings = {"stages": [HEAD], **changes}
    return start_key(make_recipe(archive, folder, **settings), digest, lambda uri: contents)


def test_training_alone_does_not_part_trials_and_what_features_depend_on_does(archive, tmp_path):
    here = key(archive, tmp_path)
    same = [
        {"stages": [{"trainable": "all", "learning_rate": 1.0, "pseudo_epochs": 9}]},
        {"batch": 4, "pooling": "max"},
        {"dropout": 0.5, "loss": {"name": "focal"}, "repeat": 0.5},
        {"optimizer": {"name": "sgd"}, "average": {"ema": 0.9}, "augment": {"mixup": 0.2}},
        {"resources": {"workers": 2}, "cache": {"enabled": False}},
    ]
    assert {key(archive, tmp_path, **changes) for changes in same} == {here}
    other = [
        {"variant": "single3"},
        {"variant": "simple_cnn_dense"},
        {"seed": 1},
        *({"augment": {name: value}} for name, value in (
            ("flips", "none"), ("crop", "centre"), ("brightness", 0.3), ("views", 2))),
        {"input": {"size": SIDE - 8}},
        {"input": {"size": SIDE, "resize": SIDE + 8}},
        {"input": {"size": SIDE, "radiometry": "percentile"}},
        {"precision": "bf16"},
        {"weights": "imagenet", "variant": "single3"},
        {"weights": "pretrained", "variant": "single3"},
        {"weights": "/w.safetensors"},
        {"weights": "/w.safetensors", "contents": "another"},
        {"digest": "another"},
    ]  # fmt: skip
    found = [key(archive, tmp_path, **changes) for changes in other]
    assert len({here, *found}) == len(other) + 1


def test_a_start_is_made_once_and_found_again_without_the_network(archive, tmp_path) -> None:
    setup = set_up(make_recipe(archive, tmp_path, stages=[HEAD]), Storage())
    run, _ = make_run(tmp_path / "run")
    store = str(tmp_path / "store")
    first = settle(setup, run, store, "k")
    whole, head = (from_bytes(Storage().read(uri)) for uri in (first.weights, first.head))
    assert {name for name in whole if name.startswith("head.")} == head.keys()
    assert all(torch.equal(whole[name], head[name]) for name in head)

    Storage().delete(first.weights)  # nobody builds the network to find it
    other_run, _ = make_run(tmp_path / "other")
    assert settle(setup, other_run, store, "k") == first
    assert not Storage().exists(first.weights)


def test_a_start_that_cannot_be_had_costs_its_own_trials_only(archive, tmp_path) -> None:
    fine, bad = (
        make_recipe(archive, tmp_path, stages=[HEAD], augment={"views": 1}, weights=weights)
        for weights in ("none", str(tmp_path / "gone.pth"))
    )
    tiles = read_index(fine.index, Storage())
    run, said = make_run(tmp_path / "run", ray=False)
    store = str(tmp_path / "store")
    found, lost = prepare({"fine": fine, "bad": bad}, tiles, run, store)
    assert (found.keys(), lost.keys()) == ({"fine"}, {"bad"})
    assert found["fine"].features.record["rows"] == {"train": 24, "val": 8}
    assert "gone.pth" in lost["bad"]
    assert any("gone.pth" in line for line in said)
    with pytest.raises(SatrayError, match=r"gone\.pth"):  # none is left
        prepare({"bad": bad}, tiles, run, store)
