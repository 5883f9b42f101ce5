"""A job, from its command line to its `run.json`: parse, read, resume or refuse, work, record."""

import contextlib
import ctypes
import json
import os
import signal
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from satray import sessions
from satray.config.base import Recipe, StorageOptions
from satray.config.cli import build, render, to_yaml, validate
from satray.errors import InputError, SatrayError, one_line
from satray.runs.console import Console
from satray.runs.folder import LOG, holder, take_folder
from satray.runs.run import Outcome, Run, RunRecord, library_versions, run_id
from satray.storage import Storage, absolute, is_remote, join

KEPT = {-3: 1 << 30, -1: (1 << 31) - 1, -8: 1}
"""Of glibc's `mallopt`: blocks from that size on are given back (`M_MMAP_THRESHOLD`, bytes), so
much may lie idle (`M_TRIM_THRESHOLD`, bytes), and all threads share one heap (`M_ARENA_MAX`)."""
LAG = 1.0
"""Seconds in which what workers printed before they failed arrives."""


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
    that can do without."""
    workers: bool = True
    """Whether it takes `resources.workers` processes; where not, one, whatever is asked for."""
    dashboard: Callable[[R, P], bool] | None = None
    """Whether a Ray that is started for what was read has its dashboard, a dozen processes that
    give back the placement groups of drivers that died; None: never."""
    early: Callable[[R, P, Run], Outcome | P | None] | None = None
    """What comes before Ray is started; an outcome ends the job there, and anything else is what
    `work` is given in place of what was read."""


def main(job: Job[R, P], arguments: Sequence[str] | None = None) -> int:
    """Run a job from the command line and return its exit status."""
    with Console(job.name) as console:
        try:
            with console.heeded():
                return _main(job, list(sys.argv[1:] if arguments is None else arguments), console)
        except BaseException as error:  # whatever ends a job, a line says so
            status, line = (1, "") if console.told else _last_line(job.name, error)
            if line:
                console.error(f"{job.name}: {line}")
            console.error(f"{job.name} ended with status {status}")
            if "ray" in sys.modules and (console.told or not isinstance(error, Exception)):
                sys.stdout.flush()
                os._exit(status)  # on an ordered way out, a Ray that was cut short aborts: 134
            return status


def keep_memory() -> None:
    """Have this process keep the memory that it frees, for what it needs next; before all else.

    Left to itself, glibc gives every block beyond 32 MB back at once, and what threads have beyond
    64 MB in all. A network's activations are such blocks, and their pages are taken anew in each
    forward (bench/RESULTS.md, small work). Other C libraries stay as they are.
    """
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in KEPT.items():
            mallopt(option, value)


def leave(status: int) -> NoReturn:
    """End this process; at once where it holds torch, which Python takes seconds to take apart."""
    if "torch" not in sys.modules:
        sys.exit(status)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def perform(
    job: Job[R, P],
    recipe: R,
    prepared: P,
    run: Run,
    session: AbstractContextManager[None] | None = None,
) -> RunRecord:
    """Do a job's work, write its `run.json`, last, and return what that says.

    Args:
        job: the job.
        recipe: its resolved recipe.
        prepared: what it read.
        run: its claimed run.
        session: what to enter for the work (a Ray, say), once it is known that there is any.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    first = job.early(recipe, prepared, run) if job.early is not None else None
    if isinstance(first, Outcome):
        outcome = first
    else:
        if run.ray and first is not None and callable(job.ray):  # what is left may be small
            run.ray = _wants_ray(job, recipe, first)
        with session or contextlib.nullcontext():
            outcome = job.work(recipe, first or prepared, run)
    run.begin_writing()
    run.seconds["total"] = time.perf_counter() - clock
    record = RunRecord(
        **vars(outcome),
        job=job.name,
        run_id=run.run_id,
        config=json.loads(recipe.model_dump_json()),
        inputs=dict(prepared.digests),
        versions=library_versions(),
        started=started.isoformat(),
        finished=datetime.now(UTC).isoformat(),
        seconds={name: round(spent, 3) for name, spent in run.seconds.items()},
        products=run.products,
    )
    if outcome.idle:  # an hourly job would leave a file an hour
        run.storage.delete(run.state)
        return record
    run.storage.write(run.uri(run.record_path), record.to_json())
    if run.after_record is not None:
        run.after_record()
    drop_state(run)
    return record


def _main(job: Job[R, P], arguments: list[str], console: Console) -> int:
    if "--help" in arguments or "-h" in arguments:
        print(render(job.name, job.recipe), end="")  # noqa: T201
        return 0
    rest = [item for item in arguments if item not in ("--print-config", "--plan")]
    submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    resolve = _submitted if submitted else absolute
    recipe = build(job.recipe, rest, _read_recipe, resolve)
    if "--print-config" in arguments:
        print(to_yaml(recipe), end="")  # noqa: T201
        return 0
    paths = []
    for name, path in recipe.paths(written=False):
        try:  # of those too that stand in no path key of its own
            paths.append((name, resolve(path)))
        except ValueError as error:
            raise InputError(f"{name}={path}: {error}") from None
    if recipe.out is None and submitted:
        raise InputError("out: required under a submitted job; accepted: an absolute path or a URI")
    storage = Storage(recipe.storage)
    prepared = job.read(recipe, storage)
    shared = recipe.shares_out  # then each run is another one
    once = {"run": uuid.uuid4().hex} if shared else {}
    identity = run_id(job.name, recipe, prepared.digests | once)
    out = recipe.out or absolute(join("runs", f"{job.name}-{identity}"))
    _refuse_own_input(paths, out)
    if "--plan" in arguments:
        for line in [*job.plan(recipe, prepared, storage), _fate(identity, out, recipe, storage)]:
            console.say(line)
        return 0
    ray = _wants_ray(job, recipe, prepared)
    run = Run(
        job.name, identity, out, storage, console.say, console.progress, shared=shared, ray=ray
    )
    with take_folder(run, overwrite=recipe.overwrite, lost=console.end) as done:
        record = done or _work(job, recipe, prepared, run, console)
    if done is not None:
        drop_state(run)  # of a process that ended once it had written the record
        # the budget is no part of a run's identity: by today's
        record = replace(record, error_budget=getattr(recipe, "error_budget", record.error_budget))
    for line in record.summary:
        console.say(line)
    if done is not None:
        end = f"was done already (status {record.status})"
    else:
        spent = ", ".join(f"{name} {seconds:.1f}" for name, seconds in record.seconds.items())
        console.say(f"seconds: {spent}")
        over = (
            f", but {record.failed} of {record.attempted} inputs failed "
            f"(error_budget={record.error_budget})"
        )
        end = f"done{over if record.status == 3 else ''} (status {record.status})"
    console.say(f"{job.name} {end}: {out}")
    if record.verdict is not None:
        console.error(f"{job.name}: {record.verdict}")
        console.error(f"{job.name} ended with status {record.status}")
    return record.status


def _work(job: Job[R, P], recipe: R, prepared: P, run: Run, console: Console) -> RunRecord:
    """Do the work with its output in the log, and record it."""
    place = join(run.state, LOG)
    log = _temporary_log(run.run_id) if is_remote(place) else Path(place)
    try:
        with console.quiet(log, place):
            session = _session(job, recipe, prepared, run, console)
            record = perform(job, recipe, prepared, run, session)
    except BaseException as error:
        with log.open("a") as sink:
            traceback.print_exc(file=sink)
        place = _bring(log, place, run.storage)
        if console.told or isinstance(error, InputError) or not isinstance(error, Exception):
            raise
        what = "log:" if isinstance(error, SatrayError) else "traceback in"
        raise SatrayError(f"{one_line(error)} ({what} {place})") from error
    if record.idle:
        log.unlink(missing_ok=True)
    else:
        _bring(log, place, run.storage)
    return record


@contextlib.contextmanager
def _session(job: Job[R, P], recipe: R, prepared: P, run: Run, console: Console) -> Iterator[None]:
    """Ray within the block, where it does the work; local paths are refused on a cluster."""
    if not run.ray:
        yield
        return
    from satray import cluster  # Ray takes a second to import: not for --help

    asked = recipe.resources if job.workers else recipe.resources.model_copy(update={"workers": 1})
    with contextlib.ExitStack() as session:
        with run.activity("starting"):
            dashboard = job.dashboard is not None and job.dashboard(recipe, prepared)
            session.enter_context(cluster.start(asked, dashboard=dashboard, output=True))
        local = [at for at in (*recipe.paths(), ("out", run.out)) if not is_remote(at[1])]
        if local and cluster.spans_machines():
            name, path = local[0]
            raise InputError(
                f"{name}={path}: local, on a cluster of several nodes; accepted: a URI (s3://...)"
            )
        try:
            yield
        except Exception:
            time.sleep(LAG)
            raise
        except BaseException as error:  # said before anything is undone, which may not end well
            console.tell(_last_line(job.name, error)[1])
            raise


def on_ray(recipe: R, prepared: P, large: Callable[[R, P], bool]) -> bool:
    """Whether Ray does the work of a job that can do without; `large`: whether `auto` takes it."""
    if recipe.resources.ray == "auto":
        return sessions.address() is not None or large(recipe, prepared)
    return recipe.resources.ray == "yes"


def drop_state(run: Run) -> None:
    """Remove what only an unfinished run needs: checkpoints and blocks are several times its size.

    The log stays.
    """
    for name in {entry.key.split("/")[0] for entry in run.storage.list(run.state)} - {LOG}:
        run.storage.delete(join(run.state, name))


def _wants_ray(job: Job[R, P], recipe: R, prepared: P) -> bool:
    """Whether Ray does the work, or this process.

    Raises:
        InputError: `resources.ray` is against what the job can do.
    """
    asked, count = recipe.resources.ray, recipe.resources.workers
    if asked == "no" and job.workers and count > 1:
        raise InputError(
            f"resources.ray=no: one process does the work, and resources.workers={count}; "
            "accepted: 1, or resources.ray=auto"
        )
    if callable(job.ray):
        return on_ray(recipe, prepared, job.ray)
    if job.ray and asked == "no":
        raise InputError(f"resources.ray=no: {job.name} needs Ray; accepted: auto, yes")
    return job.ray


def _fate(identity: str, out: str, recipe: Recipe, storage: Storage) -> str:
    if recipe.shares_out:
        return f"one of the runs that share {out}"
    held = holder(storage, out)
    if held is None:
        return f"run {identity} would be written to {out}"
    if held == identity:
        return f"run {identity} is in {out}: found done, or gone on with"
    word = "replaced by" if recipe.overwrite else "refused (overwrite=true replaces it)"
    return f"{out} holds run {held}: {word} run {identity}"


def _refuse_own_input(paths: Sequence[tuple[str, str]], out: str) -> None:
    """Refuse an `out` that the job reads from: it would find, or clear, its own products."""
    for name, path in paths:
        folder, below = path.rstrip("/") + "/", out.rstrip("/") + "/"
        inside = name in ("images", "tiles", "scenes") and below.startswith(folder)
        if inside or folder.startswith(below):
            raise InputError(
                f"out={out}: overlaps {name}={path}, which the job reads; accepted: a folder of "
                "its own"
            )


def _submitted(path: str) -> str:
    if "://" not in path and not Path(path).expanduser().is_absolute():
        raise ValueError(
            "relative, under a submitted job, whose folder is a copy; accepted: an absolute path "
            "or a URI"
        )
    return absolute(path)


def _read_recipe(path: str, options: dict[str, Any]) -> bytes:
    storage = Storage(validate(StorageOptions, options))
    uri = absolute(path)
    if not storage.exists(uri):
        raise InputError(f"{path}: no such recipe; accepted: a YAML file, then dotted.key=value")
    return storage.read(uri)


def _bring(log: Path, place: str, storage: Storage) -> str:
    """Bring a log to its run folder, and return where it is then: what went before counts more."""
    if is_remote(place):
        try:
            storage.upload(log, place)
        except SatrayError:
            return str(log)
        log.unlink()
    return place


def _temporary_log(name: str) -> Path:
    handle, path = tempfile.mkstemp(".log", f"satray-{name}-")
    os.close(handle)
    return Path(path)


def _last_line(name: str, error: BaseException) -> tuple[int, str]:
    """Exit status and the line for what ended a job."""
    go_on = "; the same command continues it"
    match error:
        case SatrayError():
            return error.exit_status, str(error)
        case KeyboardInterrupt():
            return 1, f"interrupted{go_on}"
        case SystemExit():  # by a signal, or by whatever else turned into an exit
            how = "SIGTERM" if error.code == signal.SIGTERM else f"exit {error.code}"
            return 1, f"told to end ({how}){go_on}"
    line = one_line(error)
    with contextlib.suppress(OSError):  # a defect, but the person gets a line all the same
        log = _temporary_log(name)
        log.write_text("".join(traceback.format_exception(error)))
        line += f" (traceback in {log})"
    return 1, line
