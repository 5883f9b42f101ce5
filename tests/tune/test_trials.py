"""From a configuration to a recipe of train; ids and labels."""

import pytest
from sweep_material import BANDS, tune

from satray.config.cli import parse_yaml, validate
from satray.config.train import FINE_TUNING, TrainRecipe
from satray.errors import InputError
from satray.tune.report import best_yaml
from satray.tune.resolve import configurations, space_of
from satray.tune.trials import fine_tuning, full_recipe, label, trial_id, trial_recipe


def test_a_trial_is_its_configuration_over_base_over_what_tune_says() -> None:
    recipe = tune(
        base={"batch": 16, "stages": {"0": {"pseudo_epochs": 3}}, "input.size": 64, "dropout": 0.1},
        space={"dropout": [0.5], "stages.0.trainable": ["all"]},
        metric="auc",
        seed=7,
        storage={"region": "eu-west-1"},
        resources={"workers": 2},
        features={"views": 4},
    )
    found = trial_recipe(recipe, {"dropout": 0.5, "stages.0.learning_rate": 0.02}, "/out/t")
    assert (found.index, found.out, found.tracking) == ("/data/index", "/out/t", "none")
    assert (found.batch, found.input.size, found.dropout, found.seed) == (16, 64, 0.5, 7)
    assert (found.best, found.storage.region, found.resources.workers) == ("auc", "eu-west-1", 2)
    (stage,) = found.stages
    assert (stage.pseudo_epochs, stage.learning_rate) == (3, 0.02)
    assert found.augment.views is None  # it trains its backbone: always new
    whole = full_recipe(recipe, {"dropout": 0.5})
    assert (whole.out, whole.tracking, whole.resources.workers) == (None, "tensorboard", 1)


def test_what_base_or_space_name_wins_over_the_sweeps_own() -> None:
    recipe = tune(base={"seed": 3, "augment.views": 2}, features={"views": 8}, seed=1)
    found = full_recipe(recipe, {})
    assert (found.seed, found.augment.views) == (3, 2)
    assert full_recipe(recipe, {"seed": 5}).seed == 5


@pytest.mark.parametrize(
    ("keys", "trainable"),
    [
        ({}, "head"),
        ({"base": {"stages.0.pseudo_epochs": 2}}, "head"),
        ({"base": {"stages": {"0": {"learning_rate": 0.1}}}}, "head"),
        ({"base": {"stages": [{"learning_rate": 0.1}]}}, "head"),
        ({"base": {"stages": [{"pseudo_epochs": 3}, {"learning_rate": 1e-4}]}}, "head"),
        ({"base": {"stages": [{"trainable": "all"}, {}]}}, "all"),
        ({"space": {"stages": [[{"pseudo_epochs": 3}], [{"trainable": "all"}]]}}, "head"),
        ({"base": {"stages.0.trainable": "layer4"}}, "layer4"),
        ({"space": {"stages.0.trainable": ["all", "layer4"]}}, "all"),
    ],
)
def test_the_head_alone_is_trained_where_nobody_says_what_is(keys, trainable: str) -> None:
    assert full_recipe(tune(**keys), {}).stages[0].trainable == trainable


def test_each_of_several_stages_trains_the_head_where_none_says_what_is() -> None:
    recipe = tune(base={"stages": [{"pseudo_epochs": 3}, {}], "stages.1.learning_rate": 1e-4})
    assert [stage.trainable for stage in full_recipe(recipe, {}).stages] == ["head", "head"]
    recipe = tune(space={"stages": [[{"pseudo_epochs": 3}], [{"trainable": "all"}, {}]]})
    one, two = recipe.space["stages"]
    assert [stage.trainable for stage in full_recipe(recipe, {"stages": one}).stages] == ["head"]
    found = full_recipe(recipe, {"stages": two}).stages
    assert [stage.trainable for stage in found] == ["all", "all"]


def test_what_base_leaves_open_is_the_sweeps() -> None:
    recipe = tune(base={"best": "auto", "augment.views": None}, metric="auc", features={"views": 4})
    found = full_recipe(recipe, {})
    assert (found.best, found.augment.views) == ("auc", 4)


def test_a_list_of_stages_comes_before_what_is_changed_in_it() -> None:
    stages = [{"trainable": "head"}, {"trainable": "all", "learning_rate": 1e-4}]
    recipe = tune(base={"stages.1.pseudo_epochs": 2, "stages": stages})
    for configuration in (
        {"stages.1.learning_rate": 3e-4},
        {"stages.1.learning_rate": 3e-4, "stages": stages},
    ):
        head, rest = full_recipe(recipe, configuration).stages
        assert (head.trainable, rest.trainable, rest.learning_rate) == ("head", "all", 3e-4)
    assert stages[1]["learning_rate"] == 1e-4  # the recipe's own list stays as it was
    assert full_recipe(recipe, {}).stages[1].pseudo_epochs == 2


def test_paths_of_a_trial_are_absolute(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    assert full_recipe(tune(base={"weights": "w.pth"}), {}).weights == str(tmp_path / "w.pth")
    assert full_recipe(tune(base={"weights": "imagenet"}), {}).weights == "imagenet"


def test_a_configuration_that_cannot_be_valid_is_named() -> None:
    with pytest.raises(InputError, match=r"^configuration batch=0: batch=0: accepted: 1 or more"):
        trial_recipe(tune(), {"batch": 0}, "/out")


def test_the_same_configuration_is_the_same_trial() -> None:
    one = {"variant": "single3", "stages.0.learning_rate": 1.0}
    assert trial_id(one) == trial_id({"stages.0.learning_rate": 1, "variant": "single3"})
    assert trial_id(one) == "e48ef2124f20"  # a ledger of an earlier version is read with these
    assert len({trial_id(one), trial_id({**one, "seed": 0}), trial_id({})}) == 3
    assert trial_id({"shuffle": True}) != trial_id({"shuffle": 1})


@pytest.mark.parametrize(
    ("configuration", "said"),
    [
        (
            {"variant": "single3", "stages.0.learning_rate": 1e-3,
             "stages.0.schedule.name": "one_cycle"},
            "single3 1.0e-3 one_cycle",
        ),
        ({"stages.0.learning_rate": 0.0316, "stages.0.schedule.cycle": 2.5}, "3.2e-2 cycle 2.5"),
        (
            {"stages.0.learning_rate": 1e-3, "stages.1.learning_rate": 1e-4},
            "[0] 1.0e-3 [1] 1.0e-4",
        ),
        ({"variant": {"towers": [{"name": "a", "backbone": "resnet34"}]}}, "resnet34"),
        ({"dropout": 0.5, "shuffle": False, "batch": 64}, "dropout 0.5 shuffle false batch 64"),
        (
            {"stages.0.schedule.name": "step", "stages.0.schedule.step": 3.33},
            "step every 3.33",
        ),
        ({"stages.0.learning_rate": "auto"}, "auto"),
        ({}, "base"),
    ],
)  # fmt: skip
def test_labels(configuration, said: str) -> None:
    assert label(configuration) == said


def test_best_yaml_is_the_same_training() -> None:
    recipe = tune(
        base={"input.size": 64, "weights": {"rgb": "/w.pth"}, "stages.0.pseudo_epochs": 3},
        storage={"endpoint": "http://store"},
        search="random",
        trials=40,
    )
    space = space_of(recipe, BANDS, 1000)
    for configuration in configurations(recipe, space):
        wanted = full_recipe(recipe, configuration)
        text = best_yaml(wanted, ["trial 1", "two\nlines"])
        assert validate(TrainRecipe, parse_yaml(text, "best.yaml")) == wanted
        assert text.startswith("# trial 1\n# two\n# lines\n#\n#   python jobs/train.py best.yaml")
        assert "overwrite" not in text
        assert "trainable: head" in text


@pytest.mark.parametrize(
    ("base", "trained"),
    [
        ({}, ["head", "all"]),
        ({"weights": "none"}, ["head"]),
        ({"variant": "simple_cnn"}, ["head"]),
        ({"stages.0.trainable": "all"}, ["all"]),
    ],
)
def test_a_pretrained_heads_second_step_tunes_all_of_its_network(base, trained) -> None:
    whole = full_recipe(tune(base=base, features={"views": 8}), {"stages.0.learning_rate": 0.02})
    found = fine_tuning(whole)
    assert [stage.trainable for stage in found.stages] == trained
    assert found.stages[0] == whole.stages[0]  # the winner's own
    if len(trained) > 1:
        assert found.stages[1] == FINE_TUNING[1]
        assert found.augment.views is None
