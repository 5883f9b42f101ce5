"""Features on a real Ray: extracted once, gone on with, and as good as the backbone itself."""

import io
import json
from dataclasses import replace
from pathlib import Path

import inline_blocks
import numpy as np
import pyarrow.parquet as pq
import pytest
from train.small_archive import generate
from tune.feature_material import from_features, in_memory, prepare

from satray.errors import TrainingError
from satray.storage import Storage, join
from satray.tune import features
from satray.tune.feature_file import about
from satray.tune.feature_plan import pooling_of
from satray.tune.features import extract

pytestmark = pytest.mark.pipeline

BAD = 21
ROW = 15
"""Of the bad tile in the train split: every fourth tile is validation."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("archive"), tiles=44, spoil=(BAD,))


@pytest.fixture
def inline(monkeypatch):
    """Blocks are computed in this process."""
    monkeypatch.setattr(features, "through_actors", inline_blocks.through_actors)


def made(archive, folder, **changes):
    return prepare(archive, folder, **{"dropout": 0.3, "pooling": "max", **changes})


def opened(table, setup):
    pooling = pooling_of(setup.variant)
    return table.open("train", pooling), table.open("val", pooling)


def test_extracted_features_train_what_the_workers_train(ray_session, archive, tmp_path):
    """The whole way: the same recipe through Ray Train and from features."""
    from satray.train.workers import launch

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
    launch.fit(ready.setup, ready.run, ready.weights, told.append)
    rows = [m["row"] for m in told if m["kind"] == "epoch" and m["row"] is not None]
    alone, _ = from_features(ready, both)
    assert len(rows) == len(alone) == 3
    for row, report in zip(rows, alone, strict=True):
        assert report.train_loss == pytest.approx(row["train_loss"], abs=1e-4)
        assert report.val_loss == pytest.approx(row["val_loss"], abs=1e-4)
        assert (report.samples_seen, report.unreadable) == (row["samples_seen"], row["unreadable"])


def test_an_extraction_goes_on_and_is_found_again(
    ray_session, archive, tmp_path, inline, monkeypatch
):
    ready = made(archive, tmp_path)
    store = str(tmp_path / "store")
    table = extract(ready.setup, ready.run, ready.weights, ready.spec, store)
    home = Path(table.uri)
    assert table.uri == join(store, ready.spec.key)
    record = json.loads((home / "features.json").read_text())
    assert record["unreadable"]["train"].keys() == {str(ROW)}
    assert record["unreadable"]["val"] == {}
    assert (record["images"], record["bf16"]) == (33 * 3 + 11, False)
    assert set(record["files"]) == {path.name for path in home.glob("*.parquet")}
    assert len(record["files"]) > 4
    first = {path.name: path.read_bytes() for path in home.glob("*.parquet")}

    # killed before its end: what is there stays, what is not comes out the same
    (home / "features.json").unlink()
    gone = ("train-00001.parquet", "val-00000.parquet")
    for name in gone:
        (home / name).unlink()
    before = {path.name: path.stat().st_mtime_ns for path in home.glob("*.parquet")}
    again = extract(ready.setup, ready.run, ready.weights, ready.spec, store)
    assert replace(again, digest=table.digest) == table
    after = {path.name: path.stat().st_mtime_ns for path in home.glob("*.parquet")}
    assert {name for name in after if after[name] != before.get(name)} == set(gone)
    for path in home.glob("*.parquet"):
        assert pq.read_table(path).equals(pq.read_table(io.BytesIO(first[path.name])))
    earlier, record = record, json.loads((home / "features.json").read_text())
    assert record["unreadable"]["train"].keys() == {str(ROW)}  # known from the file

    # of all attempts; the blocks made again found their tiles in the cache
    assert (record["images"], record["bf16"]) == (earlier["images"], earlier["bf16"])
    kept = [about(path.read_bytes()) for path in home.glob("*.parquet")]
    assert 0 < record["bytes_read"] == sum(each["bytes"] for each in kept) < earlier["bytes_read"]
    assert record["seconds_computing"] == pytest.approx(sum(each["computing"] for each in kept))

    # done: neither Ray nor the network is asked
    monkeypatch.setattr(features, "through_actors", lambda *_: pytest.fail("computed again"))
    monkeypatch.setattr(features, "tile_source", lambda *_, **__: pytest.fail("read again"))
    assert extract(ready.setup, ready.run, ready.weights, ready.spec, store) == again


def test_too_many_unreadable_tiles_are_tried_again(ray_session, archive, tmp_path, inline):
    ready = made(archive, tmp_path, error_budget=0.01)
    store = str(tmp_path / "store")
    with pytest.raises(TrainingError, match=r"1 of 33 tiles of train could not be read .*=0\.01"):
        extract(ready.setup, ready.run, ready.weights, ready.spec, store)
    left = {entry.key for entry in Storage().list(join(store, ready.spec.key))}
    wanted = {block.file for block in ready.spec.blocks(1000) if block.split == "train"}
    assert "features.json" not in left
    assert wanted - left == {"train-00001.parquet"}
