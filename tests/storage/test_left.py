"""What processes that were killed left on disks goes, and nothing that somebody works with."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from satray.storage import Storage, makers
from satray.storage.local import TEMPORARY
from satray.storage.scratch import log_folder, scratch, user_folder

STRANGER = f"{'0' * 12}-4711-99"


def tag_of_the_dead() -> str:
    program = "from satray.storage import makers; print(makers.tag())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return done.stdout.strip()


def make(path: Path, days: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    at = time.time() - days * 86_400
    os.utime(path, (at, at))
    return path


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("tag", "days", "goes"),
    [
        ("dead", 0, True),
        ("mine", 9, False),
        ("pid of another now", 0, True),
        ("another machine's", 0.5, False),
        ("another machine's", 1.5, True),
        ("none", 0.5, False),
        ("none", 1.5, True),
    ],
)
def test_temporary_files_beside_products_go_with_their_makers(tmp_path, tag, days, goes):
    tags = {
        "dead": tag_of_the_dead,
        "mine": makers.tag,
        "pid of another now": lambda: f"{makers.machine()}-{os.getpid()}-1",
        "another machine's": lambda: STRANGER,
        "none": lambda: "0123456789abcdef" * 2,
    }
    left = make(tmp_path / "deep" / "er" / f"{TEMPORARY}{tags[tag]()}-0123", days)
    product = make(tmp_path / "deep" / "product.tif", 9)
    assert Storage().tidy(str(tmp_path)) == int(goes)
    assert left.exists() is not goes
    assert product.exists()


def test_links_are_not_followed_when_tidying(tmp_path):
    left = make(tmp_path / "elsewhere" / f"{TEMPORARY}{STRANGER}-1", 9)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "elsewhere")
    assert Storage().tidy(str(tmp_path / "out")) == 0
    assert left.exists()
    assert Storage().tidy("s3://bucket/out") == 0


def test_a_scratch_folder_goes_with_its_block_or_its_process(temporary):
    root = user_folder() / "scratch"
    dead = make(root / f"scene-{tag_of_the_dead()}-1" / "raster.tif").parent
    living = make(root / f"scene-{makers.tag()}-1" / "raster.tif", 9).parent
    remote = make(root / f"scene-{STRANGER}-1" / "raster.tif").parent
    with contextlib.suppress(ZeroDivisionError), scratch("scene") as folder:
        assert not dead.exists()
        make(folder / "raster.tif")
        raise ZeroDivisionError
    assert not folder.exists()
    assert living.exists()
    assert remote.exists()


def test_the_users_folder_is_nobody_elses(temporary):
    folder = user_folder()
    folder.chmod(0o777)
    assert user_folder().stat().st_mode & 0o777 == 0o700
    folder.rmdir()
    (temporary / "trap").mkdir()
    folder.symlink_to(temporary / "trap")
    with pytest.raises(PermissionError):
        user_folder()
    with scratch("scene") as other:
        assert other.parent == temporary
    assert not list((temporary / "trap").iterdir())


def test_logs_stay_for_a_day(temporary):
    young, old = make(log_folder() / "a.log", 0.5), make(log_folder() / "b.log", 1.5)
    mine = make(log_folder() / f"c-{makers.tag()}.log", 1.5)
    log_folder()
    assert (young.exists(), old.exists(), mine.exists()) == (True, False, True)
