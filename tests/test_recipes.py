"""Each recipe of jobs/recipes is accepted by its job."""

from pathlib import Path

import pytest

from satray.config.cli import parse_yaml, validate
from satray.config.prepare import DemoRecipe
from satray.config.train import TrainRecipe
from satray.config.tune import TuneRecipe
from satray.models.network import Network
from satray.models.variant import resolve
from satray.train.plan import plan_training
from satray.tune.trials import full_recipe, space_of

FOLDER = Path(__file__).parents[1] / "jobs" / "recipes"
BANDS = ("red", "green", "blue", "nir")
SWEEPS = ("sweep_heads", "sweep_fine_tune")
TRAIN = sorted({path.stem for path in FOLDER.glob("*.yaml")} - {*SWEEPS, "demo"})
"""tests/train/test_setup.py looks for keys without effect in these, and into the paper's."""


def load(name: str):
    """A recipe as its job would, with the index from the command line."""
    tree = parse_yaml((FOLDER / f"{name}.yaml").read_text(), name)
    assert "index" not in tree
    kind = TuneRecipe if name in SWEEPS else TrainRecipe
    return validate(kind, {**tree, "index": "s3://bucket/runs/index"})


@pytest.mark.parametrize("name", TRAIN)
def test_train_recipes_thaw_blocks_that_there_are(name):
    recipe = load(name)
    network = Network(resolve(recipe.variant, recipe.pooling), 1, dropout=recipe.dropout)
    for stage in recipe.stages:
        network.set_trainable(stage.trainable)
    assert plan_training(recipe, 40_000, 1).total_steps


@pytest.mark.parametrize(("name", "trainable"), zip(SWEEPS, ("head", "all"), strict=True))
def test_sweep_recipes_hold_trials_that_train_takes(name, trainable):
    recipe = load(name)
    assert [stage.trainable for stage in full_recipe(recipe, {}).stages] == [trainable]
    space = space_of(recipe, BANDS, 10_000)
    for configuration in [*space.grid(), *space.sample(20, 0)]:
        assert plan_training(full_recipe(recipe, configuration), 10_000, 1).total_steps


def test_demo_recipe_writes_out_the_defaults():
    text = (FOLDER / "demo.yaml").read_text()
    assert validate(DemoRecipe, parse_yaml(text, "demo")) == DemoRecipe()
