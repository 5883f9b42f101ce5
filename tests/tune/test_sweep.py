"""A sweep, resolved: what is refused before anything starts, and what is looked at how often."""

from pathlib import Path

import pytest
from train.small_archive import SIDE, generate

from satray.config.cli import parse_yaml, validate
from satray.config.tune import TuneRecipe
from satray.errors import InputError
from satray.models.pretrained import UNPUBLISHED, is_word
from satray.models.variant import resolve
from satray.storage import Storage
from satray.tune import sweep as module
from satray.tune.ground import Ground, Laid
from satray.tune.plan import note_lines
from satray.tune.resolve import configurations, space_of
from satray.tune.search import describe, only_heads
from satray.tune.sweep import resolved, store_of
from satray.tune.trials import full_recipe

RATE = "stages.0.learning_rate"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("archive"), tiles=32)


def make(archive, space, base=None, **keys):
    common = {"variant": "simple_cnn", "input": {"size": SIDE}, "batch": 8}
    tree = {"index": archive.index, "base": common | (base or {}), "space": space, **keys}
    return resolved(validate(TuneRecipe, tree), Storage())


def test_the_index_is_looked_at_once_for_trials_that_differ_in_their_stages(
    archive, monkeypatch
) -> None:
    calls = []
    set_up = module.set_up

    def counting(*args):
        calls.append(args)
        return set_up(*args)

    monkeypatch.setattr(module, "set_up", counting)
    space = {RATE: [1e-3, 1e-2, 1e-1], "stages.0.samples": [48, 96], "batch": [4, 8]}
    sweep = make(archive, space)
    found = [sweep.check(each) for each in sweep.listed()]
    assert found == [48, 48, 96, 96] * 3
    assert len(calls) == 2


def test_what_the_plan_refuses_is_refused_of_every_trial(archive) -> None:
    sweep = make(archive, {"stages.0.samples": [96, 1]})
    fine, short = sweep.listed()
    assert sweep.check(fine) == 96
    with pytest.raises(InputError, match="samples"):
        sweep.check(short)


def test_heads_take_one_worker_whatever_the_others_take(archive) -> None:
    space = {"stages.0.trainable": ["head", "all"], "batch": [9]}
    sweep = make(archive, space, resources={"workers": 2, "gpus": "no"})
    head, whole = sweep.listed()
    assert sweep.check(head) > 0
    with pytest.raises(InputError, match="batch=9"):
        sweep.check(whole)


def test_each_kind_of_network_is_seen_to_have_the_blocks(archive) -> None:
    make(archive, {RATE: [1e-3]}).check_networks([{RATE: 1e-3}])
    sweep = make(archive, {"stages.0.trainable": ["all", "layer9"]})
    with pytest.raises(InputError, match=r"stages\.0\.trainable='layer9'"):
        sweep.check_networks(sweep.listed())


def test_of_optuna_some_stand_for_all(archive) -> None:
    space = {RATE: {"log_uniform": [1e-4, 1e-1]}}
    sweep = make(archive, space, search="optuna", trials=3)
    assert sweep.optuna
    assert len(sweep.listed()) == module.FORESEEN


def test_without_features_a_head_goes_through_its_backbone(archive) -> None:
    sweep = make(archive, {RATE: [1e-3]})
    job = describe(sweep, Laid({}, {}), {RATE: 1e-3})
    assert (job.regime, job.seed, job.configuration) == ("backbone", 0, {RATE: 1e-3})
    assert job.ground == sweep.key_of({RATE: 1e-3})


def test_features_lie_beside_the_sweep_unless_a_folder_is_named(archive, tmp_path) -> None:
    assert store_of(make(archive, {RATE: [1e-3]}).recipe, "/runs/x") == "/runs/x/features"
    named = make(archive, {RATE: [1e-3]}, features={"folder": str(tmp_path)}).recipe
    assert store_of(named, "/runs/x") == str(tmp_path)


def test_a_trial_whose_ground_is_lost_is_of_the_regime_that_it_would_have_had(archive) -> None:
    sweep = make(archive, {RATE: [1e-3]})
    lost = Laid({}, {sweep.key_of({RATE: 1e-3}): "no room"})
    assert describe(sweep, lost, {RATE: 1e-3}).regime == "head"


def test_each_configuration_is_composed_once(archive, monkeypatch) -> None:
    calls = []
    full = module.full_recipe

    def counting(*args):
        calls.append(args)
        return full(*args)

    monkeypatch.setattr(module, "full_recipe", counting)
    sweep = make(archive, {RATE: [1e-3, 1e-2]})
    for configuration in sweep.listed():
        sweep.check(configuration)
        sweep.check_networks([configuration])
        assert sweep.key_of(configuration) == sweep.key_of(configuration)
        sweep.asked(configuration)
    assert len(calls) == 2


def test_a_rate_that_range_tests_will_find_need_not_be_given(archive) -> None:
    space = {"batch": [4, 8]}
    base = {RATE: "auto"}
    with pytest.raises(InputError, match="landscape=true"):
        make(archive, space, base).check({"batch": 4})
    sweep = make(archive, space, base, landscape=True)
    assert [sweep.check(each) > 0 for each in sweep.listed()] == [True, True]
    base = {"stages": [{"learning_rate": "auto"}, {"learning_rate": "auto"}]}
    with pytest.raises(InputError, match=r"stages\.1\.learning_rate=auto") as caught:
        make(archive, space, base, landscape=True).check({"batch": 4})
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
    sweep = make(archive, {RATE: [1e-3, 1e-2], "batch": [4, 8]}, {"repeat": 1e-9})
    for configuration in sweep.listed():
        sweep.check(configuration)
    assert len(set(sweep.notes)) == len(sweep.notes)
    assert module.UNTAUGHT in sweep.notes
    assert len(sweep.notes) > 1
    assert note_lines(["a", "b", "c"], 2) == ["note: a", "note: b", "note: and 1 more of the kind"]


def test_what_a_trial_is_asked_to_see_does_not_depend_on_its_batch(archive) -> None:
    sweep = make(archive, {"batch": [5, 7]}, {"stages.0.pseudo_epochs": 3, "pseudo_epoch": 16})
    assert {sweep.asked(each) for each in sweep.listed()} == {(48, 16)}
    assert len({sweep.check(each) for each in sweep.listed()}) == 2


def ground_of(archive):
    return Ground("w", "h", "t", (0.0,), (1.0,), features="table")


def test_optuna_may_run_many_at_once_only_where_all_are_surely_heads(archive) -> None:
    def sure(space, laid=()):
        sweep = make(archive, space, search="optuna", trials=3)
        grounds = {sweep.key_of(each): ground_of(archive) for each in laid}
        return only_heads(sweep, Laid(grounds, {}))

    rates = {RATE: {"log_uniform": [1e-4, 1e-1]}, "dropout": {"uniform": [0, 0.5]}}
    assert not sure(rates)
    assert sure(rates, [{}])
    pooling = {**rates, "pooling": ["avg", "max"]}
    assert not sure(pooling, [{"pooling": "avg"}])
    assert sure(pooling, [{"pooling": "avg"}, {"pooling": "max"}])
    assert not sure({**rates, "stages.0.trainable": ["head", "all"]}, [{}])
    assert not sure({**rates, "augment.mixup": {"uniform": [0, 0.5]}}, [{}])
