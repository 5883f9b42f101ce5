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
    if strangers:
        raise InputError(
            f"out={out}: holds {len(strangers)} files that are no run's ({strangers[0]}, ...); "
            "accepted: a new or empty folder, or a run's"
        )
    return None


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
