"""Where a local Ray lives, which of its processes are which, and what it leaves behind."""

import contextlib
import errno
import os
import re
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from satray.errors import SatrayError
from satray.storage.temporary import DAY, last_written, scratch, started, user_folder

SESSION = "session_0000-00-00_00-00-00_000000_0000000"
"""As long as the name of a session of Ray's can be: time and pid."""
SERVERS = {"raylet": 20.0, "gcs_server": 0.0}
"""Programs without which a local Ray is dead, and the seconds in which its driver can still end."""

Lost = Callable[[str, float], None]
_RAYS = re.compile(rb"^ray::|/ray/(_private|autoscaler|core|dashboard)/")
_ROOM = 1 << 20  # bytes that a folder for sessions must take


def session_root() -> Path:
    """Make the folder for Ray's sessions: the first that has room and takes sockets.

    Ray's sockets are files whose whole path may have 107 bytes, on a file system that knows them;
    batch systems like temporary folders that are longer. Old sessions go.

    Raises:
        SatrayError: there is none; says what is wrong with each.
    """
    refused = []
    for base in _bases():
        try:
            if re.search(r"[\s'\"\\$]", base):  # Ray passes it on within command lines
                raise OSError(errno.EINVAL, "a blank, quote or the like in its name")
            root = user_folder(base) / "ray"
            root.mkdir(exist_ok=True)
            _try_sockets(root)
        except OSError as error:
            refused.append(f"{base}: {error.strerror or error}")
        else:
            sweep_sessions(root)
            return root
    longest = 107 - len(f"/satray-{os.getuid()}/ray/{SESSION}/sockets/plasma_store")
    raise SatrayError(
        f"no folder for Ray's sockets ({'; '.join(refused)}); accepted: RAY_TMPDIR=, a local "
        f"folder that you may write, its name of at most {longest} bytes"
    )


def give_token() -> None:
    """Give a local Ray a token of this process's own where the home folder cannot keep one.

    Ray writes its token there, and does not start where batch systems give no such folder.
    """
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    token = Path(os.path.expanduser("~")) / ".ray" / "auth_token"
    try:
        token.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        return
    if not token.exists() and not os.access(token.parent, os.W_OK):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def sweep_sessions(root: Path) -> None:
    """Remove sessions of Ray's whose driver is gone and in which nothing was written for a day."""
    for session in root.glob("session_*_*"):
        pid = session.name.rpartition("_")[2]
        with contextlib.suppress(OSError):
            old = time.time() - last_written(session) > DAY
            if old and not session.is_symlink() and pid.isdigit() and not started(int(pid)):
                shutil.rmtree(session, ignore_errors=True)


def _bases() -> list[str]:
    asked = [os.environ.get(name) for name in ("RAY_TMPDIR", "TMPDIR")]
    usual = ["/tmp", "/var/tmp", "/dev/shm", os.environ.get("XDG_RUNTIME_DIR")]
    return [base for base in dict.fromkeys(asked + usual) if base]


def _try_sockets(root: Path) -> None:
    """Make a socket as Ray will, and a file, and remove them."""
    probe = root / f"{SESSION[:-12]}{uuid.uuid4().hex[:12]}"
    (probe / "sockets").mkdir(parents=True)
    try:
        with socket.socket(socket.AF_UNIX) as trial:
            trial.bind(str(probe / "sockets" / "plasma_store"))
        with (probe / "room").open("wb") as file:
            file.write(bytes(_ROOM))
            file.flush()
            os.fsync(file.fileno())
    finally:
        shutil.rmtree(probe, ignore_errors=True)


@contextlib.contextmanager
def spilling(root: Path) -> Iterator[str | None]:
    """Where objects that memory does not hold go: beside the sessions, which None says, or else.

    A session that was put elsewhere for its sockets' sake (in memory, it may be) leaves them in the
    temporary folder that was asked for.
    """
    temporary = Path(tempfile.gettempdir()).absolute()
    if root.is_relative_to(temporary) or "RAY_object_spilling_directory" in os.environ:
        yield None
        return
    with scratch("spill") as folder:
        yield str(folder)


def servers_of(driver: int) -> dict[str, int]:
    """Find the pids of the servers that a driver started, by the program's name.

    Args:
        driver: pid of the process that called `ray.init`, this one or another of this machine.
    """
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name, _, rest = (entry / "stat").read_text(errors="replace").rpartition(")")
            name = name.partition("(")[2]
            if name in SERVERS and int(rest.split()[1]) == driver:
                found[name] = int(entry.name)
    return found


@contextlib.contextmanager
def guarded(session: str, lost: Lost, seconds: float = 0.5) -> Iterator[None]:
    """Watch this process's Ray within the block: what dies there is noticed at once.

    Ray itself takes a quarter of a minute, then ends this process or names whatever it misses.

    Args:
        session: folder of Ray's session; the end of a dead server's log is copied to ours.
        lost: told, from a thread, which server died, and in how many seconds the process has to
            end: without the GCS any call of Ray's may abort it.
        seconds: between looks.
    """
    servers = servers_of(os.getpid())
    stop = threading.Event()

    def look() -> None:
        while servers and not stop.wait(seconds):
            for name in [name for name, pid in servers.items() if not started(pid)]:
                _show_end(Path(session) / "logs", name)
                lost(
                    f"Ray's {name} (process {servers.pop(name)}) died: killed, or the machine was "
                    "out of memory?; the same command continues the run",
                    SERVERS[name],
                )

    thread = threading.Thread(target=look, name="guard", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _show_end(logs: Path, name: str, size: int = 8192) -> None:
    """Write the end of a server's logs to standard error, which is the job's log."""
    for path in (logs / f"{name}.out", logs / f"{name}.err"):
        with contextlib.suppress(OSError):
            end = path.read_bytes()[-size:]
            os.write(2, f"== end of {path.name} ==\n".encode() + end + b"\n")


def processes_of(session: str) -> list[int]:
    """Ray's processes that have files of a session open (agents and workers: their logs)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(entry.name) == os.getpid() or not _RAYS.search((entry / "cmdline").read_bytes()):
                continue
            links = (os.readlink(link) for link in (entry / "fd").iterdir())
            if any(link.startswith(session + "/") for link in links):
                found.append(int(entry.name))
    return found


def end_own(root: Path) -> None:
    """End what a start of Ray that failed has left of this process's sessions."""
    for session in root.glob(f"session_*_{os.getpid()}"):
        end_session(str(session), patience=0)


def end_session(session: str, patience: float = 5.0) -> None:
    """End what still runs of a session of Ray's whose driver is dead.

    Args:
        session: its folder.
        patience: seconds in which it may end by itself.
    """
    until = time.monotonic() + patience
    while (left := processes_of(session)) and time.monotonic() < until:
        time.sleep(0.5)
    for pid in left:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
