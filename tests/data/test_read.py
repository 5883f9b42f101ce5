"""From an index to tables of decoded tiles: order, errors, the cache, and requests under way."""

import numpy as np
import pyarrow as pa
import pytest
from data.hostile import tiff
from slow_store import SlowStore

from satray.config.train import CacheOptions
from satray.data.index import SCHEMA, IndexMeta, TileIndex
from satray.data.read import errors_of, read_blocks, tile_source, to_torch
from satray.storage import Storage

BANDS, TILES = ("red", "nir"), 41
NIR = np.array([[[0]], [[1]]], np.uint16)
BAD = {7: b"", 9: None}
"""Tiles that are empty, or not there."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiles")
    for i in range(TILES):
        data = BAD.get(i, tiff(np.full((2, 8, 8), 100 * i, np.uint16) + NIR))
        if data is not None:
            (folder / f"{i}.tif").write_bytes(data)
    return folder


def index_of(root) -> TileIndex:
    table = pa.table(
        {
            "uri": [f"{root}/{i}.tif" for i in range(TILES)],
            "split": ["val" if i % 5 == 0 else "train" for i in range(TILES)],
            "labels": pa.array([[i % 2, 1] for i in range(TILES)], pa.list_(pa.uint8())),
            # nothing is known of how the files were
            **{
                name: pa.nulls(TILES, SCHEMA.field(name).type)
                for name in ("bytes", "etag", "crc32", "mask")
            },
        }
    )
    return TileIndex(table, IndexMeta("multilabel", ("a", "b"), BANDS, "uint16", (8, 8), (), {}))


def source_of(root, storage=None, cache=None):
    return tile_source(
        index_of(root), "train", ("nir", "red"), storage or Storage(), digest="d", cache=cache
    )


def read(source, rows, block, **more):
    """All of a source's tables in one, checked against the files."""
    tables = list(read_blocks(source.rows(rows), block, **more))
    assert [len(t) for t in tables[:-1]] == [block] * (len(tables) - 1)
    table = pa.concat_tables(tables)
    assert table.column("row").to_pylist() == rows.tolist()
    batch = to_torch(table, source.shape, source.dtype)
    slots = source.slots[rows]
    good = ~np.isin(slots, list(BAD))
    assert batch["valid"].numpy().tolist() == good.tolist()
    wanted = np.where(good, 100 * slots, 0)[:, None] + np.where(good[:, None], [1, 0], 0)
    pixels = batch["pixels"].numpy()
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(
        pixels, np.broadcast_to(wanted[:, :, None, None], (len(rows), 2, 8, 8))
    )
    np.testing.assert_array_equal(batch["labels"].numpy()[:, 0], slots % 2)
    return table


ROWS = np.random.default_rng(0).permutation(np.repeat(np.arange(32), 2))


@pytest.mark.parametrize("block", [1, 7, 64, 100])
def test_blocks_hold_the_rows_asked_for_in_order(folder, block):
    copies = np.arange(len(ROWS)) % 3
    table = read(source_of(folder), ROWS, block, pseudo_epoch=3, copies=copies)
    assert set(table.column("pseudo_epoch").to_pylist()) == {3}
    assert table.column("copy").to_pylist() == copies.tolist()
    source = source_of(folder)
    assert {int(source.slots[row]) for row in errors_of(table)} == set(BAD)
    assert all(errors_of(table).values())


def test_nothing_is_no_block(folder):
    assert list(read_blocks(source_of(folder).rows(np.arange(0)), 4)) == []


@pytest.mark.parametrize("room", ["all", "some"])
def test_the_second_pass_comes_from_the_cache(folder, tmp_path, room):
    tiles = TILES if room == "all" else TILES // 2
    gib = tiles * (2 * 8 * 8 * 2 + 1) / 2**30
    source = source_of(folder, cache=CacheOptions(folder=str(tmp_path), gib=gib))
    rows = np.arange(len(source))
    for fetched in (np.ones(len(rows), bool), source.slots >= tiles):
        table = read(source, rows, 5)
        kept_away = np.isin(source.slots, list(BAD))
        np.testing.assert_array_equal(table.column("bytes").to_numpy() > 0, fetched & ~kept_away)


def test_requests_stay_under_way_across_blocks(folder):
    """Of blocks of four, many more than four are asked for at once, in whole and in order."""
    with SlowStore(folder, 0.1) as store:
        source = source_of(store.root, Storage(store.options))
        read(source, ROWS, 4)
    assert store.most >= 24
