"""A training's history in an MLflow run, which goes on where training goes on after a stop.

MLflow is an extra: it is imported only where `tracking=mlflow` asks for it. Its run id is kept in
the run's state.
"""

import json
import os
import queue
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from satray import __version__
from satray.config.train import TrainRecipe
from satray.errors import InputError
from satray.runs.run import Run
from satray.storage import join
from satray.train.tracking import history

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


class MlflowRun:
    """The MLflow run of a training run: made once, found again by the id in the run's state.

    Rows are logged by a thread of its own: whoever hears of them does not wait for the server.
    """

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
        self._told = self._doubtful = False
        self._queue: queue.Queue[list[history.Row] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        try:
            self._client = MlflowClient()
            self.run_id = self._find() or self._make(recipe)
            self._logged = self._steps()
        except InputError:
            raise
        except Exception as error:  # requests', SQL's and MLflow's own
            raise InputError(f"tracking=mlflow: {URI} does not answer: {_first(error)}") from error

    def row(self, row: history.Row) -> None:
        """Log a row soon."""
        self._put([row])

    def publish(self, rows: Sequence[history.Row]) -> None:
        """Log the rows that MLflow does not know yet, and wait; a failure costs a note."""
        self._put(list(rows))
        self.settle()
        missing = sum(row["samples_seen"] not in self._logged for row in rows)
        if missing:
            self._run.say(
                f"note: MLflow lacks {missing} of {len(rows)} rows; history.parquet has all"
            )

    def settle(self) -> None:
        """Wait until what came so far is logged, or has failed."""
        self._queue.join()

    def end(self, status: str) -> None:
        """Log what came, then mark it as ended: FINISHED, FAILED or KILLED."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        try:
            self._client.set_terminated(self.run_id, status)
        except Exception as error:  # requests', SQL's and MLflow's own
            self._note(error)

    def _put(self, rows: list[history.Row]) -> None:
        if self._thread.ident is None:
            self._thread.start()
        self._queue.put(rows)

    def _serve(self) -> None:
        """Log what is in the queue, all at once, until there is a None."""
        going = True
        while going:
            taken = [self._queue.get()]
            with suppress(queue.Empty):
                while True:
                    taken.append(self._queue.get_nowait())
            try:
                self._log([row for rows in taken if rows is not None for row in rows])
            except Exception as error:  # requests', SQL's and MLflow's own
                self._doubtful = True
                self._note(error)
            for _ in taken:
                self._queue.task_done()
            going = None not in taken

    def _log(self, rows: Sequence[history.Row]) -> None:
        """Log the rows whose samples seen MLflow does not know yet."""
        from mlflow.entities import Metric

        if self._doubtful:  # a server that answered too late may have taken them all the same
            self._logged = self._steps()
            self._doubtful = False
        now = int(time.time() * 1000)
        for row in rows:
            seen = row["samples_seen"]
            if seen in self._logged:
                continue
            named = list(metric_names(history.scalars(row)))
            named.sort(key=lambda each: each[0] == ALWAYS)  # last: it says that all are there
            metrics = [Metric(name, value, now, seen) for name, value in named]
            for start in range(0, len(metrics), BATCH):
                self._client.log_batch(self.run_id, metrics=metrics[start : start + BATCH])
            self._logged.add(seen)

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
        params = [Param(key, text[:TEXT]) for key, text in flat(recipe.identity())]
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
