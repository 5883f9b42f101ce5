"""Keys of tune: overrides step into base and space, paths are found, words are taken."""

import pytest

from satray.config.cli import build, is_section
from satray.config.train import TrainRecipe
from satray.config.tune import TuneRecipe
from satray.errors import InputError
from satray.tune.space import Space
from satray.tune.trials import full_recipe

RECIPE = b"""
index: /data/index
base:
  stages: [{trainable: head, pseudo_epochs: 2}]
space:
  stages.0.learning_rate: {log_uniform: [1e-4, 1e-1]}
  variant: [single3, single4]
stop: {name: asha}
"""


def tune(*arguments: str) -> TuneRecipe:
    return build(TuneRecipe, ["r.yaml", *arguments], lambda path, options: RECIPE)


def test_the_command_line_steps_into_base_and_space() -> None:
    recipe = tune(
        "base.stages.0.pseudo_epochs=4",
        "base.batch=8",
        "space.variant=[xception]",
        "space.stages.0.learning_rate=[0.5]",
        "stop.factor=4",
    )
    trial = full_recipe(recipe, {})
    assert (trial.batch, trial.stages[0].pseudo_epochs, trial.stages[0].trainable) == (8, 4, "head")
    assert Space.parse(recipe.space).grid() == [
        {"stages.0.learning_rate": 0.5, "variant": "xception"}
    ]
    assert (recipe.stop.name, recipe.stop.factor) == ("asha", 4)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("concurrent=0", "concurrent=0: accepted: 1 or more, or auto"),
        ("concurrent=many", "concurrent=many: accepted: auto, or an integer"),
        ("stop.name=ahsa", r"stop\.name=ahsa: accepted: none, asha"),
        ("trials=0", "trials=0: accepted: 1 or more"),
        ("gpu_share=0", "gpu_share=0: accepted: above 0"),
        ("metric=mpa", "metric=mpa: accepted: auto, map"),
        ("searc=grid", "searc: unknown key; did you mean search?"),
        ("space=[1]", "space=.*: accepted: a mapping"),
    ],
)
def test_wrong_keys_are_told_in_one_line(argument: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as found:
        tune(argument)
    assert "\n" not in str(found.value)


def test_paths_within_sections_are_paths_and_are_made_absolute() -> None:
    recipe = tune("features.folder=kept", "out=o", "space.weights=[none, w.pth]")
    assert recipe.paths() == [
        ("index", "/data/index"),
        ("features.folder", "kept"),
        ("out", "o"),
        ("space.weights", "w.pth"),
    ]
    read = [name for name, _ in recipe.paths(written=False)]
    assert read == ["index", "space.weights"]
    moved = build(
        TuneRecipe,
        ["index=i", "features.folder=kept", "out=o"],
        lambda path, options: b"",
        lambda path: f"/at/{path}",
    )
    assert [path for _, path in moved.paths()] == ["/at/i", "/at/kept", "/at/o"]


def test_the_paths_of_a_sweep_are_those_of_its_weights_too() -> None:
    recipe = TuneRecipe(
        index="/i",
        base={"weights": {"rgb": "a.pth", "nir": "none"}, "cache": {"folder": "c"}, "batch": 8},
        space={
            "weights": {"values": ["imagenet", "b.pth", {"rgb": "c.pth"}]},
            "weights.nir": ["d.pth"],
            "dropout": {"uniform": [0, 0.5]},
        },
    )
    assert recipe.paths()[1:] == [
        ("base.weights.rgb", "a.pth"),
        ("space.weights", "b.pth"),
        ("space.weights.rgb", "c.pth"),
        ("space.weights.nir", "d.pth"),
    ]


def test_where_and_how_fast_a_sweep_runs_is_not_what_it_makes() -> None:
    one = tune().identity()
    same = ("features.folder=x", "concurrent=3", "gpu_share=0.5", "out=o", "resources.workers=2")
    for argument in same:
        assert tune(argument).identity() == one, argument
    for argument in ("features.views=3", "refit=true", "seed=1", "base.batch=8", "trials=3"):
        assert tune(argument).identity() != one, argument


@pytest.mark.parametrize(
    ("key", "section"),
    [("augment", True), ("stages", True), ("stages.0.schedule", True),
     ("stages.0.learning_rate", False), ("stages.0.nothing", None),
     ("variant", False)],  # a name will do
)  # fmt: skip
def test_sections_are_told_from_leaves(key: str, section: bool | None) -> None:
    assert is_section(TrainRecipe, key) is section
