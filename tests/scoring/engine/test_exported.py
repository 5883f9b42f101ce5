"""Exported graphs on disk."""

import os

from satray.scoring.engine.exported import KEPT, ExportCache


def test_made_once(tmp_path):
    cache, made = ExportCache(tmp_path / "new" / "folder"), []

    def make():
        made.append(1)
        return b"graph"

    assert not cache.has("m", "rgb")
    assert [cache.get(make, "m", "rgb") for _ in range(3)] == [b"graph"] * 3
    assert cache.has("m", "rgb")
    assert len(made) == 1
    assert not any(cache.has(*parts) for parts in [("m", "nir"), ("n", "rgb"), ("mrgb",)])
    cache.forget("m", "rgb")
    cache.forget("m", "rgb")
    assert not cache.has("m", "rgb")
    assert not list((tmp_path / "new" / "folder").iterdir())


def test_hostile_names_are_names(tmp_path):
    cache = ExportCache(tmp_path / "here")
    cache.get(lambda: b"x", "../../x", "/etc/é\0")
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    (file,) = (tmp_path / "here").iterdir()
    assert file.suffix == ".onnx"


def test_a_folder_that_others_can_write_to(tmp_path):
    cache = ExportCache(tmp_path / "open")
    cache.get(lambda: b"mine", "m")
    os.chmod(tmp_path / "open", 0o777)
    assert not cache.has("m")
    assert cache.get(lambda: b"made", "m") == b"made"


def test_no_folder_to_be_had(tmp_path):
    (tmp_path / "file").write_text("")
    cache = ExportCache(tmp_path / "file" / "folder")
    assert not cache.has("m")
    assert cache.get(lambda: b"made", "m") == b"made"


def test_the_last_used_ones_stay(tmp_path):
    cache = ExportCache(tmp_path)
    for number in range(KEPT):
        cache.get(lambda: b"x", str(number))
        os.utime(cache._path((str(number),)), (number, number))
    cache.get(lambda: b"y", "0")  # used again
    cache.get(lambda: b"x", "another")
    assert len(list(tmp_path.iterdir())) == KEPT
    assert [cache.has(name) for name in ("0", "1", "2", "another")] == [True, False, True, True]
