"""Do a job in its run folder, and record it: what the frame and the demo have in common."""

import functools
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Generic, Protocol, TypeVar

from satray import __version__
from satray.config.base import Recipe
from satray.errors import InputError
from satray.runs.folder import claim, clear, drop_state, holder, share
from satray.runs.record import RunRecord, find_run
from satray.runs.run import Outcome, Run
from satray.storage import Storage


class Prepared(Protocol):
    """What a job's `read` hands on to its `plan` and `work`, so that each input is read once."""

    @property
    def digests(self) -> dict[str, str]:
        """Digest of each input by key; they are part of the run id."""


@dataclass(frozen=True)
class Inputs:
    """What a job read that needs nothing but its digests."""

    digests: dict[str, str] = field(default_factory=dict)
    """Digest of each input by key."""


R = TypeVar("R", bound=Recipe)
P = TypeVar("P", bound=Prepared)
LIBRARIES = ("ray", "torch", "torchvision", "timm", "numpy", "pyarrow", "rasterio", "scikit-learn")


@dataclass(frozen=True)
class Job(Generic[R, P]):
    """One job: its recipe and the three functions that do it."""

    name: str
    """Name, as in `jobs/NAME.py`."""
    recipe: type[R]
    """Its recipe; the docstring is its one line of help."""
    read: Callable[[R, Storage], P]
    """Looks at the inputs once; raises InputError. No Ray, nothing written."""
    plan: Callable[[R, P, Storage], list[str]]
    """Lines that `--plan` prints of what was read. No Ray, nothing written."""
    work: Callable[[R, P, Run], Outcome]
    """Does the job with what was read. Ray is up where `run.ray` says so."""
    ray: bool | Callable[[R, P], bool] = True
    """Whether it needs Ray. Asked of what was read: whether `resources.ray=auto` takes it, of a job
    that can do without. Where not, none is started, but a cluster is joined all the same."""
    workers: bool = True
    """Whether it takes `resources.workers` processes; where not, one, whatever is asked for."""
    dashboard: bool = False
    """Whether a Ray that is started has its dashboard, which gives back the placement groups of
    drivers that died."""
    early: Callable[[R, P, Run], Outcome | None] | None = None
    """What comes before Ray is started; an outcome ends the job there."""


def take_folder(run: Run, *, overwrite: bool) -> RunRecord | None:
    """Claim the run folder, or find the run done in it; what dead writers left there goes.

    Args:
        run: the run that wants it.
        overwrite: replace another run, or this one where it ended with a verdict; what is there is
            cleared when the new one begins to write products.

    Returns:
        The record where the run is done already; None where the work is still to do.

    Raises:
        InputError: the folder holds another run, or files that are no run's.
    """
    if run.shared:
        share(run)
        run.storage.tidy(run.out)
        return None
    done = find_done(run, overwrite=overwrite)
    if done is None:
        claim(run)
        run.storage.tidy(run.out)
    return done


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
        run.before_writing = functools.partial(clear, run.storage, run.out, keep=run.run_id)
    return None


def perform(
    job: Job[R, P],
    recipe: R,
    prepared: P,
    run: Run,
    work: Callable[[R, P, Run], Outcome] | None = None,
    inputs: Mapping[str, str] | None = None,
) -> tuple[Outcome, RunRecord]:
    """Do a job's work and write its `run.json`, last.

    Args:
        job: the job.
        recipe: its resolved recipe.
        prepared: what it read.
        run: its claimed run.
        work: what to call in place of `job.work` (with Ray started around it, say).
        inputs: digests by key where they are more than those of what was read.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    early = job.early(recipe, prepared, run) if job.early is not None else None
    outcome = early or (work or job.work)(recipe, prepared, run)
    run.begin_writing()
    run.seconds["total"] = time.perf_counter() - clock
    record = RunRecord(
        job=job.name,
        run_id=run.run_id,
        status=outcome.status,
        config=json.loads(recipe.model_dump_json()),
        inputs=dict(prepared.digests if inputs is None else inputs),
        versions=library_versions(),
        started=started.isoformat(),
        finished=datetime.now(UTC).isoformat(),
        counts=outcome.counts,
        metrics=outcome.metrics,
        seconds={name: round(spent, 3) for name, spent in run.seconds.items()},
        summary=outcome.summary,
        products=run.products,
        verdict=outcome.verdict,
    )
    if run.shared and outcome.idle:  # an hourly job would leave a file an hour
        run.storage.delete(run.state)
        return outcome, record
    run.storage.write(run.uri(run.record_path), record.to_json())
    if run.after_record is not None:
        run.after_record()
    drop_state(run)
    return outcome, record


def library_versions() -> dict[str, str]:
    """Versions of satray, Python and the libraries that results depend on, by name."""
    found = {"satray": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
