"""What a recipe comes to on an index: stages, radiometry, mean and deviation, notes, refusals."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from satray.config.cli import build, parse_yaml, validate
from satray.config.train import (
    FINE_TUNING,
    FROM_SCRATCH,
    TRANSFORMER_TUNING,
    StageOptions,
    TrainRecipe,
)
from satray.data.index import BandStatistics, IndexMeta, TileIndex, table_with
from satray.data.statistics import count_pixels, summarise
from satray.errors import InputError
from satray.models.preprocess import to_values
from satray.models.radiometry import Radiometry
from satray.storage import Storage
from satray.train.setup import set_up

RECIPES = Path(__file__).parents[2] / "jobs" / "recipes"
RGB, PLANET = ("red", "green", "blue"), ("blue", "green", "red", "nir")
CLASSES = ("bright", "left")
BOTH_WAYS = np.array([[1, 0], [0, 1], [1, 1], [0, 0]] * 8)


def tile_index(
    bands=PLANET,
    dtype="uint16",
    percentiles=("2", "98"),
    train=BOTH_WAYS,
    val=BOTH_WAYS[:8],
    **meta,
):
    """Rows only, of tiles that nobody reads."""
    labels = [("train", each) for each in train] + [("val", each) for each in val]
    rows = [
        {"tile_id": f"t{n}", "uri": f"/t{n}.tif", "split": split, "labels": each.tolist(),
         "height": 256, "width": 256, "bands": list(bands), "dtype": dtype, "bytes": 9}
        for n, (split, each) in enumerate(labels)
    ]  # fmt: skip
    places = dict(zip(percentiles, (200.0, 800.0), strict=False))
    statistics = tuple(BandStatistics(b, 500.0, 90.0, 0.0, 999.0, places, 1) for b in bands)
    keys = {"task": "multilabel", "classes": CLASSES, **meta}
    made = IndexMeta(keys["task"], keys["classes"], bands, dtype, (256, 256), statistics, {})
    return TileIndex(table_with(made, pa.Table.from_pylist(rows)), made)


def variant(*backbones, bands=RGB):
    names = zip("abc", backbones, strict=False)
    return {"towers": [{"name": n, "backbone": each, "bands": bands} for n, each in names]}


def setup(index=None, **keys):
    keys = {"index": "x", "variant": "simple_cnn", "weights": "none", "batch": 8, **keys}
    return set_up(validate(TrainRecipe, keys), Storage(), index or tile_index())


# Mean and deviation


def way(weights, backbones=("resnet18", "resnet18"), bands=RGB, dtype="uint8", **wanted):
    """`statistics`, or the means in 0..1."""
    found = setup(
        tile_index(dtype=dtype), variant=variant(*backbones, bands=bands), weights=weights,
        input={"size": 8, **wanted},
    )  # fmt: skip
    return "statistics" if found.mean[0] == 500 else [round(v / 255, 3) for v in found.mean]


IMAGENET = [0.485, 0.456, 0.406]


@pytest.mark.parametrize(
    ("weights", "keys", "found"),
    [
        ("none", {}, "statistics"),
        ("imagenet", {}, IMAGENET),
        ("pretrained:tv_in1k", {}, IMAGENET),
        ({"a": "imagenet", "b": "imagenet"}, {}, IMAGENET),
        ({"a": "imagenet"}, {}, "statistics"),
        ("imagenet", {"dtype": "uint16"}, "statistics"),
        ("imagenet", {"bands": (*RGB, "nir")}, "statistics"),
        ("imagenet", {"bands": RGB[::-1]}, IMAGENET[::-1]),
        # nobody has published the other's
        ("pretrained", {"backbones": ("resnet18", "simple_cnn")}, "statistics"),
        ({"a": "imagenet"}, {"backbones": ("resnet18", "simple_cnn"), "normalize": "imagenet"},
         IMAGENET),
        ("imagenet", {"backbones": ("resnet18", "tf_efficientnet_lite0"),
                      "normalize": "statistics"}, "statistics"),
    ],
)  # fmt: skip
def test_auto_is_imagenet_where_every_tower_is_pretrained_on_8_bit_colours(weights, keys, found):
    assert way(weights, **keys) == found


def test_a_bundles_weights_are_not_imagenets(tmp_path):
    file = str(tmp_path / "model.safetensors")
    assert way(file) == IMAGENET
    (tmp_path / "model.json").write_text("{}")
    assert way(file) == way({"a": "imagenet", "b": file}) == "statistics"
    assert way(file, normalize="imagenet") == IMAGENET


THREE = {"mean": [0.7, 0.6, 0.5], "std": [0.1, 0.2, 0.3]}


@pytest.mark.parametrize(
    ("wanted", "bands", "mean", "std"),
    [
        ({"normalize": THREE}, RGB, (0.7, 0.6, 0.5), (0.1, 0.2, 0.3)),
        # near-infrared only divides: it is read, and stays as it is
        ({"normalize": THREE, "radiometry": "pil_compat"}, RGB, (0.7, 0.6, 0.5, 0.0),
         (0.1, 0.2, 0.3, 1.0)),
        ({}, RGB, (500.0,) * 3, (90.0,) * 3),
        # what an even spread from the 2nd to the 98th percentile has
        ({"radiometry": "percentile"}, RGB, (0.5,) * 3, (math.sqrt(0.96 / 3 + 0.02 - 0.25),) * 3),
        ({"radiometry": "percentile", "normalize": "imagenet"}, RGB[::-1],
         (0.406, 0.456, 0.485), (0.225, 0.224, 0.229)),
    ],
)  # fmt: skip
def test_numbers_by_radiometry(wanted, bands, mean, std):
    found = setup(variant=variant("simple_cnn", bands=bands), input={"size": 8, **wanted})
    assert (found.mean, found.std) == (pytest.approx(mean), pytest.approx(std))
    assert found.bands == ((*bands, "nir") if wanted.get("radiometry") == "pil_compat" else bands)
    if wanted.get("radiometry") == "percentile":
        assert found.radiometry == Radiometry("percentile", (200.0,) * 3, (800.0,) * 3)


@pytest.mark.parametrize("spread", ["even", "normal", "skewed"])
@pytest.mark.parametrize("far", [0, 0.01])
def test_numbers_of_stretched_values_are_theirs_though_some_lie_far_out(spread, far):
    """Both within a 10th of the deviation of what training is fed."""
    rng = np.random.default_rng(0)
    draw = {"even": rng.random, "normal": rng.standard_normal, "skewed": rng.standard_exponential}
    stored = (2_000 + 300 * draw[spread](40_000)).astype(np.uint16)
    stored[: int(far * len(stored))] = 65_535
    band = summarise("red", count_pixels(stored))
    index = tile_index(bands=("red",))
    index = TileIndex(index.table, replace(index.meta, statistics=(band,)))
    found = setup(
        index, variant=variant("simple_cnn", bands=("red",)),
        input={"size": 8, "radiometry": "percentile"},
    )  # fmt: skip
    pixels = torch.from_numpy(stored.reshape(1, 1, 200, 200))
    values = to_values(pixels, found.radiometry, found.bands)
    mean, std = values.mean().item(), values.std().item()
    assert found.mean[0] == pytest.approx(mean, abs=std / 10)
    assert found.std[0] == pytest.approx(std, rel=0.1)


STRETCHED, COMPAT = {"radiometry": "percentile"}, {"radiometry": "pil_compat"}


@pytest.mark.parametrize(
    ("wanted", "index", "bands", "said"),
    [
        ({"normalize": {**THREE, "mean": [1, 2]}}, {}, RGB,
         r"mean: found 2 numbers, accepted: 3.*red, gr"),
        ({"normalize": {**THREE, "std": [1, 0, 1]}}, {}, RGB, "std.1"),
        ({"normalize": "imagenet"}, {}, RGB, "normalize=imagenet: found uint16"),
        ({"normalize": "imagenet", **STRETCHED}, {}, PLANET, "found uint16"),
        (STRETCHED, {"percentiles": ()}, RGB, "2nd and 98th percentile of band red; run prepare"),
        (COMPAT, {}, RGB, "normalize=statistics: the index knows nothing .*pil_compat; acc"),
        (COMPAT, {"dtype": "uint8"}, RGB, "accepted: uint16 tiles of four bands, nir last"),
        (COMPAT, {"bands": ("nir", *RGB)}, RGB, "accepted: uint16 tiles of four bands, nir last"),
    ],
)  # fmt: skip
def test_numbers_that_do_not_fit_are_named(wanted, index, bands, said):
    with pytest.raises(InputError, match=said):
        setup(
            tile_index(**index), variant=variant("simple_cnn", bands=bands),
            input={"size": 8, **wanted},
        )  # fmt: skip


# Stages by default


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({}, FINE_TUNING),
        ({"weights": "/w.pth"}, FINE_TUNING),
        ({"weights": "none"}, FROM_SCRATCH),
        ({"weights": {"rgb": "none"}}, FROM_SCRATCH),
        ({"weights": {"rgb": "none", "nir": "imagenet"}}, FINE_TUNING),
        ({"variant": "simple_cnn"}, FROM_SCRATCH),
        ({"variant": variant("simple_cnn"), "weights": "/w.pth"}, FINE_TUNING),
        ({"variant": variant("vit_small_patch16_224")}, TRANSFORMER_TUNING),
        ({"variant": variant("convnext_tiny.fb_in1k")}, TRANSFORMER_TUNING),
        *(({"variant": variant("resnet18", name)}, TRANSFORMER_TUNING)
          for name in ("tiny_vit_5m_224", "gcvit_tiny", "caformer_s18", "levit_128", "volo_d1_224",
                       "focalnet_tiny_lrf", "sam2_hiera_small", "nest_tiny_jx", "pit_s_224")),
        *(({"variant": name}, FINE_TUNING)
          for name in ("mobilenet_v2", "xception", "resnet50_v2", "inception_v3")),
        *(({"variant": variant(name)}, FINE_TUNING) for name in ("resnest26d", "efficientnet_b0")),
        ({"variant": variant("swin_tiny_patch4_window7_224"), "weights": "none"}, FROM_SCRATCH),
        # nobody has published the latter's
        ({"variant": variant("resnet18", "resnet200")}, FINE_TUNING),
        (
            {"variant": variant("resnet18", "resnet200"), "weights": {"b": "pretrained"}},
            FROM_SCRATCH,
        ),
    ],
)  # fmt: skip
def test_stages_by_default_suit_what_is_trained(changes, stages):
    assert validate(TrainRecipe, {"index": "x", **changes}).stages == stages


def test_a_key_set_by_hand_wins_over_the_default_stage_that_it_is_of():
    def built(*keys):
        return build(TrainRecipe, ["index=x", *keys], lambda *_: b"").stages

    head, rest = built("stages.1.pseudo_epochs=2", "stages.1.layer_decay=0.5")
    assert head == FINE_TUNING[0]
    changed = {"pseudo_epochs": 2.0, "layer_decay": 0.5}
    assert rest == FINE_TUNING[1].model_copy(update=changed)
    tower = "{name: a, backbone: mobilenetv2_035, bands: [red]}"  # whose weights nobody published
    for untaught in ("weights=none", f"variant={{towers: [{tower}]}}", "weights.rgb=none"):
        (only,) = built("stages.0.pseudo_epochs=2", untaught)
        assert only == FROM_SCRATCH[0].model_copy(update={"pseudo_epochs": 2.0})
    resnet = "variant={towers: [{name: a, backbone: resnet18, bands: [red]}]}"
    other = "variant.towers.0.backbone=convnext_tiny"
    assert built(resnet, other, "stages.0.dropout=0.1")[1] == TRANSFORMER_TUNING[1]
    assert built("stages=[{pseudo_epochs: 2}]") == (StageOptions(pseudo_epochs=2.0),)


UNPUBLISHED = {"variant": variant("resnet200"), "weights": "pretrained"}


def test_a_backbone_that_nobody_has_published_trains_from_scratch():
    found = setup(**UNPUBLISHED)
    assert (found.recipe.stages, found.weights) == (FROM_SCRATCH, {"a": "none"})
    by_hand = setup(**UNPUBLISHED, stages=[{"trainable": "head"}])
    assert [stage.trainable for stage in by_hand.recipe.stages] == ["head"]


# Notes and refusals


@pytest.mark.parametrize(
    ("index", "changes", "notes"),
    [
        ({}, {}, ()),
        ({"train": BOTH_WAYS * [1, 0]}, {},
         ("left: the same on every train tile, so cannot be learnt",)),
        ({"val": BOTH_WAYS * 0}, {"best": "loss"},
         ("bright, left: the same on every val tile, so cannot be judged",)),
        ({}, UNPUBLISHED,
         ("tower a: nobody has published weights of resnet200; it trains from scratch "
          "(weights=none says so too)",)),
        ({}, {"stages": [{"schedule": {"cycle": 3}}]},
         ("stages.0.schedule.cycle=3.0 does nothing here: it works with stages.0.schedule.name="
          "triangular or triangular2 or exp_range or cosine_restarts",)),
    ],
)  # fmt: skip
def test_what_a_recipe_probably_did_not_mean_is_noted(index, changes, notes):
    assert setup(tile_index(**index), **changes).notes == notes


@pytest.mark.parametrize(
    ("changes", "key", "amends"),
    [
        ({"cache": {"enabled": False, "gib": 2}}, "cache.gib=2.0", {"cache": {"gib": 2}}),
        ({"stages": [{"schedule": {"name": "cosine", "cycle_momentum": True}}]},
         "stages.0.schedule.cycle_momentum=true",
         {"stages": [{"schedule": {"cycle_momentum": True}}]}),
        ({"stages": [{"samples": 64, "pseudo_epochs": 2}]}, "stages.0.pseudo_epochs=2.0",
         {"stages": [{"pseudo_epochs": 2}]}),
    ],
)  # fmt: skip
def test_a_key_without_effect_is_told_of_until_it_has_one(changes, key, amends):
    assert setup(**changes).notes[0].startswith(f"{key} does nothing here: it works with")
    assert setup(**{**changes, **amends}).notes == ()


@pytest.mark.parametrize(
    ("index", "changes", "says"),
    [
        ({"train": BOTH_WAYS * 0}, {},
         "32 tiles of split train are alike: nothing to learn; accepted: both kinds"),
        ({"val": BOTH_WAYS * 0}, {},
         "32 tiles of split val are alike: best=map cannot be measured"),
        ({}, {"loss": {"name": "cross_entropy"}}, "loss.name=cross_entropy: does not fit a multi"),
        ({}, {"accumulate": 3}, "batch=8: does not divide over 1 workers and 3 parts each"),
        ({}, {"weights": "imagenet", "variant": variant("resnet18", "tf_efficientnet_lite0"),
              "input": STRETCHED | {"normalize": "imagenet"}},
         "resnet18 and tf_eff.*normalize=statistics"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(index, changes, says):
    with pytest.raises(InputError, match=says) as error:
        setup(tile_index(**index), **changes)
    assert "\n" not in str(error.value)


def test_drop_path_reaches_backbones_that_have_it():
    network = setup(variant=variant("resnet10t"), drop_path=0.2).network()
    rates = [each.drop_prob for each in network.modules() if hasattr(each, "drop_prob")]
    assert max(rates) == pytest.approx(0.2)
    with pytest.raises(InputError, match=r"drop_path=0\.2: simple_cnn has no .*accepted: 0"):
        setup(drop_path=0.2).network()


# The recipes of the Planet report

PARAMETERS = {"single3": 11_185_233, "single4": 11_188_369, "double4": 22_370_449}
"""Of the report's networks with 17 classes."""
SEVENTEEN = {
    "train": np.random.default_rng(0).integers(0, 2, (640, 17)),
    "val": np.random.default_rng(1).integers(0, 2, (64, 17)),
    "classes": tuple(f"c{k}" for k in range(17)),
}


def load(name):
    text = (RECIPES / f"{name}.yaml").read_text()
    recipe = validate(TrainRecipe, {**parse_yaml(text, name), "index": "x"})
    return recipe, set_up(recipe, Storage(), tile_index(**SEVENTEEN))


def test_the_recipes_hold_no_key_without_effect():
    kinds = ("planet", "ships", "transfer")
    names = [path.stem for kind in kinds for path in RECIPES.glob(f"{kind}_*.yaml")]
    assert {name: load(name)[1].notes for name in names} == dict.fromkeys(names, ())


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_paper_recipes_do_as_the_code_did(name):
    recipe, found = load(f"planet_{name}_paper")
    assert {
        "size": 224, "resize": 256, "evaluate": "whole", "radiometry": "pil_compat",
        "evaluate_flip": True,
    }.items() <= dict(recipe.input).items()  # fmt: skip
    assert {
        "flips": "horizontal", "crop": "random", "brightness": 0, "contrast": 0, "mixup": 0,
        "cutmix": 0, "erase": 0,
    }.items() <= dict(recipe.augment).items()  # fmt: skip
    assert {
        "shuffle": False, "batch": 32, "first_conv": "in_place", "drop_path": 0, "accumulate": 1,
        "weights": "imagenet", "dropout": 0, "pooling": None,
    }.items() <= dict(recipe).items()  # fmt: skip
    plain = {"name": "adam", "weight_decay": 0, "clip": 0}
    assert (recipe.average.ema, recipe.average.swa) == (0, False)
    assert plain.items() <= dict(recipe.optimizer).items()
    (stage,) = recipe.stages
    assert (stage.trainable, stage.pseudo_epochs, stage.layer_decay) == ("all", 35, 1)
    rates = [found.plan.learning_rate(20 * epoch) for epoch in (0, 9, 10, 19, 20, 34)]
    assert rates == pytest.approx([5e-3, 5e-3, 1.5e-3, 1.5e-3, 4.5e-4, 1.35e-4])
    # three bands are looked at, and near-infrared is read all the same
    mean, std = (0.7476, 0.6534, 0.4757, 0.0960), (0.1677, 0.1828, 0.2137, 0.0284)
    if name == "single3":
        mean, std = (*mean[:3], 0.0), (*std[:3], 1.0)
    assert (found.bands, found.mean, found.std) == (PLANET, mean, std)
    assert sum(p.numel() for p in found.network().parameters()) == PARAMETERS[name]
