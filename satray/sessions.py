"""The machine that a job runs on: its cores, which Ray it works on, where a local one lives."""

import contextlib
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from satray.errors import SatrayError
from satray.storage.temporary import DAY, last_written, scratch

SESSION = "session_0000-00-00_00-00-00_000000_0000000"
"""As long as the name of a session of Ray's can be: time and pid."""
_SPILLING = "RAY_object_spilling_directory"


def cores() -> int:
    """Cores that this process may use; fewer than the machine's in many containers."""
    return len(os.sched_getaffinity(0))


def address() -> str | None:
    """The cluster that RAY_ADDRESS names; None: a local Ray is started for the job."""
    named = os.environ.get("RAY_ADDRESS", "")
    return None if named in ("", "local") else named


@contextlib.contextmanager
def folders() -> Iterator[tuple[Path, str]]:
    """Give the folder for Ray's sessions, and the one where objects go that memory cannot hold.

    Sessions are in the first place that takes sockets: files whose whole path may have 107 bytes,
    and batch systems like temporary folders that are longer. Objects go to the temporary folder.
    Sessions go in which nothing was written for a day.

    Raises:
        SatrayError: there is no such place; says what is wrong with each.
    """
    root = _root()
    for session in root.glob("session_*_*"):
        with contextlib.suppress(OSError):  # one that lives writes its state there all the time
            if time.time() - last_written(session) > DAY:
                shutil.rmtree(session)
    with scratch("spill") as spill:
        yield root, os.environ.get(_SPILLING, str(spill))


def _root() -> Path:
    """Make the folder in the first place that can hold it."""
    named = (os.environ.get("RAY_TMPDIR"), os.environ.get("TMPDIR"))
    refused = []
    for base in filter(None, (*named, "/tmp", "/var/tmp", "/dev/shm")):
        try:
            if re.search(r"[\s'\"\\$]", base):
                raise OSError("a blank, quote or the like, which Ray puts in command lines")
            home = Path(base).absolute() / f"satray-{os.getuid()}"
            home.mkdir(mode=0o700, exist_ok=True)
            if home.is_symlink() or home.lstat().st_uid != os.getuid():
                raise OSError("somebody else's, who could then read and change what is there")
            home.chmod(0o700)
            root = home / "ray"
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
