"""How inputs are normalised: by the index's statistics, or as the weights want it."""

import pytest
from train.small_archive import generate
from train.tiny_training import recipe

from satray.config.cli import build, validate
from satray.config.train import (
    FINE_TUNING,
    FROM_SCRATCH,
    TRANSFORMER_TUNING,
    StageOptions,
    TowerOptions,
    TrainRecipe,
    VariantOptions,
)
from satray.data.index import BandStatistics, IndexMeta
from satray.errors import InputError
from satray.storage import Storage
from satray.train.setup import best_metric, normalisation, set_up

RGB = ("red", "green", "blue")
TWO = (("a", "resnet18"), ("b", "resnet18"))


def found(weights="none", towers=TWO, normalize="auto", dtype="uint8", bands=RGB):
    variant = VariantOptions(
        towers=tuple(TowerOptions(name=n, backbone=b, bands=bands) for n, b in towers)
    )
    statistics = tuple(BandStatistics(b, 100.0, 50.0, 0.0, 255.0, {}, 1) for b in bands)
    meta = IndexMeta("binary", ("ship",), bands, dtype, (8, 8), statistics, {})
    given = recipe(weights=weights, input={"size": 8, "normalize": normalize})
    mean, _ = normalisation(given, variant, meta, Storage())
    if mean == (100.0,) * len(bands):
        return "statistics"
    return [round(value / 255, 3) for value in mean]


IMAGENET = [0.485, 0.456, 0.406]


@pytest.mark.parametrize(
    ("weights", "way"),
    [
        ("none", "statistics"),
        ("imagenet", IMAGENET),
        ("pretrained", IMAGENET),
        ("pretrained:tv_in1k", IMAGENET),
        ({"a": "imagenet", "b": "imagenet"}, IMAGENET),
        ({"a": "imagenet"}, "statistics"),
        ({"a": "imagenet", "b": "none"}, "statistics"),
        ({"a": "none", "b": "none"}, "statistics"),
    ],
)
def test_auto_needs_every_tower_pretrained(weights, way):
    assert found(weights) == way


def test_auto_needs_8_bit_rgb():
    assert found("imagenet", dtype="uint16") == "statistics"
    assert found("imagenet", bands=(*RGB, "nir")) == "statistics"
    with pytest.raises(InputError, match="uint16"):
        found("imagenet", dtype="uint16", normalize="imagenet")


def test_the_order_is_the_bands():
    assert found("imagenet", bands=RGB[::-1]) == IMAGENET[::-1]


def test_a_bundles_weights_are_not_imagenets(tmp_path):
    file = tmp_path / "model.safetensors"
    assert found(str(file)) == IMAGENET
    (tmp_path / "model.json").write_text("{}")
    assert found(str(file)) == "statistics"
    assert found({"a": "imagenet", "b": str(file)}) == "statistics"
    assert found(str(file), normalize="imagenet") == IMAGENET


def test_towers_whose_weights_disagree_are_refused():
    towers = (("a", "resnet18"), ("b", "tf_efficientnet_lite0"))
    with pytest.raises(InputError, match=r"resnet18 and tf_eff.*normalize=statistics"):
        found("imagenet", towers)
    assert found("imagenet", towers, normalize="statistics") == "statistics"
    mixed = (("a", "resnet18"), ("b", "simple_cnn"))
    assert found({"a": "imagenet"}, mixed, normalize="imagenet") == IMAGENET
    assert found("pretrained", mixed) == "statistics"  # nobody has published the other's


@pytest.mark.parametrize(
    ("asked", "task", "found"),
    [
        ("auto", "binary", "map"),
        ("auto", "multilabel", "map"),
        ("auto", "multiclass", "accuracy"),
        ("loss", "multilabel", "loss"),
        ("auc", "binary", "auc"),
    ],
)
def test_what_picks_the_bundle(asked, task, found):
    assert best_metric(asked, task) == found


OURS = {"towers": [{"name": "rgb", "backbone": "simple_cnn", "bands": ["red"]}]}
PATCHES = {"towers": [{"name": "rgb", "backbone": "vit_small_patch16_224", "bands": ["red"]}]}
NEXT = {"towers": [{"name": "rgb", "backbone": "convnext_tiny.fb_in1k", "bands": ["red"]}]}
UNPUBLISHED = {"towers": [{"name": "rgb", "backbone": "resnet200", "bands": ["red"]}]}


@pytest.mark.parametrize(
    ("given", "stages"),
    [
        ({}, FINE_TUNING),
        ({"weights": "pretrained:tv_in1k"}, FINE_TUNING),
        ({"weights": "/w.pth"}, FINE_TUNING),
        ({"weights": "none"}, FROM_SCRATCH),
        ({"weights": {"rgb": "none"}}, FROM_SCRATCH),
        ({"weights": {"rgb": "none", "nir": "imagenet"}}, FINE_TUNING),
        ({"variant": "simple_cnn"}, FROM_SCRATCH),
        ({"variant": OURS}, FROM_SCRATCH),
        ({"variant": OURS, "weights": "/w.pth"}, FINE_TUNING),
        ({"variant": "mobilenet_v2"}, FINE_TUNING),
        ({"variant": PATCHES}, TRANSFORMER_TUNING),
        ({"variant": NEXT, "weights": "/w.pth"}, TRANSFORMER_TUNING),
        ({"variant": PATCHES, "weights": "none"}, FROM_SCRATCH),
    ],
)
def test_stages_by_default_suit_what_is_trained(given, stages):
    assert validate(TrainRecipe, {"index": "x", **given}).stages == stages


def test_a_key_set_by_hand_wins_over_the_default_stage_that_it_is_of():
    def built(*keys):
        return build(TrainRecipe, ["index=x", *keys], lambda *_: b"").stages

    head, rest = built("stages.1.pseudo_epochs=2", "stages.1.layer_decay=0.5")
    assert head == FINE_TUNING[0]
    changed = {"pseudo_epochs": 2.0, "layer_decay": 0.5}
    assert rest == FINE_TUNING[1].model_copy(update=changed)
    (only,) = built("weights=none", "stages.0.pseudo_epochs=2")
    assert only == FROM_SCRATCH[0].model_copy(update={"pseudo_epochs": 2.0})
    (given,) = built("stages=[{pseudo_epochs: 2}]")
    assert given == StageOptions(pseudo_epochs=2.0)


def test_a_backbone_that_nobody_has_published_trains_from_scratch_and_says_so(tmp_path):
    archive = generate(tmp_path, tiles=32)
    tree = {"index": archive.index, "variant": UNPUBLISHED, "batch": 8}
    setup = set_up(validate(TrainRecipe, tree), Storage())
    assert setup.recipe.stages == FROM_SCRATCH
    assert setup.sources == {"rgb": "none"}
    told = "tower rgb: nobody has published weights of resnet200; it trains from scratch"
    assert any(note.startswith(told) for note in setup.notes)
    by_hand = validate(TrainRecipe, {**tree, "stages": [{"trainable": "head"}]})
    assert [s.trainable for s in set_up(by_hand, Storage()).recipe.stages] == ["head"]
