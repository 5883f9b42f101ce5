"""What trials share, and when they do."""

import pytest
import torch
from train.small_archive import SIDE, generate, make_recipe, make_run

from satray.data.index import read_index
from satray.errors import SatrayError
from satray.storage import Storage
from satray.train.checkpoints import from_bytes
from satray.train.setup import set_up
from satray.tune.shared_start import prepare, settle, start_key

HEAD = [{"trainable": "head", "pseudo_epochs": 2}]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("archive"), tiles=32)


def key(archive, folder, digest="d", contents="c", **changes):
    settings = {"stages": HEAD, **changes}
    return start_key(make_recipe(archive, folder, **settings), digest, lambda uri: contents)


def test_training_alone_does_not_part_trials_and_what_features_depend_on_does(archive, tmp_path):
    here = key(archive, tmp_path)
    same = [
        {"stages": [{"trainable": "all", "learning_rate": 1.0, "pseudo_epochs": 9}]},
        {"batch": 4},
        {"dropout": 0.5, "loss": {"name": "focal"}, "repeat": 0.5},
        {"optimizer": {"name": "sgd"}, "average": {"ema": 0.9}, "augment": {"mixup": 0.2}},
        {"resources": {"workers": 2}, "cache": {"enabled": False}},
    ]
    assert {key(archive, tmp_path, **changes) for changes in same} == {here}
    other = [
        {"variant": "single3"},
        {"pooling": "max", "variant": "single3"},
        {"seed": 1},
        {"augment": {"flips": "none"}},
        {"augment": {"views": 2}},
        {"input": {"size": SIDE - 8}},
        {"precision": "bf16"},
        {"weights": "imagenet", "variant": "single3"},
        {"weights": "pretrained", "variant": "single3"},
        {"weights": "/w.safetensors"},
        {"weights": "/w.safetensors", "contents": "another"},
        {"digest": "another"},
    ]
    found = [key(archive, tmp_path, **changes) for changes in other]
    assert len({here, *found}) == len(other) + 1


def test_a_start_is_made_once_and_found_again_without_the_network(archive, tmp_path):
    recipe = make_recipe(archive, tmp_path, stages=HEAD)
    tiles = read_index(recipe.index, Storage())
    setup = set_up(recipe, Storage(), tiles)
    run, _ = make_run(tmp_path / "run")
    store = str(tmp_path / "store")
    first = settle(setup, run, store, "k")
    whole, head = (from_bytes(Storage().read(uri)) for uri in (first.weights, first.head))
    assert {name for name in whole if name.startswith("head.")} == head.keys()
    assert all(torch.equal(whole[name], head[name]) for name in head)
    assert first.under(setup).mean == setup.mean

    Storage().delete(first.weights)  # nobody builds the network to find it
    other_run, _ = make_run(tmp_path / "other")
    assert settle(setup, other_run, store, "k") == first
    assert not Storage().exists(first.weights)


def test_pixels_are_measured_once_where_the_index_knows_nothing(archive, tmp_path):
    recipe = make_recipe(
        archive, tmp_path, stages=HEAD, input={"size": SIDE, "radiometry": "pil_compat"}
    )
    setup = set_up(recipe, Storage())
    assert setup.mean == ()
    run, said = make_run(tmp_path / "run")
    found = settle(setup, run, str(tmp_path / "store"), "k")
    assert len(found.mean) == len(setup.bands)
    assert found.under(setup).mean == found.mean
    assert any("normalisation" in line for line in said)


def recipes_of(archive, folder):
    return [make_recipe(archive, folder, stages=HEAD, seed=seed) for seed in (0, 1)]


def test_a_start_that_cannot_be_had_costs_its_own_trials_only(
    archive, tmp_path, monkeypatch
) -> None:
    from satray.tune import features

    calls = []

    def extract(setup, run, weights, spec, store):
        calls.append(setup.recipe.seed)
        if setup.recipe.seed == 1:
            raise SatrayError("features: no room")
        return "table"

    monkeypatch.setattr(features, "extract", extract)
    recipes = recipes_of(archive, tmp_path)
    tiles = read_index(recipes[0].index, Storage())
    run, said = make_run(tmp_path / "run")
    store = str(tmp_path / "store")
    fine, bad = (start_key(each, tiles.digest, lambda uri: uri) for each in recipes)
    wanted = {key: [recipe] for key, recipe in zip((fine, bad), recipes, strict=True)}
    found, lost = prepare(wanted, tiles, run, store)
    assert calls == [0, 1]
    assert (found.keys(), lost) == ({fine}, {bad: "features: no room"})
    assert found[fine].features == "table"
    assert any("no room" in line for line in said)
    with pytest.raises(SatrayError, match="no room"):  # none is left
        prepare({bad: recipes[1:]}, tiles, run, store)
