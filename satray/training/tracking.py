"""Where the history goes beside the run folder: TensorBoard events, an MLflow run, or nowhere.

MLflow is an extra: it is imported only where `tracking=mlflow` asks for it. Its run id is kept in
the run's state, so that a run that goes on after a stop goes on in the same MLflow run.
"""

import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from satray import __version__
from satray.config.paths import identity
from satray.config.train import TrainRecipe
from satray.errors import InputError
from satray.runs.run import Run
from satray.storage import join
from satray.training import history

Message = dict[str, Any]
Listener = Callable[[Message], None]

STATE = "mlflow.json"
URI = "MLFLOW_TRACKING_URI"
ALWAYS = "run/times_seen"
"""A metric that every pseudo-epoch has: its steps are those that MLflow knows already."""
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing calls home
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # training does not wait minutes for a server
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""Variables of MLflow; a value that the operator set wins."""
BATCH = 1000
"""Most metrics that MLflow takes at once."""
TEXT = 500
"""Most characters of a parameter."""


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


@contextmanager
def follow(recipe: TrainRecipe, run: Run, listen: Listener | None) -> Iterator[Listener | None]:
    """Listen to training, log each pseudo-epoch to MLflow where that is asked for, and hand on.

    Raises:
        InputError: MLflow cannot be reached, before training starts. Later it costs a note: what
            is missing is logged at the end, or when the run goes on.
    """
    if recipe.tracking != "mlflow":
        yield listen
        return
    tracked = MlflowRun(recipe, run)

    def hear(message: Message) -> None:
        if message["kind"] == "epoch" and message["row"] is not None:
            tracked.log([message["row"]])
        if listen is not None:
            listen(message)

    status = "FAILED"
    try:
        yield hear
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracked.end(status)


def publish(recipe: TrainRecipe, run: Run, rows: Sequence[history.Row]) -> None:
    """Write the events as a product, or log to MLflow what it does not know yet."""
    if recipe.tracking == "tensorboard":
        with tempfile.TemporaryDirectory() as folder:
            events = history.write_events(rows, Path(folder))
            run.publish_file(f"tensorboard/{events.name}", events)
    elif recipe.tracking == "mlflow":
        try:
            MlflowRun(recipe, run).log(rows)
        except InputError as error:  # what was trained counts for more
            run.say(f"note: {error}; history.parquet has all rows")


class MlflowRun:
    """The MLflow run of a training run: made once, found again by the id in the run's state."""

    def __init__(self, recipe: TrainRecipe, run: Run) -> None:
        """Find or make it, and mark it as running.

        Raises:
            InputError: MLflow cannot be reached, or refuses.
        """
        check(recipe)
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        self._run = run
        self._state = join(run.state, STATE)
        self._told = False
        try:
            self._client = MlflowClient()
            self.run_id = self._find() or self._make(recipe)
            self._logged = self._steps()
        except InputError:
            raise
        except Exception as error:  # requests', SQL's and MLflow's own
            raise InputError(f"tracking=mlflow: {URI} does not answer: {_first(error)}") from error

    def log(self, rows: Sequence[history.Row]) -> None:
        """Log the rows whose samples seen MLflow does not know yet; a failure costs a note."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        fresh = [row for row in rows if row["samples_seen"] not in self._logged]
        metrics = [
            Metric(name, value, now, row["samples_seen"])
            for row in fresh
            for name, value in metric_names(history.scalars(row))
        ]
        try:
            for start in range(0, len(metrics), BATCH):
                self._client.log_batch(self.run_id, metrics=metrics[start : start + BATCH])
            self._logged.update(row["samples_seen"] for row in fresh)
        except Exception as error:  # requests', SQL's and MLflow's own
            self._note(error)

    def end(self, status: str) -> None:
        """Mark it as ended: FINISHED, FAILED or KILLED."""
        try:
            self._client.set_terminated(self.run_id, status)
        except Exception as error:  # requests', SQL's and MLflow's own
            self._note(error)

    def _find(self) -> str | None:
        """The run of an earlier attempt, running again; None where there is none."""
        from mlflow.exceptions import MlflowException

        storage = self._run.storage
        if not storage.exists(self._state):
            return None
        run_id = str(json.loads(storage.read(self._state))["run_id"])
        try:
            self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self._run.say(f"note: MLflow has no run {run_id} any more; starting another")
            return None
        self._client.update_run(run_id, status="RUNNING")
        return run_id

    def _make(self, recipe: TrainRecipe) -> str:
        from mlflow.entities import Param

        wanted = os.environ.get("MLFLOW_EXPERIMENT_NAME", "satray")
        experiment = self._client.get_experiment_by_name(wanted)
        number = experiment.experiment_id if experiment else self._client.create_experiment(wanted)
        tags = {
            "satray.run_id": self._run.run_id,
            "satray.out": self._run.out,
            "satray.version": __version__,
        }
        name = f"{self._run.job} {self._run.run_id}"
        run_id: str = self._client.create_run(number, run_name=name, tags=tags).info.run_id
        params = [Param(key, text[:TEXT]) for key, text in flat(identity(recipe))]
        for start in range(0, len(params), 100):
            self._client.log_batch(run_id, params=params[start : start + 100])
        self._run.storage.write(self._state, json.dumps({"run_id": run_id}).encode())
        return run_id

    def _steps(self) -> set[int]:
        return {metric.step for metric in self._client.get_metric_history(self.run_id, ALWAYS)}

    def _note(self, error: Exception) -> None:
        if not self._told:
            self._run.say(f"note: MLflow: {_first(error)}; training goes on, rows follow later")
        self._told = True


def metric_names(scalars: Iterator[tuple[str, float]]) -> Iterator[tuple[str, float]]:
    """Names that MLflow takes, each once: other characters than its own become `_`."""
    taken: set[str] = set()
    for tag, value in scalars:
        group, _, name = tag.partition("/")
        plain = re.sub(r"[^A-Za-z0-9_. -]", "_", name)[:200]
        if not plain.strip("."):
            plain = "_" * max(1, len(plain))
        number, told = 1, plain
        while f"{group}/{told}" in taken:
            number += 1
            told = f"{plain}_{number}"
        taken.add(f"{group}/{told}")
        yield f"{group}/{told}", value


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Plain nested values as dotted keys and texts; lists of plain values stay together."""
    nested = isinstance(value, list) and any(isinstance(item, dict) for item in value)
    if isinstance(value, dict) or nested:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from flat(item, f"{prefix}.{key}" if prefix else str(key))
    elif prefix:
        yield prefix, value if isinstance(value, str) else json.dumps(value)


def _first(error: Exception) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
