"""What all attempts at an extraction made together."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from satray.errors import InputError, SatrayError
from satray.storage import Storage
from satray.tune import features
from satray.tune.feature_file import to_parquet
from satray.tune.feature_plan import FeatureBlock
from satray.tune.feature_record import finished

BLOCKS = (
    FeatureBlock("train", 0, 0, 8),
    FeatureBlock("train", 1, 8, 14),
    FeatureBlock("val", 0, 0, 5),
)


def written(folder, bf16=(False, False, False)):
    """Blocks as earlier attempts left them."""
    for block, low in zip(BLOCKS, bf16, strict=True):
        rows = np.arange(block.start, block.stop)
        errors = ["gone" if row == 9 else None for row in rows]
        values = {"rgb_avg": np.ones((len(rows), 2, 3), np.float32)}
        labels = np.zeros((len(rows), 2), np.uint8)
        about = {"tiles": len(rows), "bytes": 100, "bf16": low, "computing": 2.0}
        (folder / block.file).write_bytes(to_parquet(rows, labels, errors, values, about))


@pytest.fixture
def spec(monkeypatch):
    from satray.tune import feature_record

    monkeypatch.setattr(feature_record, "asdict", vars)
    views = {"train": 2, "val": 1}
    return SimpleNamespace(key="k", tiles=(14, 5), views_in=views.__getitem__)


def report(file, bf16=False):
    return {"file": file, "unreadable": {}, "tiles": 8, "bytes": 7, "bf16": bf16, "computing": 1}


def test_the_record_counts_blocks_of_all_attempts(tmp_path, spec):
    written(tmp_path)
    now = [report("train-00000.parquet")]
    record = finished(Storage(), str(tmp_path), spec, BLOCKS, now, 0.5)
    assert (record["images"], record["bytes_read"]) == (14 * 2 + 5, 7 + 100 + 100)
    assert record["seconds_computing"] == 1 + 2 + 2
    assert record["unreadable"] == {"train": {"9": "gone"}, "val": {}}
    json.dumps({**record, "spec": None})


def test_train_tiles_of_two_precisions_do_not_mix(tmp_path, spec):
    written(tmp_path, (True, True, False))  # validation is in fp32 always
    assert finished(Storage(), str(tmp_path), spec, BLOCKS, [], 0.5)["bf16"] is True
    now = [report("train-00001.parquet", bf16=False)]
    with pytest.raises(SatrayError, match=r"some were computed in bf16.*base\.precision=fp32"):
        finished(Storage(), str(tmp_path), spec, BLOCKS, now, 0.5)


@pytest.mark.parametrize(
    ("cpus", "nodes", "gpus", "actors"),
    [(4.0, 1, 0, 1), (4.0, 3, 0, 3), (2.0, 2, 0, 1), (3.0, 1, 8, 2), (16.0, 1, 8, 8)],
)
def test_actors_leave_a_share_of_a_cpu_to_read_tasks(monkeypatch, cpus, nodes, gpus, actors):
    there = {"CPU": cpus, "GPU": gpus}
    monkeypatch.setattr(features.ray, "cluster_resources", lambda: there)
    node = {"Alive": True, "Resources": {"CPU": cpus / nodes}}
    monkeypatch.setattr(features.ray, "nodes", lambda: [node] * nodes)
    assert features._most_actors(gpus > 0) == actors


def test_one_cpu_is_too_few(monkeypatch):
    monkeypatch.setattr(features.ray, "cluster_resources", lambda: {"CPU": 1.0})
    with pytest.raises(InputError, match=r"found 1 CPUs; accepted: 2 or more"):
        features._most_actors(False)
