"""Decoded tiles kept on disk: right bytes or none at all."""

import multiprocessing
import os
import resource
import shutil
import signal
import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from satray.data import cache as room
from satray.data.cache import CachePlan, cache_lines, open_cache

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "MARGIN", 0)
    return CachePlan("index-a", 6, (4, 16, 16), "uint16", 1 / 1024, str(tmp_path / "tiles"))


def tile(row, plan):
    return np.full(plan.shape, row + 1, plan.dtype)


def room_for(plan, tiles):
    return replace(plan, gib=tiles * (plan.tile_bytes + 1) / 2**30)


def held(plan):
    """Rows whose tiles are kept, each with its right bytes."""
    out = np.zeros(plan.shape, plan.dtype)
    with closing(open_cache(plan)) as cache:
        rows = np.flatnonzero(cache.kept(np.arange(plan.rows))).tolist()
        for row in rows:
            cache.get(row, out)
            np.testing.assert_array_equal(out, tile(row, plan))
    return rows


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_what_was_put_comes_back(plan, dtype):
    plan = replace(plan, dtype=dtype)
    assert held(plan) == []
    with closing(open_cache(plan)) as cache:
        cache.put(5, tile(5, plan))
    assert held(plan) == [5]
    others = ({"identity": "b"}, {"shape": (3, 16, 16)}, {"dtype": "int16"}, {"rows": 7})
    for other in others:  # whatever could change a byte is another cache
        assert held(replace(plan, **other)) == []


@pytest.mark.parametrize(("fit", "kept"), [(0.9, []), (2.5, [0, 1]), (6, [0, 1, 2, 3, 4, 5])])
def test_where_not_all_fit_the_first_are_kept_and_a_line_says_so(plan, fit, kept):
    plan = room_for(plan, fit)
    lines = cache_lines(plan)
    cache = open_cache(plan)
    assert (cache is None) == (not kept)
    if cache is not None:
        with closing(cache):
            for row in range(plan.rows):
                cache.put(row, tile(row, plan))
        assert held(plan) == kept
    says = f"keeps {len(kept)} of 6 tiles"
    assert [says in line and "cache.gib" in line for line in lines] == [True] * (len(kept) < 6)


def test_without_a_size_half_of_the_free_disk_is_taken(plan, tmp_path):
    free = shutil.disk_usage(tmp_path).free
    many = replace(plan, gib=None, rows=int(0.9 * free / plan.tile_bytes))
    (line,) = cache_lines(many)
    kept = int(line.split("keeps ")[1].split(" of ")[0].replace(",", ""))
    assert kept == pytest.approx(0.5 / 0.9 * many.rows, rel=0.05)
    assert "half of the free disk" in line


def aged(plan, seconds):
    """Open a cache as if `seconds` ago."""
    open_cache(plan).close()
    then = time.time() - seconds
    os.utime(plan.root / plan.name, (then, then))


def test_the_least_recently_used_makes_room_and_one_in_use_does_not(plan, tmp_path):
    plans = [room_for(replace(plan, identity=f"index-{k}"), 12) for k in range(3)]
    users = tmp_path / "tiles" / "thesis" / "chapter-1"  # a folder that holds more than caches
    users.mkdir(parents=True)
    os.utime(users.parent, (0, 0))
    aged(plans[1], 2000)
    with closing(open_cache(plans[1])) as reader:
        aged(plans[1], 2000)
        aged(plans[0], 1000)
        open_cache(plans[2]).close()
        left = {folder.name for folder in plan.root.iterdir() if folder.is_dir()}
        assert left == {plans[0].name, plans[2].name}
        reader.put(1, tile(1, plan))  # a reader of a removed cache is not disturbed
        reader.get(1, out := np.zeros(plan.shape, plan.dtype))
        np.testing.assert_array_equal(out, tile(1, plan))
    assert open_cache(room_for(replace(plan, identity="more than there is"), 12)) is not None
    assert open_cache(room_for(replace(plan, identity="yet more"), 6)) is None
    assert users.exists()


def test_an_unwritable_folder_means_no_cache(plan, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert open_cache(replace(plan, folder=str(tmp_path / "file" / "tiles"))) is None
    assert open_cache(None) is None


def _no_larger_files(limit):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def _beyond_the_limit(plan):
    _no_larger_files(3 * plan.tile_bytes + 100)
    with closing(open_cache(plan)) as cache:
        for row in range(plan.rows):
            cache.put(row, tile(row, plan))


def test_a_full_disk_ends_keeping_and_not_the_task(plan):
    open_cache(plan).close()
    process = FORK.Process(target=_beyond_the_limit, args=(plan,))
    process.start()
    process.join()
    assert (process.exitcode, held(plan)) == (0, [0, 1, 2])


def _begin(plan):
    _no_larger_files(plan.rows // 2)
    assert open_cache(plan) is None


def test_a_cache_that_could_not_be_made_whole_is_made_anew(plan):
    plan = room_for(replace(plan, shape=(1, 1, 1), dtype="uint8", rows=4000), 100)
    process = FORK.Process(target=_begin, args=(plan,))
    process.start()
    process.join()
    assert (process.exitcode, held(plan)) == (0, [])


def _write_for_ever(plan):
    flags = os.open(plan.root / plan.name / "flags", os.O_RDWR)
    pixels = os.open(plan.root / plan.name / "pixels", os.O_RDWR)
    cache, torn = open_cache(plan), np.zeros(plan.tile_bytes, np.uint8)
    while True:
        for row in range(plan.rows):
            os.pwrite(flags, b"\x00", row)
            os.pwrite(pixels, torn, row * plan.tile_bytes)
            cache.put(row, tile(row, plan))


def test_writers_killed_at_any_moment_leave_no_wrong_tile(plan):
    plan = replace(plan, shape=(4, 128, 128), gib=1)
    open_cache(plan).close()
    whole = 0
    for wait in (0.12, 0.17):
        writers = [FORK.Process(target=_write_for_ever, args=(plan,)) for _ in range(2)]
        for writer in writers:
            writer.start()
        time.sleep(wait)
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.join()
        whole += len(held(plan))
    assert whole
