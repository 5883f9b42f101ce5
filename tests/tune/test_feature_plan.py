"""What decides features, which recipes can be trained from them, how the work is cut."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satray.config.train import AugmentOptions, InputOptions, TrainRecipe
from satray.data.index import IndexMeta, TileIndex
from satray.models.radiometry import Radiometry
from satray.models.variant import input_bands, resolve
from satray.train.plan.setup import Setup
from satray.train.plan.stages import plan_training
from satray.tune import feature_plan
from satray.tune.feature_plan import (
    BLOCK_BYTES,
    BLOCK_TILES,
    FEWEST,
    FeatureSpec,
    draws,
    feature_spec,
    head_only,
    missing,
    pooling_of,
    views_of,
    with_views,
)

STILL = {"crop": "random", "brightness": 0.0, "contrast": 0.0}
"""Augmentation that draws flips, and where to crop, alone."""
HEAD = ({"trainable": "head", "pseudo_epochs": 2},)


def recipe(**changes):
    augment = STILL | changes.pop("augment", {})
    tree = {"index": "nowhere", "weights": "none", "stages": HEAD, "augment": augment, **changes}
    return TrainRecipe.model_validate(tree)


def setup(shape=(256, 256), mean=(0.0,) * 3, digest="d", tiles=(800, 200), **changes):
    made = recipe(**changes)
    variant = resolve(made.variant, made.pooling)
    meta = IndexMeta("multilabel", ("a", "b"), ("red", "green", "blue"), "uint8", shape, (), {})
    bands = input_bands(variant)
    return Setup(
        recipe=made,
        index=TileIndex(None, meta),
        digest=digest,
        variant=variant,
        sources=dict.fromkeys((tower.name for tower in variant.towers), "none"),
        bands=bands,
        radiometry=Radiometry(),
        mean=mean,
        std=(1.0,) * len(bands),
        plan=plan_training(made, tiles[0], 1),
        train_tiles=tiles[0],
        val_tiles=tiles[1],
        best="map",
    )


def key(weights="w", **changes):
    return feature_spec(setup(**changes), weights).key


BASE = key()


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": "other"},
        {"digest": "other"},
        {"tiles": (801, 200)},
        {"mean": (0.0, 0.0, 0.1)},
        {"variant": "simple_cnn"},
        {"variant": "simple_cnn_dense"},
        {"input": {"size": 200}},
        {"input": {"resize": 256}},
        {"input": {"evaluate": "centre"}},
        {"augment": {"flips": "none"}},
        {"augment": {"crop": "centre"}},
        {"augment": {"crop": "resized"}},
        {"augment": {"brightness": 0.1}},
        {"augment": {"contrast": 0.1}},
        {"augment": {"views": 4}},
        {"seed": 1},
        {"precision": "fp32"},
    ],
    ids=str,
)
def test_another_of_these_makes_other_features(changes):
    assert key(**changes) != BASE


@pytest.mark.parametrize(
    "changes",
    [
        {"pooling": "max"},
        {"pooling": "lse"},
        {"augment": {"views": 8}},
        {"augment": {"mixup": 0.2}},
        {"augment": {"scale": 0.1, "ratio": 2.0}},
        {"dropout": 0.5},
        {"batch": 64},
        {"repeat": 0.1},
        {"loss": {"name": "focal"}},
        {"optimizer": {"name": "sgd"}},
        {"stages": ({**HEAD[0], "learning_rate": 0.1, "schedule": {"name": "cosine"}},)},
        {"average": {"ema": 0.99}},
    ],
    ids=str,
)
def test_these_leave_features_as_they_are(changes):
    assert key(**changes) == BASE


def test_scale_and_ratio_count_where_crops_are_resized():
    one, other = (key(augment={"crop": "resized", "scale": scale}) for scale in (0.3, 0.4))
    assert one != other


def test_the_seed_counts_only_where_something_is_drawn():
    still = {"flips": "none", "crop": "centre"}
    assert key(augment=still, seed=0) == key(augment=still, seed=5)
    assert key(seed=0) != key(seed=5)


def test_every_part_of_a_spec_is_in_its_key():
    spec = feature_spec(setup(), "w")
    for field in fields(FeatureSpec):
        assert replace(spec, **{field.name: "another"}).key != spec.key, field.name
    assert len(spec.key) == 16


def test_what_is_not_measured_yet_has_no_key():
    with pytest.raises(ValueError, match="not measured"):
        feature_spec(setup(mean=()), "w")


def test_a_dense_head_sees_whole_maps_and_others_what_their_variant_pools():
    assert pooling_of(resolve("mobilenet_v2")) == "max"
    assert pooling_of(resolve("simple_cnn_dense")) == "flat"
    assert feature_spec(setup(variant="simple_cnn_dense"), "w").poolings == ("flat",)
    assert feature_spec(setup(), "w").poolings == ("avg", "max", "lse")


def test_other_libraries_compute_other_features(monkeypatch):
    before = key()
    monkeypatch.setattr(feature_plan, "version", lambda name: f"{name} 9")
    assert key() != before


@pytest.mark.parametrize(
    ("augment", "given_input", "shape", "expected"),
    [
        ({"flips": "none"}, {}, (256, 256), False),  # resized to the crop: no room
        ({"flips": "none"}, {}, (256, 300), True),
        ({"flips": "none"}, {"resize": 225}, (256, 256), True),
        ({"flips": "none", "crop": "centre"}, {"resize": 300}, (256, 300), False),
        ({"flips": "none", "crop": "resized"}, {}, (256, 256), True),
        ({"flips": "horizontal"}, {}, (256, 256), True),
        ({"flips": "none", "brightness": 0.1}, {}, (256, 256), True),
        ({"flips": "none", "contrast": 0.1}, {}, (256, 256), True),
        ({"flips": "none", "mixup": 0.1}, {}, (256, 256), False),
    ],
)
def test_whether_anything_is_drawn(augment, given_input, shape, expected):
    assert draws(AugmentOptions(**STILL | augment), InputOptions(**given_input), shape) is expected


def test_views_are_the_recipes_else_eight_or_one():
    shape = (256, 256)
    assert views_of(recipe(), shape) == 8
    assert views_of(recipe(augment={"views": 3}), shape) == 3
    still = recipe(augment={"flips": "none", "views": 3})
    assert views_of(still, shape) == 1
    assert with_views(recipe(), shape).augment.views == 8
    assert with_views(recipe(seed=4), shape) == recipe(seed=4, augment={"views": 8})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"variant": "simple_cnn_dense"}, None),
        ({"dropout": 0.5, "repeat": 0.1, "average": {"ema": 0.99}}, None),
        ({"stages": (*HEAD, *HEAD)}, None),
        ({"stages": (*HEAD, {"trainable": "all"})}, "stages.1.trainable=all"),
        ({"stages": ({"trainable": "layer4"}, *HEAD)}, "stages.0.trainable=layer4"),
        ({"augment": {"mixup": 0.2}}, "augment.mixup=0.2"),
        ({"input": {"evaluate_flip": True}}, "input.evaluate_flip=true"),
        ({"average": {"snapshots": "swa"}}, "average.snapshots=swa"),
        ({"average": {"snapshots": "ensemble"}}, "average.snapshots=ensemble"),
    ],
    ids=str,
)
def test_which_recipes_train_from_features(changes, reason):
    made = recipe(**changes)
    found = head_only(made)
    if reason is None:
        assert found is None
    else:
        assert found is not None
        assert found.startswith(reason)
        assert "\n" not in found


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 1 << 26), st.booleans())
def test_blocks_hold_every_tile_once(train, val, tile_bytes, dense):
    variant = "simple_cnn_dense" if dense else "single3"
    spec = replace(feature_spec(setup(variant=variant), "w"), tiles=(train, val))
    blocks = spec.blocks(tile_bytes)
    for split, tiles in (("train", train), ("val", val)):
        own = [block for block in blocks if block.split == split]
        assert [row for block in own for row in range(block.start, block.stop)] == list(
            range(tiles)
        )
        assert [block.number for block in own] == list(range(len(own)))
    for block in blocks:
        assert 0 < len(block) <= (FEWEST if dense else BLOCK_TILES)
        assert len(block) <= FEWEST or len(block) * tile_bytes <= BLOCK_BYTES
    assert len({block.file for block in blocks}) == len(blocks)


def test_only_whole_files_of_ours_count_as_computed():
    blocks = feature_spec(setup(tiles=(20, 9), batch=4), "w").blocks(100)
    assert [block.file for block in blocks] == [
        "train-00000.parquet",
        "train-00001.parquet",
        "train-00002.parquet",
        "val-00000.parquet",
        "val-00001.parquet",
    ]
    there = ["train-00001.parquet", "val-00000.parquet.part", "other/val-00001.parquet"]
    assert missing(blocks, there) == (blocks[0], *blocks[2:])
    assert missing(blocks, [block.file for block in blocks]) == ()
