"""TensorBoard events: while training goes on beside the run's state, in the end as a product.

Where the run folder is in an object store, only the product: an event file grows by appending.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from satray.runs.run import Run
from satray.storage import is_remote, join
from satray.storage.temporary import scratch
from satray.train.tracking import history

FOLDER = "tensorboard"
"""Of the product, and below the run's state while training goes on: so `tensorboard --logdir` of
the run folder shows both, and a run that `overwrite=true` replaces stays until this one is done."""


class LiveEvents:
    """Events of a run under way."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._writer: Any = None

    def row(self, row: history.Row) -> None:
        """Write an evaluation as it comes; what an earlier attempt had from there is dropped."""
        if is_remote(self._run.state):
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            folder = join(self._run.state, FOLDER)
            self._writer = SummaryWriter(folder, purge_step=row["samples_seen"])
        for tag, value in history.scalars(row):
            self._writer.add_scalar(tag, value, row["samples_seen"])
        self._writer.flush()

    def publish(self, rows: Sequence[history.Row]) -> None:
        """Write the whole history as a product, anew."""
        with scratch("events") as folder:
            events = history.write_events(rows, folder)
            self._run.publish_file(f"{FOLDER}/{events.name}", events)

    def end(self, status: str) -> None:
        """Close the file."""
        del status
        if self._writer is not None:
            self._writer.close()
