"""Help lists every key, and --print-config gives back the same recipe."""

import pytest

from satray.config.base import Recipe
from satray.config.cli import build, keys_of, render, to_yaml
from satray.config.prepare import DemoRecipe, PrepareRecipe
from satray.config.score import EvaluateRecipe, ExportRecipe, ScoreRecipe
from satray.config.train import CheckRecipe, LandscapeRecipe, TrainRecipe
from satray.config.tune import TuneRecipe

RECIPES: list[tuple[type[Recipe], list[str]]] = [
    (PrepareRecipe, ["images=x"]),
    (TrainRecipe, ["index=x"]),
    (LandscapeRecipe, ["index=x"]),
    (CheckRecipe, ["index=x"]),
    (TuneRecipe, ["index=x"]),
    (EvaluateRecipe, ["bundle=b", "index=x"]),
    (ScoreRecipe, ["bundle=b", "tiles=x"]),
    (ExportRecipe, ["bundle=b"]),
    (DemoRecipe, []),
]


each_recipe = pytest.mark.parametrize(("model", "required"), RECIPES)


@each_recipe
def test_help_says_what_the_job_makes_and_what_every_key_means(model, required) -> None:
    page = render("x", model)
    assert f"makes: {model.makes} options:" in " ".join(page.split())
    for entry in keys_of(model):
        assert entry.field.description, entry.name
        assert "\n" not in entry.field.description
        assert entry.name in page
    needed = {entry.name for entry in keys_of(model) if entry.field.is_required()}
    given = {item.split("=")[0] for item in required}
    either = {"tiles"} & given  # or scenes: exactly one of them, which no key can say alone
    assert given - either == {name for name in needed if "." not in name}


@each_recipe
def test_print_config_round_trips(model, required) -> None:
    recipe = build(model, required, lambda path, options: b"")
    text = to_yaml(recipe)
    assert build(model, ["r.yaml"], lambda path, options: text.encode()) == recipe


@each_recipe
def test_required_keys_come_first_then_the_jobs_own_and_those_of_every_job_last(
    model, required
) -> None:
    names = list(dict.fromkeys(entry.name.split(".")[0] for entry in keys_of(model)))
    assert set(names) == set(model.model_fields)
    assert set(names[: len(required)]) == {item.split("=")[0] for item in required}
    assert names[-4:] == ["out", "overwrite", "storage", "resources"]
    own = {CheckRecipe: {"check"}, LandscapeRecipe: {"stage", "landscape"}}.get(model, set())
    assert set(names[1 : 1 + len(own)]) == own
