"""Features: extracted once, gone on with, and as good as the backbone itself."""

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from train.small_archive import generate
from tune.feature_material import from_features, in_memory, prepare, stored

from satray.data.read import to_torch
from satray.errors import SatrayError, TrainingError
from satray.models.network import Network
from satray.storage import Storage, join
from satray.tune.extractor import Extractor
from satray.tune.feature_table import FeatureBlock, pooling_of, to_parquet
from satray.tune.features import extract, finished

BAD = 21
ROW = 15
"""Of the bad tile in the train split: every fourth tile is validation."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("archive"), tiles=44, spoil=(BAD,))


def made(archive, folder, **changes):
    return prepare(archive, folder, **{"dropout": 0.3, "pooling": "max", **changes})


def opened(table, setup):
    pooling = pooling_of(setup.variant)
    return table.open("train", pooling), table.open("val", pooling)


@pytest.mark.pipeline
def test_extracted_features_train_what_the_workers_train(ray_session, archive, tmp_path):
    """The whole way: the same recipe through Ray Train and from features."""
    from satray.train import ray_train

    ready = made(archive, tmp_path)
    table = extract(ready.setup, ready.run, ready.weights, ready.spec, str(tmp_path / "store"))
    both = opened(table, ready.setup)
    for mine, theirs in zip(both, in_memory(ready), strict=True):
        np.testing.assert_allclose(
            mine.parts[0][mine.valid], theirs.parts[0][mine.valid], atol=1e-5
        )
        assert np.array_equal(mine.valid, theirs.valid)
        assert np.array_equal(mine.labels, theirs.labels)
    assert np.flatnonzero(~both[0].valid).tolist() == [ROW]
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
    ready.run.ray = False
    store = str(tmp_path / "store")
    table = extract(ready.setup, ready.run, ready.weights, ready.spec, store)
    home = Path(table.uri)
    assert table.uri == join(store, ready.spec.key)
    record = json.loads((home / "features.json").read_text())
    assert record["unreadable"] == {"train": {str(ROW): ANY}, "val": {}}
    assert record["bf16"] is False
    assert set(record["files"]) == {path.name for path in home.glob("*.parquet")}
    assert len(record["files"]) > 4
    first = {path.name: path.read_bytes() for path in home.glob("*.parquet")}

    # killed before its end: what is there stays, what is not comes out the same
    (home / "features.json").unlink()
    gone = ("train-00000.parquet", "val-00000.parquet")
    for name in gone:
        (home / name).unlink()
    before = {path.name: path.stat().st_mtime_ns for path in home.glob("*.parquet")}
    again = extract(ready.setup, ready.run, ready.weights, ready.spec, store)
    assert replace(again, digest=table.digest) == table
    after = {path.name: path.stat().st_mtime_ns for path in home.glob("*.parquet")}
    assert {name for name in after if after[name] != before.get(name)} == set(gone)
    assert {path.name: path.read_bytes() for path in home.glob("*.parquet")} == first
    # what an earlier attempt could not read is known from its file
    assert json.loads((home / "features.json").read_text())["unreadable"] == record["unreadable"]

    # done: what computes is not asked, nor the tiles
    archive.folder.rename(tmp_path / "away")
    try:
        assert extract(ready.setup, ready.run, "no weights", ready.spec, store) == again
    finally:
        (tmp_path / "away").rename(archive.folder)


def test_too_many_unreadable_tiles_are_tried_again(archive, tmp_path):
    ready = made(archive, tmp_path, error_budget=0.01)
    ready.run.ray = False
    store = str(tmp_path / "store")
    with pytest.raises(TrainingError, match=r"1 of 33 tiles of train could not be read .*=0\.01"):
        extract(ready.setup, ready.run, ready.weights, ready.spec, store)
    left = {entry.key for entry in Storage().list(join(store, ready.spec.key))}
    wanted = {block.file for block in ready.spec.blocks(1000) if block.split == "train"}
    assert "features.json" not in left
    assert wanted - left == {"train-00001.parquet"}


# What one attempt or several left

BLOCKS = (
    FeatureBlock("train", 0, 0, 8),
    FeatureBlock("train", 1, 8, 14),
    FeatureBlock("val", 0, 0, 5),
)

CLEAN = {"unreadable": {}, "bf16": False, "widths": {"rgb_avg": 3}}


@pytest.fixture(scope="module")
def spec(archive, tmp_path_factory):
    found = made(archive, tmp_path_factory.mktemp("spec")).spec
    return replace(found, tiles=(14, 5), views=2)


def written(folder, bf16=(False, False, False)):
    """Blocks as earlier attempts left them."""
    for block, low in zip(BLOCKS, bf16, strict=True):
        rows = np.arange(block.start, block.stop)
        errors = ["gone" if row == 9 else None for row in rows]
        values = {"rgb_avg": np.ones((len(rows), 2, 3), np.float32)}
        labels = np.zeros((len(rows), 2), np.uint8)
        (folder / block.file).write_bytes(to_parquet(rows, labels, errors, values, bf16=low))


def record_of(folder, spec, reports=(), budget=0.5):
    return finished(Storage(), str(folder), spec, BLOCKS, reports, budget)


def test_the_record_is_of_all_attempts(tmp_path, spec):
    written(tmp_path)
    now = [{"file": "train-00000.parquet", "notes": CLEAN | {"unreadable": {"3": "torn"}}}]
    record = record_of(tmp_path, spec, now)
    assert record["unreadable"] == {"train": {"3": "torn", "9": "gone"}, "val": {}}
    assert (record["columns"], record["rows"]) == ({"rgb_avg": 3}, {"train": 14, "val": 5})
    with pytest.raises(
        TrainingError, match=r"2 of 14 tiles of train .*\(error_budget=0.1\).*: torn"
    ):
        record_of(tmp_path, spec, now, 0.1)
    assert {path.name for path in tmp_path.iterdir()} == {"val-00000.parquet"}


def test_train_tiles_of_two_precisions_do_not_mix(tmp_path, spec):
    written(tmp_path, (True, True, False))  # validation is in fp32 always
    assert record_of(tmp_path, spec)["bf16"] is True
    now = [{"file": "train-00001.parquet", "notes": CLEAN}]
    with pytest.raises(SatrayError, match=r"some were computed in bf16.*base\.precision=fp32"):
        record_of(tmp_path, spec, now)


@pytest.mark.parametrize("fits", [5, 0])
def test_out_of_memory_takes_fewer_tiles_a_forward(archive, tmp_path, monkeypatch, fits):
    ready = made(archive, tmp_path)
    whole = in_memory(ready)[0].parts[0]
    forward = Network.features

    def narrow(self, x_BCHW):
        if len(x_BCHW) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x_BCHW)

    monkeypatch.setattr(Network, "features", narrow)
    extractor = Extractor(ready.setup, Storage(), ready.weights, ready.spec, False)
    table, source = stored(ready, "train")
    batch = to_torch(table, source.shape, source.dtype)
    tiles = batch["pixels"], batch["row"].numpy()
    if not fits:
        with pytest.raises(torch.OutOfMemoryError):
            extractor.features("train", *tiles)
        return
    found = extractor.features("train", *tiles)
    tower = ready.setup.variant.towers[0].name
    np.testing.assert_allclose(found[f"{tower}_max"], whole, atol=1e-5)
