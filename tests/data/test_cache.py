"""Decoded tiles kept on disk: right bytes or none at all."""

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from satray.data import cache as room
from satray.data.cache import CachePlan, open_cache


@pytest.fixture
def plan(tmp_path):
    return CachePlan("index-a", 6, (4, 16, 16), "uint16", 1 << 20, str(tmp_path / "tiles"))


@pytest.fixture(autouse=True)
def _no_margin(monkeypatch):
    monkeypatch.setattr(room, "MARGIN", 0)


def tile(row, plan):
    return np.full(plan.shape, row + 1, plan.dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_what_was_put_comes_back(plan, dtype):
    plan = replace(plan, dtype=dtype)
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 200, plan.shape).astype(dtype)
    out = np.zeros((3, *plan.shape), dtype)
    with open_cache(plan) as cache:
        assert not cache.get(5, out[1])
        cache.put(5, stored)
        assert cache.get(5, out[1])
        assert cache.kept() == 1
    np.testing.assert_array_equal(out[1], stored)
    assert not out[0].any()
    assert not out[2].any()
    with open_cache(plan) as again:  # another process would do just this
        assert again.get(5, out[2])
    np.testing.assert_array_equal(out[2], stored)


def test_other_index_bands_or_shape_is_another_cache(plan):
    names = {
        plan.name,
        replace(plan, identity="index-b").name,
        replace(plan, shape=(3, 16, 16)).name,
        replace(plan, dtype="int16").name,
        replace(plan, rows=7).name,
    }
    assert len(names) == 5


def test_a_cache_does_not_outlive_a_boot(plan, monkeypatch):
    with open_cache(plan) as cache:
        cache.put(0, tile(0, plan))
    monkeypatch.setattr(room, "boot", lambda: "another boot")
    out = np.zeros(plan.shape, plan.dtype)
    with open_cache(plan) as cache:
        assert not cache.get(0, out)


def test_an_index_beyond_the_room_is_not_kept(plan):
    assert open_cache(replace(plan, room=plan.bytes - 1)) is None
    assert open_cache(None) is None


def aged(plan, seconds):
    """Open a cache as if `seconds` ago."""
    open_cache(plan).close()
    then = time.time() - seconds
    os.utime(Path(plan.folder) / plan.name, (then, then))


def test_the_least_recently_used_makes_room(plan, tmp_path):
    plans = [replace(plan, identity=f"index-{k}", room=2 * plan.bytes) for k in range(3)]
    aged(plans[1], 2000)
    with open_cache(plans[1]) as held:
        aged(plans[1], 2000)
        aged(plans[0], 1000)
        open_cache(plans[2]).close()
        left = {folder.name for folder in (tmp_path / "tiles").iterdir() if folder.is_dir()}
        assert left == {plans[0].name, plans[2].name}
        held.put(1, tile(1, plan))  # a reader of a removed cache is not disturbed
        out = np.zeros(plan.shape, plan.dtype)
        assert held.get(1, out)


def test_a_cache_in_use_is_not_removed_for_another(plan):
    plans = [replace(plan, identity=f"index-{k}", room=plan.bytes) for k in range(2)]
    with open_cache(plans[0]) as held:
        held.put(1, tile(1, plan))
    assert open_cache(plans[1]) is None
    with open_cache(plans[0]) as again:
        assert again.kept() == 1


def test_an_unwritable_folder_means_no_cache(plan, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert open_cache(replace(plan, folder=str(tmp_path / "file" / "tiles"))) is None


def test_a_full_disk_ends_keeping_not_the_task(plan, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with open_cache(plan) as cache:
        monkeypatch.setattr(os, "pwrite", full)
        cache.put(2, tile(2, plan))
        assert not cache.get(2, np.zeros(plan.shape, plan.dtype))


def _write_for_ever(plan):
    cache = open_cache(plan)
    torn = np.zeros(plan.tile_bytes, np.uint8)
    while True:
        for row in range(plan.rows):
            os.pwrite(cache._flags, b"\x00", row)
            os.pwrite(cache._pixels, torn, row * plan.tile_bytes)
            cache.put(row, tile(row, plan))


def test_writers_killed_at_any_moment_leave_no_wrong_tile(plan):
    plan = replace(plan, shape=(4, 128, 128), room=1 << 30)
    open_cache(plan).close()
    context = multiprocessing.get_context("fork")
    out = np.zeros(plan.shape, plan.dtype)
    whole = 0
    for wait in (0.02, 0.05, 0.07):
        writers = [context.Process(target=_write_for_ever, args=(plan,)) for _ in range(2)]
        for writer in writers:
            writer.start()
        time.sleep(wait + 0.1)
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.join()
        with open_cache(plan) as cache:
            for row in range(plan.rows):
                if cache.get(row, out):
                    np.testing.assert_array_equal(out, tile(row, plan))
                    whole += 1
    assert whole


def test_a_tile_half_written_is_not_there(plan, monkeypatch):
    """The flag comes after the pixels: a writer that dies in between leaves no tile."""
    write = os.pwrite

    def dies_half_way(descriptor, data, offset):
        write(descriptor, bytes(data)[: len(bytes(data)) // 2], offset)
        raise KeyboardInterrupt

    with open_cache(plan) as cache:
        monkeypatch.setattr(os, "pwrite", dies_half_way)
        with pytest.raises(KeyboardInterrupt):
            cache.put(3, tile(3, plan))
        monkeypatch.undo()
        assert not cache.get(3, np.zeros(plan.shape, plan.dtype))
