"""Each recipe of jobs/recipes is accepted by its job, and says what it claims to say."""

from operator import attrgetter
from pathlib import Path

import pytest

from satray.config.cli import parse_yaml, validate
from satray.config.prepare import DemoRecipe
from satray.config.train import TrainRecipe
from satray.config.tune import TuneRecipe
from satray.models.network import Network
from satray.models.variant import resolve
from satray.train.optim import parameter_groups
from satray.train.plan import plan_training
from satray.tune.space import Space
from satray.tune.trials import default_space, full_recipe, space_of

FOLDER = Path(__file__).parents[1] / "jobs" / "recipes"
BANDS = ("red", "green", "blue", "nir")
SWEEPS = ("sweep_heads", "sweep_fine_tune")
PAPER = tuple(f"planet_{name}_paper" for name in ("single3", "single4", "double4"))
"""tests/train/test_setup.py looks into these."""
SHIPS = {"batch": 40, "input.size": 299, "dropout": 0.5, "pooling": "max", "pseudo_epoch": 40_000}
POST = SHIPS | {
    "stages.0.trainable": "head",
    "stages.1.learning_rate": 3e-5,
    "stages.1.schedule.name": "constant",
}
REPORT = {
    "input.size": 224,
    "input.resize": 256,
    "stages.0.pseudo_epochs": 35,
    "stages.0.learning_rate": 1e-3,
    "stages.0.schedule.name": "one_cycle",
}
TRAIN = {
    "ships_mobilenet_v2": POST,
    "ships_xception": POST,
    "ships_gradual": {},
    "planet_single3": REPORT | {"variant": "single3"},
    "planet_single4": REPORT | {"variant": "single4"},
    "planet_double4": REPORT | {"variant": "double4"},
}


def load(name: str):
    """A recipe as its job would, with the index from the command line."""
    tree = parse_yaml((FOLDER / f"{name}.yaml").read_text(), name)
    assert "index" not in tree
    kind = TuneRecipe if name in SWEEPS else TrainRecipe
    return validate(kind, {**tree, "index": "s3://bucket/runs/index"})


def trained(recipe: TrainRecipe) -> tuple[list[int], list[float], int]:
    """Numbers trained and the slowest group's share of the rate, by stage; and of all of it."""
    network = Network(resolve(recipe.variant, recipe.pooling), 1, dropout=recipe.dropout)
    counts, shares = [], []
    for stage in recipe.stages:
        network.set_trainable(stage.trainable)
        counts.append(sum(p.numel() for p in network.parameters() if p.requires_grad))
        groups = parameter_groups(network, stage.layer_decay)
        shares.append(min(group["share"] for group in groups))
    return counts, shares, sum(p.numel() for p in network.parameters())


def test_no_recipe_is_left_untested():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*TRAIN, *PAPER, *SWEEPS, "demo"}


@pytest.mark.parametrize("name", TRAIN)
def test_train_recipes_say_what_the_posts_and_the_report_did(name):
    recipe = load(name)
    common = {"weights": "imagenet", "shuffle": True, "augment.flips": "d4"}
    for key, value in {**common, **TRAIN[name]}.items():
        stage, _, below = key.removeprefix("stages.").partition(".")
        whole = recipe.stages[int(stage)] if key.startswith("stages.") else recipe
        assert attrgetter(below if whole is not recipe else key)(whole) == value, key
    if TRAIN[name]:
        assert len(recipe.stages) == 1 + ("stages.1.learning_rate" in TRAIN[name])


def test_demo_recipe_writes_out_the_defaults():
    text = (FOLDER / "demo.yaml").read_text()
    assert validate(DemoRecipe, parse_yaml(text, "demo")) == DemoRecipe()


@pytest.mark.parametrize(("name", "head"), [("ships_mobilenet_v2", 1281), ("ships_xception", 2049)])
def test_fine_tuned_blocks_exist_and_are_the_last_ones(name, head):
    (first, last), _, total = trained(load(name))
    assert first == head
    assert head < last < total / 2


def test_gradual_unfreezing_thaws_more_in_each_stage_and_slows_with_depth():
    recipe = load("ships_gradual")
    counts, slowest, total = trained(recipe)
    assert (counts[0], counts[-1]) == (1281, total)
    assert counts == sorted(set(counts))
    assert slowest == sorted(set(slowest), reverse=True)
    assert slowest[-1] == pytest.approx(0.8**9)  # conv_stem, seven blocks, conv_head; the head


@pytest.mark.parametrize(("name", "trainable"), zip(SWEEPS, ("head", "all"), strict=True))
def test_sweep_recipes_hold_trials_that_train_takes(name, trainable):
    recipe = load(name)
    assert [stage.trainable for stage in full_recipe(recipe, {}).stages] == [trainable]
    space = space_of(recipe, BANDS, 10_000)
    for configuration in [*space.grid(), *space.sample(20, 0)]:
        assert plan_training(full_recipe(recipe, configuration), 10_000, 1).total_steps


def test_the_sweeps_say_what_they_search():
    heads, networks = (load(name) for name in SWEEPS)
    default = default_space(heads.model_copy(update={"space": {}}), BANDS, 10_000)
    assert Space.parse(heads.space) == Space.parse(default)
    assert (networks.search, networks.stop.name, networks.landscape) == ("optuna", "asha", True)
