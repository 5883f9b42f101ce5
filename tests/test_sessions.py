"""Where a local Ray lives: sockets, room, what old sessions leave. No Ray."""

import os
import shutil
import socket
import time
from pathlib import Path

import pytest

from satray.errors import InputError, SatrayError
from satray.sessions import SESSION, folders

LONG = "scratch/project-landcover/user-0042/slurm_job_1234567"


@pytest.fixture
def base(monkeypatch) -> Path:
    """A short folder, below which the usual places are looked for by the test only."""
    short = Path("/tmp") / f"st-{os.getpid()}"
    short.mkdir()
    for name in ("RAY_TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    yield short
    shutil.rmtree(short)


@pytest.mark.parametrize(
    ("below", "taken"),
    [
        ("t", True),
        ("link", True),
        (LONG, False),
        (LONG + "/" + "x" * 90, False),
        ("zürich-ñandú-" + "é" * 8, False),  # 30 characters, but more bytes
        ("a b", False),
        ("it's", False),
        ("absent", False),
        ("a file", False),
        ("full", False),
        ("no sockets", False),
        ("somebody else's", False),
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
    if below == "full":
        fsync, full = os.fsync, [True]

        def failing(handle: int) -> None:
            if full.pop() if full else False:
                raise OSError(28, "No space left on device")
            fsync(handle)

        monkeypatch.setattr(os, "fsync", failing)
    elif below == "no sockets":

        class Refusing(socket.socket):
            def bind(self, address):
                if str(folder) in address:
                    raise PermissionError(1, "Operation not permitted")
                super().bind(address)

        monkeypatch.setattr(socket, "socket", Refusing)
    elif below == "somebody else's":
        (folder / f"satray-{os.getuid()}").symlink_to(base)
    monkeypatch.setenv("TMPDIR", str(folder))
    with folders() as (root, _):
        assert root.is_relative_to(folder) is taken
        assert len(os.fsencode(root / SESSION / "sockets" / "plasma_store")) <= 107
        assert root.is_dir()
        assert root.parent.stat().st_mode & 0o777 == 0o700
        assert root.parent.stat().st_uid == os.getuid()
        assert not list(root.glob("session_0*"))


def test_ray_tmpdir_comes_first(base, monkeypatch):
    for name, folder in (("RAY_TMPDIR", "ray"), ("TMPDIR", "tmp")):
        (base / folder).mkdir()
        monkeypatch.setenv(name, str(base / folder))
    with folders() as (root, _):
        assert root.is_relative_to(base / "ray")


def test_no_place_at_all_is_one_line_and_nobodys_mistake(base, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/nowhere/" + "x" * 100)

    def refuse(self, *_args, **_named):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(SatrayError) as caught, folders():
        pass
    assert not isinstance(caught.value, InputError)
    line = str(caught.value)
    assert "\n" not in line
    for word in ("/nowhere/", "/var/tmp", "Read-only file system", "RAY_TMPDIR=", "bytes"):
        assert word in line


def test_what_memory_does_not_hold_stays_in_the_temporary_folder(base, monkeypatch):
    (base / "long").mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(base))
    monkeypatch.setattr("tempfile.tempdir", str(base / "long"))
    with folders() as (root, spill):
        assert not root.is_relative_to(base / "long")
        assert Path(spill).is_relative_to(base / "long")
        assert Path(spill).is_dir()
    assert not Path(spill).exists()
    monkeypatch.setattr("tempfile.tempdir", str(base))
    with folders() as (_, spill):
        assert spill is None


def test_sessions_of_yesterday_go_where_nobody_lives_in_them(base, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(base))
    with folders() as (root, _):
        pass

    def session(pid: int, hours: float) -> Path:
        folder = root / f"session_2026-01-0{len(list(root.iterdir())) + 1}_1_1_{pid}"
        log = folder / "logs" / "raylet.out"
        log.parent.mkdir(parents=True)
        log.write_text("x")
        at = time.time() - hours * 3600
        for path in (log, log.parent, folder):
            os.utime(path, (at, at))
        return folder

    dead = 4_194_304 + 1  # more than any pid can be
    old, young, living = session(dead, 25), session(dead, 23), session(os.getpid(), 25)
    busy = session(dead, 25)
    (busy / "logs" / "raylet.out").write_text("still written, from another container")
    (root / "session_latest").symlink_to(old)
    with folders():
        assert [path.exists() for path in (old, young, living, busy)] == [False, True, True, True]


@pytest.mark.parametrize(("home", "given"), [("/proc/nohome", True), ("", False)])
def test_a_home_that_cannot_keep_rays_token_is_done_without(
    base, monkeypatch, tmp_path, home, given
):
    monkeypatch.setenv("RAY_TMPDIR", str(base))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", home or str(tmp_path))
    with folders():
        assert ("RAY_AUTH_TOKEN" in os.environ) is given
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine")
    with folders():
        assert os.environ["RAY_AUTH_TOKEN"] == "mine"
