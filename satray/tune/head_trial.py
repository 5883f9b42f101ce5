"""A trial that trains its head from features, a pseudo-epoch at a time. No Ray.

It keeps what it needs to go on, and its best weights, in one file below the sweep's state.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from satray.storage import Storage, join
from satray.train.loop.evaluation import Predictions
from satray.train.loop.settings import LoopSettings
from satray.train.loop.state import TrainState, seed_all
from satray.train.loop.train import Loop
from satray.train.plan.order import train_order
from satray.train.plan.setup import Setup
from satray.train.workers.choice import score
from satray.train.workers.combining import read_state, to_bytes
from satray.tune.feature_table import Features
from satray.tune.head import (
    HeadNetwork,
    eval_features,
    head_batches,
    train_features,
    val_batches,
)

FILE = "head.npz"
"""Below a trial's folder."""
COUNTS = ("pseudo_epochs", "samples")
"""Numbers of `Best` in it."""
EVERY = 2.0
"""Seconds between two checkpoints: what a sweep that is killed does again. A pseudo-epoch takes
some tens of milliseconds, less than a write to an object store."""

Row = dict[str, Any]
"""One evaluation (`EpochReport.row`)."""


@dataclass(frozen=True)
class Best:
    """The best evaluation so far."""

    pseudo_epochs: int
    """Done when it was made."""
    samples: int
    """Seen by then."""
    weights: bytes
    """State dict of the `HeadNetwork`, as `torch.save` writes it."""
    predictions: bytes
    """Of the validation split (`Predictions.to_bytes`)."""

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """The state dict."""
        found: dict[str, torch.Tensor] = torch.load(io.BytesIO(self.weights), weights_only=True)
        return found

    @property
    def seen(self) -> Predictions:
        """The predictions."""
        return Predictions.from_bytes(self.predictions)


class HeadTrial:
    """A head in training."""

    def __init__(
        self,
        setup: Setup,
        train: Features,
        val: Features,
        head: str,
        folder: str,
        storage: Storage,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin, or go on from the trial's checkpoint.

        Args:
            setup: the trial, resolved, with one worker.
            train: features of the train split, of the pooling that the variant has.
            val: of the validation split.
            head: URI of the head's first weights.
            folder: the trial's own.
            storage: how URIs are reached.
            clock: seconds.
        """
        self._setup = setup
        self._uri = join(folder, FILE)
        self._storage = storage
        self._clock = clock
        self._best: Best | None = None
        self._worth = -np.inf
        recipe, plan = setup.recipe, setup.plan
        seed_all(recipe.seed)
        kind, classes = setup.variant.head, len(setup.index.meta.classes)
        network = HeadNetwork(kind, train.width, classes, recipe.dropout)
        network.load_head(read_state(storage, head))
        state = self._resume()
        order = train_order(recipe, plan, train.labels)
        self._train, self._val = head_batches(train, order, plan), val_batches(val)
        self._loop = Loop(
            network,
            plan,
            settings=LoopSettings.of(setup, train.labels, bf16=False),
            train_input=train_features,
            eval_input=eval_features,
            state=state,
        )
        self._backlog = list(self._loop.history)
        self._state: TrainState | None = state
        self._kept_at = clock()

    @property
    def total(self) -> int:
        """Samples of the whole trial."""
        return self._setup.plan.total_samples

    @property
    def each(self) -> int:
        """Samples from one evaluation to the next."""
        return self._setup.plan.samples_per_pseudo_epoch

    @property
    def done(self) -> bool:
        """Whether all evaluations have been given."""
        return self._loop.done and not self._backlog

    def step(self) -> Row:
        """The next evaluation: of an earlier attempt where there is one, else made now.

        Raises:
            TrainingError: a loss or a logit that is not finite.
        """
        if self._backlog:
            return self._backlog.pop(0)
        report, self._state = self._loop.step(self._train, self._val)
        row = report.row()
        worth = score(row, self._setup.best)
        if worth > self._worth or self._best is None:
            self._worth = worth
            done = self._state.pseudo_epoch
            weights = to_bytes(self._state.kept)
            self._best = Best(done, row["samples_seen"], weights, report.predictions.to_bytes())
        if self._loop.done or self._clock() - self._kept_at >= EVERY:
            self._keep()
        return row

    def close(self) -> None:
        """Leave off: what was reached is kept."""
        self._keep()

    def _keep(self) -> None:
        if self._state is None or self._best is None:
            return
        parts = {
            "state": self._state.to_bytes(),
            "weights": self._best.weights,
            "predictions": self._best.predictions,
        }
        arrays = {name: np.frombuffer(data, np.uint8) for name, data in parts.items()}
        sink = io.BytesIO()
        counts = {name: np.int64(getattr(self._best, name)) for name in COUNTS}
        np.savez(sink, **counts, **arrays)  # type: ignore[arg-type]
        self._storage.write(self._uri, sink.getvalue())
        self._kept_at = self._clock()

    def _resume(self) -> TrainState | None:
        found = _read(self._storage, self._uri)
        if found is None:
            return None
        data, self._best = found
        state = TrainState.from_bytes(data)
        self._worth = score(state.history[self._best.pseudo_epochs - 1], self._setup.best)
        return state


def best_of(storage: Storage, folder: str) -> Best | None:
    """The best that a trial reached; None where it left nothing.

    Args:
        storage: how URIs are reached.
        folder: the trial's own.
    """
    found = _read(storage, join(folder, FILE))
    return None if found is None else found[1]


def _read(storage: Storage, uri: str) -> tuple[bytes, Best] | None:
    if not storage.exists(uri):
        return None
    with np.load(io.BytesIO(storage.read(uri)), allow_pickle=False) as file:
        parts = {name: file[name].tobytes() for name in ("state", "weights", "predictions")}
        pseudo_epochs, samples = (int(file[name]) for name in COUNTS)
    best = Best(pseudo_epochs, samples, parts["weights"], parts["predictions"])
    return parts["state"], best
