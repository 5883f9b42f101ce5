"""Keys that contradict each other are told of, and only they."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from satray.config.base import idle_keys
from satray.config.cli import parse_yaml, validate
from satray.config.train import LandscapeRecipe, TrainRecipe
from satray.models.pretrained import sources_of
from satray.models.variant import resolve

FOLDER = Path(__file__).parents[2] / "jobs" / "recipes"


def told(task="multilabel", kind=TrainRecipe, **changes):
    given = validate(kind, {"index": "x", "weights": "none", **changes})
    variant = resolve(given.variant, given.pooling)
    weights = sources_of(given.weights, variant)
    setup = SimpleNamespace(recipe=given, task=task, variant=variant, weights=weights)
    return idle_keys(given, setup)


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
        ({"stages": [{"schedule": {"name": "cosine", "cycle_momentum": True}}]},
         "stages.0.schedule.cycle_momentum=true",
         {"stages": [{"schedule": {"cycle_momentum": True}}]}),
        ({"stages": [{"samples": 99, "pseudo_epochs": 3}]}, "stages.0.pseudo_epochs=3.0",
         {"stages": [{"pseudo_epochs": 3}]}),
        ({"stages": [{"trainable": "head", "layer_decay": 0.5}]}, "stages.0.layer_decay=0.5",
         {"stages": [{"layer_decay": 0.5}]}),
        ({"task": "multiclass", "calibrate": {"thresholds": "f2"}}, "calibrate.thresholds=f2",
         {"task": "binary"}),
        ({"landscape": {"steps": 50}, "augment": {"ratio": 2, "crop": "random"}},
         "augment.ratio=2.0", {"kind": LandscapeRecipe, "augment": {}}),
    ],
)  # fmt: skip
def test_a_key_without_effect_is_told_of_until_it_has_one(changes, key, amends):
    line = told(**changes)[0]
    assert line.startswith(f"{key} does nothing here: it works with ")
    assert told(**{**changes, **amends}) == ()


def test_what_is_needed_is_named_as_it_would_be_typed():
    (line,) = told(stages=[{"schedule": {"cycle": 3}}])
    assert line.endswith(
        "with stages.0.schedule.name=triangular or triangular2 or exp_range or cosine_restarts"
    )


def test_defaults_and_the_house_recipes_need_no_line():
    assert told() == ()
    for path in (*FOLDER.glob("planet_*.yaml"), *FOLDER.glob("ships_*.yaml")):
        assert told(**parse_yaml(path.read_text(), path.name)) == (), path.name
