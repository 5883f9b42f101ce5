"""A local Ray beside the driver: its folders, its servers, what it leaves behind. No Ray itself."""

import contextlib
import errno
import os
import re
import shutil
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from satray.errors import SatrayError
from satray.storage.temporary import DAY, last_written, scratch, started

SESSION = "session_0000-00-00_00-00-00_000000_0000000"
"""As long as the name of a session of Ray's can be: time and pid."""
SERVERS = {"raylet": 20.0, "gcs_server": 0.0}
"""Programs without which a local Ray is dead, and the seconds in which its driver can still end."""

Lost = Callable[[str, float], None]
_SPILLING = "RAY_object_spilling_directory"


@contextlib.contextmanager
def folders() -> Iterator[tuple[Path, str]]:
    """Give the folder for Ray's sessions, and the one where objects go that memory cannot hold.

    Sessions are in the first place that takes sockets: files whose whole path may have 107 bytes,
    and batch systems like temporary folders that are longer. Objects go to the temporary folder.
    Sessions go whose driver is gone and in which nothing was written for a day.

    Raises:
        SatrayError: there is no such place; says what is wrong with each.
    """
    root = _root()
    for session in root.glob("session_*_*"):
        pid = session.name.rpartition("_")[2]
        with contextlib.suppress(OSError):
            if (
                pid.isdigit()
                and not started(int(pid))
                and time.time() - last_written(session) > DAY
            ):
                shutil.rmtree(session)
    with scratch("spill") as spill:
        yield root, os.environ.get(_SPILLING, str(spill))


def _root() -> Path:
    """Make the folder in the first place that can hold it."""
    places = (
        os.environ.get("RAY_TMPDIR"),
        os.environ.get("TMPDIR"),
        "/tmp",
        "/var/tmp",
        "/dev/shm",
    )
    refused = []
    for base in filter(None, dict.fromkeys(places)):
        try:
            if re.search(r"[\s'\"\\$]", base):
                raise OSError("a blank, quote or the like, which Ray puts in command lines")
            root = _user_folder(base) / "ray"
            root.mkdir(exist_ok=True)
            with (
                tempfile.TemporaryDirectory(prefix=SESSION[:-8], dir=root) as probe,
                socket.socket(socket.AF_UNIX) as trial,
            ):
                trial.bind(f"{probe}/sockets-plasma_store")  # as long as sockets/plasma_store
            return root
        except OSError as error:
            refused.append(f"{base}: {error.strerror or error}")
    longest = 107 - len(f"/satray-{os.getuid()}/ray/{SESSION}/sockets/plasma_store")
    raise SatrayError(
        f"no folder for Ray's sockets ({'; '.join(refused)}); accepted: RAY_TMPDIR=, a local "
        f"folder that you may write, its name of at most {longest} bytes"
    )


def _user_folder(base: str) -> Path:
    """Make this user's folder below `base`.

    Raises:
        OSError: it cannot be made, or is somebody else's, who could then read and change it.
    """
    folder = Path(base).absolute() / f"satray-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(errno.EACCES, "is somebody else's", str(folder))
    folder.chmod(0o700)
    return folder


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
    mine = ((pid, name) for pid, name, parent in _processes() if parent == os.getpid())
    servers = {pid: name for pid, name in mine if name in SERVERS}
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(seconds):
            for pid, name in servers.items():
                if started(pid):
                    continue
                for path in (Path(session) / "logs" / f"{name}.{end}" for end in ("out", "err")):
                    with contextlib.suppress(OSError):
                        end = path.read_bytes()[-8192:]
                        os.write(2, f"== end of {path.name} ==\n".encode() + end + b"\n")
                lost(
                    f"Ray's {name} (process {pid}) died: killed or told to end, or the machine was "
                    "out of memory; the same command continues the run",
                    SERVERS[name],
                )
                return

    thread = threading.Thread(target=look, name="guard", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _processes() -> Iterator[tuple[int, str, int]]:
    """Pid, program's name and parent of each process."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name, _, rest = (entry / "stat").read_text(errors="replace").rpartition(")")
            yield int(entry.name), name.partition("(")[2], int(rest.split()[1])
