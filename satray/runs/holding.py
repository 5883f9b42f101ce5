"""One process at a time works on a run folder: who holds it, and whether that one still lives.

A holder creates `state/holder/NNNN.json` only if absent and writes it again now and then, as a sign
of life. Whoever finds its holder dead creates the next number: of several who try, one succeeds. A
holder that finds a higher number, or its own gone, has been taken for dead and gives up.
"""

import contextlib
import getpass
import json
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from satray.errors import InputError, SatrayError
from satray.runs.run import Run
from satray.storage import Entry, Storage, join
from satray.storage.temporary import process_lives, process_tag

FOLDER = "state/holder"
BEAT = 20.0
"""Seconds between signs of life."""
LEASE = 180.0
"""Seconds without one after which a holder that cannot be looked for from here counts as dead."""


@dataclass(frozen=True)
class Holder:
    """Who holds a run folder."""

    run_id: str
    """The run that it does."""
    host: str
    """Name of its machine."""
    pid: int
    """Its process there."""
    user: str
    """Whose process that is."""
    since: str
    """UTC, ISO 8601."""
    maker: str
    """Tag of the process (`process_tag`)."""
    token: str
    """Nobody else's."""


@contextlib.contextmanager
def hold(
    run: Run, lost: Callable[[str], None], beat: float = BEAT, lease: float = LEASE
) -> Iterator[None]:
    """Hold a run's folder within the block.

    Args:
        run: the run.
        lost: told, from a thread, why the folder is this process's no longer; it is to end.
        beat: seconds between signs of life.
        lease: seconds without one after which others take over.

    Raises:
        SatrayError: another process holds it, which is no fault of the command's: status 1.
    """
    me = Holder(
        run_id=run.run_id,
        host=socket.gethostname(),
        pid=os.getpid(),
        user=_user(),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        maker=process_tag(),
        token=uuid.uuid4().hex,
    )
    folder, data = join(run.out, FOLDER), json.dumps(asdict(me)).encode()
    mark = _take(run, folder, me, data, lease)
    stop = threading.Event()

    def live() -> None:
        while not stop.wait(beat):
            with contextlib.suppress(SatrayError):  # a store that is away for a while
                if _newest(run.storage, folder)[0] > mark or not run.storage.exists(
                    _uri(folder, mark)
                ):
                    lost(f"out={run.out}: another process took it over, or removed `{FOLDER}`")
                    return
                run.storage.write(_uri(folder, mark), data)

    thread = threading.Thread(target=live, name="holder", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=beat)
        with contextlib.suppress(SatrayError):
            if _newest(run.storage, folder)[0] <= mark:
                run.storage.delete(folder)


def _take(run: Run, folder: str, me: Holder, data: bytes, lease: float) -> int:
    """Create the next mark and return its number."""
    number, newest = _newest(run.storage, folder)
    while newest is not None and not run.storage.exists(newest.uri):  # given back since
        number, newest = _newest(run.storage, folder)
    if newest is not None:
        _refuse_living(run, folder, newest, lease)
    uri = _uri(folder, number + 1)
    with contextlib.suppress(FileExistsError):  # of one who was quicker, or of a try that took
        run.storage.write(uri, data, if_absent=True)
    there = _read(run.storage, uri)
    if there is None or there.token != me.token:
        raise SatrayError(_held(run, there, "has just begun", lease))
    return number + 1


def _refuse_living(run: Run, folder: str, newest: Entry, lease: float) -> None:
    """Raise where a mark's holder lives, or may live."""
    holder = _read(run.storage, newest.uri)
    alive = process_lives(holder.maker) if holder else None
    if alive is False:
        return
    clock = join(folder, ".clock")  # the age is told by the store's clock alone
    run.storage.write(clock, b"")
    age = (run.storage.head(clock).modified - newest.modified).total_seconds()
    if alive is None and age > lease:
        return
    raise SatrayError(_held(run, holder, f"last sign of life {max(0, age):.0f} s ago", lease))


def _held(run: Run, holder: Holder | None, sign: str, lease: float) -> str:
    who = "another process"
    free = ""
    if holder is not None:
        what = "this very run" if holder.run_id == run.run_id else f"run {holder.run_id}"
        who = (
            f"process {holder.pid} of {holder.user} on {holder.host}, which does {what} since "
            f"{holder.since}"
        )
    if holder is None or process_lives(holder.maker) is None:
        free = f" (one that died frees it {lease:.0f} s after its last sign of life)"
    return (
        f"out={run.out}: held by {who}, {sign}; wait for it or end it, then give the command "
        f"again{free}, or give another out="
    )


def _newest(storage: Storage, folder: str) -> tuple[int, Entry | None]:
    """The highest mark and its number; 0 where there is none."""
    marks = [
        (int(entry.key[:-5]), entry)
        for entry in storage.list(folder)
        if entry.key.endswith(".json") and entry.key[:-5].isdigit()
    ]
    return max(marks, key=lambda mark: mark[0], default=(0, None))


def _read(storage: Storage, uri: str) -> Holder | None:
    """Read a mark; None where it is gone or no holder's."""
    try:
        return Holder(**json.loads(storage.read(uri)))
    except (InputError, ValueError, TypeError):
        return None


def _uri(folder: str, number: int) -> str:
    return join(folder, f"{number:04d}.json")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # containers know some users by number only
        return str(os.getuid())
