"""What a training keeps below its state: where it goes on from, and its best weights.

Each is one file, whole or not there, named by the pseudo-epochs that were done: the newest counts,
and older ones go once it is there. Rank 0 writes. Nothing here imports torch before it is needed.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from satray.config.train import AverageOptions
from satray.errors import InputError
from satray.storage import Storage, join

if TYPE_CHECKING:
    from torch import Tensor

    from satray.train.evaluation import Predictions
    from satray.train.plan import TrainingPlan
    from satray.train.state import TrainState

FOLDER = "train"
"""Below the run's state."""
AVERAGE = "average.pt"
"""File of it: the mean of the snapshots' weights."""
LOST = "unreadable"
"""Below the run's state: tiles that could not be read."""
NAMES = ("kind", "samples_seen", "validation", "precision")
"""Plain fields of `Kept`."""
WORST = -1e30
"""Score of a metric that is not a number."""

State = dict[str, "Tensor"]


@dataclass(frozen=True)
class Checkpoints:
    """Where a run stands."""

    pseudo_epochs: int = 0
    """Pseudo-epochs finished and kept."""
    latest: str | None = None
    """URI of the state after them; None before the first."""
    best: str | None = None
    """URI of the best weights so far (`Kept`)."""


@dataclass(frozen=True)
class Kept:
    """Weights that may become the bundle, and how they do on validation."""

    kind: str
    """`checkpoint`, or `swa`: the mean of the snapshots' weights."""
    samples_seen: int
    """By then."""
    weights: State
    """State dict of the network."""
    validation: dict[str, Any]
    """Flat: `val_loss`, metrics, `ap_C` of class C, ..."""
    predictions: Predictions
    """Of the validation split."""
    precision: str = "fp32"
    """Of those: `fp32`, or `bf16` autocast."""

    def to_bytes(self) -> bytes:
        """As `torch.save` writes it."""
        parts = {name: getattr(self, name) for name in NAMES}
        seen = self.predictions.to_bytes()
        return to_bytes({**parts, "weights": self.weights, "predictions": seen})

    @classmethod
    def from_bytes(cls, data: bytes) -> Kept:
        """Read what `to_bytes` wrote; runs no code from the file."""
        from satray.train.evaluation import Predictions

        found = from_bytes(data)
        seen = Predictions.from_bytes(found.pop("predictions"))
        return cls(**found, predictions=seen)


def find(storage: Storage, state: str) -> Checkpoints:
    """See where a run stands.

    Args:
        storage: how it is reached.
        state: folder of the run's state.
    """
    kept: dict[str, dict[int, str]] = {"latest": {}, "best": {}}
    for entry in storage.list(join(state, FOLDER)):
        if found := re.fullmatch(r"(latest|best)-(\d+)\.pt", entry.key):
            kept[found[1]][int(found[2])] = entry.uri
    if not kept["latest"]:
        return Checkpoints()
    done = max(kept["latest"])
    # One that is newer is of a pseudo-epoch whose state was not written any more.
    best = max((number for number in kept["best"] if number <= done), default=0)
    return Checkpoints(done, kept["latest"][done], kept["best"].get(best))


def is_done(storage: Storage, state: str, plan: TrainingPlan, average: AverageOptions) -> bool:
    """Whether a training has come to its end."""
    if find(storage, state).pseudo_epochs < plan.pseudo_epochs:
        return False
    return not average.swa or storage.exists(join(state, FOLDER, AVERAGE))


def load(storage: Storage, uri: str) -> TrainState:
    """Read the training state of a checkpoint."""
    from satray.train.state import TrainState

    return TrainState.from_bytes(storage.read(uri))


class Writer:
    """Writes checkpoints from a thread, while training goes on."""

    def __init__(self, storage: Storage, state: str) -> None:
        self._storage = storage
        self._folder = join(state, FOLDER)
        self._pool = ThreadPoolExecutor(1)
        self._under_way: Future[None] | None = None

    def keep(self, state: TrainState, best: Kept | None) -> None:
        """Write a checkpoint, once the one before it is there.

        Args:
            state: nothing in it changes any more (`TrainState.copied`).
            best: its weights, where they are the best so far; they do not change either.
        """
        self.wait()
        self._under_way = self._pool.submit(self._write, state, best)

    def wait(self) -> None:
        """Come back when all is written; raises what went wrong."""
        if self._under_way is not None:
            self._under_way.result()

    def _write(self, state: TrainState, best: Kept | None) -> None:
        number = f"{state.pseudo_epoch:06d}"
        if best is not None:  # before the state, which says that the pseudo-epoch is done
            self._storage.write(join(self._folder, f"best-{number}.pt"), best.to_bytes())
        self._storage.write(join(self._folder, f"latest-{number}.pt"), state.to_bytes())
        old = ("latest-", "best-") if best is not None else ("latest-",)
        for entry in self._storage.list(self._folder):
            if entry.key.startswith(old) and not entry.key.endswith(f"-{number}.pt"):
                self._storage.delete(entry.uri)


def write_average(storage: Storage, state: str, average: Kept | None) -> None:
    """Write what came of the snapshots; None: weights that are good for nothing."""
    data = b"" if average is None else average.to_bytes()
    storage.write(join(state, FOLDER, AVERAGE), data)


def choose(storage: Storage, state: str, best: str) -> tuple[Kept, Kept | None]:
    """The weights of the bundle: the best checkpoint's, or the average's where it is better.

    Args:
        storage: how it is reached.
        state: folder of the state of a run that is done.
        best: metric that decides: map, accuracy, loss or auc.

    Returns:
        What was chosen, and the average, chosen or not; None where there is none.

    Raises:
        InputError: there is no checkpoint.
    """
    found = find(storage, state).best
    if found is None:
        raise InputError(f"{state}: training left no checkpoint")
    checkpoint = Kept.from_bytes(storage.read(found))
    uri = join(state, FOLDER, AVERAGE)
    data = storage.read(uri) if storage.exists(uri) else b""
    average = Kept.from_bytes(data) if data else None
    if average is None or score(average.validation, best) <= score(checkpoint.validation, best):
        return checkpoint, average
    return average, average


def score(validation: Mapping[str, Any], best: str) -> float:
    """What weights are compared by: more is better."""
    value = -float(validation["val_loss"]) if best == "loss" else float(validation[best])
    return WORST if math.isnan(value) else value


def is_best(history: tuple[dict[str, Any], ...], best: str) -> bool:
    """Whether no evaluation was better than the last."""
    worths = [score(row, best) for row in history]
    return worths[-1] >= max(worths)


def keep_lost(
    storage: Storage,
    state: str,
    pseudo_epoch: int,
    rank: int,
    errors: Mapping[str, Mapping[int, str]],
) -> None:
    """Write which tiles a worker could not read, before the checkpoint; nothing where all could.

    So a driver that is killed, even after the last checkpoint, loses none of them.

    Args:
        storage: how URIs are reached.
        state: folder of the run's state.
        pseudo_epoch: in which it was met, 0 for the first.
        rank: of the worker.
        errors: split -> row of the split -> reason.
    """
    if any(errors.values()):
        name = f"pseudo-epoch-{pseudo_epoch:06d}-{rank:04d}.json"
        storage.write(join(state, LOST, name), json.dumps(errors).encode())


def lost(storage: Storage, state: str) -> dict[tuple[str, int], str]:
    """All that `keep_lost` wrote, in all attempts: (split, row) -> reason."""
    found: dict[tuple[str, int], str] = {}
    for entry in storage.list(join(state, LOST)):
        for split, rows in json.loads(storage.read(entry.uri)).items():
            found.update({(split, int(row)): reason for row, reason in rows.items()})
    return found


def to_bytes(state: Any) -> bytes:
    """Tensors and plain values as `torch.save` writes them."""
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def from_bytes(data: bytes) -> Any:
    """Read what `to_bytes` made; runs no code from the file."""
    import torch

    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
