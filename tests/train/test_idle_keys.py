"""Keys that contradict each other are told of, and only they."""

from pathlib import Path

import pytest

from satray.config.cli import keys_of, parse_yaml, validate
from satray.config.train import TrainRecipe
from satray.models.variant import resolve
from satray.train.plan.idle_keys import RULES, STAGE_RULES, idle_keys

FOLDER = Path(__file__).parents[2] / "jobs" / "recipes"


def told(task="multilabel", **changes):
    given = validate(TrainRecipe, {"index": "x", "weights": "none", **changes})
    return idle_keys(given, resolve(given.variant, given.pooling), task)


@pytest.mark.parametrize(
    ("changes", "key", "amends"),
    [
        ({"input": {"size": 32, "resize": 64}, "augment": {"crop": "resized"}}, "input.resize=64",
         {"input": {"size": 32, "resize": 64, "evaluate": "centre"}}),
        ({"augment": {"ratio": 2, "crop": "random"}}, "augment.ratio=2.0",
         {"augment": {"ratio": 2}}),
        ({"first_conv": "mean"}, "first_conv=mean", {"weights": {"rgb": "imagenet"}}),
        ({"optimizer": {"momentum": 0.5}}, "optimizer.momentum=0.5",
         {"optimizer": {"name": "sgd", "momentum": 0.5}}),
        ({"loss": {"gamma": 1}}, "loss.gamma=1.0", {"loss": {"name": "focal", "gamma": 1}}),
        ({"loss": {"margin": 0}}, "loss.margin=0.0", {"loss": {"name": "asymmetric", "margin": 0}}),
        ({"average": {"most": 2}}, "average.most=2", {"average": {"snapshots": "swa", "most": 2}}),
        ({"pooling": "max", "variant": "simple_cnn_dense"}, "pooling=max",
         {"variant": "simple_cnn"}),
        ({"landscape": {"steps": 50}}, "landscape.steps=50",
         {"stages": [{"learning_rate": "auto"}]}),
        ({"sync_batchnorm": True}, "sync_batchnorm=true", {"resources": {"workers": 2}}),
        ({"cache": {"enabled": False, "gib": 2}}, "cache.gib=2.0", {"cache": {"gib": 2}}),
        ({"stages": [{"schedule": {"step": 3}}]}, "stages.0.schedule.step=3.0",
         {"stages": [{"schedule": {"name": "step", "step": 3}}]}),
        ({"stages": [{}, {"schedule": {"warmup_start": 0.1}}]},
         "stages.1.schedule.warmup_start=0.1",
         {"stages": [{}, {"schedule": {"warmup": 1, "warmup_start": 0.1}}]}),
        ({"stages": [{"samples": 99, "pseudo_epochs": 3}]}, "stages.0.pseudo_epochs=3.0",
         {"stages": [{"pseudo_epochs": 3}]}),
        ({"stages": [{"trainable": "head", "layer_decay": 0.5}]}, "stages.0.layer_decay=0.5",
         {"stages": [{"layer_decay": 0.5}]}),
    ],
)  # fmt: skip
def test_a_key_without_effect_is_told_of_until_it_has_one(changes, key, amends):
    (line,) = told(**changes)
    assert line.startswith(f"{key} does nothing here: it works with ")
    assert told(**{**changes, **amends}) == ()


def test_thresholds_are_for_sigmoids():
    changes = {"calibrate": {"thresholds": "f2"}}
    (line,) = told("multiclass", **changes)
    assert line.startswith("calibrate.thresholds=f2 does nothing here")
    assert told("binary", **changes) == ()
    assert told(calibrate={"thresholds": "half", "positives": 9})[0].startswith("calibrate.pos")


def test_defaults_and_the_house_recipes_need_no_line():
    assert told() == ()
    for path in (*FOLDER.glob("planet_*.yaml"), *FOLDER.glob("ships_*.yaml")):
        assert told(**parse_yaml(path.read_text(), path.name)) == (), path.name


def test_the_tables_name_keys_that_there_are():
    names = {entry.name for entry in keys_of(TrainRecipe)}
    for key, _, _ in RULES:
        assert key == "landscape" or key in names
    for key, _, _ in STAGE_RULES:
        assert f"stages.N.{key}" in names
