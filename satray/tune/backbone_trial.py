"""A trial that trains more than its head: a training of its own, on workers of its own.

It runs in a thread of the trial's process, which hands on each evaluation as it comes. Training
does not wait for that: what is decided of a trial comes while it is at the next pseudo-epoch.
"""

from __future__ import annotations

import queue
import threading
from typing import Any

from satray.cluster import Workers
from satray.errors import TrainingError
from satray.runs.run import Run
from satray.train import checkpoints
from satray.train.ray_train import Halt, fit
from satray.train.setup import Setup

Row = dict[str, Any]
"""One evaluation."""
STOPPING = 60.0
"""Seconds that training has to come to rest when a trial is left."""


class BackboneTrial:
    """A network in training."""

    def __init__(self, setup: Setup, run: Run, weights: str, workers: Workers) -> None:
        """Begin, or go on from the trial's checkpoints.

        Args:
            setup: the trial, resolved.
            run: the trial's own; checkpoints lie below its state.
            weights: URI of the network's first weights.
            workers: what its workers get.
        """
        self._plan = setup.plan
        self.each = setup.plan.samples_per_pseudo_epoch
        """Samples from one evaluation to the next."""
        self.done = False
        """Whether all evaluations have been given, and workers and resources given back."""
        self._halt = Halt(run)
        self._rows: queue.Queue[Row | Exception | None] = queue.Queue()
        self._given = 0
        self._put_history(run)

        def listen(message: dict[str, Any]) -> None:
            if message["kind"] == "epoch" and message["row"] is not None:
                self._rows.put(message["row"])

        def work() -> None:
            try:
                fit(setup, run, weights, listen, workers, self._halt)
                self._put_history(run)  # should a message have been lost with its worker
                self._rows.put(None)
            except Exception as error:  # a trial that fails is a row of the leaderboard
                self._rows.put(error)
            except BaseException as error:  # else nobody would hear of it
                self._rows.put(TrainingError(f"training ended by {type(error).__name__}"))

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def step(self) -> Row:
        """The next evaluation, waited for; after the last, until training is at its end.

        Raises:
            SatrayError: what ended training.
        """
        row = self._take()
        if row is None:
            raise TrainingError("training ended before its plan was done")
        self._given = row["pseudo_epoch"] + 1
        if self._given == self._plan.pseudo_epochs:
            self.done = self._take() is None
        return row

    def close(self) -> None:
        """Leave off: workers end now, checkpoints stay."""
        if not self.done:
            self._halt()
            self._thread.join(STOPPING)

    def _put_history(self, run: Run) -> None:
        latest = checkpoints.latest_of(run.storage, run.state)
        for row in () if latest is None else latest.history:
            self._rows.put(row)

    def _take(self) -> Row | None:
        """The next new row; None when training is over."""
        while True:
            found = self._rows.get()
            if isinstance(found, Exception):
                raise found
            # What is told of again, after a worker's death and at the end, counts once.
            if found is None or found["pseudo_epoch"] >= self._given:
                return found
