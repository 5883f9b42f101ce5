"""Command line to recipe: YAML 1.2 words, dotted overrides, one-line errors."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satray.config.base import Recipe
from satray.config.cli import apply_overrides, build, keys_of, parse_yaml
from satray.config.prepare import PrepareRecipe
from satray.config.score import ExportRecipe, ScoreRecipe
from satray.config.train import TrainRecipe
from satray.errors import InputError


def read_local(path: str, _options: dict[str, Any]) -> bytes:
    return Path(path).read_bytes()


def train(*arguments: str) -> TrainRecipe:
    return build(TrainRecipe, arguments, read_local)


def test_overrides_come_after_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("index: a\nbatch: 8\nstages:\n- learning_rate: 3e-5\n")
    built = train(str(recipe), "batch=16", "input.size=96")
    assert (built.index, built.batch, built.input.size) == ("a", 16, 96)
    assert built.stages[0].learning_rate == pytest.approx(3e-5)


def test_an_override_steps_into_a_default_list() -> None:
    assert train("index=x", "stages.0.trainable=head").stages[0].trainable == "head"


@pytest.mark.parametrize(
    ("text", "value"),
    [("no", "no"), ("off", "off"), ("true", True), ("3e-5", 3e-5), ("1.5", 1.5), ("7", 7),
     ("2016-01-02", "2016-01-02"), ("1:30", "1:30"), ("010", 10),
     ("0o17", 15), ("0x1f", 31), ("on", "on"), ("1e-3", 1e-3), ("=", "="),
     ("1_000", "1_000"), ("0b11", "0b11"), ("~", None), ("[a, no]", ["a", "no"])],
)  # fmt: skip
def test_yaml_words(text: str, value: object) -> None:
    assert parse_yaml(text, "x") == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_python_float_is_read_back(value: float) -> None:
    assert float(parse_yaml(repr(value), "x")) == value


@pytest.mark.parametrize("kind", [PrepareRecipe, ScoreRecipe])
def test_alpha_is_no_band_to_name(kind: type[Recipe]) -> None:
    paths = ["images=a", "labels=b", "out=c"] if kind is PrepareRecipe else ["bundle=a", "tiles=b"]
    with pytest.raises(InputError, match="bands: found alpha; accepted: names of the data bands"):
        build(kind, [*paths, "bands=[red,green,blue,Alpha]"], read_local)
    assert build(kind, [*paths, "bands=[red,green,blue]"], read_local)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "index: required"),
        (["index=x", "batchh=3"], "batchh: unknown key; did you mean batch?"),
        (["index=x", "input.sise=3"], "input.sise: unknown key; did you mean input.size?"),
        (["index=x", "stages.0.learn_rate=3"], "did you mean stages.0.learning_rate?"),
        (["index=x", "batch=0"], "batch=0: accepted: 1 or more"),
        (["index=x", "stages.0.learning_rate=0"],
         "stages.0.learning_rate=0: accepted: above 0, or auto"),
        (["index=x", "resources.read_tasks=0"], "read_tasks=0: accepted: 1 or more, or auto"),
        (["index=x", "augment.mixup=.inf"], "augment.mixup=inf: accepted: a finite number"),
        (["index=x", "batch=many"], "batch=many: accepted: an integer"),
        (["index=x", "augment.flips=yes"], "augment.flips=yes: accepted: none, horizontal, d4"),
        (["index=x", "input.size=300", "input.resize=200"], "resize=200 is below size=300"),
        (["index=x", "stages.3.learning_rate=1"], "stages.3: a list of 2; accepted: 0 to 1"),
        (["index=x", "weights=none", "stages.3.learning_rate=1"],
         "stages.3: a list of 1; accepted: 0"),
        (["index=x", "learning_rate=auto"], "unknown key; did you mean stages.N.learning_rate?"),
        (["index=x", "learn_rate=1"], "learn_rate: unknown key; did you mean stages.N.learning_"),
        (["index=x", "schedule.name=cosine"], "schedule: unknown key; did you mean stages.N.sch"),
        (["index=x", "input.batch=1"], "input.batch: unknown key; did you mean batch?"),
        (["index=x", "smoothing=1"], "did you mean loss.smoothing or landscape.smoothing?"),
        (["index=x", "stages.0.schedule=cosine"],
         "stages.0.schedule=cosine: accepted: a mapping of name, warmup, "),
        (["index=x", "stages.0.learning_rate=fast"], "=fast: accepted: a number, or auto"),
        (["index=x", "variant=3"], "variant=3: accepted: text, or a mapping of towers, pooling, h"),
        (["index=x", "stages=3"], "stages=3: accepted: a list, each of it a mapping of trainable"),
        (["index=x", "stages=[]"], "stages=[]: accepted: at least 1 of them"),
        (["index=x", "weights.rgb=3"], "weights.rgb=3: accepted: text"),
        (["index=x", "input.normalize={mean: [a], std: [1]}"], "mean.0=a: accepted: a number"),
        (["index=x", "batch="], "batch=nothing: accepted: an integer"),
        (["index=x", "dropout=1"], "dropout=1: accepted: below 1"),
        (["index=x", "--frob"], "--frob: unknown option"),
        (["index=x", "variant={towers: [{name: a, backbone: b, bands: [r], x: 1}]}"],
         "variant.towers.0.x: unknown key"),
        (["index=x", "classes: ["], "no such"),
    ],
)  # fmt: skip
def test_errors_name_the_key_in_one_line(arguments: list[str], says: str) -> None:
    def read(path: str, _options: dict[str, Any]) -> bytes:
        raise InputError(f"{path}: no such recipe")

    with pytest.raises(InputError) as caught:
        build(TrainRecipe, arguments, read)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tile", ["128", "[128]", "[128, 128, 3]"])
def test_a_list_of_two_says_so(tile: str) -> None:
    with pytest.raises(InputError) as caught:
        build(ExportRecipe, ["bundle=b", f"tile={tile}"], read_local)
    assert str(caught.value) == f"tile={tile}: accepted: a list of 2, each an integer"


def test_no_error_speaks_of_the_library_behind() -> None:
    """Every leaf of a recipe is given something that it cannot be."""
    for entry in keys_of(TrainRecipe):
        if ".N." in entry.name and not entry.name.startswith("stages."):
            continue
        for wrong in ("{no: 1}", "[[]]"):
            try:
                train("index=x", f"{entry.name.replace('.N.', '.0.')}={wrong}")
            except InputError as error:
                said = str(error)
                assert not re.search("nput should|instance of|valid|pydantic|tuple", said), said


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("index: a\nbatch: [\n")
    with pytest.raises(InputError, match=r"r\.yaml, line \d: not valid YAML"):
        train(str(recipe))
    recipe.write_text("index: a\nbatch: 8\nbatch: 9\n")
    with pytest.raises(InputError, match=r"r\.yaml, line 3: .* duplicate key .batch."):
        train(str(recipe))


def test_one_text_stands_for_a_list() -> None:
    assert build(PrepareRecipe, ["images=x", "classes=ship"], read_local).classes == ("ship",)


@given(
    st.dictionaries(
        st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(".".join), st.integers()
    )
)
def test_the_last_override_is_kept(overrides: dict[str, int]) -> None:
    tree = apply_overrides({}, overrides)
    for dotted in list(overrides)[-1:]:
        node: Any = tree
        for part in dotted.split("."):
            node = node[part]
        assert node == overrides[dotted]
