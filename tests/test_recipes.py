"""Each recipe of jobs/recipes is accepted by its job, and says what it claims to say."""

from pathlib import Path

import pytest

from satray.config.base import Recipe
from satray.config.cli import parse_yaml, validate
from satray.config.demo import DemoRecipe
from satray.config.train import TrainRecipe
from satray.config.tune import TuneRecipe

FOLDER = Path(__file__).parents[1] / "jobs" / "recipes"
TRAIN = (
    "ships_mobilenet_v2",
    "ships_xception",
    "ships_gradual",
    "planet_single3",
    "planet_single4",
    "planet_double4",
)
PAPER = tuple(f"planet_{name}_paper" for name in ("single3", "single4", "double4"))
SWEEPS = ("sweep_heads", "sweep_fine_tune")
JOBS: dict[str, type[Recipe]] = {"demo": DemoRecipe, **dict.fromkeys(SWEEPS, TuneRecipe)}
RECIPES = {**dict.fromkeys((*TRAIN, *PAPER), TrainRecipe), **JOBS}


def load_train(name: str) -> TrainRecipe:
    text = (FOLDER / f"{name}.yaml").read_text()
    return validate(TrainRecipe, {**parse_yaml(text, name), "index": "s3://bucket/runs/index"})


def test_no_recipe_is_left_untested():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(RECIPES)


@pytest.mark.parametrize("name", TRAIN)
def test_train_recipe_is_accepted_and_leaves_the_index_to_the_command_line(name):
    text = (FOLDER / f"{name}.yaml").read_text()
    assert "index" not in parse_yaml(text, name)
    recipe = load_train(name)
    assert recipe.weights == "imagenet"
    assert recipe.shuffle
    assert recipe.augment.flips == "d4"


def test_demo_recipe_writes_out_the_defaults():
    text = (FOLDER / "demo.yaml").read_text()
    assert validate(DemoRecipe, parse_yaml(text, "demo")) == DemoRecipe()


@pytest.mark.parametrize("name", ["ships_mobilenet_v2", "ships_xception"])
def test_ships_recipes_follow_the_post(name):
    recipe = load_train(name)
    assert (recipe.batch, recipe.input.size, recipe.dropout) == (40, 299, 0.5)
    assert (recipe.pooling, recipe.pseudo_epoch) == ("max", 40_000)
    head, last = recipe.stages
    assert head.trainable == "head"
    assert (last.learning_rate, last.schedule.name) == (3e-5, "constant")


@pytest.mark.parametrize("name", ["planet_single3", "planet_single4", "planet_double4"])
def test_planet_recipes_keep_the_reports_tiles_and_length(name):
    recipe = load_train(name)
    assert (recipe.input.size, recipe.input.resize) == (224, 256)
    (stage,) = recipe.stages
    assert (stage.pseudo_epochs, stage.learning_rate, stage.schedule.name) == (
        35,
        1e-3,
        "one_cycle",
    )
    assert recipe.variant == name.removeprefix("planet_")


@pytest.mark.parametrize("name", ["ships_mobilenet_v2", "ships_xception"])
def test_fine_tuned_blocks_exist_and_are_the_last_ones(name):
    from satray.models.network import Network
    from satray.models.variant import resolve

    recipe = load_train(name)
    network = Network(resolve(recipe.variant, recipe.pooling), 1, dropout=recipe.dropout)
    trainable = []
    for stage in recipe.stages:
        network.set_trainable(stage.trainable)
        trainable.append(sum(p.numel() for p in network.parameters() if p.requires_grad))
    total = sum(p.numel() for p in network.parameters())
    assert trainable[0] == {"ships_mobilenet_v2": 1281, "ships_xception": 2049}[name]
    assert trainable[0] < trainable[1] < total / 2


def test_gradual_unfreezing_thaws_more_in_each_stage_and_slows_with_depth():
    from satray.models.network import Network
    from satray.models.variant import resolve
    from satray.training.loop.optimizers import parameter_groups
    from satray.training.plan.stages import plan_training

    recipe = load_train("ships_gradual")
    network = Network(resolve(recipe.variant, recipe.pooling), 1, dropout=recipe.dropout)
    trained, slowest = [], []
    for stage in recipe.stages:
        network.set_trainable(stage.trainable)
        groups = parameter_groups(network, stage.layer_decay)
        trained.append(sum(p.numel() for p in network.parameters() if p.requires_grad))
        slowest.append(min(group["share"] for group in groups))
    assert trained[0] == 1281
    assert trained[-1] == sum(p.numel() for p in network.parameters())
    assert trained == sorted(set(trained))
    assert slowest == sorted(set(slowest), reverse=True)
    assert slowest[-1] == pytest.approx(0.8**9)  # conv_stem, seven blocks, conv_head; the head
    assert plan_training(recipe, 128_000, 1).warnings == ()


BANDS = ("red", "green", "blue", "nir")


def load_sweep(name: str) -> TuneRecipe:
    text = (FOLDER / f"{name}.yaml").read_text()
    tree = parse_yaml(text, name)
    assert "index" not in tree
    return validate(TuneRecipe, {**tree, "index": "s3://bucket/runs/index"})


@pytest.mark.parametrize("name", SWEEPS)
def test_sweep_recipes_hold_trials_that_train_takes(name):
    from satray.sweep.resolve import space_of
    from satray.sweep.trials import full_recipe
    from satray.training.plan.stages import plan_training

    recipe = load_sweep(name)
    space = space_of(recipe, BANDS, 10_000)
    for configuration in [*space.grid(), *space.sample(20, 0)]:
        plan = plan_training(full_recipe(recipe, configuration), 10_000, 1)
        assert plan.warnings == (), configuration


def test_the_sweep_over_heads_writes_out_the_default_space():
    from satray.sweep.defaults import default_space
    from satray.sweep.space import Space

    recipe = load_sweep("sweep_heads")
    default = default_space(recipe.model_copy(update={"space": {}}), BANDS, 10_000)
    assert Space.parse(recipe.space) == Space.parse(default)
    assert [stage.trainable for stage in load_train_of(recipe).stages] == ["head"]


def test_the_sweep_over_networks_trains_all_of_them():
    recipe = load_sweep("sweep_fine_tune")
    assert [stage.trainable for stage in load_train_of(recipe).stages] == ["all"]
    assert (recipe.search, recipe.stop.name, recipe.landscape) == ("optuna", "asha", True)


def load_train_of(recipe: TuneRecipe) -> TrainRecipe:
    from satray.sweep.trials import full_recipe

    return full_recipe(recipe, {})
