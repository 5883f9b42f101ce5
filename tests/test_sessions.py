"""Where a local Ray lives: sockets, room, what old sessions leave. No Ray."""

import os
import shutil
import time
from pathlib import Path

import pytest

from satray.errors import InputError, SatrayError
from satray.sessions import SESSION, folders


@pytest.fixture
def base(monkeypatch) -> Path:
    """A short folder; RAY_TMPDIR is not set."""
    short = Path("/tmp") / f"st-{os.getpid()}"
    short.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    yield short
    shutil.rmtree(short)


@pytest.mark.parametrize(
    ("below", "taken"),
    [
        ("t", True),
        ("link", True),
        ("scratch/project-landcover/user-0042/slurm_job_1234567", False),
        ("zürich-ñandú-" + "é" * 8, False),  # 30 characters, but more bytes
        *[(wrong, False) for wrong in ("a b", "it's", "absent", "a file", "somebody else's")],
    ],
)
def test_ray_lives_in_tmpdir_where_its_sockets_can(base, monkeypatch, below, taken):
    folder = base / below
    if below == "a file":
        folder.write_text("x")
    elif below == "link":
        (base / "target").mkdir()
        folder.symlink_to(base / "target")
    elif below != "absent":
        folder.mkdir(parents=True)
    if below == "somebody else's":
        (folder / f"satray-{os.getuid()}").symlink_to(base)
    monkeypatch.setenv("TMPDIR", str(folder))
    with folders() as (root, _):
        assert root.is_relative_to(folder) is taken
        assert len(os.fsencode(root / SESSION / "sockets" / "plasma_store")) <= 107
        assert root.parent.stat().st_mode & 0o777 == 0o700
        assert not list(root.glob("session_0*"))


def test_no_place_at_all_is_one_line_and_nobodys_mistake(monkeypatch):
    def refuse(self, *_args, **_named):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    line = r"/var/tmp: Read-only file .* RAY_TMPDIR=.* bytes$"
    with pytest.raises(SatrayError, match=line) as caught, folders():
        pass
    assert not isinstance(caught.value, InputError)


def test_ray_tmpdir_comes_first_and_sessions_of_yesterday_go(base, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(base))
    with folders() as (root, spill):
        assert root.is_relative_to(base)
        assert Path(spill).is_dir()
    assert not Path(spill).exists()

    def session(hours: float) -> Path:
        folder = root / f"session_2026-01-0{len(list(root.iterdir())) + 1}_1_1_1"
        log = folder / "logs" / "raylet.out"
        log.parent.mkdir(parents=True)
        log.write_text("x")
        at = time.time() - hours * 3600
        for path in (log, log.parent, folder):
            os.utime(path, (at, at))
        return folder

    old, young, busy = session(25), session(23), session(25)
    (busy / "logs" / "raylet.out").write_text("still written, from another container")
    monkeypatch.setenv("RAY_object_spilling_directory", "/mnt/nvme")  # the operator's word
    with folders() as (_, spill):
        assert spill == "/mnt/nvme"
        assert [path.exists() for path in (old, young, busy)] == [False, True, True]
