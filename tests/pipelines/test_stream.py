"""The streaming room on a real Ray: every row once, in the promised order, errors as data."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from data.tile_archive import check_batch, source_of, write_tiles

from satray.data.order import TrainOrder, WholeOrder, copies

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiles(tmp_path_factory.mktemp("tiles"))


@pytest.fixture(scope="module")
def stream(ray_session):
    from satray.data import stream

    return stream


def collect(stream, shard, source, batch, **options):
    """Rows and copies of each batch, checked against the files, and the errors."""
    errors = {}
    found = stream.batches(shard, batch=batch, errors=errors, **options)
    got = [(check_batch(item, source), item["copy"].numpy()) for item in found]
    return [rows for rows, _ in got], np.concatenate([times for _, times in got]), errors


def collect_both(stream, shards, source, batch, **options):
    """What each of two workers gets of one pass."""
    with ThreadPoolExecutor(2) as pool:
        got = pool.map(lambda shard: collect(stream, shard, source, batch, **options)[0], shards)
        return list(got)


def test_each_execution_is_the_next_pseudo_epoch(stream, folder):
    train = source_of(folder)
    repeats = np.where(np.arange(len(train)) % 8 == 0, 3.5, 1.0)
    order = TrainOrder(len(train), (24, 48, 72), 5, True, repeats)
    dataset = stream.tile_dataset(train, order, batch=8, start=1, deterministic=True)
    for pseudo_epoch in (1, 2):
        keys = {"pseudo_epoch": pseudo_epoch, "expected": 3}
        rows, times, _ = collect(stream, dataset, train, 8, **keys)
        assert [len(each) for each in rows] == [8, 8, 8]
        np.testing.assert_array_equal(np.concatenate(rows), order.rows(pseudo_epoch))
        # rare tiles come several times, and are told apart
        np.testing.assert_array_equal(times, copies(np.concatenate(rows)))
        assert times.max() >= 1


def test_two_workers_together_get_what_one_gets(stream, folder):
    train = source_of(folder)
    order = TrainOrder(len(train), (32, 64), seed=5, shuffle=True)
    dataset = stream.tile_dataset(train, order, batch=4, workers=2, deterministic=True)
    shards = dataset.streaming_split(2, equal=True)
    for pseudo_epoch in (0, 1):
        got = collect_both(stream, shards, train, 4, pseudo_epoch=pseudo_epoch, expected=4)
        steps = np.concatenate([np.concatenate(each) for each in zip(*got, strict=True)])
        np.testing.assert_array_equal(steps, order.rows(pseudo_epoch))


def test_padded_validation_loses_nothing(stream, folder):
    val = source_of(folder, "val")
    assert len(val) % 2 == 1
    dataset = stream.tile_dataset(val, WholeOrder(len(val), 2), batch=4, workers=2)
    got = collect_both(stream, dataset.streaming_split(2, equal=True), val, 4)
    assert {int(row) for rank in got for rows in rank for row in rows} == set(range(len(val)))
