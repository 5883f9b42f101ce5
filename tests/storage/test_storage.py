"""What storage does with files and with objects alike."""

import os
import pickle
import time
import zlib
from dataclasses import replace
from datetime import UTC

import pytest

from satray.config.base import StorageOptions
from satray.errors import DecodeError, InputError
from satray.storage import Storage, Version, is_remote

STORE = Storage()
ODD = ("a b.tif", "p%20q.tif", "h#1", "ü/é.tif", "q?y=1&z.tif", "plus+x", "s*[x]{y}|~^`\"<>'\\")


def fill(place: str, *keys: str) -> None:
    for key in keys:
        STORE.write(f"{place}/{key}", key.encode())


def keys(place: str) -> list[str]:
    return [entry.key for entry in STORE.list(place)]


def test_odd_names_come_back(place):
    fill(place, *ODD)
    assert keys(place) == sorted(ODD)
    uris = [entry.uri for entry in STORE.list(place)]
    assert dict(STORE.read_many(uris)) == dict(enumerate(key.encode() for key in sorted(ODD)))
    for uri, key in zip(uris, sorted(ODD), strict=True):
        assert STORE.head(uri).size == len(key.encode())
        STORE.delete(uri)
    assert keys(place) == []


def test_list_is_sorted_and_describes_and_exists_means_a_file(place):
    fill(place, "b/22", "a", "b/1", "b.txt", ".hidden", ".cache/x", "a.d/.b/c")
    entries = STORE.list(f"{place}/")
    assert [entry.key for entry in entries] == ["a", "b.txt", "b/1", "b/22"]
    last = entries[3]
    assert (last.uri, last.size, last.modified.tzinfo) == (f"{place}/b/22", 4, UTC)
    assert abs(last.modified.timestamp() - time.time()) < 300
    head = replace(STORE.head(last.uri), key="b/22")
    assert replace(head, modified=last.modified) == last
    assert abs(head.modified - last.modified).total_seconds() < 1  # HTTP's headers: whole seconds
    assert STORE.list(f"{place}/b") == [replace(entry, key=entry.key[2:]) for entry in entries[2:]]
    assert keys(f"{place}/nowhere") == []
    assert keys(f"{place}/a") == []  # nothing lies below a file
    assert STORE.exists(f"{place}/b/1")
    for name in (place, f"{place}/b", f"{place}/c", f"{place}/b/1/y"):
        assert not STORE.exists(name)
    if is_remote(place):
        assert not STORE.exists(place.rpartition("/")[0])  # the bucket


def test_an_object_that_is_another_by_now_is_told(place):
    uri, content = f"{place}/a", b"content"
    STORE.write(uri, content)
    version = Version(len(content), STORE.head(uri).etag, zlib.crc32(content))
    touched = replace(version, etag="of-other-parts")  # or copied, or uploaded in other parts
    for same in (version, touched):
        assert STORE.read(uri, same) == content
        assert STORE.unlike(uri, same) is None
    for other in (b"CONTENT", b"longer content"):
        STORE.write(uri, other)
        ((_, found),) = STORE.read_many([uri], versions=[version])
        assert isinstance(found, DecodeError)
        assert STORE.unlike(uri, version) == str(found)
    STORE.delete(uri)
    assert "does not exist" in str(STORE.unlike(uri, version))


def test_read_many_gives_errors_as_values_and_can_be_left_early(place):
    numbers, asked = [str(number) for number in range(20) if number != 7], []
    fill(place, *numbers)
    found = dict(STORE.read_many((f"{place}/{number}" for number in range(20)), concurrency=4))
    error = found.pop(7)
    assert isinstance(error, InputError)
    assert str(error).startswith(f"{place}/7: does not exist")
    assert found == {int(number): number.encode() for number in numbers}
    assert list(STORE.read_many([])) == []

    def uris():
        for _ in range(10_000):
            asked.append(1)
            yield f"{place}/1"

    reader = STORE.read_many(uris(), concurrency=4)
    next(reader)
    reader.close()
    assert len(asked) <= 8


def test_a_conditional_write_creates_and_a_delete_takes_a_name_or_what_is_below(place):
    STORE.write(f"{place}/x", b"first", if_absent=True)
    with pytest.raises(FileExistsError):
        STORE.write(f"{place}/x", b"second", if_absent=True)
    assert STORE.read(f"{place}/x") == b"first"
    STORE.write(f"{place}/x", b"third")
    assert STORE.read(f"{place}/x") == b"third"
    fill(place, "a/x", "a/b/y", "ab/z")
    for name in ("a", "x", "nothing"):
        STORE.delete(f"{place}/{name}")
    assert keys(place) == ["ab/z"]


def test_upload(place, tmp_path):
    for key, data in {"sub/b c#.bin": b"b", ".metadata": b"m", "empty": b""}.items():
        STORE.write(f"{tmp_path}/in/{key}", data)
        STORE.upload(tmp_path / "in" / key, f"{place}/{key}")
        assert STORE.read(f"{place}/{key}") == data
    for wrong, reason in (("none", "does not exist"), ("in", "is a folder, not a file")):
        with pytest.raises(InputError, match=f"{wrong}: {reason}"):
            STORE.upload(tmp_path / wrong, f"{place}/x")


def test_ray_keeps_its_state_there(place, tmp_path):
    import pyarrow.fs

    filesystem, path = STORE.arrow_filesystem(f"{place}/state dir")
    filesystem.create_dir(path)
    fill(f"{tmp_path}/in", "0/w.bin", "1/w.bin")
    (tmp_path / "in" / "big").write_bytes(os.urandom(12 << 20))
    pyarrow.fs.copy_files(f"{tmp_path}/in", path, destination_filesystem=filesystem)
    assert keys(f"{place}/state dir") == ["0/w.bin", "1/w.bin", "big"]
    filesystem = pickle.loads(pickle.dumps(filesystem))
    found = filesystem.get_file_info(pyarrow.fs.FileSelector(path))
    assert sorted(info.base_name for info in found) == ["0", "1", "big"]
    assert filesystem.get_file_info(f"{path}/big").size == 12 << 20
    assert filesystem.get_file_info(f"{path}/none").type == pyarrow.fs.FileType.NotFound
    pyarrow.fs.copy_files(path, f"{tmp_path}/back", source_filesystem=filesystem)
    assert (tmp_path / "back/big").read_bytes() == (tmp_path / "in/big").read_bytes()
    filesystem.delete_dir(f"{path}/1")
    filesystem.delete_file(f"{path}/big")
    with filesystem.open_output_stream(f"{path}/0/w.bin") as file:
        file.write(b"again")
    assert keys(f"{place}/state dir") == ["0/w.bin"]
    with filesystem.open_input_file(f"{path}/0/w.bin") as file:
        assert file.read() == b"again"


def test_pickles_as_options():
    store = Storage(StorageOptions(endpoint="http://host:1", region="x"))
    assert pickle.loads(pickle.dumps(store)) == store
    assert len({Storage(), Storage(StorageOptions())}) == 1
