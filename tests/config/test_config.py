"""Command line to recipe: YAML, dotted overrides, one-line errors, help."""

import re
from typing import Any

import pytest
from by_hand import JOBS
from hypothesis import given
from hypothesis import strategies as st

from satray.config.base import Recipe
from satray.config.cli import build, keys_of, parse_yaml, render, to_yaml
from satray.config.prepare import PrepareRecipe
from satray.config.train import TrainRecipe
from satray.config.tune import TuneRecipe
from satray.errors import InputError

RECIPES = [(recipe, required) for _, recipe, required in JOBS.values()]
REQUIRED = dict(RECIPES)
each_recipe = pytest.mark.parametrize(("model", "required"), RECIPES)


def made(model: type[Recipe], *arguments: str, file: str | None = None) -> Any:
    """A recipe of the required arguments and these, after a file where there is one."""
    before = ["r.yaml"] if file is not None else REQUIRED[model]
    return build(model, [*before, *arguments], lambda path, options: (file or "").encode())


def refusal(model: type[Recipe], *arguments: str, file: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        made(model, *arguments, file=file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_overrides_come_after_the_recipe_and_step_into_default_lists() -> None:
    text = "index: a\nbatch: 8\nstages:\n- learning_rate: 3e-5\n"
    recipe = made(TrainRecipe, "batch=16", "input.size=96", file=text)
    assert (recipe.index, recipe.batch, recipe.input.size) == ("a", 16, 96)
    assert recipe.stages[0].learning_rate == pytest.approx(3e-5)
    assert made(TrainRecipe, "stages.0.trainable=head").stages[0].trainable == "head"
    assert made(TrainRecipe, "stages.0.dropout=0.1", "stages=[{}]").stages[0].dropout == 0.1
    assert made(TrainRecipe, "batch=8", "batch=9").batch == 9
    assert made(PrepareRecipe, "classes=ship").classes == ("ship",)
    assert made(PrepareRecipe, "label_positive=>0").label_positive == ">0"
    assert made(PrepareRecipe, "classes=[ship, no ship]").classes == ("ship", "no ship")
    assert made(PrepareRecipe, "classes=no. 1 #a: b").classes == ("no. 1 #a: b",)
    assert made(PrepareRecipe, "images=/a #1/[x]: y").images == "/a #1/[x]: y"
    assert made(PrepareRecipe, "key_column=7", "labels=null").key_column == "7"
    for mark in "-#:=|>,&!%@`~*?[]{}\"'":
        assert made(PrepareRecipe, f"label_separator={mark}").label_separator == mark
    assert made(PrepareRecipe, "label_separator=' # '").label_separator == " # "
    assert parse_yaml("[no, off, 1:30, ~]", "x") == ["no", "off", "1:30", None]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_python_float_is_read_back(value: float) -> None:
    assert float(parse_yaml(repr(value), "x")) == value


@pytest.mark.parametrize(
    ("model", "argument", "says"),
    [
        (TrainRecipe, "batchh=3", "batchh: unknown key; did you mean batch?"),
        (TrainRecipe, "learning_rate=auto", "did you mean stages.N.learning_rate?"),
        (TrainRecipe, "schedule.name=cosine", "schedule: unknown key; did you mean stages.N.sch"),
        (TrainRecipe, "variant={towers: [{name: a, backbone: b, bands: [r], x: 1}]}",
         "variant.towers.0.x: unknown key; accepted: name, backbone, bands"),
        (TrainRecipe, "batch=0", "batch=0: accepted: integer >= 1"),
        (TrainRecipe, "seed=4294967296", "accepted: integer >= 0 and <= 4294967295"),
        (TuneRecipe, "seed=4294967296", "accepted: integer >= 0 and <= 4294967295"),
        (PrepareRecipe, "split.seed=4294967296", "accepted: integer >= 0 and <= 4294967295"),
        (TrainRecipe, "dropout=1", "dropout=1: accepted: number >= 0 and < 1"),
        (TrainRecipe, "stages.0.learning_rate=0", "rate=0: accepted: number > 0 or auto"),
        (TrainRecipe, "resources.read_tasks=0", "read_tasks=0: accepted: auto or integer >= 1"),
        (TrainRecipe, "storage.endpoint=h:1", "storage.endpoint=h:1: accepted: text like ^http"),
        (TrainRecipe, "augment.mixup=.inf", "mixup=inf: accepted: finite number >= 0"),
        (TrainRecipe, "augment.flips=yes", "augment.flips=yes: accepted: none|horizontal|d4"),
        (TrainRecipe, "variant=3", "variant=3: accepted: text or {towers, pooling, head}"),
        (TrainRecipe, "stages=[]", "dropout} (at least 1)"),
        (TrainRecipe, "input.normalize={mean: [a], std: [1]}", "mean.0=a: accepted: number"),
        (TrainRecipe, "input={size: 300, resize: 200}", "resize=200 is below size=300"),
        (TrainRecipe, "stages.3.learning_rate=1", "stages.3: a list of 2; accepted: 0 to 1"),
        (TrainRecipe, "stages=[head] stages.0.dropout=0.1", "stages.0=head: accepted: a mapping"),
        (TrainRecipe, "variant={towers: [resnet18]} stages.0.dropout=0.1",
         "variant.towers.0=resnet18: accepted: {name, backbone, bands}"),
        (TrainRecipe, "variant={towers: 3} stages.0.dropout=0.1", "towers=3: accepted: list of"),
        (TrainRecipe, "--frob", "--frob: unknown option"),
        (TrainRecipe, "other.yaml", "at most one recipe file" ),
        (PrepareRecipe, "bands=[red,Alpha]", "bands: found alpha; accepted: names of the data"),
        (PrepareRecipe, "bands=[red,nir,nir]", "bands: found nir 2 times; accepted: differen"),
        (PrepareRecipe, "split.block=500", "split.block=500.0 does nothing here: it works with sp"),
        (PrepareRecipe, "split={by: column, val: 0.3}", "split.val=0.3 does nothing here: it work"),
        (TrainRecipe, "cache.folder=s3://b/c", "folder: found s3://b/c; accepted: a local folder"),
        (PrepareRecipe, "extensions=[]", "extensions=[]: accepted: list of text"),
    ],
)  # fmt: skip
def test_errors_name_the_key_in_one_line(model, argument: str, says: str) -> None:
    file = "index: a" if argument == "other.yaml" else None
    assert says in refusal(model, *re.split(" (?=stages)", argument), file=file)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("batch: 8", r"^index: required \(tile index: .*\); give index=\.\.\.$"),
        ("index: a\nbatch: [\n", r"^r\.yaml, line \d: not valid YAML"),
        ("index: a\nbatch: 8\nbatch: 9\n", r"^r\.yaml, line 3: .* duplicate key .batch."),
        ("[index]", "^r.yaml: holds list; accepted: a YAML mapping"),
    ],
)
def test_wrong_files_are_told_by_line_or_key(text: str, says: str) -> None:
    assert re.search(says, refusal(TrainRecipe, file=text))


def test_no_error_speaks_of_the_library_behind() -> None:
    """Every leaf of a recipe is given something that it cannot be."""
    for entry in keys_of(TrainRecipe):
        if ".N." in entry.name and not entry.name.startswith("stages."):
            continue
        for wrong in ("{no: 1}", "[[]]"):
            try:
                made(TrainRecipe, f"{entry.name.replace('.N.', '.0.')}={wrong}")
            except InputError as error:
                said = str(error)
                assert not re.search("nput should|instance of|valid|pydantic|tuple", said), said


@each_recipe
def test_help_lists_every_key_and_print_config_round_trips(model, required) -> None:
    page, keys = render("x", model), keys_of(model)
    for entry in keys:
        assert re.match("[^\n]+$", entry.field.description), entry.name
        assert f"  {entry.name}  " in page
    needed = {entry.name for entry in keys if entry.field.is_required() and "." not in entry.name}
    named = {item.split("=")[0] for item in required}
    assert named - {"tiles"} == needed  # or scenes: exactly one of them, which no key can say
    names = list(dict.fromkeys(entry.name.split(".")[0] for entry in keys))
    assert set(names) == set(model.model_fields)
    assert set(names[: len(required)]) == named
    assert names[-4:] == ["out", "overwrite", "storage", "resources"]
    assert made(model, file=to_yaml(made(model))) == made(model)


def test_paths_are_those_of_trials_too_and_are_made_absolute() -> None:
    recipe = TuneRecipe(
        index="/i",
        out="o",
        features={"folder": "kept"},
        base={"weights": {"rgb": "a.pth", "nir": "none"}, "cache": {"folder": "c"}, "batch": 8},
        space={
            "weights": {"values": ["imagenet", "b.pth", {"rgb": "c.pth"}]},
            "weights.nir": ["d.pth"],
            "dropout": {"uniform": [0, 0.5]},
        },
    )
    inner = [
        ("base.weights.rgb", "a.pth"),
        ("space.weights", "b.pth"),
        ("space.weights.rgb", "c.pth"),
        ("space.weights.nir", "d.pth"),
    ]
    own = [("index", "/i"), ("features.folder", "kept"), ("out", "o")]
    assert recipe.paths() == own + inner
    assert recipe.paths(written=False) == own[:1] + inner
    arguments = ["index=i", "features.folder=kept", "out=o"]
    moved = build(TuneRecipe, arguments, lambda path, options: b"", lambda path: f"/at/{path}")
    assert [path for _, path in moved.paths()] == ["/at/i", "/at/kept", "/at/o"]
    read, at = (lambda path, options: b""), (lambda path: f"/at/{path}")
    trained = build(TrainRecipe, ["index=i", "cache.folder=c"], read, at)
    assert trained.cache.folder == "/at/c"
    assert [path for _, path in trained.paths()] == ["/at/i"]  # each node has its own


def test_where_and_how_fast_a_job_runs_is_not_what_it_makes() -> None:
    prepare = made(PrepareRecipe).identity()
    for argument in ("error_budget=0.5", "unmatched_budget=0.5", "resources.read_tasks=2"):
        assert made(PrepareRecipe, argument).identity() == prepare, argument
    assert made(PrepareRecipe, "split.seed=1").identity() != prepare
    one = made(TuneRecipe).identity()
    same = ("features.folder=x", "concurrent=3", "gpu_share=0.5", "out=o", "resources.workers=2")
    for argument in same:
        assert made(TuneRecipe, argument).identity() == one, argument
    for argument in ("base.augment.views=3", "refit=true", "seed=1", "base.batch=8", "trials=3"):
        assert made(TuneRecipe, argument).identity() != one, argument
