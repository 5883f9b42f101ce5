"""Where the history goes beside the run folder: TensorBoard events, an MLflow run, or nowhere."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from satray.config.train import TrainRecipe
from satray.runs.run import Run
from satray.train.tracking import history
from satray.train.tracking.events import LiveEvents
from satray.train.tracking.mlflow_run import MlflowRun, check

__all__ = ["Follower", "Tracker", "check", "follow"]

Message = dict[str, Any]
Listener = Callable[[Message], None]


class Tracker(Protocol):
    """Where the history goes."""

    def row(self, row: history.Row) -> None:
        """Take an evaluation as it comes, without keeping the caller waiting."""

    def publish(self, rows: Sequence[history.Row]) -> None:
        """Take the whole history when training is over."""

    def end(self, status: str) -> None:
        """The run has ended: FINISHED, FAILED or KILLED."""


class Follower:
    """Hands the workers' messages on, and each evaluation to the tracker."""

    def __init__(self, tracker: Tracker | None, listen: Listener | None) -> None:
        self.tracker = tracker
        self._listen = listen

    def __call__(self, message: Message) -> None:
        """Take a message."""
        if self._listen is not None:
            self._listen(message)
        if self.tracker is not None and message["kind"] == "epoch" and message["row"] is not None:
            self.tracker.row(message["row"])

    def publish(self, rows: Sequence[history.Row]) -> None:
        """Write the events as a product, or log to MLflow what it does not know yet."""
        if self.tracker is not None:
            self.tracker.publish(rows)


@contextmanager
def follow(recipe: TrainRecipe, run: Run, listen: Listener | None) -> Iterator[Follower]:
    """Listen to training, give each pseudo-epoch to the tracker that is asked for, and hand on.

    Raises:
        InputError: MLflow cannot be reached, before training starts. Later it costs a note: what
            is missing is logged at the end, or when the run goes on.
    """
    tracker: Tracker | None = None
    if recipe.tracking == "mlflow":
        tracker = MlflowRun(recipe, run)
    elif recipe.tracking == "tensorboard":
        tracker = LiveEvents(run)
    status = "FAILED"
    try:
        yield Follower(tracker, listen)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        if tracker is not None:
            tracker.end(status)
