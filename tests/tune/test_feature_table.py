"""Features in files, on a node, and back."""

import io
import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from satray.errors import InputError, SatrayError
from satray.storage import Storage
from satray.tune import feature_table
from satray.tune.feature_file import about, to_parquet, unreadable, widths_of
from satray.tune.feature_plan import FORMAT
from satray.tune.feature_table import FeatureTable

WIDTHS = {"rgb_avg": 4, "nir_avg": 3, "rgb_max": 4, "nir_max": 3}
ROWS, VIEWS = {"train": 11, "val": 5}, {"train": 3, "val": 1}
BAD = 6


def block(split, start, stop, seed):
    rng = np.random.default_rng(seed)
    rows = np.arange(start, stop)
    labels = rng.integers(0, 2, (len(rows), 2)).astype(np.uint8)
    errors = ["gone" if split == "train" and row == BAD else None for row in rows]
    features = {
        name: rng.normal(size=(len(rows), VIEWS[split], width)).astype(np.float32)
        for name, width in WIDTHS.items()
    }
    return rows, labels, errors, features


BLOCKS = {
    "train-00000.parquet": block("train", 0, 8, 1),
    "train-00001.parquet": block("train", 8, 11, 2),
    "val-00000.parquet": block("val", 0, 5, 3),
}


def written(folder):
    """A table of two towers as an extraction leaves it."""
    uri = folder / "store" / "abc"
    uri.mkdir(parents=True)
    for name, values in BLOCKS.items():
        (uri / name).write_bytes(to_parquet(*values))
    record = {
        "format": FORMAT,
        "key": "abc",
        "spec": {"towers": [["rgb", "resnet18", ["red"]], ["nir", "resnet18", ["nir"]]]},
        "columns": WIDTHS,
        "rows": ROWS,
        "views": VIEWS,
        "classes": ["a", "b"],
        "files": list(BLOCKS),
    }
    (uri / "features.json").write_text(json.dumps(record))
    return uri


@pytest.fixture
def table(tmp_path):
    found = FeatureTable.find(str(written(tmp_path)), Storage(), folder=str(tmp_path / "node"))
    assert found is not None
    return found


def expected(name):
    """(N, V, D) of the train split, zeros where a tile could not be read."""
    whole = np.concatenate([BLOCKS[f"train-0000{i}.parquet"][3][name] for i in (0, 1)])
    whole[BAD] = 0
    return whole


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


def test_a_tile_that_cannot_be_read_has_one_row():
    data = to_parquet(*BLOCKS["train-00000.parquet"])
    found = pq.read_table(io.BytesIO(data))
    assert found.num_rows == 7 * 3 + 1
    bad = found.filter(np.array(found.column("row").to_pylist()) == BAD).to_pylist()
    assert [(each["view"], each["valid"], each["error"]) for each in bad] == [(0, False, "gone")]
    assert unreadable(data) == {BAD: "gone"}
    assert widths_of(data) == WIDTHS
    assert found.schema.field("rgb_avg").type.list_size == 4


def test_numbers_of_an_unreadable_tile_never_count():
    rows, labels, errors, features = block("train", 5, 8, 4)
    features["rgb_avg"][1] = np.nan
    found = pq.read_table(io.BytesIO(to_parquet(rows, labels, errors, features)))
    assert np.isfinite(found.column("rgb_avg").combine_chunks().flatten().to_numpy()).all()


def test_a_node_reads_each_file_once_and_then_maps(table, tmp_path):
    first = table.open("train", "avg")
    base = first.parts[0]
    while not isinstance(base, np.memmap):
        base = base.base
    assert not base.flags.writeable
    shutil.rmtree(tmp_path / "store")  # what is on the node suffices
    again = table.open("train", "avg")
    assert np.array_equal(first.parts[0], again.parts[0])
    with pytest.raises(InputError):  # of the other pooling nothing was needed
        table.open("train", "max")


def test_features_extracted_again_under_the_same_key_are_read_anew(table, tmp_path):
    before = table.open("train", "avg").parts[0]
    uri = tmp_path / "store" / "abc"
    name = "train-00000.parquet"
    rows, labels, errors, features = BLOCKS[name]
    doubled = {column: 2 * values for column, values in features.items()}
    (uri / name).write_bytes(to_parquet(rows, labels, errors, doubled))
    record = json.loads((uri / "features.json").read_text())
    (uri / "features.json").write_text(json.dumps({**record, "seconds": 2.0}))
    again = FeatureTable.find(str(uri), Storage(), folder=table.folder)
    assert np.array_equal(again.open("train", "avg").parts[0][:8], 2 * before[:8])


def test_a_file_says_how_it_was_computed():
    data = to_parquet(*BLOCKS["val-00000.parquet"], {"bf16": True, "bytes": 7})
    assert about(data) == {"bf16": True, "bytes": 7}
    assert widths_of(data) == WIDTHS
    assert about(to_parquet(*BLOCKS["val-00000.parquet"])) == {}


def test_what_was_left_half_built_is_built_anew(table, tmp_path, monkeypatch):
    read = Storage.read
    calls = []

    def breaks(self, uri):
        calls.append(uri)
        if len(calls) == 2:
            raise SatrayError("away")
        return read(self, uri)

    monkeypatch.setattr(Storage, "read", breaks)
    with pytest.raises(SatrayError, match="away"):
        table.open("train", "avg")
    left = {path.suffix for path in (tmp_path / "node").rglob("train.*")}
    assert left == {".part"}
    monkeypatch.undo()
    assert np.array_equal(table.open("train", "avg").parts[0], expected("rgb_avg"))


def test_processes_of_a_node_build_once(table, monkeypatch):
    """Threads stand in for processes: locks of `open` files hold between them too."""
    builds = []
    build = FeatureTable._build

    def counted(self, *args):
        builds.append(args[1])
        build(self, *args)

    monkeypatch.setattr(FeatureTable, "_build", counted)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(table.open("train", "avg"))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert builds == ["train"]
    assert all(np.array_equal(each.parts[0], expected("rgb_avg")) for each in found)


def test_a_table_travels_small(table):
    import pickle

    table.open("train", "avg")
    assert len(pickle.dumps(table)) < 2000
    assert pickle.loads(pickle.dumps(table)) == table


def test_an_unfinished_extraction_is_no_table(tmp_path):
    uri = written(tmp_path)
    (uri / "features.json").unlink()
    assert FeatureTable.find(str(uri), Storage()) is None


@pytest.mark.parametrize("record", ["{}", "[1]", "{", '{"format": 99}'])
def test_another_record_is_refused(tmp_path, record):
    uri = written(tmp_path)
    (uri / "features.json").write_text(record)
    with pytest.raises(InputError, match=r"features\.json: no record of features of this version"):
        FeatureTable.find(str(uri), Storage())


def test_another_pooling_is_refused(table):
    with pytest.raises(InputError, match="features abc: no rgb_lse; there are rgb_avg, nir_avg"):
        table.open("train", "lse")


def test_a_full_disk_is_said(table, monkeypatch):
    monkeypatch.setattr(feature_table, "MARGIN", 1 << 60)
    with pytest.raises(SatrayError, match=r"GiB wanted in .*; cache.folder names another"):
        table.open("train", "avg")


def test_a_folder_that_cannot_be_is_said(table, tmp_path):
    (tmp_path / "file").write_text("")
    other = replace(table, folder=str(tmp_path / "file"))
    with pytest.raises(SatrayError, match=r"features cannot be kept in .*file"):
        other.open("train", "avg")


def test_caches_of_tiles_leave_features_in_use_alone(table, tmp_path):
    from satray.data.cache import IN_USE, make_room

    table.open("train", "avg")
    root = tmp_path / "node"
    (home,) = (path for path in root.iterdir() if path.is_dir())
    assert make_room(root, "tiles", 1000, 1001 / 2**30) < 1000
    assert home.exists()
    import os
    import time

    os.utime(home, (time.time() - IN_USE - 1,) * 2)
    assert make_room(root, "tiles", 1000, 1001 / 2**30) == 1000
    assert not home.exists()
    assert np.array_equal(table.open("train", "avg").parts[0], expected("rgb_avg"))
    assert Path(root).is_dir()


@pytest.mark.parametrize("large", [0.0, 0.5])
def test_a_map_is_its_file_and_cannot_be_written(tmp_path, monkeypatch, large):
    monkeypatch.setattr(feature_table, "LARGE", large)
    values = np.random.default_rng(0).random((50, 3, 7), dtype=np.float32)
    values.tofile(tmp_path / "features")
    found = feature_table.mapped(tmp_path / "features", values.shape, "float32")
    assert np.array_equal(found, values)
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 0
