"""The streaming room on a real Ray: every row once, in the promised order, errors as data."""

import threading

import numpy as np
import pyarrow as pa
import pytest
import rasterio

from satray.config.base import StorageOptions
from satray.config.train import CacheOptions
from satray.data.index import SCHEMA, IndexMeta, TileIndex
from satray.data.order import TrainOrder, WholeOrder, copies
from satray.data.read import tile_source
from satray.storage import Storage

pytestmark = pytest.mark.pipeline

BANDS = ("blue", "green", "red", "nir")
TILES = 41


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiles")
    paths = []
    for row in range(TILES):
        path = folder / f"{row}.tif"
        pixels = np.full((4, 8, 8), 100 * row, np.uint16) + np.arange(4)[:, None, None]
        with rasterio.open(
            path, "w", driver="GTiff", height=8, width=8, count=4, dtype="uint16"
        ) as image:
            image.write(pixels.astype(np.uint16))
        paths.append(str(path))
    (folder / "7.tif").write_bytes(b"")
    (folder / "9.tif").unlink()
    table = pa.table(
        {
            "uri": paths,
            "split": ["val" if row % 5 == 0 else "train" for row in range(TILES)],
            "labels": pa.array([[row % 2, 1] for row in range(TILES)], pa.list_(pa.uint8())),
            # nothing is known of how the files were
            **{
                name: pa.nulls(TILES, SCHEMA.field(name).type)
                for name in ("bytes", "etag", "crc32", "mask")
            },
        }
    )
    return TileIndex(table, IndexMeta("multilabel", ("a", "b"), BANDS, "uint16", (8, 8), (), {}))


@pytest.fixture(scope="module")
def stream(ray_session):
    from satray.data import stream

    return stream


def source(index, split, cache=None):
    return tile_source(
        index, split, ("nir", "red"), Storage(StorageOptions()), digest="digest", cache=cache
    )


def collect(stream, shard, made, batch, times=(), **options):
    tally = stream.StreamTally()
    rows = []
    for item in stream.batches(shard, made.shape, made.dtype, batch=batch, tally=tally, **options):
        for i, row in enumerate(item["row"].tolist()):
            slot = int(made.slots[row])
            good = slot not in (7, 9)
            assert bool(item["valid"][i]) is good
            wanted = [[100 * slot + 3], [100 * slot + 2]] if good else [[0], [0]]
            got = item["pixels"][i].numpy().reshape(2, -1)
            assert got.dtype == np.uint16
            np.testing.assert_array_equal(got, np.repeat(wanted, 64, 1))
            assert item["labels"][i].tolist() == [slot % 2, 1]
        rows.append(item["row"].tolist())
        times += (*item["copy"].tolist(),)
    return rows, tally, times


def collect_both(stream, shards, made, batch, **options):
    """What each of two workers gets of one pass."""
    got = {}

    def take(rank):
        got[rank], *_ = collect(stream, shards[rank], made, batch, **options)

    threads = [threading.Thread(target=take, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return got[0], got[1]


def test_each_execution_is_the_next_pseudo_epoch(stream, index):
    train = source(index, "train")
    repeats = np.where(np.arange(len(train)) % 8 == 0, 3.5, 1.0)
    order = TrainOrder(len(train), (24, 48, 72), 5, True, repeats)
    dataset = stream.tile_dataset(train, order, batch=8, start=1, deterministic=True)
    for pseudo_epoch in (1, 2):
        keys = {"pseudo_epoch": pseudo_epoch, "expected": 3}
        rows, tally, times = collect(stream, dataset, train, 8, **keys)
        np.testing.assert_array_equal(np.concatenate(rows), order.rows(pseudo_epoch))
        assert [len(each) for each in rows] == [8, 8, 8]
        assert set(tally.errors) <= {5, 7}  # rows of 7.tif and 9.tif within the split
        # rare tiles come several times, and are told apart
        np.testing.assert_array_equal(times, copies(np.concatenate(rows)))
    assert max(times) >= 1


def test_unreadable_tiles_are_rows_with_a_reason(stream, index):
    train = source(index, "train")
    dataset = stream.tile_dataset(train, WholeOrder(len(train)), batch=16)
    rows, tally, _ = collect(stream, dataset, train, 16)
    assert sorted(np.concatenate(rows)) == list(range(len(train)))
    assert sorted(int(train.slots[row]) for row in tally.errors) == [7, 9]
    assert all(tally.errors.values())
    assert tally.tiles == len(train)
    assert tally.bytes_read > 0


def test_two_workers_together_get_what_one_gets(stream, index):
    train = source(index, "train")
    order = TrainOrder(len(train), (32, 64), seed=5, shuffle=True)
    dataset = stream.tile_dataset(train, order, batch=4, workers=2, deterministic=True)
    shards = dataset.streaming_split(2, equal=True)
    for pseudo_epoch in (0, 1):
        got = collect_both(stream, shards, train, 4, pseudo_epoch=pseudo_epoch, expected=4)
        steps = [a + b for a, b in zip(*got, strict=True)]
        np.testing.assert_array_equal(np.concatenate(steps), order.rows(pseudo_epoch))


def test_padded_validation_loses_nothing(stream, index):
    val = source(index, "val")
    assert len(val) % 2 == 1
    dataset = stream.tile_dataset(val, WholeOrder(len(val), 2), batch=4, workers=2)
    shards = dataset.streaming_split(2, equal=True)
    got = collect_both(stream, shards, val, 4)
    assert {row for rank in got for rows in rank for row in rows} == set(range(len(val)))


def test_the_second_pass_comes_from_the_cache(stream, index, tmp_path):
    train = source(index, "train", CacheOptions(folder=str(tmp_path / "tiles"), gib=0.1))
    order = TrainOrder(len(train), (len(train), 2 * len(train)), seed=1, shuffle=True)
    dataset = stream.tile_dataset(train, order, batch=8)
    _, first, _ = collect(stream, dataset, train, 8, pseudo_epoch=0)
    _, second, _ = collect(stream, dataset, train, 8, pseudo_epoch=1)
    assert first.bytes_read > 0
    assert second.bytes_read == 0
    assert len(second.errors) == 2
