"""The run folder before its run.json: whose it is, who works on it, claiming and clearing it.

A run claims its folder by `state/RUNID/started.json`, which stays. One process at a time works
there: a holder creates `state/holder/NNNN.json` only if absent and writes it again now and then, as
a sign of life. Whoever finds its holder dead creates the next number: of several who try one
succeeds. A holder that finds a higher number, or its own gone, was taken for dead and gives up.
"""

import _thread
import contextlib
import functools
import getpass
import json
import os
import re
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from satray.errors import InputError, SatrayError
from satray.runs.run import FILE, Run, RunRecord, find_run
from satray.storage import Entry, Storage, join
from satray.storage.temporary import process_lives, process_tag

CLAIM = "started.json"
LOG = "job.log"
SHARED = "schedule.json"
"""Marks a folder that serves the many runs of a schedule."""
FOLDER = "state/holder"
BEAT = 20.0
"""Seconds between signs of life."""
LEASE = 180.0
"""Seconds without one after which a holder that cannot be looked for from here counts as dead."""


@contextlib.contextmanager
def take_folder(
    run: Run, *, overwrite: bool, lost: Callable[[str], None] | None = None
) -> Iterator[RunRecord | None]:
    """Hold and claim the run folder within the block, or find the run done in it.

    What dead writers left there goes. Of several processes one at most is given None, but for the
    runs of a schedule, which share their folder.

    Args:
        run: the run that wants it.
        overwrite: replace another run, or this one where it ended with a verdict; what is there is
            cleared when the new one begins to write products.
        lost: see `hold`; None: the main thread is interrupted.

    Yields:
        The record where the run is done already; None where the work is still to do.

    Raises:
        InputError: the folder holds another run, or files that are no run's.
        SatrayError: another process holds it.
    """
    if run.shared:
        _share(run)
        run.storage.tidy(run.out)
        yield None
        return
    done = find_done(run, overwrite=overwrite)
    with hold(run, lost or _interrupt) if done is None else contextlib.nullcontext():
        if done is None:  # others may have been at it until now
            done = find_done(run, overwrite=overwrite)
        if done is None:
            _create(run, join(run.state, CLAIM), {"run_id": run.run_id, "started": _now()})
            run.storage.tidy(run.out)
        yield done


def _interrupt(reason: str) -> None:
    del reason
    _thread.interrupt_main()


def find_done(run: Run, *, overwrite: bool) -> RunRecord | None:
    """Find the run done in its folder; as `take_folder`, but nothing is written."""
    held = holder(run.storage, run.out)
    other = held is not None and held != run.run_id
    if other and not overwrite:
        raise InputError(
            f"out={run.out}: holds run {held}, and this configuration and input make run "
            f"{run.run_id}; accepted: another out=, or overwrite=true"
        )
    done = None if other else find_run(run.storage, run.out)
    again = overwrite and done is not None and done.verdict is not None
    if done is not None and not again:
        return done
    if other or again:
        run.before_writing = functools.partial(_clear, run.storage, run.out, keep=run.run_id)
    return None


def holder(storage: Storage, out: str) -> str | None:
    """Return the id of the run, finished or not, that holds a folder; None where it is free.

    Raises:
        InputError: the folder holds files, but no run of satray's.
    """
    record = find_run(storage, out)
    if record is not None:
        return record.run_id
    entries = storage.list(out)
    claims = [
        (entry.modified, entry.key.split("/")[1])
        for entry in entries
        if entry.key.startswith("state/") and entry.key.endswith("/" + CLAIM)
    ]
    if claims:
        return max(claims)[1]
    strangers = [entry.key for entry in entries if not entry.key.startswith("state/")]
    if SHARED in strangers:
        raise InputError(
            f"out={out}: serves the runs of a schedule; accepted: a folder of its own, or the "
            "schedule's own key (only_new=true)"
        )
    if strangers:
        raise InputError(
            f"out={out}: holds {len(strangers)} files that are no run's ({strangers[0]}, ...); "
            "accepted: a new or empty folder, or a run's"
        )
    return None


def release(run: Run) -> None:
    """Give the folder back where nothing but the claim and the log was written.

    What was written beside the state (features, say) needs the claim to be known as a run's.
    """
    own = {f"state/{run.run_id}/{name}" for name in (CLAIM, LOG)}
    others = {entry.key for entry in run.storage.list(run.out)} - own
    if any(key.startswith(f"state/{run.run_id}/") for key in others):
        return
    theirs = FILE in others or any(key.endswith(f"/{CLAIM}") for key in others)
    if theirs or all(key.startswith("state/") for key in others):
        run.storage.delete(run.state)


def drop_state(run: Run) -> None:
    """Remove what only an unfinished run needs: checkpoints and blocks are several times its size.

    The claim and the log stay.
    """
    entries = run.storage.list(run.state)
    for name in {entry.key.split("/")[0] for entry in entries} - {CLAIM, LOG}:
        run.storage.delete(join(run.state, name))


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
        since=_now(),
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


def _share(run: Run) -> None:
    """Have the folder serve the runs of a schedule, this one among them.

    Raises:
        InputError: it holds a run of its own, or files that are no run's.
    """
    mark = join(run.out, SHARED)
    if run.storage.exists(mark):
        return
    try:
        held = holder(run.storage, run.out)
    except InputError:
        if run.storage.exists(mark):  # another run of the schedule was first
            return
        raise
    if held is not None:
        raise InputError(
            f"out={run.out}: holds run {held}; accepted for the runs of a schedule: a folder that "
            "is theirs alone"
        )
    _create(run, mark, {"since": _now()})


def _create(run: Run, uri: str, about: dict[str, str]) -> None:
    """Write a mark of the run's job where there is none."""
    with contextlib.suppress(FileExistsError):
        run.storage.write(uri, json.dumps({"job": run.job} | about).encode(), if_absent=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _clear(storage: Storage, out: str, keep: str) -> None:
    """Remove the run that a folder holds: its record, the files it lists, its state.

    What satray does not know to be its own stays, and so does the state of run `keep`.
    """
    record = find_run(storage, out)
    if record is not None:
        storage.delete(join(out, FILE))
        for product in record.products:
            storage.delete(join(out, product.path))
    state = join(out, "state")
    for name in {entry.key.split("/")[0] for entry in storage.list(state)}:
        if name != keep and re.fullmatch("[0-9a-f]{12}", name):
            storage.delete(join(state, name))


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
