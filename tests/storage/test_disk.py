"""Names, and what is the disk's alone: publishing, links, what dead writers left."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satray.errors import InputError, SatrayError
from satray.storage import Storage, absolute, is_remote, join, name, parent
from satray.storage.disk import TEMPORARY
from satray.storage.temporary import SCRATCH, machine, process_tag, scratch

STORE = Storage()
OTHERS = f"{'0' * 12}-4711-99"
PART = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1)


@pytest.mark.parametrize(
    ("text", "expected", "above", "last"),
    [
        ("/a/b/", "/a/b", "/a", "b"),
        ("/", "/", "/", ""),
        ("/a/../b/./c", "/b/c", "/b", "c"),
        ("a:b//c", f"{os.getcwd()}/a:b/c", f"{os.getcwd()}/a:b", "c"),
        ("~/x", "/home/me/x", "/home/me", "x"),
        ("file:///a/b%20c%23d", "/a/b c#d", "/a", "b c#d"),
        ("file:///a/b#c?d", "/a/b#c?d", "/a", "b#c?d"),
        ("file://localhost/a/b", "/a/b", "/a", "b"),
        ("s3://bucket/a b#%20/", "s3://bucket/a b#%20", "s3://bucket", "a b#%20"),
        ("S3://Bucket/", "s3://Bucket", "s3://Bucket", "Bucket"),
        ("s3://bucket//a", "s3://bucket//a", "s3://bucket", "a"),  # not s3://bucket/a
        ("https://host/a/b", "https://host/a/b", "https://host/a", "b"),
    ],
)
def test_a_name_has_one_spelling_a_parent_and_a_last_part(monkeypatch, text, expected, above, last):
    monkeypatch.setenv("HOME", "/home/me")
    found = absolute(text)
    assert (found, parent(found), name(found)) == (expected, above, last)
    assert is_remote(text) is ("://" in expected)


@given(st.sampled_from(["/", "/a", "/a/", "s3://bucket", "s3://bucket/"]), st.lists(PART))
def test_outer_slashes_do_not_matter_and_a_name_is_joined_to_its_parent(base, parts):
    whole = join(base, *[f"/{part}/" for part in parts], "")
    below = "/".join(parts)
    assert whole == (f"{base.rstrip('/')}/{below}" if below else base.rstrip("/") or "/")
    assert join(parent(whole), name(whole)) == whole or not parts


def keys(place) -> list[str]:
    return [entry.key for entry in STORE.list(str(place))]


def test_etag_follows_content_and_time(tmp_path):
    path, etags = f"{tmp_path}/x", set()
    for data, at in ((b"one", 2), (b"one", 1), (b"three", 1)):
        STORE.write(path, data)
        os.utime(path, ns=(at, at))
        etags |= {STORE.head(path).etag, STORE.head(path).etag}
    assert len(etags) == 3


def test_links_are_followed_and_never_deleted_through(tmp_path):
    STORE.write(f"{tmp_path}/data/x", b"x")
    os.symlink(tmp_path / "gone", tmp_path / "data" / "dangling")
    os.mkdir(tmp_path / "top")
    os.symlink(tmp_path / "data", tmp_path / "top" / "linked")
    assert (keys(tmp_path / "data"), keys(tmp_path / "top")) == (["x"], ["linked/x"])
    STORE.delete(f"{tmp_path}/top/linked")
    assert (keys(tmp_path / "data"), keys(tmp_path / "top")) == (["x"], [])
    os.symlink(tmp_path / "data", tmp_path / "data" / "circle")
    with pytest.raises(InputError, match="Too many levels of symbolic links"):
        keys(tmp_path / "data")


def test_a_folder_goes_whole_where_others_remove_from_it_too(tmp_path, monkeypatch):
    unlink = os.unlink

    def too_late(path, **how):  # another process was quicker, at every file
        unlink(path, **how)
        unlink(path, **how)

    for file in ("x/1", "x/2", "x/y/3"):
        STORE.write(f"{tmp_path}/{file}", b"")
    monkeypatch.setattr(os, "unlink", too_late)
    STORE.delete(f"{tmp_path}/x")
    assert os.listdir(tmp_path) == []


def test_a_share_without_hard_links_creates_once(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    STORE.write(f"{tmp_path}/x", b"first", if_absent=True)
    with pytest.raises(FileExistsError):
        STORE.write(f"{tmp_path}/x", b"second", if_absent=True)
    assert STORE.read(f"{tmp_path}/x") == b"first"
    assert os.listdir(tmp_path) == ["x"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    umask = os.umask(0o022)
    STORE.write(f"{tmp_path}/x", b"old")
    os.umask(umask)
    assert os.stat(tmp_path / "x").st_mode & 0o777 == 0o644

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
    assert left.startswith(TEMPORARY)
    assert keys(tmp_path / "out") == []
    assert not STORE.exists(f"{tmp_path}/out/x")
    STORE.tidy(str(tmp_path / "out"))
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda at: STORE.read(f"{at}/none"), "{at}/none: does not exist"),
        (lambda at: STORE.head(at), "{at}: is a folder, not a file"),
        (
            lambda at: STORE.write(f"{at}/file/x", b"", if_absent=True),
            "{at}/file/x: Not a directory",
        ),
        (lambda at: STORE.read("file://data/x"), "file://data/x: a file of another host; accepted"),
        (
            lambda at: STORE.read("ftp://host/x"),
            "accepted: local paths, and what obstore reads: s3",
        ),
        (lambda at: STORE.read("s3a://bucket/x"), "s3a://bucket/x: s3a:// is Hadoop's word; accep"),
        (lambda at: STORE.list("s3:///x"), "no bucket is named; accepted: s3://BUCKET/KEY"),
        (lambda at: STORE.read(f"{at}/a\nb"), r"a\nb': does not exist"),
        (lambda at: STORE.delete("/"), "refusing to delete a whole bucket or disk"),
        (lambda at: STORE.delete("s3://bucket/"), "refusing to delete a whole bucket or disk"),
    ],
)
def test_wrong_names_end_in_one_line(tmp_path, do, message):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        do(tmp_path)
    assert message.format(at=tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def dead_tag() -> str:
    program = "from satray.storage.temporary import process_tag; print(process_tag())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return done.stdout.strip()


def make(path: Path, days: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    at = time.time() - days * 86_400
    os.utime(path, (at, at))
    return path


def test_temporary_files_beside_products_go_with_their_makers(tmp_path, dead_tag):
    kept, out = {}, tmp_path / "out" / "deep"
    for tag, days, goes in (
        (dead_tag, 0, True),
        (process_tag(), 9, False),
        (f"{machine()}-{os.getpid()}-1", 0, True),  # the pid is another's now
        (OTHERS, 0.5, False),
        (OTHERS, 1.5, True),
    ):
        kept[make(out / f"{TEMPORARY}{tag}-{days}", days)] = not goes
    kept[make(out / "product.tif", 9)] = True
    kept[make(tmp_path / "elsewhere" / f"{TEMPORARY}{OTHERS}-1", 9)] = True
    (tmp_path / "out" / "link").symlink_to(tmp_path / "elsewhere")  # not followed
    STORE.tidy(str(tmp_path / "out"))
    assert {path: path.exists() for path in kept} == kept


def test_a_scratch_folder_goes_with_its_block_or_its_process(tmp_path, monkeypatch, dead_tag):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = make(tmp_path / f"{SCRATCH}{dead_tag}-scene-1" / "raster.tif")
    living = make(tmp_path / f"{SCRATCH}{process_tag()}-scene-1" / "raster.tif", 9)
    remote = make(tmp_path / f"{SCRATCH}{OTHERS}-scene-1" / "raster.tif")
    with contextlib.suppress(ZeroDivisionError), scratch("scene") as folder:
        assert not dead.parent.exists()
        assert folder.stat().st_mode & 0o777 == 0o700
        make(folder / "raster.tif")
        raise ZeroDivisionError
    assert not folder.exists()
    assert living.exists()
    assert remote.exists()
