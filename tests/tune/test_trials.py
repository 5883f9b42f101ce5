"""From a recipe of tune to its trials and its plan; what is refused before Ray is up."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from by_hand import planned
from sweep_material import BANDS, tune
from train.small_archive import SIDE, generate

from satray.config.cli import parse_yaml, validate
from satray.config.train import FINE_TUNING, TRANSFORMER_TUNING, TrainRecipe
from satray.config.tune import TuneRecipe
from satray.data.index import read_index
from satray.errors import InputError
from satray.models.backbones import build
from satray.models.variant import BUILT_IN, input_bands
from satray.storage import Storage
from satray.tune import job
from satray.tune.report import best_yaml
from satray.tune.starts import Start
from satray.tune.trials import (
    FORESEEN,
    Sweep,
    configurations,
    default_space,
    fine_tuning,
    full_recipe,
    space_of,
)

RATE, NAME, CYCLE = "stages.0.learning_rate", "stages.0.schedule.name", "stages.0.schedule.cycle"
TRAINED = "stages.0.trainable"


def found_in(**keys):
    """The configurations of a recipe, over an index of four bands and a thousand tiles."""
    recipe = tune(**keys)
    return configurations(recipe, space_of(recipe, BANDS, 1000))


# The space by default


def test_by_default_all_variants_with_cams_by_rates_by_schedules() -> None:
    found = found_in()
    schedules = 1 + 1 + 1 + 3 * 2  # constant, step, one_cycle; two cycles of those that cycle
    assert len(found) == 7 * 3 * schedules
    assert {each["variant"] for each in found} == set(BUILT_IN) - {"simple_cnn", "simple_cnn_dense"}
    for each in found:
        recipe = full_recipe(tune(), each)
        stage = recipe.stages[0]
        assert (stage.trainable, recipe.weights) == ("head", "pretrained")
        cycles = each[NAME] in ("triangular", "triangular2", "cosine_restarts")
        assert (CYCLE in each) == cycles
        if cycles:  # whole cycles fit in
            assert (stage.pseudo_epochs / stage.schedule.cycle).is_integer()
        if each[NAME] == "step":  # it does drop
            assert stage.schedule.step < stage.pseudo_epochs / 2


def test_variants_are_those_that_the_bands_allow_and_somebody_published() -> None:
    rgb = default_space(tune(), ("red", "green", "blue"), 1000)["variant"]
    assert "single3" in rgb
    assert all(set(input_bands(BUILT_IN[name])) == {"red", "green", "blue"} for name in rgb)
    with pytest.raises(InputError, match="no built-in variant fits the bands b1, b2"):
        default_space(tune(), ("b1", "b2"), 1000)
    for base, all_of_them in (({}, False), ({"weights": "imagenet"}, False),
                              ({"weights": "none"}, True)):  # fmt: skip
        found = default_space(tune(base=base), BANDS, 1000)["variant"]
        assert ("simple_cnn" in found, "xception" in found) == (all_of_them, True)


@pytest.mark.parametrize(
    ("base", "keys"),
    [
        ({"variant": "single4"}, {RATE, NAME}),
        ({RATE: 0.1}, {"variant", NAME}),
        ({"stages": [{"schedule": {"name": "cosine"}}]}, {"variant", RATE}),
        ({"stages": {"0": {"schedule": {"name": "cosine"}}}, "variant": "single3"}, {RATE}),
    ],
)
def test_what_base_fixes_is_not_searched_by_default(base, keys: set[str]) -> None:
    found = default_space(tune(base=base), BANDS, 1000)
    assert {key for key in found if "schedule." not in key or key == NAME} == keys
    assert (CYCLE in found) == (NAME in keys)


def test_cycles_follow_the_stages_length() -> None:
    for each, cycles in (({}, [1, 2]), ({"pseudo_epoch": 500}, [2, 4])):
        found = default_space(tune(base={"stages.0.samples": 4000} | each), BANDS, 1000)
        assert found[CYCLE]["values"] == cycles


@pytest.mark.parametrize(
    ("keys", "trials"),
    [
        ({"search": "random"}, 32),
        ({"search": "random", "trials": 5}, 5),
        ({"search": "grid", "trials": 20}, 20),
        ({"search": "random", "space": {"batch": [8, 16]}}, 2),
        ({"search": "optuna", "trials": 3}, FORESEEN),  # some stand for all
    ],
)
def test_searches_and_counts(keys, trials) -> None:
    assert len(found_in(**keys)) == trials


# Composition


def test_a_trial_is_its_configuration_over_base_over_what_tune_says() -> None:
    recipe = tune(
        base={"batch": 16, "stages": {"0": {"pseudo_epochs": 3}}, "input.size": 64, "dropout": 0.1},
        space={"dropout": [0.5], TRAINED: ["all"]},
        metric="auc",
        seed=7,
        storage={"region": "eu-west-1"},
        resources={"workers": 2},
    )
    found = full_recipe(recipe, {"dropout": 0.5, RATE: 0.02})
    assert (found.index, found.out, found.tracking) == ("/data/index", None, "tensorboard")
    assert (found.batch, found.input.size, found.dropout, found.seed) == (16, 64, 0.5, 7)
    assert (found.best, found.storage.region, found.resources.workers) == ("auc", "eu-west-1", 2)
    (stage,) = found.stages
    assert (stage.pseudo_epochs, stage.learning_rate) == (3, 0.02)
    # what base or space name wins over the sweep's own; but for the metric that it compares by
    recipe = tune(base={"seed": 3, "best": "auto"}, seed=1, metric="auc")
    assert [full_recipe(recipe, each).seed for each in ({}, {"seed": 5})] == [3, 5]
    assert full_recipe(recipe, {}).best == "auc"


@pytest.mark.parametrize(
    ("keys", "trainable"),
    [
        ({}, "head"),
        ({"base": {"stages.0.pseudo_epochs": 2}}, "head"),
        ({"base": {"stages": {"0": {"learning_rate": 0.1}}}}, "head"),
        ({"base": {"stages": [{"pseudo_epochs": 3}, {"learning_rate": 1e-4}]}}, "head head"),
        ({"base": {"stages": [{"pseudo_epochs": 3}, {}], "stages.1.learning_rate": 1e-4}},
         "head head"),
        ({"base": {"stages": [{"trainable": "all"}, {}]}}, "all all"),
        ({"space": {"stages": [[{"pseudo_epochs": 3}], [{"trainable": "all"}]]}}, "head"),
        ({"base": {TRAINED: "layer4"}}, "layer4"),
        ({"space": {TRAINED: ["all", "layer4"]}}, "all"),
    ],
)  # fmt: skip
def test_the_head_alone_is_trained_where_nobody_says_what_is(keys, trainable: str) -> None:
    stages = full_recipe(tune(**keys), {}).stages
    assert " ".join(stage.trainable for stage in stages) == trainable


def test_a_list_of_stages_comes_before_what_is_changed_in_it() -> None:
    stages = [{"trainable": "head"}, {"trainable": "all", "learning_rate": 1e-4}]
    recipe = tune(base={"stages.1.pseudo_epochs": 2, "stages": stages})
    for more in ({}, {"stages": stages}):
        head, rest = full_recipe(recipe, {"stages.1.learning_rate": 3e-4} | more).stages
        assert (head.trainable, rest.trainable, rest.learning_rate) == ("head", "all", 3e-4)
    assert stages[1]["learning_rate"] == 1e-4  # the recipe's own list stays as it was
    assert full_recipe(recipe, {}).stages[1].pseudo_epochs == 2


def test_paths_of_a_trial_are_absolute(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    assert full_recipe(tune(base={"weights": "w.pth"}), {}).weights == str(tmp_path / "w.pth")
    assert full_recipe(tune(base={"weights": "imagenet"}), {}).weights == "imagenet"
    found = tune(space={"weights": ["none", "/w.pth"], "batch": 8}).paths()  # 8 is refused later
    assert ("space.weights", "/w.pth") in found


def test_best_yaml_is_the_same_training() -> None:
    base = {"input.size": 64, "weights": {"rgb": "/w.pth"}, "stages.0.pseudo_epochs": 3}
    recipe = tune(base=base, storage={"endpoint": "http://store"}, search="random", trials=40)
    for configuration in configurations(recipe, space_of(recipe, BANDS, 1000)):
        wanted = full_recipe(recipe, configuration)
        text = best_yaml(wanted, ["trial 1", "two\nlines"])
        assert validate(TrainRecipe, parse_yaml(text, "best.yaml")) == wanted
        assert all(line.startswith("#") for line in text.split("\n\n")[0].splitlines())
        assert "overwrite" not in text
        assert "trainable: head" in text


PATCHES = {"towers": [{"name": "rgb", "backbone": "vit_small_patch16_224", "bands": ["red"]}]}


@pytest.mark.parametrize(
    ("base", "trained"),
    [
        ({}, ["head", "all"]),
        ({"weights": "none"}, ["head"]),
        ({"variant": "simple_cnn"}, ["head"]),
        ({TRAINED: "all"}, ["all"]),
        ({"variant": PATCHES}, ["head", "all"]),
    ],
)
def test_a_pretrained_heads_second_step_tunes_all_of_its_network(base, trained) -> None:
    whole = full_recipe(tune(base=base | {"augment.views": 8}), {RATE: 0.02})
    found = fine_tuning(whole)
    assert [stage.trainable for stage in found.stages] == trained
    assert found.stages[0] == whole.stages[0]  # the winner's own
    if len(trained) > 1:
        usual = TRANSFORMER_TUNING if base.get("variant") == PATCHES else FINE_TUNING
        assert (found.stages[1], found.augment.views) == (usual[1], None)


# Against an index


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("archive"), tiles=32)


def make(archive, space, base=None, **keys) -> TuneRecipe:
    common = {"variant": "simple_cnn", "weights": "none", "input": {"size": SIDE}, "batch": 8}
    more = {"stages.0.pseudo_epochs": 3}
    tree = {"index": archive.index, "base": common | more | (base or {}), "space": space, **keys}
    return validate(TuneRecipe, tree)


def read(archive, space, base=None, **keys) -> Sweep:
    return job.read(make(archive, space, base, **keys), Storage())


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"base": {"learning_rate": 1}}, r"^base\.learning_rate: unknown key; did you mean stages"),
        ({"base": {"variant": "single3", RATE: 0.1, NAME: "constant"}}, "base fixes all"),
        ({"base": {"batch": 0}}, r"^base\.batch=0: accepted: integer >= 1"),
        ({"base": {"stages.3.trainable": "all"}}, r"^base\.stages\.3: a list of 1; accepted: 0"),
        ({"base": {"stages": ["head"], RATE: 1}}, r"^base\.stages\.0=head: accepted: a mapping"),
        ({"space": {"lerning_rate": [1, 2]}}, r": lerning_rate: unknown key; did you mean"),
        ({"space": {"batch": [16, "x"]}}, "^configuration batch=x: batch=x: accepted: integer >="),
        ({"space": {"out": ["a"]}}, r"^space\.out: not a trial's"),
        ({"space": {"best": ["map", "auc"]}}, r"^space\.best: .*accepted: metric of tune"),
        ({"space": {"input.resize": [200, 256]}}, r": input: resize=200 is below size=224"),
        ({"base": {"input.size": SIDE}, "space": {"batch": [8, 100]}}, "batch=100"),
        ({"base": {RATE: "auto"}, "space": {"batch": [8]}}, "learning_rate=auto.*landscape=true"),
        ({"base": {}, "landscape": True,
          "space": {RATE: [1e-3, 1e-2], "batch": {"values": [4, 8], "when": {RATE: 1e-3}}}},
         r"space\.batch\.when\.stages\.0\.learning_rate: landscape=true replaces"),
        ({"base": {"stages": [{}, {"learning_rate": "auto"}]}, "space": {"batch": [8]},
          "landscape": True}, r"stages\.1\.learning_rate=auto: .*of the space$"),
        ({"base": {"batch": 8}, "space": {"stages.0.samples": [96, 1]}}, "samples"),
        ({"base": {"variant": "simple_cnn"}, "space": {"weights": ["none", "imagenet"]}},
         "weights=imagenet: nobody has published any of simple_cnn"),
        ({"base": {"variant": "simple_cnn", "batch": 9}, "space": {TRAINED: ["all"]},
          "resources": {"workers": 2, "gpus": "no"}}, "batch=9"),
        # heads take one worker each, the refit two
        ({"base": {"variant": "simple_cnn", "batch": 9}, "space": {RATE: [1e-3]}, "refit": True,
          "resources": {"workers": 2, "gpus": "no"}}, "batch=9: does not divide over 2 workers"),
        ({"base": {"variant": "simple_cnn", "batch": 8, "tracking": "mlflow"},
          "space": {RATE: [1e-3]}, "refit": True}, "tracking=mlflow: "),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_starts(archive, keys, said, monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    keys = {"space": {}, "base": {}} | keys
    keys["base"] = {"weights": "none"} | keys["base"]
    with pytest.raises(InputError, match=said) as found:
        job.read(tune(**keys, index=archive.index), Storage())
    assert "\n" not in str(found.value)


def test_trials_that_differ_in_their_stages_are_checked_each(archive) -> None:
    sweep = read(archive, {RATE: [1e-3, 1e-2], "stages.0.samples": [48, 96], "batch": [4, 8]})
    assert [sweep.check(trial) for trial in sweep.trials] == [48, 48, 96, 96] * 2
    # values that need each other are judged together
    assert len(read(archive, {"input.size": [16, 32], "input.resize": [32]}).trials) == 2
    # rates that range tests will find need not be given
    assert read(archive, {"batch": [4]}, {RATE: "auto"}, landscape=True).planned == 1
    # what a trial is asked to see does not depend on its batch
    sweep = read(archive, {"batch": [5, 7]}, {"pseudo_epoch": 16})
    assert {sweep.length_of(each) for each in sweep.trials} == {(48, 16)}
    assert len({sweep.check(each) for each in sweep.trials}) == 2


def test_a_head_has_one_worker_and_the_views_that_its_features_are_made_of(archive) -> None:
    space = {TRAINED: ["head", "all"]}
    head, whole = read(archive, space, resources={"workers": 2, "gpus": "no"}).trials
    assert (head.recipe.augment.views, whole.recipe.augment.views) == (8, None)
    assert (head.recipe.resources.workers, whole.recipe.resources.workers) == (1, 2)
    head, whole = read(archive, space, {"augment.views": 2}).trials
    assert (head.recipe.augment.views, whole.recipe.augment.views) == (2, 2)
    # of heads alone
    own = {"augment.views": {"values": [3], "when": {TRAINED: ["head"]}}}
    head, whole = read(archive, space | own).trials
    assert (head.recipe.augment.views, whole.recipe.augment.views) == (3, None)


def stacked(archive, space, base=None, at_once=1, width=16, **keys):
    """How many trials each stack has, of a sweep whose networks give so many features."""
    sweep = read(archive, space, base, **keys)
    table = SimpleNamespace(width=width)
    start = Start("w", "h", table)
    sweep = replace(sweep, starts={trial.start: start for trial in sweep.trials})
    stacks = sweep.stacks(sweep.trials, at_once)
    assert sorted(t.id for stack in stacks for t in stack) == sorted(t.id for t in sweep.trials)
    return [len(stack) for stack in stacks]


RATES = {RATE: [0.001, 0.01, 0.1], NAME: ["constant", "one_cycle"]}
CYCLED = {"stages.0.schedule.cycle_momentum": True}
EITHER_CYCLED = {f"stages.{n}.schedule.cycle_momentum": [True, False] for n in (0, 1)}


@pytest.mark.parametrize(
    ("space", "base", "keys", "sizes"),
    [
        (RATES, {}, {}, [6]),
        (RATES, {}, {"at_once": 2}, [3, 3]),  # no process is left without
        (RATES, {}, {"at_once": 8}, [1] * 6),
        ({RATE: [round(0.001 * n, 3) for n in range(1, 41)]}, {}, {}, [16, 16, 8]),
        (RATES, {}, {"width": 1 << 20}, [2, 2, 2]),  # of two classes: by their weights
        (RATES, {}, {"width": 1 << 22}, [1] * 6),
        # what they must agree in
        ({**RATES, "variant": ["simple_cnn", "single3"]}, {}, {}, [6, 6]),
        ({**RATES, "dropout": [0.0, 0.5]}, {}, {}, [6, 6]),
        ({**RATES, "seed": [1, 2], "batch": [4, 8]}, {}, {}, [6] * 4),
        ({**RATES, "optimizer.weight_decay": [0.0, 0.1]}, {}, {}, [6, 6]),
        ({**RATES, "stages.0.pseudo_epochs": [2, 3]}, {}, {}, [6, 6]),
        ({RATE: RATES[RATE], NAME: ["triangular", "one_cycle"]}, CYCLED, {}, [3, 3]),
        ({RATE: RATES[RATE], **EITHER_CYCLED}, {"stages": [{}, {}]}, {}, [3] * 4),
        (RATES, {"deterministic": True}, {}, [1] * 6),
        (RATES, {"accumulate": 2}, {}, [1] * 6),
    ],
)
def test_heads_alike_but_for_rates_and_schedules_are_stacked(
    archive, space, base, keys, sizes
) -> None:
    assert stacked(archive, space, base, **keys) == sizes


def test_inputs_are_the_index_and_weight_files(archive, tmp_path) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"weights")
    found = read(archive, {"weights": ["none", str(file)]}).digests
    digest = hashlib.sha256(b"weights").hexdigest()
    index = read_index(archive.index, Storage()).digest
    assert found == {"index": index, f"weights {file}": digest}


# The plan


def said(archive, space, base=None, **keys) -> str:
    return "\n".join(planned(job, make(archive, space, base, **keys)))


@pytest.mark.parametrize(
    ("space", "keys", "parts"),
    [
        ({RATE: [1e-3, 1e-2], TRAINED: ["head", "all"]}, {},
         ["4 trials by grid search, compared by mAP", "2 trials train heads",
          "2 trials train on workers of their own"]),
        # of two networks, whatever is pooled: 24 train tiles in two views, 8 of validation
        ({"seed": [0, 1], "pooling": ["avg", "max"]},
         {"features": {"folder": "/f"}, "base": {"augment.views": 2}},
         ["112 images to send through networks, less those that are in /f;"]),
        ({RATE: {"log_uniform": [1e-5, 1e-2]}}, {"landscape": True, "refit": True},
         [f"space: {RATE}: around what a range test of each variant finds", "trained again"]),
    ],
)  # fmt: skip
def test_the_plan_says_what_would_be_done(archive, space, keys, parts) -> None:
    lines = said(archive, space, **keys)
    assert [part for part in parts if part not in lines] == []


def test_networks_that_cannot_be_are_refused_by_the_plan(archive, tmp_path) -> None:
    with pytest.raises(InputError, match=r"stages\.0\.trainable='layer9'"):
        said(archive, {TRAINED: ["layer9"]})
    with pytest.raises(InputError, match=r"drop_path=0\.1: simple_cnn has no residual branches"):
        said(archive, {"drop_path": [0.0, 0.1]})
    resnet = {"towers": [{"name": "a", "backbone": "test_resnet", "bands": ["red"]}]}
    base = {"variant": resnet, "batch": 8, TRAINED: "all"}
    with pytest.raises(InputError, match="batch=8: one tile a worker, and batch norm needs two"):
        said(archive, {"accumulate": [1, 8]}, base)
    torch.save(build("resnet10t", 3).body.state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w\.pth: does not fit simple_cnn: 15 of its 15 tensors"):
        said(archive, {RATE: [1e-3]}, {"weights": str(tmp_path / "w.pth")})


WITHOUT_RAY = """
import sys
sys.modules["ray"] = None  # an import of it raises
from satray.config.tune import TuneRecipe
from satray.errors import InputError
from satray.storage import Storage
from satray.tune import job
recipe = TuneRecipe.model_validate_json(sys.stdin.read())
found = job.read(recipe, Storage())
base = {**recipe.base, "variant": "single3", "weights": "pretrained"}
try:
    job.read(recipe.model_copy(update={"base": base}), Storage())
except InputError as error:
    assert "cannot fetch those of resnet18: HF_HUB_OFFLINE is set" in str(error)
else:
    raise AssertionError("no cache holds any")
assert not {"torch", "timm"} & sys.modules.keys()
assert job.plan(recipe, found, Storage())
"""


def test_reading_and_planning_do_without_ray_and_reading_without_torch(archive, tmp_path) -> None:
    caches = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "TORCH_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY],
        input=make(archive, {"batch": [4, 8]}).model_dump_json(),
        env={**os.environ, **caches},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
