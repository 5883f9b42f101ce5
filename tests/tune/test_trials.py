"""From a recipe of tune to its trials: spaces, composition, and what is refused beforehand."""

from dataclasses import replace
from pathlib import Path

import pytest
from sweep_material import BANDS, tune
from train.small_archive import SIDE, generate

from satray.config.cli import parse_yaml, validate
from satray.config.stages import FINE_TUNING, TRANSFORMER_TUNING
from satray.config.train import TrainRecipe
from satray.config.tune import TuneRecipe
from satray.errors import InputError
from satray.models.pretrained import UNPUBLISHED, is_word
from satray.models.variant import BUILT_IN, input_bands, resolve
from satray.storage import Storage
from satray.tune.job import read
from satray.tune.report import best_yaml
from satray.tune.space import Space
from satray.tune.starts import Start
from satray.tune.trials import (
    FORESEEN,
    UNTAUGHT,
    Sweep,
    configurations,
    default_space,
    fine_tuning,
    full_recipe,
    note_lines,
    resolved,
    space_of,
    variants_of,
)

RATE, NAME = "stages.0.learning_rate", "stages.0.schedule.name"


def space(**keys) -> Space:
    return space_of(tune(**keys), BANDS, 1000)


def test_by_default_all_variants_with_cams_by_rates_by_schedules() -> None:
    found = configurations(tune(), space())
    schedules = 1 + 1 + 1 + 3 * 2  # constant, step, one_cycle; two cycles of those that cycle
    assert len(found) == 7 * 3 * schedules
    assert {each["variant"] for each in found} == set(BUILT_IN) - {"simple_cnn", "simple_cnn_dense"}
    assert {full_recipe(tune(), each).weights for each in found} == {"pretrained"}
    for each in found:
        stage = full_recipe(tune(), each).stages[0]
        assert stage.trainable == "head"
        cycles = each[NAME] in ("triangular", "triangular2", "cosine_restarts")
        assert ("stages.0.schedule.cycle" in each) == cycles
        if cycles:  # whole cycles fit in
            assert (stage.pseudo_epochs / stage.schedule.cycle).is_integer()
        if each[NAME] == "step":  # it does drop
            assert stage.schedule.step < stage.pseudo_epochs / 2


def test_variants_are_those_that_the_bands_allow() -> None:
    rgb = default_space(tune(), ("red", "green", "blue"), 1000)["variant"]
    assert "single3" in rgb
    assert "single4" not in rgb
    assert all(set(input_bands(BUILT_IN[name])) == {"red", "green", "blue"} for name in rgb)
    with pytest.raises(InputError, match="no built-in variant fits the bands b1, b2"):
        default_space(tune(), ("b1", "b2"), 1000)


@pytest.mark.parametrize(
    ("base", "keys"),
    [
        ({"variant": "single4"}, {RATE, NAME}),
        ({"stages.0.learning_rate": 0.1}, {"variant", NAME}),
        ({"stages": [{"schedule": {"name": "cosine"}}]}, {"variant", RATE}),
        ({"stages": {"0": {"schedule": {"name": "cosine"}}}, "variant": "single3"}, {RATE}),
    ],
)
def test_what_base_fixes_is_not_searched_by_default(base, keys: set[str]) -> None:
    found = default_space(tune(base=base), BANDS, 1000)
    assert {key for key in found if "schedule." not in key or key == NAME} == keys
    assert ("stages.0.schedule.cycle" in found) == (NAME in keys)


def test_cycles_follow_the_stages_length() -> None:
    base = {"stages.0.samples": 4000}
    for each, cycles in (({}, [1, 2]), ({"pseudo_epoch": 500}, [2, 4])):
        found = default_space(tune(base=base | each), BANDS, 1000)
        assert found["stages.0.schedule.cycle"]["values"] == cycles


def test_searches_and_counts() -> None:
    for keys, trials in (
        ({"search": "random"}, 32),
        ({"search": "random", "trials": 5}, 5),
        ({"search": "grid", "trials": 20}, 20),
        ({"search": "random", "space": {"batch": [8, 16]}}, 2),
    ):
        recipe = tune(**keys)
        found = configurations(recipe, space(**keys))
        assert len(found) == trials


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"base": {"learning_rate": 1}}, r"^base\.learning_rate: unknown key; did you mean stages"),
        ({"base": {"variant": "single3", RATE: 0.1, NAME: "constant"}}, "base fixes all"),
        ({"base": {"batch": 0}}, r"^base\.batch=0: accepted: integer >= 1"),
        ({"base": {"batch": 0}, "space": {"dropout": [0.1]}},
         r"^configuration dropout=0.1: batch=0: accepted: integer >= 1"),
        ({"base": {"variant": "singel3"}}, "did you mean single3"),
        ({"base": {"stages.3.trainable": "all"}}, r"^base\.stages\.3: a list of 1; accepted: 0"),
        ({"space": {"lerning_rate": [1, 2]}}, r": lerning_rate: unknown key; did you mean"),
        ({"space": {"schedule": {"name": ["step"]}}}, r"^configuration .*did you mean stages\.N"),
        ({"space": {NAME: ["step", "stepp"]}}, r": stages\.0\.schedule\.name=stepp: acc"),
        ({"space": {"variant": ["single3", "singel4"]}}, r"variant='singel4' is not known"),
        ({"space": {"batch": [16, "x"]}}, "^configuration batch=x: batch=x: accepted: integer >="),
        ({"space": {"dropout": {"uniform": [0, 1]}}}, ": dropout=1.0: accepted: number >= 0 and <"),
        ({"space": {RATE: {"uniform": [-1, 1]}}}, r"\.0\.learning_rate=-1.0: accepted: number > 0"),
        ({"space": {"out": ["a"]}}, r"^space\.out: not a trial's"),
        ({"base": {"index": "a"}}, r"^base\.index: not a trial's; accepted: index of tune"),
        ({"base": {"resources": {"workers": 2}}}, r"^base\.resources: not a trial's"),
        ({"space": {"best": ["map", "auc"]}}, r"^space\.best: .*accepted: metric="),
        ({"space": {"cache.gib": [1, 2]}}, r"^space\.cache\.gib: changes nothing"),
        ({"base": {"best": "auc"}, "metric": "map"}, r"^metric=map: base\.best=auc"),
        ({"space": {"input.resize": [200, 256]}}, r": input: resize=200 is below size=224"),
    ],
)  # fmt: skip
def test_what_cannot_be_valid_is_refused_before_anything_starts(archive, keys, said: str) -> None:
    with pytest.raises(InputError, match=said) as found:
        read(tune(**keys, index=archive.index), Storage())
    assert "\n" not in str(found.value)


def test_values_that_need_each_other_are_judged_together() -> None:
    """A crop of 224 px does not fit every size by itself, but where both are searched it may."""
    together = {"input.size": [128, 256], "input.resize": [256]}
    assert len(configurations(tune(space=together), space(space=together))) == 2
    apart = {"input.size": [128, 256], "input.resize": [200]}
    one, two = configurations(tune(space=apart), space(space=apart))
    assert full_recipe(tune(space=apart), one)
    with pytest.raises(InputError, match=r"^configuration input\.size=256, input\.resize=200: "):
        full_recipe(tune(space=apart), two)
    mended = space(base={"input.resize": 150}, space={"input.size": [96, 128]})
    assert len(mended.grid()) == 2


@pytest.mark.parametrize(
    ("base", "all_of_them"),
    [({}, False), ({"weights": "imagenet"}, False), ({"weights": "none"}, True)],
)
def test_variants_that_nobody_has_published_are_left_out_unless_none_is_asked_for(
    base, all_of_them
) -> None:
    found = variants_of(space(base=base), tune(base=base))
    assert ("simple_cnn" in found) == all_of_them
    assert "xception" in found


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
    found = full_recipe(recipe, {"dropout": 0.5, "stages.0.learning_rate": 0.02})
    assert (found.index, found.out, found.tracking) == ("/data/index", None, "tensorboard")
    assert (found.batch, found.input.size, found.dropout, found.seed) == (16, 64, 0.5, 7)
    assert (found.best, found.storage.region, found.resources.workers) == ("auc", "eu-west-1", 2)
    (stage,) = found.stages
    assert (stage.pseudo_epochs, stage.learning_rate) == (3, 0.02)
    assert found.augment.views is None  # it trains its backbone: always new


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
    with pytest.raises(
        InputError, match=r"^configuration batch=0: batch=0: accepted: integer >= 1"
    ):
        full_recipe(tune(), {"batch": 0})


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


PATCHES = {"towers": [{"name": "rgb", "backbone": "vit_small_patch16_224", "bands": ["red"]}]}


@pytest.mark.parametrize(
    ("base", "trained"),
    [
        ({}, ["head", "all"]),
        ({"weights": "none"}, ["head"]),
        ({"variant": "simple_cnn"}, ["head"]),
        ({"stages.0.trainable": "all"}, ["all"]),
        ({"variant": PATCHES}, ["head", "all"]),
    ],
)
def test_a_pretrained_heads_second_step_tunes_all_of_its_network(base, trained) -> None:
    whole = full_recipe(tune(base=base, features={"views": 8}), {"stages.0.learning_rate": 0.02})
    found = fine_tuning(whole)
    assert [stage.trainable for stage in found.stages] == trained
    assert found.stages[0] == whole.stages[0]  # the winner's own
    if len(trained) > 1:
        usual = TRANSFORMER_TUNING if base.get("variant") == PATCHES else FINE_TUNING
        assert found.stages[1] == usual[1]
        assert found.augment.views is None


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("archive"), tiles=32)


def make(archive, space, base=None, **keys) -> Sweep:
    common = {"variant": "simple_cnn", "input": {"size": SIDE}, "batch": 8}
    tree = {"index": archive.index, "base": common | (base or {}), "space": space, **keys}
    return resolved(validate(TuneRecipe, tree), Storage())


def test_trials_that_differ_in_their_stages_are_checked_each(archive) -> None:
    sweep = make(archive, {RATE: [1e-3, 1e-2], "stages.0.samples": [48, 96], "batch": [4, 8]})
    assert [sweep.check(trial) for trial in sweep.listed()] == [48, 48, 96, 96] * 2
    sweep = make(archive, {"stages.0.samples": [96, 1]})
    fine, short = sweep.listed()
    assert sweep.check(fine) == 96
    with pytest.raises(InputError, match="samples"):
        sweep.check(short)


def test_heads_take_one_worker_whatever_the_others_take(archive) -> None:
    space = {"stages.0.trainable": ["head", "all"], "batch": [9]}
    head, whole = (sweep := make(archive, space, resources={"workers": 2, "gpus": "no"})).listed()
    assert (head.head, whole.head) == (True, False)
    assert sweep.check(head) > 0
    with pytest.raises(InputError, match="batch=9"):
        sweep.check(whole)


def test_a_head_has_the_views_that_its_features_are_made_of(archive) -> None:
    space = {"stages.0.trainable": ["head", "all"]}
    head, whole = make(archive, space).listed()
    assert (head.recipe.augment.views, whole.recipe.augment.views) == (8, None)
    head, _ = make(archive, space, features={"views": 3}).listed()
    assert head.recipe.augment.views == 3


def test_each_kind_of_network_is_seen_to_have_the_blocks(archive) -> None:
    sweep = make(archive, {"stages.0.trainable": ["all", "layer9"]})
    fine, _ = sweep.listed()
    sweep.check_networks([fine])
    with pytest.raises(InputError, match=r"stages\.0\.trainable='layer9'"):
        sweep.check_networks(sweep.listed())


def test_of_optuna_some_stand_for_all(archive) -> None:
    sweep = make(archive, {RATE: {"log_uniform": [1e-4, 1e-1]}}, search="optuna", trials=3)
    assert (len(sweep.listed()), sweep.planned) == (FORESEEN, 3)


def test_heads_train_from_features_where_there_are_any(archive) -> None:
    sweep = make(archive, {"stages.0.trainable": ["head", "all"]})
    head, whole = sweep.listed()
    key = sweep.start_of(head)
    start = Start("w", "h", (0.0,), (1.0,))
    for starts, regime in (
        ({}, "backbone"),
        ({key: start}, "backbone"),
        ({key: replace(start, features="table")}, "head"),
    ):
        there = replace(sweep, starts=starts)
        assert (there.regime_of(head), there.regime_of(whole)) == (regime, "backbone")
    there = replace(sweep, lost={key: "no room"})
    with pytest.raises(InputError, match="no room"):
        there.accept(head.configuration)
    assert there.accept(whole.configuration) == whole


def test_the_metric_is_tunes_else_bases_else_trains(archive) -> None:
    for keys, name in (
        ({"metric": "auc", "base": {"best": "auc"}}, "auc"),
        ({"base": {"best": "loss"}}, "loss"),
        ({}, "map"),
    ):
        assert make(archive, {RATE: [1e-3]}, **keys).metric.name == name


def test_features_lie_beside_the_sweep_unless_a_folder_is_named(archive, tmp_path) -> None:
    assert make(archive, {RATE: [1e-3]}).store("/runs/x") == "/runs/x/features"
    named = make(archive, {RATE: [1e-3]}, features={"folder": str(tmp_path)})
    assert named.store("/runs/x") == str(tmp_path)


def test_a_rate_that_range_tests_will_find_need_not_be_given(archive) -> None:
    space = {"batch": [4, 8]}
    base = {RATE: "auto"}
    with pytest.raises(InputError, match="landscape=true"):
        make(archive, space, base).accept({"batch": 4})
    sweep = make(archive, space, base, landscape=True)
    assert [sweep.check(each) > 0 for each in sweep.listed()] == [True, True]
    base = {"stages": [{"learning_rate": "auto"}, {"learning_rate": "auto"}]}
    with pytest.raises(InputError, match=r"stages\.1\.learning_rate=auto") as caught:
        make(archive, space, base, landscape=True).accept({"batch": 4})
    assert "landscape" not in str(caught.value)


def test_imagenet_is_refused_for_a_backbone_that_has_none(archive) -> None:
    towers = [{"name": "rgb", "backbone": "simple_cnn", "bands": ["red", "green", "blue"]}]
    space = {"weights": ["none", "imagenet", {"rgb": "imagenet"}], "variant": [{"towers": towers}]}
    sweep = make(archive, space)
    none, *taught = sweep.listed()
    assert sweep.check(none) > 0
    for configuration in taught:
        with pytest.raises(
            InputError, match="weights=imagenet: nobody has published any of simple"
        ):
            sweep.check(configuration)


def test_no_configuration_of_the_recipes_asks_for_weights_that_there_are_not() -> None:
    for path in sorted(Path("jobs/recipes").glob("sweep_*.yaml")):
        recipe = validate(TuneRecipe, {"index": "/i", **parse_yaml(path.read_text(), path.name)})
        space = space_of(recipe, ("red", "green", "blue", "nir"), 1000)
        found = configurations(recipe, space) if recipe.search != "optuna" else space.sample(64, 0)
        assert found
        for configuration in found:
            trial = full_recipe(recipe, configuration)
            variant = resolve(trial.variant, trial.pooling)
            assert not is_word(trial.weights) or not (
                {tower.backbone for tower in variant.towers} & set(UNPUBLISHED)
            ), (path.name, configuration)


def test_what_train_would_remark_is_told_once(archive) -> None:
    space, stop = {RATE: [1e-3, 1e-2], "batch": [4, 8]}, {"factor": 4}
    sweep = make(archive, space, {"repeat": 1e-9}, stop=stop)
    assert sweep.notes == ("stop.factor=4 does nothing here: it works with stop.name=asha",)
    for configuration in sweep.listed():
        sweep.check(configuration)
    assert len(set(sweep.notes)) == len(sweep.notes)
    assert UNTAUGHT in sweep.notes
    assert len(sweep.notes) > 1
    assert note_lines(["a", "b", "c"], 2) == ["note: a", "note: b", "note: and 1 more of the kind"]


def test_what_a_trial_is_asked_to_see_does_not_depend_on_its_batch(archive) -> None:
    sweep = make(archive, {"batch": [5, 7]}, {"stages.0.pseudo_epochs": 3, "pseudo_epoch": 16})
    assert {sweep.length_of(each) for each in sweep.listed()} == {(48, 16)}
    assert len({sweep.check(each) for each in sweep.listed()}) == 2
