"""Range tests before a sweep, in this process."""

import pytest
from train.small_archive import SIDE, generate, make_run

from satray.config.cli import validate
from satray.config.tune import TuneRecipe
from satray.data.index import read_index
from satray.errors import InputError, TrainingError
from satray.storage import Storage
from satray.tune import ranges
from satray.tune.defaults import RATES
from satray.tune.ranges import key_of_test, range_tests
from satray.tune.resolve import space_of
from satray.tune.space import Range, Values
from satray.tune.trials import trial_recipe

RATE = "stages.0.learning_rate"
NIR = {"towers": [{"name": "nir", "backbone": "simple_cnn", "bands": ["nir"]}]}
SEARCH = {"lowest": 1e-5, "highest": 1.0, "steps": 24, "seeds": 1}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("archive"), tiles=32)


def recipe_of(archive, rate=(1e-3,), workers=1, **base):
    common = {"input": {"size": SIDE}, "batch": 8, "stages.0.pseudo_epochs": 2, "landscape": SEARCH}
    space = {"variant": ["simple_cnn", NIR]} | ({RATE: rate} if rate else {})
    return validate(
        TuneRecipe,
        {
            "index": archive.index,
            "base": common | base,
            "space": space,
            "resources": {"gpus": "no", "workers": workers},
        },
    )


def ranges_of(recipe, folder, out="out"):
    tiles = read_index(recipe.index, Storage())
    run, said = make_run(folder / out, ray=False)
    space = space_of(recipe, tiles.meta.bands, 24)
    store = str(folder / "store")
    return range_tests(recipe, space, tiles, run, store, lambda uri: uri), said


def rates_of(found):
    return [axis for axis in found.space.axes if axis.key == RATE]


def test_each_variant_has_rates_of_its_own_and_is_tested_once(archive, tmp_path) -> None:
    recipe = recipe_of(archive)
    found, said = ranges_of(recipe, tmp_path)
    axes = rates_of(found)
    assert [dict(axis.when)["variant"] for axis in axes] == [("simple_cnn",), (NIR,)]
    for axis in axes:
        assert isinstance(axis.domain, Range)
        assert 1e-6 < axis.domain.low < axis.domain.high <= 3.0
    assert found.pictures.keys() == {"simple_cnn", "simple_cnn (2)"}
    for name in found.pictures:
        assert any(line.startswith(f"{name}: learning rates ") for line in said)
    assert done_in(said) == 2
    # neither the same run nor another one over the same store tests again
    for out in ("out", "elsewhere"):
        again, said = ranges_of(recipe, tmp_path, out)
        assert (again.space, done_in(said)) == (found.space, 0)
    # heads train alone: 8 tiles a batch need not divide among 3 workers
    again, said = ranges_of(recipe_of(archive, workers=3), tmp_path)
    assert (again.space, done_in(said)) == (found.space, 0)
    assert done_in(ranges_of(recipe_of(archive, dropout=0.5), tmp_path)[1]) == 2


def done_in(said):
    """Range tests that were done, by what was said."""
    return sum(line.startswith("range test: 1 sweeps of") for line in said)


def test_what_decides_a_test_and_nothing_else_is_in_its_key(archive) -> None:
    def key(ground="g", **base):
        return key_of_test(trial_recipe(recipe_of(archive, **base), {}, ""), ground)

    others = {
        "ground": key("h"),
        "batch": key(batch=4),
        "mixup": key(**{"augment.mixup": 0.2}),
        "steps": key(landscape={**SEARCH, "steps": 30}),
        "decay": key(**{"stages.0.layer_decay": 0.5}),
        "optimizer": key(**{"optimizer.name": "sgd"}),
    }
    assert len({key(), *others.values()}) == len(others) + 1
    assert key() == key(**{"stages.0.pseudo_epochs": 9}) == key(best="loss")


def fails(monkeypatch, line="the loss bursts at once"):
    from satray.train import range_test

    def explore(*_):
        raise TrainingError(line)

    monkeypatch.setattr(range_test, "explore", explore)


def test_a_test_that_shows_nothing_leaves_the_rates_of_the_space(
    archive, tmp_path, monkeypatch
) -> None:
    fails(monkeypatch)
    found, said = ranges_of(recipe_of(archive), tmp_path)
    assert {each[RATE] for each in found.space.grid()} == {1e-3}
    assert len(found.space.grid()) == 2
    assert found.pictures == {}
    assert sum("learning rates as given" in line and "bursts" in line for line in said) == 2
    # the sweep that goes on does not try again, which might give another space; others do
    monkeypatch.undo()
    again, more = ranges_of(recipe_of(archive), tmp_path)
    assert again.space == found.space
    assert sum("bursts" in line for line in more) == 2
    fails(monkeypatch, "it bursts again")
    _, others = ranges_of(recipe_of(archive), tmp_path, "elsewhere")
    assert sum("bursts again" in line for line in others) == 2
    # without an axis, base's own rate
    bare, _ = ranges_of(recipe_of(archive, rate=None, **{RATE: 0.25}), tmp_path)
    assert rates_of(bare) == []


def test_where_no_rate_was_given_a_failed_test_leaves_the_widest_range(
    archive, tmp_path, monkeypatch
) -> None:
    fails(monkeypatch)
    found, _ = ranges_of(recipe_of(archive, rate=None, **{RATE: "auto"}), tmp_path)
    domains = [axis.domain for axis in rates_of(found)]
    assert [(each.low, each.high) for each in domains if isinstance(each, Range)] == [RATES] * 2


def test_one_variant_that_cannot_be_had_does_not_end_the_others_tests(
    archive, tmp_path, monkeypatch
) -> None:
    real = ranges.settle_ground

    def settle(setup, *rest):
        if setup.bands == ("nir",):
            raise InputError("weights: none published")
        return real(setup, *rest)

    monkeypatch.setattr(ranges, "settle_ground", settle)
    found, said = ranges_of(recipe_of(archive), tmp_path)
    assert found.pictures.keys() == {"simple_cnn"}
    kinds = [type(axis.domain) for axis in rates_of(found)]
    assert kinds == [Range, Values]
    assert any("none published" in line for line in said)
