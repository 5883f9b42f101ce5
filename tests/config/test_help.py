"""Help lists every key, and --print-config gives back the same recipe."""

import pytest

from satray.config.base import Recipe
from satray.config.cli import build, keys_of, render, to_yaml
from satray.config.demo import DemoRecipe
from satray.config.evaluate import EvaluateRecipe
from satray.config.export import ExportRecipe
from satray.config.prepare import PrepareRecipe
from satray.config.score import ScoreRecipe
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


@pytest.mark.parametrize(("model", "required"), RECIPES)
def test_every_key_has_a_meaning_of_one_line(model: type[Recipe], required: list[str]) -> None:
    page = render("x", "About.", model)
    for entry in keys_of(model):
        assert entry.field.description, entry.name
        assert "\n" not in entry.field.description
        assert entry.name in page
    needed = {entry.name for entry in keys_of(model) if entry.field.is_required()}
    given = {item.split("=")[0] for item in required}
    either = {"tiles"} & given  # or scenes: exactly one of them, which no key can say alone
    assert given - either == {name for name in needed if "." not in name}


@pytest.mark.parametrize(("model", "required"), RECIPES)
def test_print_config_round_trips(model: type[Recipe], required: list[str]) -> None:
    recipe = build(model, required, lambda path, options: b"")
    text = to_yaml(recipe)
    again = build(model, ["r.yaml"], lambda path, options: text.encode())
    assert again == recipe


@pytest.mark.parametrize(("model", "required"), RECIPES)
def test_required_keys_come_first_and_those_of_every_job_last(
    model: type[Recipe], required: list[str]
) -> None:
    names = list(dict.fromkeys(entry.name.split(".")[0] for entry in keys_of(model)))
    assert set(names) == set(model.model_fields)
    assert set(names[: len(required)]) == {item.split("=")[0] for item in required}
    assert names[-4:] == ["out", "overwrite", "storage", "resources"]


def test_a_jobs_own_keys_come_before_those_of_train() -> None:
    first = [entry.name.split(".")[0] for entry in keys_of(CheckRecipe)][:3]
    assert first == ["index", "check", "check"]
    places = {
        name.split(".")[0]: place
        for place, name in reversed(
            list(enumerate(entry.name for entry in keys_of(LandscapeRecipe)))
        )
    }
    assert max(places["stage"], places["landscape"]) < places["variant"]


@pytest.mark.parametrize(("model", "required"), RECIPES)
def test_help_says_what_the_job_makes(model: type[Recipe], required: list[str]) -> None:
    page = " ".join(render("x", "About.", model).split())
    assert f"makes: {model.makes} options:" in page
