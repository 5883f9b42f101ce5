"""The history of a training: as a table, as TensorBoard events, in an MLflow run.

MLflow is an extra: it is imported only where `tracking=mlflow` asks for it. Its run goes on where
training goes on after a stop.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from satray import __version__
from satray.config.base import Section, walk
from satray.config.train import TrainRecipe
from satray.errors import InputError, one_line
from satray.runs.run import Run
from satray.storage import is_remote, join
from satray.storage.temporary import scratch

Row = dict[str, Any]
"""One evaluation (`Loop.step`): its kind is text, counts are integers, all else is floating."""

BY_CLASS = ("ap", "ppr")
"""Average precision, predicted-positive rate: columns like `ap_ship`."""
EVENTS = "tensorboard"
"""Folder of events, of the product and below the run's state while training goes on: so
`tensorboard --logdir` of the run folder shows both."""
URI = "MLFLOW_TRACKING_URI"
STATE = "mlflow.txt"
"""Below the run's state: the id of its MLflow run."""
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing calls home
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # training does not wait minutes for a server
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""Variables of MLflow; a value that the operator set wins."""


# The history


def scalars(row: Row) -> Iterator[tuple[str, float]]:
    """What trackers plot: `loss/train`, `validation/map`, `ap/<class>`, ...; finite ones only."""
    groups = {"train_loss": "loss/train", "val_loss": "loss/val"}
    for name, value in row.items():
        if not isinstance(value, float) or not math.isfinite(value):
            continue
        kind = _kind(name)
        group = kind or "validation"
        if name in ("learning_rate", "times_seen") or name.startswith("seconds"):
            group = "run"
        yield groups.get(name, f"{group}/{name.removeprefix(f'{kind}_')}"), value


def nested(row: Row) -> dict[str, Any]:
    """A row with its average precisions under `ap`, by class; predicted-positive rates: `ppr`."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        kind = _kind(name)
        if kind is None:
            found[name] = value
        else:
            found.setdefault(kind, {})[name.removeprefix(f"{kind}_")] = value
    return found


def _kind(name: str) -> str | None:
    return next((kind for kind in BY_CLASS if name.startswith(f"{kind}_")), None)


def seconds(rows: Sequence[Row]) -> dict[str, float]:
    """Seconds by activity over all evaluations, of the first worker."""
    return {
        "waiting for data": sum(row["seconds_data"] for row in rows),
        "training": sum(row["seconds_compute"] for row in rows),
        "evaluating": sum(row["seconds_evaluate"] for row in rows),
    }


def throughput(rows: Sequence[Row]) -> float:
    """Images trained on a second, evaluation left out, over the whole run."""
    spent = sum(row["seconds_data"] + row["seconds_compute"] for row in rows)
    return float(rows[-1]["samples_seen"] / spent) if spent else math.nan


# Trackers


class Tracker:
    """Where the history goes beside the run folder; this one takes it nowhere."""

    def row(self, row: Row) -> None:
        """Take an evaluation as it comes."""

    def publish(self, rows: Sequence[Row]) -> None:
        """Take the whole history when training is over."""

    def end(self, status: str) -> None:
        """The run has ended: FINISHED, FAILED or KILLED."""


@contextmanager
def follow(recipe: TrainRecipe, run: Run) -> Iterator[Tracker]:
    """The tracker that is asked for, told at the end how the block ended.

    Raises:
        InputError: MLflow cannot be reached, before training starts. Later it costs a note, and
            the rows from then on, and training does not wait for it.
    """
    tracker = Tracker()
    if recipe.tracking == "mlflow":
        tracker = _Mlflow(recipe, run)
    elif recipe.tracking == "tensorboard":
        tracker = _Events(run)
    status = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.end(status)


def check(recipe: TrainRecipe) -> None:
    """Refuse a tracker that is not there, before anything starts.

    Raises:
        InputError: MLflow is not installed, or is not told where its server is.
    """
    if recipe.tracking != "mlflow":
        return
    if find_spec("mlflow") is None:
        raise InputError(
            "tracking=mlflow: MLflow is not installed; accepted: tensorboard, none, or first "
            "`pip install mlflow-skinny` (the extra `mlflow`)"
        )
    if not os.environ.get(URI):
        raise InputError(
            f"tracking=mlflow: the variable {URI} is not set; accepted: the address of an MLflow "
            "server, or sqlite:///FILE"
        )


class _Events(Tracker):
    """TensorBoard events, live where `out` is local (a file grows by appending); and a product."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._writer: Any = None

    def row(self, row: Row) -> None:
        if is_remote(self._run.state):
            return
        if self._writer is None:  # it drops what an earlier attempt had from there
            self._writer = _writer(join(self._run.state, EVENTS), purge_step=row["samples_seen"])
        _write(self._writer, row)

    def publish(self, rows: Sequence[Row]) -> None:
        with scratch("events") as folder:
            with _writer(str(folder)) as writer:
                for row in rows:
                    _write(writer, row)
            (file,) = Path(folder).iterdir()
            self._run.publish(f"{EVENTS}/{file.name}", file)

    def end(self, status: str) -> None:
        del status
        if self._writer is not None:
            self._writer.close()


def _writer(folder: str, **options: Any) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, **options)


def _write(writer: Any, row: Row) -> None:
    for tag, value in scalars(row):
        writer.add_scalar(tag, value, row["samples_seen"])
    writer.flush()


class _Mlflow(Tracker):
    """The MLflow run of a training run: made once, found again by the id in the run's state.

    Rows are sent from a thread, in order: training does not wait for a server that hangs. (MLflow's
    own `synchronous=False` tells what failed to those alone who wait for it.)
    """

    def __init__(self, recipe: TrainRecipe, run: Run) -> None:
        check(recipe)
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        self._run, self._answers, self._pool = run, True, ThreadPoolExecutor(1)
        state = join(run.state, STATE)
        try:
            self._client = MlflowClient()
            if run.storage.exists(state):
                self._id = run.storage.read(state).decode()
                self._client.update_run(self._id, status="RUNNING")
            else:
                self._id = self._make(recipe)
                run.storage.write(state, self._id.encode())
        except Exception as error:  # requests', SQL's and MLflow's own
            raise InputError(
                f"tracking=mlflow: {URI} does not answer: {one_line(error)[:200]}"
            ) from error

    def row(self, row: Row) -> None:
        self._pool.submit(self._send, row)

    def _send(self, row: Row) -> None:
        if not self._answers:
            return
        from mlflow.entities import Metric

        now, seen = int(time.time() * 1000), row["samples_seen"]
        metrics = [Metric(metric_name(tag), value, now, seen) for tag, value in scalars(row)]
        try:
            self._client.log_batch(self._id, metrics)
        except Exception as error:  # requests', SQL's and MLflow's own
            self._answers = False
            why = one_line(error)[:200]
            self._run.say(
                f"note: MLflow lacks rows from {seen:,} samples on ({why}); history.parquet has all"
            )

    def end(self, status: str) -> None:
        self._pool.shutdown()
        with suppress(Exception):  # then its run stays RUNNING there, which is all
            self._client.set_terminated(self._id, status)

    def _make(self, recipe: TrainRecipe) -> str:
        from mlflow.entities import Param

        run = self._run
        wanted = os.environ.get("MLFLOW_EXPERIMENT_NAME", "satray")
        experiment = self._client.get_experiment_by_name(wanted)
        number = experiment.experiment_id if experiment else self._client.create_experiment(wanted)
        about = {"run_id": run.run_id, "out": run.out, "version": __version__}
        tags = {f"satray.{name}": value for name, value in about.items()}
        made = self._client.create_run(number, run_name=f"{run.job} {run.run_id}", tags=tags)
        run_id: str = made.info.run_id
        shown = recipe.identity()
        params = [
            Param(each.name, str(each.value)[:500])
            for each in walk(type(recipe), value=recipe)
            if each.name.partition(".")[0] in shown and not _has_sections(each.value)
        ]
        self._client.log_batch(run_id, params=params)
        return run_id


def _has_sections(value: Any) -> bool:
    parts = value if isinstance(value, tuple) else (value,)
    return any(isinstance(each, Section) for each in parts)


def metric_name(tag: str) -> str:
    """A name that MLflow takes: other characters than its own become `_` and their code."""
    group, _, name = tag.partition("/")
    plain = re.sub(r"[^A-Za-z0-9_. -]|^[.]", lambda found: f"_{ord(found[0]):x}", name)
    return f"{group}/{plain[:200]}"
