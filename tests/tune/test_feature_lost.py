"""Tiles that could not be read while features were extracted."""

from types import SimpleNamespace

import numpy as np
import pytest

from satray.errors import TrainingError
from satray.storage import Storage
from satray.tune.feature_file import to_parquet
from satray.tune.feature_lost import check_lost, lost_tiles
from satray.tune.feature_plan import FeatureBlock

BLOCKS = (
    FeatureBlock("train", 0, 0, 8),
    FeatureBlock("train", 1, 8, 16),
    FeatureBlock("val", 0, 0, 8),
)
SPEC = SimpleNamespace(tiles=(16, 8))
LOST = {"train": {9: "gone", 12: "torn"}, "val": {}}


@pytest.fixture
def folder(tmp_path):
    for block in BLOCKS:
        rows = np.arange(block.start, block.stop)
        errors = [LOST[block.split].get(row) for row in rows.tolist()]
        values = np.ones((len(rows), 2, 3), np.float32)
        data = to_parquet(rows, np.zeros((len(rows), 2), np.uint8), errors, {"rgb_avg": values})
        (tmp_path / block.file).write_bytes(data)
    return str(tmp_path)


@pytest.mark.parametrize("told", [(), ("train-00001.parquet",), tuple(b.file for b in BLOCKS)])
def test_those_of_this_attempt_and_of_earlier_ones(folder, told):
    rows = {file: ({9: "gone", 12: "torn"} if "train-00001" in file else {}) for file in told}
    assert lost_tiles(Storage(), folder, BLOCKS, rows) == LOST


def test_within_the_budget_nothing_happens(folder):
    check_lost(Storage(), folder, SPEC, BLOCKS, LOST, 2 / 16)
    assert len(Storage().list(folder)) == 3


def test_beyond_it_the_blocks_go_and_a_reason_is_given(folder):
    expected = r"2 of 16 tiles of train could not be read \(error_budget=0.1\).*: gone"
    with pytest.raises(TrainingError, match=expected):
        check_lost(Storage(), folder, SPEC, BLOCKS, LOST, 0.1)
    left = {entry.key for entry in Storage().list(folder)}
    assert left == {"train-00000.parquet", "val-00000.parquet"}
