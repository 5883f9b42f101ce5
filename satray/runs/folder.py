"""The run folder before its run.json: who holds it, claiming and clearing it."""

import contextlib
import json
import re
from datetime import UTC, datetime

from satray.errors import InputError
from satray.runs.record import FILE, find_run
from satray.runs.run import Run
from satray.storage import Storage, join

CLAIM = "started.json"
LOG = "job.log"
SHARED = "schedule.json"
"""Marks a folder that serves the many runs of a schedule."""
RUN_ID = re.compile(r"[0-9a-f]{12}")


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


def share(run: Run) -> None:
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
    text = {"job": run.job, "since": datetime.now(UTC).isoformat()}
    with contextlib.suppress(FileExistsError):
        run.storage.write(mark, json.dumps(text).encode(), if_absent=True)


def claim(run: Run) -> None:
    """Mark the folder as this run's; a claim of the same run stays as it is."""
    text = {"job": run.job, "run_id": run.run_id, "started": datetime.now(UTC).isoformat()}
    with contextlib.suppress(FileExistsError):
        run.storage.write(join(run.state, CLAIM), json.dumps(text).encode(), if_absent=True)


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


def clear(storage: Storage, out: str, keep: str) -> None:
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
        if name != keep and RUN_ID.fullmatch(name):
            storage.delete(join(state, name))


def drop_state(run: Run) -> None:
    """Remove what only an unfinished run needs: checkpoints and blocks are several times its size.

    The claim and the log stay.
    """
    entries = run.storage.list(run.state)
    for name in {entry.key.split("/")[0] for entry in entries} - {CLAIM, LOG}:
        run.storage.delete(join(run.state, name))
