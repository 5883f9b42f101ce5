"""What a driver that was killed must not lose or count twice."""

import pytest
from train.small_archive import make_run

from satray.storage import Storage
from satray.train import job
from satray.train.workers import lost_tiles


def test_unreadable_tiles_outlive_the_driver(tmp_path):
    storage, state = Storage(), str(tmp_path / "state")
    assert lost_tiles.kept(storage, state) == {}
    lost_tiles.keep(storage, state, 0, 0, {"train": {}, "val": {}})
    assert storage.list(state) == []
    lost_tiles.keep(storage, state, 0, 0, {"train": {5: "torn"}, "val": {2: "gone"}})
    lost_tiles.keep(storage, state, 0, 1, {"train": {7: "not an image"}, "val": {}})
    lost_tiles.keep(storage, state, 3, 0, {"train": {9: "late"}, "val": {2: "gone"}})
    assert lost_tiles.kept(storage, state) == {
        ("train", 5): "torn",
        ("train", 7): "not an image",
        ("train", 9): "late",
        ("val", 2): "gone",
    }


def rows(count):
    seconds = {"seconds_data": 1.0, "seconds_compute": 10.0, "seconds_evaluate": 2.0}
    return [{"pseudo_epoch": number, **seconds} for number in range(count)]


@pytest.mark.parametrize(
    ("heard", "training", "around"),
    [({0, 1, 2, "combined"}, 30.0, 56.0), ({2, "combined"}, 10.0, 82.0), (set(), 0.0, 100.0)],
)
def test_only_this_attempts_seconds_count(tmp_path, heard, training, around):
    run, _ = make_run(tmp_path)
    run.add_seconds("starting and saving", 100.0)
    job._account(run, rows(3), {"seconds": 5.0}, heard)
    assert run.seconds["training"] == training
    assert run.seconds["starting and saving"] == around
    assert run.seconds.get("combining snapshots", 0.0) == (5.0 if heard else 0.0)
    assert sum(run.seconds.values()) == 100.0
