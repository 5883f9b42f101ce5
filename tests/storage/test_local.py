"""The storage room on disk."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from threading import Barrier

import pytest

from satray.config.base import StorageOptions
from satray.errors import InputError, SatrayError
from satray.storage import Entry, Storage, local

STORE = Storage()
ODD = ["a b.tif", "p%20q.tif", "h#x.tif", "ü/é.tif", "q?y=1&z.tif", "plus+[x]{y}.tif"]


def keys(entries):
    return [entry.key for entry in entries]


@pytest.mark.parametrize("key", ODD)
def test_odd_names_come_back(tmp_path, key):
    STORE.write(f"{tmp_path}/in/{key}", key.encode())
    (entry,) = STORE.list(f"{tmp_path}/in")
    assert entry.key == key
    assert STORE.read(entry.uri) == key.encode()


def test_list_is_sorted_and_describes(tmp_path):
    for key in ("b/2", "a", "b/1", "b.txt"):
        STORE.write(f"{tmp_path}/{key}", b"x" * len(key))
    entries = STORE.list(f"file://{tmp_path}/")
    assert keys(entries) == ["a", "b.txt", "b/1", "b/2"]
    status = os.stat(tmp_path / "b" / "2")
    assert entries[3].uri == str(tmp_path / "b" / "2")
    assert entries[3].size == 3
    assert entries[3].modified.tzinfo is UTC
    assert entries[3].modified.timestamp() == pytest.approx(status.st_mtime, abs=1e-5)
    assert entries[3] == Entry(**{**vars(STORE.head(tmp_path / "b" / "2")), "key": "b/2"})


def test_etag_follows_content(tmp_path):
    path = f"{tmp_path}/x"
    STORE.write(path, b"one")
    first = STORE.head(path).etag
    assert STORE.head(path).etag == first
    os.utime(path, ns=(1, 1))
    second = STORE.head(path).etag
    STORE.write(path, b"three")
    os.utime(path, ns=(1, 1))
    assert len({first, second, STORE.head(path).etag}) == 3


def test_hidden_and_missing_are_not_listed(tmp_path):
    for key in (".hidden", ".cache/x", "a/.b/c", "seen"):
        STORE.write(f"{tmp_path}/{key}", b"")
    assert keys(STORE.list(f"{tmp_path}")) == ["seen"]
    assert STORE.list(f"{tmp_path}/nowhere") == []
    assert STORE.list(f"{tmp_path}/seen") == []  # nothing lies below a file


def test_links_are_followed_once(tmp_path):
    STORE.write(f"{tmp_path}/data/x", b"x")
    os.symlink(tmp_path / "data", tmp_path / "data" / "circle")
    os.symlink(tmp_path / "gone", tmp_path / "data" / "dangling")
    os.mkdir(tmp_path / "top")
    os.symlink(tmp_path / "data", tmp_path / "top" / "linked")
    assert keys(STORE.list(f"{tmp_path}/data")) == ["x"]
    assert keys(STORE.list(f"{tmp_path}/top")) == ["linked/x"]


def test_exists_means_a_file(tmp_path):
    STORE.write(f"{tmp_path}/a/x", b"")
    assert STORE.exists(f"{tmp_path}/a/x")
    assert not STORE.exists(f"{tmp_path}/a")
    assert not STORE.exists(f"{tmp_path}/b")


def test_read_many_gives_errors_as_values(tmp_path):
    wanted = []
    for number in range(50):
        wanted.append(f"{tmp_path}/{number}")
        if number != 7:
            STORE.write(wanted[-1], b"%d" % number)
    got = dict(STORE.read_many(iter(wanted), concurrency=4))
    error = got.pop(7)
    assert isinstance(error, InputError)
    assert str(error) == f"{tmp_path}/7: does not exist"
    assert got == {number: b"%d" % number for number in range(50) if number != 7}
    assert list(STORE.read_many([])) == []


def test_read_many_can_be_left_early(tmp_path):
    STORE.write(f"{tmp_path}/x", b"x")
    asked = []

    def uris():
        for _ in range(10_000):
            asked.append(1)
            yield f"{tmp_path}/x"

    reader = STORE.read_many(uris(), concurrency=4)
    next(reader)
    reader.close()
    assert len(asked) <= 8


@pytest.mark.parametrize("cannot", [None, errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_write_if_absent(tmp_path, monkeypatch, cannot):
    if cannot:  # a memory stick, a network share, a mounted bucket

        def refuse(number: int) -> None:
            raise OSError(number, os.strerror(number))

        def sync(at: int, real=os.fsync) -> None:
            return refuse(errno.EINVAL) if os.path.isdir(f"/proc/self/fd/{at}") else real(at)

        monkeypatch.setattr(os, "link", lambda *_: refuse(cannot))
        monkeypatch.setattr(os, "fsync", sync)
    path = f"{tmp_path}/x"
    STORE.write(path, b"first", if_absent=True)
    with pytest.raises(FileExistsError):
        STORE.write(path, b"second", if_absent=True)
    assert STORE.read(path) == b"first"
    STORE.write(path, b"third")
    assert STORE.read(path) == b"third"
    assert os.listdir(tmp_path) == ["x"]


def test_one_writer_wins_a_race(tmp_path):
    for turn in range(20):
        barrier = Barrier(8)

        def claim(number, turn=turn, barrier=barrier):
            barrier.wait(10)
            try:
                STORE.write(f"{tmp_path}/{turn}", b"%d" % number, if_absent=True)
            except FileExistsError:
                return None
            return b"%d" % number

        with ThreadPoolExecutor(8) as pool:
            winners = [won for won in pool.map(claim, range(8)) if won is not None]
        assert winners == [STORE.read(f"{tmp_path}/{turn}")]


def test_published_files_have_ordinary_permissions(tmp_path):
    umask = os.umask(0o022)
    try:
        STORE.write(f"{tmp_path}/x", b"")
    finally:
        os.umask(umask)
    assert os.stat(tmp_path / "x").st_mode & 0o777 == 0o644


def test_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    STORE.write(f"{tmp_path}/x", b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SatrayError, match=f"{tmp_path}/x: No space left on device") as caught:
        STORE.write(f"{tmp_path}/x", b"new")
    assert not isinstance(caught.value, InputError)
    assert os.listdir(tmp_path) == ["x"]
    assert STORE.read(f"{tmp_path}/x") == b"old"


def test_killed_writer_leaves_nothing_to_see(tmp_path):
    program = f"""
        import os, signal
        from satray.storage import Storage
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        Storage().write({str(tmp_path / "out" / "x")!r}, b"data")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    (left,) = os.listdir(tmp_path / "out")  # the test's own proof that it was in the middle
    assert left.startswith(local.TEMPORARY)
    assert STORE.list(f"{tmp_path}/out") == []
    assert not STORE.exists(f"{tmp_path}/out/x")
    with pytest.raises(InputError, match="nothing there to download"):
        STORE.download(f"{tmp_path}/out", tmp_path / "copy")
    STORE.delete(f"{tmp_path}/out")
    assert not (tmp_path / "out").exists()


def test_upload_and_download_folders_with_hidden_files(tmp_path):
    for key in ("a.bin", "sub/b.bin", ".metadata"):
        STORE.write(f"{tmp_path}/in/{key}", key.encode())
    STORE.upload(tmp_path / "in", f"{tmp_path}/store")
    STORE.download(f"{tmp_path}/store", tmp_path / "out")
    for key in ("a.bin", "sub/b.bin", ".metadata"):
        assert STORE.read(f"{tmp_path}/out/{key}") == key.encode()
    STORE.download(f"{tmp_path}/store/a.bin", tmp_path / "single")
    assert (tmp_path / "single").read_bytes() == b"a.bin"


def test_delete(tmp_path):
    for key in ("a/x", "a/b/y", "ab/z", "c"):
        STORE.write(f"{tmp_path}/{key}", b"")
    STORE.delete(f"{tmp_path}/a")
    STORE.delete(f"{tmp_path}/c")
    STORE.delete(f"{tmp_path}/nothing")
    assert keys(STORE.list(tmp_path)) == ["ab/z"]


def test_delete_of_a_link_spares_what_it_points_to(tmp_path):
    STORE.write(f"{tmp_path}/data/x", b"")
    os.symlink(tmp_path / "data", tmp_path / "link")
    STORE.delete(f"{tmp_path}/link")
    assert STORE.exists(f"{tmp_path}/data/x")
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("place", ["/", "s3://bucket", "s3://bucket/", "file:///"])
def test_delete_refuses_roots(place):
    with pytest.raises(InputError, match="refusing to delete a whole bucket or disk"):
        STORE.delete(place)


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda at: STORE.read(f"{at}/none"), "{at}/none: does not exist"),
        (lambda at: STORE.head(f"{at}/none"), "{at}/none: does not exist"),
        (lambda at: STORE.read(at), "{at}: is a folder, not a file"),
        (lambda at: STORE.head(at), "{at}: is a folder, not a file"),
        (
            lambda at: STORE.write(f"{at}/file/x", b""),
            "{at}/file/x: a part of this path is a file, not a folder",
        ),
        (
            lambda at: STORE.write(f"{at}/file/x", b"", if_absent=True),
            "{at}/file/x: a part of this path is a file, not a folder",
        ),
        (lambda at: STORE.upload(at / "none", f"{at}/x"), "{at}/none: does not exist"),
        (lambda at: STORE.read(f"{at}/{'n' * 300}"), "too long for this file system"),
        (lambda at: STORE.read("ftp://host/x"), "ftp:// is not known; accepted: local paths, s3"),
        (lambda at: STORE.list("s3:///x"), "no bucket is named; accepted: s3://BUCKET/KEY"),
        (lambda at: STORE.read(f"{at}/a\nb"), r"a\nb': does not exist"),
    ],
)
def test_wrong_names_end_in_one_line(tmp_path, do, message):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        do(tmp_path)
    assert message.format(at=tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickles_as_options():
    store = Storage(StorageOptions(endpoint="http://host:1", region="x"))
    assert pickle.loads(pickle.dumps(store)) == store
    assert len({Storage(), Storage(StorageOptions())}) == 1


def test_arrow_filesystem_of_a_path(tmp_path):
    filesystem, path = STORE.arrow_filesystem(f"file://{tmp_path}")
    assert (filesystem.type_name, path) == ("local", str(tmp_path))


def test_importing_storage_is_light():
    program = (
        "import sys, satray.storage; "
        "print([m for m in ('torch', 'ray', 'pyarrow', 'boto3', 'rasterio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.stdout.strip() == b"[]", done.stderr
