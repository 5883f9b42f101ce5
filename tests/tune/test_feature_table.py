"""Features as a table: what decides them, which recipes use them, in files and on a node."""

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satray.config.train import AugmentOptions, InputOptions, TrainRecipe
from satray.data.cache import IN_USE, make_room
from satray.data.index import IndexMeta, TileIndex
from satray.errors import InputError, SatrayError
from satray.models.radiometry import Radiometry
from satray.models.variant import input_bands, resolve
from satray.storage import Storage
from satray.train.plan import plan_training
from satray.train.setup import Setup
from satray.tune import feature_table
from satray.tune.feature_table import (
    BLOCK_BYTES,
    BLOCK_TILES,
    FEWEST,
    FORMAT,
    FeatureTable,
    draws,
    feature_spec,
    head_only,
    notes_of,
    pooling_of,
    to_parquet,
    views_of,
    with_views,
)

STILL = {"crop": "random", "brightness": 0.0, "contrast": 0.0}
"""Augmentation that draws flips, and where to crop, alone."""
HEAD = ({"trainable": "head", "pseudo_epochs": 2},)
SHAPE = (256, 256)


def recipe(**changes):
    augment = STILL | changes.pop("augment", {})
    tree = {"index": "nowhere", "weights": "none", "stages": HEAD, "augment": augment, **changes}
    return TrainRecipe.model_validate(tree)


def spec(weights="w", shape=SHAPE, mean=(0.0,) * 3, digest="d", tiles=(800, 200), **changes):
    """Of a run that is made up."""
    made = recipe(**changes)
    variant = resolve(made.variant, made.pooling)
    meta = IndexMeta("multilabel", ("a", "b"), ("red", "green", "blue"), "uint8", shape, (), {})
    bands = input_bands(variant)
    setup = Setup(
        recipe=made,
        index=TileIndex(None, meta, digest),
        variant=variant,
        weights=dict.fromkeys((tower.name for tower in variant.towers), "none"),
        bands=bands,
        radiometry=Radiometry(),
        mean=mean,
        std=(1.0,) * len(bands),
        plan=plan_training(made, tiles[0], 1),
        train_tiles=tiles[0],
        val_tiles=tiles[1],
        best="map",
    )
    return feature_spec(setup, weights)


# Which recipes train from features, and in how many views


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
        ({"augment": {"cutmix": 0.2}}, "augment.cutmix=0.2"),
        ({"input": {"evaluate_flip": True}}, "input.evaluate_flip=true"),
        ({"average": {"swa": True}}, "average.swa=true"),
    ],
    ids=str,
)
def test_which_recipes_train_from_features(changes, reason):
    found = head_only(recipe(**changes))
    assert found is None if reason is None else found.startswith(reason)


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
        ({"flips": "none", "erase": 0.1}, {}, (256, 256), True),
        ({"flips": "none", "mixup": 0.1, "cutmix": 0.1}, {}, (256, 256), False),
    ],
)
def test_whether_anything_is_drawn(augment, given_input, shape, expected):
    assert draws(AugmentOptions(**STILL | augment), InputOptions(**given_input), shape) is expected


def test_views_are_the_recipes_else_eight_or_one():
    assert views_of(recipe(), SHAPE) == 8
    assert views_of(recipe(augment={"views": 3}), SHAPE) == 3
    assert views_of(recipe(augment={"flips": "none", "views": 3}), SHAPE) == 1
    assert with_views(recipe(seed=4), SHAPE) == recipe(seed=4, augment={"views": 8})


# What decides features


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
        {"augment": {"erase": 0.1}},
        {"augment": {"views": 4}},
        {"seed": 1},
        {"precision": "fp32"},
    ],
    ids=str,
)
def test_another_of_these_makes_other_features(changes):
    assert spec(**changes).key != spec().key


@pytest.mark.parametrize(
    "changes",
    [
        {"pooling": "max"},
        {"pooling": "lse"},
        {"augment": {"views": 8}},
        {"augment": {"mixup": 0.2, "cutmix": 0.2}},
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
    assert spec(**changes).key == spec().key


def test_keys_of_augmentation_and_the_seed_count_where_they_have_an_effect():
    one, other = (spec(augment={"crop": "resized", "scale": scale}) for scale in (0.3, 0.4))
    assert one.key != other.key
    still = {"flips": "none", "crop": "centre"}
    assert spec(augment=still, seed=0).key == spec(augment=still, seed=5).key
    assert len(spec().key) == 16


def test_a_dense_head_sees_whole_maps_and_others_what_their_variant_pools():
    assert pooling_of(resolve("mobilenet_v2")) == "max"
    assert pooling_of(resolve("simple_cnn_dense")) == "flat"
    assert spec(variant="simple_cnn_dense").poolings == ("flat",)
    assert spec().poolings == ("avg", "max", "lse")


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 1 << 26), st.booleans())
def test_blocks_hold_every_tile_once(train, val, tile_bytes, dense):
    variant = "simple_cnn_dense" if dense else "single3"
    blocks = replace(spec(variant=variant), tiles=(train, val)).blocks(tile_bytes)
    for split, tiles in (("train", train), ("val", val)):
        own = [block for block in blocks if block.split == split]
        rows = [row for block in own for row in range(block.start, block.stop)]
        assert rows == list(range(tiles))
    for block in blocks:
        assert 0 < len(block) <= (FEWEST if dense else BLOCK_TILES)
        assert len(block) <= FEWEST or len(block) * tile_bytes <= BLOCK_BYTES
    assert len({block.file for block in blocks}) == len(blocks)


# In files and on a node

WIDTHS = {"rgb_avg": 4, "rgb_max": 4, "nir_avg": 3, "nir_max": 3}
ROWS, VIEWS = {"train": 11, "val": 5}, {"train": 3, "val": 1}
BAD = 6


def block(split, start, stop, seed):
    """Rows, labels, errors and features; those of a tile that cannot be read are not finite."""
    rng = np.random.default_rng(seed)
    rows = np.arange(start, stop)
    labels = rng.integers(0, 2, (len(rows), 2)).astype(np.uint8)
    errors = ["gone" if split == "train" and row == BAD else None for row in rows]
    features = {
        name: rng.normal(size=(len(rows), VIEWS[split], width)).astype(np.float32)
        for name, width in WIDTHS.items()
    }
    for values in features.values():
        values[[error is not None for error in errors]] = np.nan
    return rows, labels, errors, features


BLOCKS = {
    "train-00000.parquet": block("train", 0, 8, 1),
    "train-00001.parquet": block("train", 8, 11, 2),
    "val-00000.parquet": block("val", 0, 5, 3),
}
RECORD = {
    "format": FORMAT, "columns": WIDTHS, "rows": ROWS, "views": VIEWS, "classes": ["a", "b"],
    "files": list(BLOCKS),
}  # fmt: skip


@pytest.fixture
def table(tmp_path):
    """A table of two towers as an extraction leaves it."""
    home = tmp_path / "store" / "abc"
    home.mkdir(parents=True)
    for name, values in BLOCKS.items():
        (home / name).write_bytes(to_parquet(*values))
    return recorded(home, RECORD)


def recorded(home, record):
    (home / "features.json").write_text(json.dumps(record))
    found = FeatureTable.find(str(home), Storage(), folder=str(home.parents[1] / "node"))
    assert found is not None
    return found


def expected(name):
    """(N, V, D) of the train split, zeros where a tile could not be read."""
    return np.nan_to_num(
        np.concatenate([BLOCKS[f"train-0000{i}.parquet"][3][name] for i in (0, 1)])
    )


def test_every_number_comes_back(table):
    train, val = table.open("train", "max"), table.open("val", "avg")
    for part, name in zip(train.parts, ("rgb_max", "nir_max"), strict=True):
        assert part.dtype == np.float32
        assert np.array_equal(part, expected(name))
    labels = np.concatenate([BLOCKS[f"train-0000{i}.parquet"][1] for i in (0, 1)])
    assert np.array_equal(train.labels, labels)
    assert np.flatnonzero(~train.valid).tolist() == [BAD]
    assert (len(train), train.views, train.width) == (11, 3, 7)
    assert (len(val), val.views, val.valid.all()) == (5, 1, True)
    assert np.array_equal(val.parts[1], BLOCKS["val-00000.parquet"][3]["nir_avg"])
    with pytest.raises(ValueError, match="read-only"):
        train.parts[0][0] = 0


def test_a_batch_is_rows_in_their_views(table):
    train = table.open("train", "avg")
    rows, views = np.array([4, 4, BAD, 10, 0]), np.array([2, 0, 1, 1, 2])
    batch = train.batch(rows, views)
    whole = np.concatenate([expected("rgb_avg"), expected("nir_avg")], axis=2)
    assert np.array_equal(batch["pixels"], whole[rows, views])
    assert batch["pixels"].dtype == np.float32
    assert np.array_equal(batch["labels"], train.labels[rows])
    assert batch["valid"].tolist() == [True, True, False, True, True]
    assert batch["row"].tolist() == rows.tolist()


def test_a_file_says_what_could_not_be_read_and_how_it_was_computed():
    data = to_parquet(*BLOCKS["train-00000.parquet"], bf16=True)
    assert notes_of(data) == {"bf16": True, "unreadable": {str(BAD): "gone"}, "widths": WIDTHS}
    data = to_parquet(*BLOCKS["val-00000.parquet"])
    assert notes_of(data) == {"bf16": False, "unreadable": {}, "widths": WIDTHS}


def test_processes_of_a_node_build_once_and_then_map(table, tmp_path):
    """Threads stand in for processes: locks of `open` files hold between them too."""
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: table.open("train", "avg").parts[0], range(6)))
    assert all(np.array_equal(each, expected("rgb_avg")) for each in found)
    assert not list((tmp_path / "node").rglob("*.part"))
    shutil.rmtree(tmp_path / "store")  # what is on the node suffices
    assert np.array_equal(table.open("train", "avg").parts[0], found[0])
    with pytest.raises(InputError):  # of the other pooling nothing was needed
        table.open("train", "max")


def test_features_extracted_again_under_the_same_key_are_read_anew(table):
    before = table.open("train", "avg").parts[0]
    home, name = Path(table.uri), "train-00000.parquet"
    rows, labels, errors, features = BLOCKS[name]
    doubled = {column: 2 * values for column, values in features.items()}
    (home / name).write_bytes(to_parquet(rows, labels, errors, doubled))
    again = recorded(home, {**RECORD, "seconds": 2.0})
    assert np.array_equal(again.open("train", "avg").parts[0][:8], 2 * before[:8])


def test_what_was_left_half_built_is_built_anew(table, tmp_path):
    second = Path(table.uri) / "train-00001.parquet"
    data = second.read_bytes()
    second.unlink()
    with pytest.raises(InputError):
        table.open("train", "avg")
    assert {path.suffix for path in (tmp_path / "node").rglob("train.*")} == {".part"}
    second.write_bytes(data)
    assert np.array_equal(table.open("train", "avg").parts[0], expected("rgb_avg"))


def test_an_unfinished_extraction_is_no_table(tmp_path):
    assert FeatureTable.find(str(tmp_path), Storage()) is None


def test_a_node_without_room_or_folder_says_so(table, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    other = replace(table, folder=str(tmp_path / "file"))
    with pytest.raises(SatrayError, match=r"features cannot be kept in .*file"):
        other.open("train", "avg")
    monkeypatch.setattr(feature_table, "MARGIN", 1 << 60)
    with pytest.raises(SatrayError, match=r"GiB wanted in .*; cache.folder names another"):
        table.open("train", "avg")


def test_caches_of_tiles_leave_features_in_use_alone(table, tmp_path):
    table.open("train", "avg")
    root = tmp_path / "node"
    (home,) = (path for path in root.iterdir() if path.is_dir())
    assert make_room(root, "tiles", 1000, 1001 / 2**30) < 1000
    assert home.exists()
    os.utime(home, (time.time() - IN_USE - 1,) * 2)
    assert make_room(root, "tiles", 1000, 1001 / 2**30) == 1000
    assert not home.exists()
    assert np.array_equal(table.open("train", "avg").parts[0], expected("rgb_avg"))
