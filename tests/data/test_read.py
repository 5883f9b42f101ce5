"""From an index to tables of decoded tiles: order, errors, the cache, requests, changed tiles."""

import functools
import os
import shutil
import threading
import time
import zlib
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from data.hostile import tiff
from data.tile_archive import (
    BAD,
    BANDS,
    TILES,
    check_batch,
    index_of,
    pixels,
    source_of,
    write_tiles,
)

from satray.data.index import TileIndex, check_unchanged
from satray.data.read import errors_of, read_blocks, tile_source, to_torch
from satray.errors import InputError
from satray.score.tiles import Wanted, read_block, tiles_of_index
from satray.storage import Storage

STORAGE = Storage()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiles(tmp_path_factory.mktemp("tiles"))


def read(source, rows, block, **more):
    """All of a source's tables in one, checked against the files."""
    tables = list(read_blocks(source.rows(rows), block, **more))
    assert [len(t) for t in tables[:-1]] == [block] * (len(tables) - 1)
    table = pa.concat_tables(tables)
    batch = to_torch(table)
    np.testing.assert_array_equal(check_batch(batch, source), rows)
    return table


ROWS = np.random.default_rng(0).permutation(np.repeat(np.arange(32), 2))


@pytest.mark.parametrize("block", [1, 7, 100])
def test_blocks_hold_the_rows_asked_for_in_order(folder, block):
    copies = np.arange(len(ROWS)) % 3
    table = read(source_of(folder), ROWS, block, pseudo_epoch=3, copies=copies)
    assert set(table.column("pseudo_epoch").to_pylist()) == {3}
    assert table.column("copy").to_pylist() == copies.tolist()
    source = source_of(folder)
    assert {int(source.slots[row]) for row in errors_of(table)} == set(BAD)
    assert all(errors_of(table).values())
    assert list(read_blocks(source.rows(np.arange(0)), block)) == []


@pytest.mark.parametrize("room", ["all", "some"])
def test_the_second_pass_comes_from_the_cache(tmp_path, room):
    folder, tiles = write_tiles(tmp_path / "tiles"), TILES if room == "all" else TILES // 2
    gib = tiles * (2 * 8 * 8 * 2 + 1) / 2**30
    source = source_of(folder, cache_folder=tmp_path / "cache", gib=gib)
    read(source, np.arange(len(source)), 5)
    shutil.rmtree(folder)
    (table,) = read_blocks(source, len(source))
    kept = (source.slots < tiles) & ~np.isin(source.slots, list(BAD))
    batch = to_torch(table)
    np.testing.assert_array_equal(batch["valid"].numpy(), kept)
    wanted = np.where(kept, 100 * source.slots, 0)
    np.testing.assert_array_equal(batch["pixels"].numpy()[:, 1, 0, 0], wanted)


def test_requests_stay_under_way_across_blocks(folder, monkeypatch):
    """Of blocks of four, many more than four are asked for at once, in whole and in order."""
    lock, under_way = threading.Lock(), [0, 0]

    class FarAway(SimpleHTTPRequestHandler):
        def do_GET(self):
            with lock:
                under_way[:] = under_way[0] + 1, max(under_way[0] + 1, under_way[1])
            time.sleep(0.1)
            with lock:
                under_way[0] -= 1
            super().do_GET()

        def log_message(self, *_):
            return

    monkeypatch.setattr(ThreadingHTTPServer, "request_queue_size", 128)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    handler = functools.partial(FarAway, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        read(source_of(f"http://127.0.0.1:{server.server_port}"), ROWS, 4)
        server.shutdown()
    assert under_way[1] >= 24


# ---- tiles that are not those that were indexed


def other_values(path: Path) -> None:
    """Other values, the size as it was."""
    path.write_bytes(tiff(pixels(7)))


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def touched(path: Path) -> None:
    os.utime(path, (1, 1))


def copied(path: Path) -> None:
    shutil.copy(path, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


@pytest.fixture
def four(tmp_path) -> TileIndex:
    """An index of four tiles as they are, all in train."""
    for i in range(4):
        (tmp_path / f"{i}.tif").write_bytes(tiff(pixels(i)))
    entries = sorted(STORAGE.list(str(tmp_path)), key=lambda entry: entry.key)
    sums = [zlib.crc32((tmp_path / entry.key).read_bytes()) for entry in entries]
    etags, sizes = [entry.etag for entry in entries], [entry.size for entry in entries]
    more = {"etag": etags, "bytes": sizes, "crc32": pa.array(sums, pa.uint32())}
    return index_of(tmp_path, 4, split=["train"] * 4, **more)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (other_values, "changed since it was indexed: same size, other content"),
        (longer, "changed since it was indexed: "),
        (Path.unlink, "does not exist"),
        (touched, None),
        (copied, None),
    ],
)
def test_a_tile_that_changed_costs_its_row_and_one_that_was_copied_does_not(
    four, tmp_path, change, reason
):
    change(tmp_path / "2.tif")
    source = tile_source(four, "train", BANDS, STORAGE)
    (table,) = read_blocks(source, 4)
    tiles = tiles_of_index(four)
    block = read_block(tiles.table, Wanted(BANDS, "uint16", 8, 8, tiles.source), STORAGE)
    trained, scored = errors_of(table), {i: f.error for i, f in enumerate(block.facts) if f.error}
    if reason is None:
        assert trained == scored == {}
        assert check_unchanged(four, "index", STORAGE, 0.0) == []
        return
    assert list(trained) == list(scored) == [2]
    assert reason in trained[2]
    assert trained == scored
    assert not block.pixels[2].any()
    with pytest.raises(InputError, match=f"index=index: 1 of 4 tiles .* 2: .*{reason}.*prepare"):
        check_unchanged(four, "index", STORAGE, 0.2)
    (note,) = check_unchanged(four, "index", STORAGE, 0.25)
    assert "1 of 4 tiles" in note
    # an index without sums goes by size and etag
    place = four.table.column_names.index("crc32")
    plain = TileIndex(four.table.set_column(place, "crc32", pa.nulls(4, pa.uint32())), four.meta)
    with pytest.raises(InputError, match=f"2: .*{reason.partition(',')[0]}"):
        check_unchanged(plain, "index", STORAGE, 0.0)
