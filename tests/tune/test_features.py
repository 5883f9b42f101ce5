"""Features: extracted once, gone on with, mapped on a node, as good as the backbone itself."""

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from train.small_archive import generate
from tune.feature_material import DOUBLE, extracted, from_features, in_memory, opened, prepare

from satray.config.train import CacheOptions
from satray.data.cache import IN_USE, cache_folder, make_room
from satray.errors import InputError, SatrayError, TrainingError
from satray.models.network import Network
from satray.tune import feature_table
from satray.tune.feature_table import BLOCK_BYTES, BLOCK_TILES, FEWEST, blocks_of
from satray.tune.features import extract

BAD = 21
ROW = 15
"""Of the bad tile in the train split: every fourth tile is validation."""


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 1 << 26))
def test_blocks_hold_every_tile_once(train, val, tile_bytes):
    blocks = blocks_of({"train": train, "val": val}, tile_bytes, 3, 64)
    for split, tiles in (("train", train), ("val", val)):
        own = [block for block in blocks if block.split == split]
        rows = [row for block in own for row in range(block.start, block.stop)]
        assert rows == list(range(tiles))
    for block in blocks:
        count = block.stop - block.start
        assert 0 < count <= BLOCK_TILES
        assert count <= FEWEST or count * tile_bytes <= BLOCK_BYTES
        assert block.images == count * (3 if block.split == "train" else 1)
    assert len({block.file for block in blocks}) == len(blocks)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("archive"), tiles=44, spoil=(BAD,))


def made(archive, folder, **changes):
    return prepare(archive, folder, **{"dropout": 0.3, "pooling": "max", **changes})


@pytest.mark.pipeline
def test_extracted_features_train_what_the_workers_train(ray_session, archive, tmp_path):
    """The whole way: the same recipe through Ray Train and from features, on Ray and without."""
    from satray.train import ray_train

    ready = made(archive, tmp_path)
    table = extract(ready.setup, ready.run, ready.weights, str(tmp_path / "store" / "k"))
    both = opened(table, ready.setup)
    for mine, theirs in zip(both, in_memory(ready), strict=True):
        np.testing.assert_allclose(mine.parts[0], theirs.parts[0], atol=1e-5)
        assert np.array_equal(mine.valid, theirs.valid)
    told = []
    ray_train.fit(ready.setup, ready.run, ready.weights, told.append)
    rows = [m["row"] for m in told if m["kind"] == "epoch" and m["row"] is not None]
    alone, _ = from_features(ready, both)
    assert len(rows) == len(alone) == 3
    for row, report in zip(rows, alone, strict=True):
        assert report["train_loss"] == pytest.approx(row["train_loss"], abs=1e-4)
        assert report["val_loss"] == pytest.approx(row["val_loss"], abs=1e-4)
        for name in ("samples_seen", "unreadable"):
            assert report[name] == row[name]


def test_an_extraction_goes_on_and_is_found_again(archive, tmp_path):
    ready = made(archive, tmp_path)
    table = extracted(ready)
    home, record = Path(table.uri), table.record
    assert list(record["unreadable"]["train"]) == [str(ROW)]
    assert (record["unreadable"]["val"], record["bf16"]) == ({}, False)
    assert set(record["files"]) == {path.name for path in home.glob("*.npz")}
    assert len(record["files"]) > 4
    first = {path.name: path.read_bytes() for path in home.glob("*.npz")}

    # killed before its end: what is there stays, what is not comes out the same
    (home / "features.json").unlink()
    gone = ("train-00000.npz", "val-00000.npz")
    for name in gone:
        (home / name).unlink()
    before = {path.name: path.stat().st_mtime_ns for path in home.glob("*.npz")}
    again = extracted(ready)
    after = {path.name: path.stat().st_mtime_ns for path in home.glob("*.npz")}
    assert {name for name in after if after[name] != before.get(name)} == set(gone)
    assert {path.name: path.read_bytes() for path in home.glob("*.npz")} == first
    # what an earlier attempt could not read is known from its file
    assert {**again.record, "seconds": 0} == {**record, "seconds": 0}

    # done: what computes is not asked, nor the tiles
    archive.folder.rename(tmp_path / "away")
    said = []
    try:
        found = replace(ready, weights="none", run=replace(ready.run, say=said.append))
        assert extracted(found) == again
    finally:
        (tmp_path / "away").rename(archive.folder)
    assert "1 of 44 tiles could not be read, and count for nothing; one of them: " in said[-1]


def test_tiles_that_a_store_gives_at_last_are_extracted(archive, tmp_path):
    ready = made(archive, tmp_path, error_budget=0.2)
    tile = archive.folder / f"t{BAD - 1:03d}.tif"
    tile.rename(tmp_path / "away")
    try:
        table = extracted(ready)
    finally:
        (tmp_path / "away").rename(tile)
    assert list(table.record["unreadable"]["val"]) == ["5"]  # every fourth tile
    home = Path(table.uri)
    before = {path.name: path.stat().st_mtime_ns for path in home.glob("*.npz")}
    again = extracted(ready)
    assert list(again.record["unreadable"]["train"]) == [str(ROW)]
    assert again.record["unreadable"]["val"] == {}
    after = {path.name: path.stat().st_mtime_ns for path in home.glob("*.npz")}
    assert [name for name in after if after[name] != before[name]] == ["val-00000.npz"]
    assert opened(again, ready.setup)[1].valid.all()


def test_too_many_unreadable_tiles_are_tried_again(archive, tmp_path):
    ready = made(archive, tmp_path, error_budget=0.01)
    with pytest.raises(TrainingError, match=r"1 of 33 tiles of train could not be read .*=0\.01"):
        extracted(ready)
    left = {path.name for path in Path(ready.run.out, "features").iterdir()}
    wanted = {f"train-0000{number}.npz" for number in range(5)}
    assert "features.json" not in left
    assert wanted - left == {"train-00001.npz"}


@pytest.mark.parametrize("fits", [5, 0])
def test_out_of_memory_takes_fewer_tiles_a_forward(archive, tmp_path, monkeypatch, fits):
    ready = made(archive, tmp_path)
    whole = in_memory(ready)[0].parts[0].copy()
    forward = Network.features

    def narrow(self, x_BCHW):
        if len(x_BCHW) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x_BCHW)

    monkeypatch.setattr(Network, "features", narrow)
    shutil.rmtree(Path(ready.run.out, "features"))
    if not fits:
        with pytest.raises(torch.OutOfMemoryError):
            extracted(ready)
        return
    np.testing.assert_allclose(in_memory(ready)[0].parts[0], whole, atol=1e-5)


# On a node


@pytest.fixture(scope="module")
def stored(archive, tmp_path_factory):
    """Features of two towers in three views, once."""
    ready = prepare(archive, tmp_path_factory.mktemp("stored"), variant=DOUBLE)
    return ready, extracted(ready)


@pytest.fixture
def table(stored, tmp_path):
    """The same in a folder of its own, for a node that has none of them yet."""
    home = shutil.copytree(stored[1].uri, tmp_path / "store")
    return replace(stored[1], uri=str(home), cache=CacheOptions(folder=str(tmp_path / "node")))


def expected(table, column, split="train"):
    files = [file for file in table.record["files"] if file.startswith(split)]
    return np.concatenate([np.load(Path(table.uri, file))[column] for file in files])


LABELS = np.arange(66, dtype=np.uint8).reshape(33, 2) % 2


def test_every_number_comes_back_and_batches_are_rows_in_their_views(table) -> None:
    train = table.open("train", "avg", LABELS)
    parts = [expected(table, name) for name in ("rgb_avg", "nir_avg")]
    for part, wanted in zip(train.parts, parts, strict=True):
        assert (part.dtype, part.shape) == (np.float32, (33, 3, part.shape[2]))
        assert np.array_equal(part, wanted)
        assert not part[ROW].any()
        assert part[ROW - 1].any()
    assert np.flatnonzero(~train.valid).tolist() == [ROW]
    assert (len(train), train.views, train.width) == (33, 3, sum(p.shape[2] for p in parts))
    with pytest.raises(ValueError, match="read-only"):
        train.parts[0][0] = 0
    rows, views = np.array([4, 4, ROW, 10, 0]), np.array([2, 0, 1, 1, 2])
    batch = train.batch(rows, views)
    assert np.array_equal(batch["pixels"], np.concatenate(parts, axis=2)[rows, views])
    assert np.array_equal(batch["labels"], LABELS[rows])
    assert batch["valid"].tolist() == [True, True, False, True, True]
    assert batch["row"].tolist() == rows.tolist()
    val = table.open("val", "max", LABELS[:11])
    assert (len(val), val.views, val.valid.all()) == (11, 1, True)
    assert np.array_equal(val.parts[1], expected(table, "nir_max", "val"))


def test_processes_of_a_node_build_once_and_then_map(table, tmp_path) -> None:
    """Threads stand in for processes: locks of `open` files hold between them too."""
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: table.open("train", "avg", LABELS).parts[0], range(6)))
    wanted = expected(table, "rgb_avg")
    assert all(np.array_equal(each, wanted) for each in found)
    assert not list((tmp_path / "node").rglob("*.part"))
    shutil.rmtree(table.uri)  # what is on the node suffices
    assert np.array_equal(table.open("train", "avg", LABELS).parts[0], wanted)
    with pytest.raises(InputError):  # of the other pooling nothing was needed
        table.open("train", "max", LABELS)


def test_features_extracted_again_under_the_same_key_are_read_anew(table) -> None:
    before = table.open("train", "avg", LABELS).parts[0]
    file = Path(table.uri, "train-00000.npz")
    found = dict(np.load(file))
    np.savez(file, **{**found, "rgb_avg": 2 * found["rgb_avg"]})
    Path(table.uri, "features.json").write_text(json.dumps(table.record | {"seconds": 9.0}))
    again = table.find(table.uri, table.storage, table.cache).open("train", "avg", LABELS)
    assert np.array_equal(again.parts[0][:8], 2 * before[:8])


def test_what_was_left_half_built_is_built_anew(table, tmp_path) -> None:
    wanted, file = expected(table, "rgb_avg"), Path(table.uri, "train-00001.npz")
    file.rename(tmp_path / "away")
    with pytest.raises(InputError):
        table.open("train", "avg", LABELS)
    assert {path.suffix for path in (tmp_path / "node").rglob("train.*")} == {".part"}
    (tmp_path / "away").rename(file)
    assert np.array_equal(table.open("train", "avg", LABELS).parts[0], wanted)


def test_a_node_without_room_or_folder_says_so(table, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    other = replace(table, cache=CacheOptions(folder=str(tmp_path / "file")))
    with pytest.raises(SatrayError, match=r"features cannot be kept in .*file"):
        other.open("train", "avg", LABELS)
    monkeypatch.setattr(feature_table, "MARGIN", 1 << 60)
    with pytest.raises(SatrayError, match=r"GiB wanted in .*; cache.folder names another"):
        table.open("train", "avg", LABELS)


def test_caches_of_tiles_leave_features_in_use_alone(table, tmp_path) -> None:
    wanted = table.open("train", "avg", LABELS).parts[0]
    root = cache_folder(str(tmp_path / "node"))
    (home,) = (path for path in root.iterdir() if path.is_dir())
    assert make_room(root, "tiles", 1000, 1001 / 2**30) < 1000
    assert home.exists()
    os.utime(home, (time.time() - IN_USE - 1,) * 2)
    assert make_room(root, "tiles", 1000, 1001 / 2**30) == 1000
    assert not home.exists()
    assert np.array_equal(table.open("train", "avg", LABELS).parts[0], wanted)
