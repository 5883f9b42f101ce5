"""A local Ray beside the driver: its folders, its servers, what it leaves behind. No Ray itself."""

import contextlib
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


@contextlib.contextmanager
def folders() -> Iterator[tuple[Path, str | None]]:
    """Give the folder for Ray's sessions, and the one where objects that memory cannot hold go.

    Sessions are in the first place that has room and takes sockets: these are files whose whole
    path may have 107 bytes, and batch systems like temporary folders that are longer. Objects go
    beside them (None), or else, since that place may be in memory, to the temporary folder.
    Sessions go whose driver is gone and in which nothing was written for a day. Where the home
    folder cannot keep the token that Ray writes there, this process gets one of its own.

    Raises:
        SatrayError: there is no such place; says what is wrong with each.
    """
    names = [os.environ.get(name) for name in ("RAY_TMPDIR", "TMPDIR")]
    usual = ["/tmp", "/var/tmp", "/dev/shm", os.environ.get("XDG_RUNTIME_DIR")]
    refused = []
    for base in filter(None, dict.fromkeys(names + usual)):
        try:
            root = _sessions_below(base)
            break
        except OSError as error:
            refused.append(f"{base}: {error.strerror or error}")
    else:
        longest = 107 - len(f"/satray-{os.getuid()}/ray/{SESSION}/sockets/plasma_store")
        raise SatrayError(
            f"no folder for Ray's sockets ({'; '.join(refused)}); accepted: RAY_TMPDIR=, a local "
            f"folder that you may write, its name of at most {longest} bytes"
        )
    _sweep(root)
    _give_token()
    temporary = Path(tempfile.gettempdir()).absolute()
    if root.is_relative_to(temporary) or "RAY_object_spilling_directory" in os.environ:
        yield root, None
        return
    with scratch("spill") as spill:
        yield root, str(spill)


def _sessions_below(base: str) -> Path:
    """Make the folder, and try a socket in it as Ray will make it, and a file."""
    if re.search(r"[\s'\"\\$]", base):
        raise OSError("a blank, quote or the like in its name, which Ray puts in command lines")
    root = user_folder(base) / "ray"
    root.mkdir(exist_ok=True)
    probe = root / f"{SESSION[:-12]}{uuid.uuid4().hex[:12]}"
    (probe / "sockets").mkdir(parents=True)
    try:
        with socket.socket(socket.AF_UNIX) as trial:
            trial.bind(str(probe / "sockets" / "plasma_store"))
        with (probe / "room").open("wb") as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
    finally:
        shutil.rmtree(probe, ignore_errors=True)
    return root


def _sweep(root: Path) -> None:
    for session in root.glob("session_*_*"):
        pid = session.name.rpartition("_")[2]
        with contextlib.suppress(OSError):
            old = time.time() - last_written(session) > DAY
            if old and not session.is_symlink() and pid.isdigit() and not started(int(pid)):
                shutil.rmtree(session, ignore_errors=True)


def _give_token() -> None:
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    token = Path(os.path.expanduser("~")) / ".ray" / "auth_token"
    with contextlib.suppress(OSError):
        token.parent.mkdir(parents=True, exist_ok=True)
        if token.exists() or os.access(token.parent, os.W_OK):
            return
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@contextlib.contextmanager
def guarded(session: str, lost: Lost, seconds: float = 0.5) -> Iterator[None]:
    """Watch this process's Ray within the block: what dies there is noticed at once.

    Ray itself takes a quarter of a minute, then ends this process or names whatever it misses.

    Args:
        session: folder of Ray's session; the end of a dead server's log goes to standard error,
            which is the job's log.
        lost: told, from a thread, which server died, and in how many seconds the process has to
            end: without the GCS any call of Ray's may abort it.
        seconds: between looks.
    """
    servers = {pid: name for pid, name, parent in _processes() if parent == os.getpid()}
    servers = {pid: name for pid, name in servers.items() if name in SERVERS}
    stop = threading.Event()

    def look() -> None:
        while servers and not stop.wait(seconds):
            for pid in [pid for pid in servers if not started(pid)]:
                name = servers.pop(pid)
                for path in (Path(session) / "logs" / f"{name}.{end}" for end in ("out", "err")):
                    with contextlib.suppress(OSError):
                        end = path.read_bytes()[-8192:]
                        os.write(2, f"== end of {path.name} ==\n".encode() + end + b"\n")
                lost(
                    f"Ray's {name} (process {pid}) died: killed, or the machine was out of "
                    "memory?; the same command continues the run",
                    SERVERS[name],
                )

    thread = threading.Thread(target=look, name="guard", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def end_session(session: str, patience: float = 5.0) -> None:
    """End what still runs of a session of Ray's whose driver is dead, or never came up.

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


def processes_of(session: str) -> list[int]:
    """Ray's processes that have files of a session open (agents and workers: their logs)."""
    found = []
    for pid, _, _ in _processes():
        folder = Path(f"/proc/{pid}")
        with contextlib.suppress(OSError):
            if pid == os.getpid() or not _RAYS.search((folder / "cmdline").read_bytes()):
                continue
            links = (os.readlink(link) for link in (folder / "fd").iterdir())
            if any(link.startswith(session + "/") for link in links):
                found.append(pid)
    return found


def _processes() -> Iterator[tuple[int, str, int]]:
    """Pid, program's name and parent of each process."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name, _, rest = (entry / "stat").read_text(errors="replace").rpartition(")")
            yield int(entry.name), name.partition("(")[2], int(rest.split()[1])
