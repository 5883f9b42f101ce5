"""The frame that every job stands in: parse, look, resume or refuse, work, record."""

import contextlib
import functools
import inspect
import os
import signal
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from satray.config.base import Recipe, StorageOptions
from satray.config.cli import build, render, to_yaml, validate
from satray.errors import InputError, SatrayError
from satray.runs.console import Console
from satray.runs.folder import LOG, holder, release
from satray.runs.holding import hold
from satray.runs.inputs import run_id
from satray.runs.last_words import Ending, Witness, told_to_end
from satray.runs.perform import Job, P, find_done, perform, take_folder
from satray.runs.run import Outcome, Run
from satray.storage import Storage, absolute, is_remote, join
from satray.storage.temporary import log_folder, process_tag

__all__ = ["Job", "main"]

R = TypeVar("R", bound=Recipe)
LAG = 1.0
"""Seconds in which what workers printed before they failed arrives."""
MOST = 8 << 20
"""Bytes of a log that go to a store: its end."""


def main(job: Job[R, P], arguments: Sequence[str] | None = None) -> int:
    """Run a job from the command line and return its exit status."""
    console = Console()
    ending = Ending(lambda line: console.error(f"{job.name}: {line}"))
    try:
        with ending.heeded():
            rest = list(sys.argv[1:] if arguments is None else arguments)
            return _main(job, rest, console, ending)
    except BaseException as error:  # whatever ends a job, a line says so
        status, line = (1, "") if ending.said else _last_line(job.name, error)
        if line:
            console.error(f"{job.name}: {line}")
        console.error(f"{job.name} ended with status {status}")
        if "ray" in sys.modules and (ending.said or not isinstance(error, Exception)):
            sys.stdout.flush()
            os._exit(status)  # on an ordered way out, a Ray that was cut short aborts: status 134
        return status


def _last_line(name: str, error: BaseException) -> tuple[int, str]:
    """Exit status and the line for what ended a job."""
    match error:
        case SatrayError():
            return error.exit_status, str(error)
        case KeyboardInterrupt():
            return 1, told_to_end(signal.SIGINT.value)
        case SystemExit():
            return 1, told_to_end(error.code)
    told = f"{type(error).__name__}: {_first_line(error)}"
    with contextlib.suppress(OSError):  # a defect, but the person gets a line all the same
        log = log_folder() / f"{name}-{process_tag()}.log"
        log.write_text("".join(traceback.format_exception(error)))
        told += f" (traceback in {log})"
    return 1, told


def _main(job: Job[R, P], arguments: list[str], console: Console, ending: Ending) -> int:
    if "--help" in arguments or "-h" in arguments:
        about = inspect.cleandoc(job.recipe.__doc__ or "")
        print(render(job.name, about, job.recipe), end="")  # noqa: T201
        return 0
    show_config, show_plan = "--print-config" in arguments, "--plan" in arguments
    rest = [item for item in arguments if item not in ("--print-config", "--plan")]
    submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    recipe = build(job.recipe, rest, _read_recipe, _submitted if submitted else absolute)
    paths = recipe.paths(written=False)
    if submitted:
        for name, path in paths:  # also those that no key of the recipe's own holds
            try:
                _submitted(path)
            except ValueError as error:
                raise InputError(f"{name}={path}: {error}") from None
    if show_config:
        print(to_yaml(recipe), end="")  # noqa: T201
        return 0
    storage = Storage(recipe.storage)
    prepared = job.read(recipe, storage)
    inputs = dict(prepared.digests)
    shared = recipe.shares_out
    inputs |= {"run": uuid.uuid4().hex} if shared else {}  # each run of a schedule is another one
    identity = run_id(job.name, recipe, inputs)
    if recipe.out is None and submitted:
        raise InputError("out: required under a submitted job; accepted: an absolute path or a URI")
    out = recipe.out or absolute(join("runs", f"{job.name}-{identity}"))
    _refuse_own_input([(name, absolute(path)) for name, path in paths], out)
    if show_plan:
        fate = (
            f"one of the runs that share {out}"
            if shared
            else _fate(identity, holder(storage, out), out, recipe)
        )
        for line in [*job.plan(recipe, prepared, storage), fate]:
            console.say(line)
        return 0
    ray = _wants_ray(job, recipe, prepared)
    run = Run(
        job.name, identity, out, storage, console.say, console.progress, shared=shared, ray=ray
    )
    done = None if shared else find_done(run, overwrite=recipe.overwrite)
    if done is None:
        with contextlib.nullcontext() if shared else hold(run, ending.end):
            done = take_folder(run, overwrite=recipe.overwrite)
            if done is None:
                return _run(job, recipe, prepared, run, inputs, console, ending)
    for line in done.summary:
        console.say(line)
    again = "; overwrite=true does it again" if done.verdict is not None else ""
    console.say(f"{job.name} was done already (status {done.status}{again}): {run.out}")
    _tell(job.name, done.verdict, done.status, console)
    return done.status


def _fate(identity: str, held: str | None, out: str, recipe: Recipe) -> str:
    if held is None:
        return f"run {identity} would be written to {out}"
    if held == identity:
        return f"run {identity} is in {out}: found done, or gone on with"
    word = "replaced by" if recipe.overwrite else "refused (overwrite=true replaces it)"
    return f"{out} holds run {held}: {word} run {identity}"


def _refuse_own_input(paths: Iterable[tuple[str, str]], out: str) -> None:
    """Refuse an `out` that the job reads from: it would find, or clear, its own products."""
    for name, path in paths:
        inside = name in ("images", "tiles", "scenes") and f"{out}/".startswith(
            path.rstrip("/") + "/"
        )
        if inside or f"{path}/".startswith(out.rstrip("/") + "/"):
            raise InputError(
                f"out={out}: overlaps {name}={path}, which the job reads; accepted: a folder of "
                "its own"
            )


def _run(
    job: Job[R, P],
    recipe: R,
    prepared: P,
    run: Run,
    inputs: dict[str, str],
    console: Console,
    ending: Ending,
) -> int:
    place, log = join(run.state, LOG), _log_file(run)
    target = place if is_remote(place) else None
    witness = Witness(job.name, log, target, recipe.storage.model_dump())
    ending.witness, ending.log = witness, place
    try:
        with console.quiet(log):
            joins = run.ray or "RAY_ADDRESS" in os.environ  # to refuse local paths there
            around = functools.partial(_work, job, ending) if joins else None
            try:
                outcome, record = perform(job, recipe, prepared, run, around, inputs)
            except BaseException:
                with log.open("a") as sink:
                    traceback.print_exc(file=sink)
                raise
        if not (run.shared and outcome.idle):
            _bring(run, log, place)
        elif target is not None:
            log.unlink(missing_ok=True)
    except BaseException as error:
        place = _bring(run, log, place)
        if ending.said:
            raise
        if isinstance(error, InputError):
            release(run)
            raise
        if isinstance(error, SatrayError):
            raise SatrayError(f"{error} (log: {place})") from error
        if isinstance(error, Exception):
            raise SatrayError(
                f"{type(error).__name__}: {_first_line(error)} (traceback in {place})"
            ) from error
        raise  # the witness stays: it ends what is left of Ray
    finally:
        if not ending.said:
            witness.dismiss()
    for line in outcome.summary:
        console.say(line)
    spent = ", ".join(f"{name} {seconds:.1f}" for name, seconds in record.seconds.items())
    console.say(f"seconds: {spent}")
    word = (
        "done"
        if outcome.status != 3
        else f"done, but {outcome.failed} of {outcome.attempted} inputs failed "
        f"(error_budget={outcome.error_budget})"
    )
    console.say(f"{job.name} {word} (status {outcome.status}): {run.out}")
    _tell(job.name, outcome.verdict, outcome.status, console)
    return outcome.status


def _tell(name: str, verdict: str | None, status: int, console: Console) -> None:
    """Print a verdict as errors are printed."""
    if verdict is not None:
        console.error(f"{name}: {verdict}")
        console.error(f"{name} ended with status {status}")


def _work(job: Job[R, P], ending: Ending, recipe: R, prepared: P, run: Run) -> Outcome:
    from satray import cluster  # Ray takes a second to import: not for --help

    def began(session: str) -> None:
        if ending.witness is not None:
            ending.witness.tell(session=session)

    with contextlib.ExitStack() as session:
        with run.activity("starting"):
            asked = recipe.resources
            asked = asked if job.workers else asked.model_copy(update={"workers": 1})
            session.enter_context(
                cluster.start(asked, dashboard=job.dashboard, lost=ending.end, began=began)
            )
        if cluster.node_count() > 1:
            _refuse_local([*recipe.paths(), ("out", run.out)])
        try:
            return job.work(recipe, prepared, run)
        except Exception:
            time.sleep(LAG)
            raise
        except BaseException as error:  # said before anything is undone, which may not end well
            ending.tell(_last_line(job.name, error)[1])
            raise


def _wants_ray(job: Job[R, P], recipe: R, prepared: P) -> bool:
    """Whether Ray does the work, or this process.

    Raises:
        InputError: `resources.ray` is against what the job can do.
    """
    asked = recipe.resources.ray
    if callable(job.ray):
        fits = "RAY_ADDRESS" in os.environ or job.ray(recipe, prepared)
        return fits if asked == "auto" else asked == "yes"
    if job.ray and asked == "no":
        raise InputError(f"resources.ray=no: {job.name} needs Ray; accepted: auto, yes")
    return job.ray


def _read_recipe(path: str, options: dict[str, Any]) -> bytes:
    storage = Storage(validate(StorageOptions, options))
    uri = absolute(path)
    if not storage.exists(uri):
        raise InputError(f"{path}: no such recipe; accepted: a YAML file, then dotted.key=value")
    return storage.read(uri)


def _submitted(path: str) -> str:
    if "://" not in path and not Path(path).expanduser().is_absolute():
        raise ValueError(
            "relative, under a submitted job, whose folder is a copy; accepted: an absolute path "
            "or a URI"
        )
    return absolute(path)


def _refuse_local(paths: Iterable[tuple[str, str]]) -> None:
    for name, path in paths:
        if not is_remote(path):
            raise InputError(
                f"{name}={path}: local, on a cluster of several nodes; accepted: a URI (s3://...)"
            )


def _log_file(run: Run) -> Path:
    if not is_remote(run.state):
        return Path(run.state) / LOG
    try:
        return log_folder() / f"{run.run_id}-{process_tag()}.log"
    except OSError:
        return Path(tempfile.mkdtemp(prefix="satray-log-")) / LOG


def _bring(run: Run, log: Path, place: str) -> str:
    """Bring a log to its run folder, and return where it is then."""
    if str(log) == place:
        return place
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.path.getsize(log) - MOST))
            run.storage.write(place, file.read())
        log.unlink()
    except (SatrayError, OSError):  # the line about what went before counts more
        return str(log)
    return place


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]
