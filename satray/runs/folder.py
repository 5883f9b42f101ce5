"""Whose a run folder is before its run.json, and who works in it: claimed, kept, given back.

A process that works in a folder claims it: it creates `state/claims/NNNN.json` only if absent, and
writes it again now and then, as a sign of life. Until there is a run.json the newest claim says
whose the folder is. Whoever finds its maker gone, or done with it, creates the next number: of
several who try one succeeds. A process that finds a higher number, or its own gone, was taken for
dead and gives up.
"""

import contextlib
import functools
import json
import os
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from socket import gethostname

from satray.errors import InputError, SatrayError, counted, listed
from satray.runs.run import FILE, Run, RunRecord, find_run
from satray.storage import Storage, join
from satray.storage.temporary import process_lives, process_tag

LOG = "job.log"
SHARED = "schedule.json"
"""Marks a folder that serves the many runs of a schedule."""
CLAIMS = "state/claims"
BEAT = 20.0
"""Seconds between signs of life."""
LEASE = 180.0
"""Seconds without one after which a process that cannot be looked for from here counts as dead."""


@contextlib.contextmanager
def take_folder(
    run: Run,
    *,
    overwrite: bool,
    lost: Callable[[str], None],
    beat: float = BEAT,
    lease: float = LEASE,
) -> Iterator[RunRecord | None]:
    """Claim the run folder within the block, or find the run done in it.

    What dead writers left there goes. Of several processes one at most is given None, but for the
    runs of a schedule, which share their folder. After a block that found the input wrong, and
    wrote nothing but its log, the folder is whose it was before.

    Args:
        run: the run that wants it.
        overwrite: replace another run, which is cleared when this one begins to write products.
        lost: told, from a thread, why the folder is this process's no longer; it is to end.
        beat: seconds between signs of life.
        lease: seconds without one after which others take over.

    Yields:
        The record where the run is done already; None where the work is still to do.

    Raises:
        InputError: the folder holds another run, or files that are no run's.
        SatrayError: another process works in it, which is no fault of the command's.
    """
    if run.shared:
        _share(run)
        run.storage.tidy(run.out)
        yield None
        return
    done = _find_done(run, overwrite)
    if done is not None:
        yield done
        return
    claim = _claim(run, lease)
    stop = threading.Event()

    def live() -> None:
        while not stop.wait(beat):
            with contextlib.suppress(SatrayError):  # a store that is away for a while
                if not _holds(run, claim):
                    lost(f"out={run.out}: another process took it over, or removed `{CLAIMS}`")
                    return
                _write(run, claim)

    thread = threading.Thread(target=live, name="claim", daemon=True)
    thread.start()
    wrong = False
    try:
        done = _find_done(run, overwrite)  # others may have been at it until now
        if done is None:
            run.storage.tidy(run.out)
        yield done
    except InputError:
        wrong = True
        raise
    finally:
        stop.set()
        thread.join(timeout=beat)
        with contextlib.suppress(SatrayError):
            if _holds(run, claim):
                if wrong and not _wrote(run, claim):
                    run.storage.delete(run.state)
                    run.storage.delete(run.uri(claim.key))
                else:
                    _write(run, replace(claim, maker=""))


def holder(storage: Storage, out: str, *, shared: bool = False) -> str | None:
    """Return the id of the run, finished or not, that holds a folder; None where it is free.

    Args:
        storage: how it is reached.
        out: the folder.
        shared: a folder that serves the runs of a schedule is free.

    Raises:
        InputError: the folder holds files, but no run of its own: a schedule's, say.
    """
    record = find_run(storage, out)
    if record is not None:
        return record.run_id
    claim, _ = _newest(storage, out)
    if claim is not None and claim.run_id:
        return claim.run_id
    strangers = [e.key for e in storage.list(out) if not e.key.startswith("state/")]
    if strangers and not (shared and SHARED in strangers):
        raise InputError(
            f"out={out}: holds {len(strangers)} files, and not of a single run ({strangers[0]}, "
            "...); accepted: a new or empty folder, or a run's"
        )
    return None


@dataclass(frozen=True)
class _Claim:
    """Which process works in a run folder, or did until it gave it back."""

    number: int
    """Its place among the claims on the folder."""
    run_id: str
    """The run that it does; empty where the claim cannot be read."""
    who: str
    """The process in words, and since when (UTC, ISO 8601)."""
    maker: str
    """Tag of the process (`process_tag`); empty once it is done with the folder."""

    @property
    def key(self) -> str:
        """Where it is below the folder."""
        return f"{CLAIMS}/{self.number:04d}.json"


def _find_done(run: Run, overwrite: bool) -> RunRecord | None:
    """Find the run done in its folder, or have what is there cleared, or refuse."""
    held = holder(run.storage, run.out)
    if held == run.run_id and (done := find_run(run.storage, run.out)) is not None:
        return done
    if held not in (None, run.run_id) and not overwrite:
        raise InputError(
            f"out={run.out}: holds run {held}, and this configuration and input make run "
            f"{run.run_id}; accepted: another out=, or overwrite=true"
        )
    run.before_writing = functools.partial(_clear, run)
    return None


def _clear(run: Run) -> None:
    """Remove the runs that a folder held: the files that their records list, and their state.

    A record goes to its run's state first: one at its place means complete, and a clearing that is
    cut short is gone on with. What no record lists stays, since a person may have put it there.
    """
    record = find_run(run.storage, run.out)
    if record is not None:
        run.storage.write(run.uri("state", record.run_id, FILE), record.to_json())
        run.storage.delete(run.uri(FILE))
    names = {entry.key.split("/")[0] for entry in run.storage.list(run.uri("state"))}
    others = [n for n in names - {run.run_id} if re.fullmatch("[0-9a-f]{12}", n)]
    for name in others:
        record = find_run(run.storage, run.uri("state", name))
        for product in record.products if record is not None else ():
            run.storage.delete(run.uri(product.path))
        run.storage.delete(run.uri("state", name))
    every = run.storage.list(run.out) if others else []
    if left := [entry.key for entry in every if not entry.key.startswith("state/")]:
        files = counted(len(left), "file")
        run.say(f"out={run.out}: {files} that no run.json lists stay: {listed(left, 3)}")


def _share(run: Run) -> None:
    """Have the folder serve the runs of a schedule, this one among them.

    Raises:
        InputError: it holds a run of its own, or files that are no run's.
    """
    mark = run.uri(SHARED)
    if run.storage.exists(mark):
        return
    if (held := holder(run.storage, run.out, shared=True)) is not None:
        raise InputError(
            f"out={run.out}: holds run {held}; accepted for the runs of a schedule: a folder that "
            "is theirs alone"
        )
    with contextlib.suppress(FileExistsError):
        run.storage.write(mark, json.dumps({"job": run.job}).encode(), if_absent=True)


def _claim(run: Run, lease: float) -> _Claim:
    """Create the next claim, or raise SatrayError where another process works in the folder."""
    before, seen = _newest(run.storage, run.out)
    if before is not None and seen is not None and before.maker:
        alive = process_lives(before.maker)
        clock = run.uri(CLAIMS, f".{uuid.uuid4().hex}")  # a store's clock alone tells ages
        run.storage.write(clock, b"")
        age = (run.storage.head(clock).modified - seen).total_seconds()
        run.storage.delete(clock)
        if alive or (alive is None and age <= lease):
            raise _held(run, before, f"last sign of life {max(0, age):.0f} s ago", lease)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    claim = _Claim(
        before.number + 1 if before is not None else 1,
        run.run_id,
        f"process {os.getpid()} of {os.environ.get('USER', os.getuid())} on {gethostname()} since "
        + now,
        process_tag(),
    )
    try:
        _write(run, claim, if_absent=True)
        mine = True
    except FileExistsError:  # somebody was quicker
        mine = False
    there, _ = _newest(run.storage, run.out)  # some stores let two of them write
    if not mine or there != claim:
        raise _held(run, there or claim, "has just begun", lease)
    return claim


def _held(run: Run, claim: _Claim, sign: str, lease: float) -> SatrayError:
    what = "this very run" if claim.run_id == run.run_id else f"run {claim.run_id or 'unknown'}"
    return SatrayError(
        f"out={run.out}: held by {claim.who}, which does {what}, {sign}; wait for it or end it, "
        "then give the command again (on another machine, one that died frees it "
        f"{lease:.0f} s after its last sign of life), or give another out="
    )


def _holds(run: Run, claim: _Claim) -> bool:
    newest, _ = _newest(run.storage, run.out)
    return newest is not None and newest.number == claim.number


def _wrote(run: Run, claim: _Claim) -> bool:
    """Whether a run left more than its claim and its log; in another's folder, in its state."""
    own, state = {claim.key, f"state/{run.run_id}/{LOG}"}, f"state/{run.run_id}/"
    left = {entry.key for entry in run.storage.list(run.out)} - own
    another = any(key == FILE or key.startswith(CLAIMS) for key in left)
    return any(key.startswith(state) or not another for key in left)


def _newest(storage: Storage, out: str) -> tuple[_Claim | None, datetime | None]:
    """The newest claim on a folder, and its last sign of life."""
    marks = [e for e in storage.list(join(out, CLAIMS)) if re.fullmatch(r"\d+\.json", e.key)]
    if not marks:
        return None, None
    entry = max(marks, key=lambda mark: int(mark.key[:-5]))
    try:
        claim = _Claim(**json.loads(storage.read(entry.uri)))
    except (InputError, ValueError, TypeError):
        # gone by now; of another version; or cut short: a share without links takes the name first
        claim = _Claim(int(entry.key[:-5]), "", "another process", "unknown")
    return claim, entry.modified


def _write(run: Run, claim: _Claim, *, if_absent: bool = False) -> None:
    content = json.dumps(asdict(claim)).encode()
    run.storage.write(run.uri(claim.key), content, if_absent=if_absent)
