"""What a training keeps below its state: where it goes on from, and its best weights.

Each is one file, whole or not there, named by the evaluations that were done: the newest counts,
and older ones go once it is there. Rank 0 writes. Nothing here imports torch before it is needed.

States are taken after evaluations only. Randomness needs no place in them: sample order and
augmentation are pure in (seed, pseudo-epoch, row), and torch's generators (dropout) are seeded
anew for each (seed, pseudo-epoch, rank).
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from satray.storage import Storage, join

if TYPE_CHECKING:
    from torch import Tensor

    from satray.train.evaluation import Predictions
    from satray.train.plan import TrainingPlan

FOLDER, INITIAL = "rounds", "initial.pt"
"""Below the run's state: the folder of these files; the network's first weights, made by the driver
before workers start."""
WORST = -1e30
"""Score of a metric that is not a number, or not there."""

State = dict[str, "Tensor"]
Lost = dict[str, dict[int, str]]
"""Tiles that could not be read: split -> row of the split -> reason."""


@dataclass(frozen=True)
class TrainState:
    """A run after a whole number of pseudo-epochs. Tensors and plain types only."""

    pseudo_epoch: int
    """Rounds of the plan that are finished."""
    model: State
    """State dict of the network: parameters and buffers, contiguous."""
    optimizer: dict[str, Any]
    """State dict of the optimiser of the last step's stage; empty where no more steps are taken."""
    history: tuple[dict[str, Any], ...]
    """One flat row a round so far (`Loop.step`)."""
    average: State
    """The moving average (`MovingAverage.state`); empty where there is none."""
    lost: Lost = field(default_factory=dict)
    """In all attempts, by all workers."""
    swa: State = field(default_factory=dict)
    """The mean of the snapshots so far; empty where none is asked for."""
    bad: int = 0
    """The last steps in a row that were not finite."""

    def copied(self) -> TrainState:
        """The same in the CPU's memory, where training changes nothing any more."""
        names = ("model", "optimizer", "average", "swa")
        return replace(self, **{name: _copied(getattr(self, name)) for name in names})


@dataclass(frozen=True)
class Kept:
    """Weights that may become the bundle, and how they do on validation."""

    samples_seen: int
    """By then."""
    weights: State
    """State dict of the network, on the CPU."""
    validation: dict[str, Any]
    """The row of that round (`Loop.step`), but for what differs from run to run (`TIMES`)."""
    predictions: Predictions
    """Of the validation split."""
    precision: str = "fp32"
    """Of those: `fp32`, or `bf16` autocast."""

    @property
    def kind(self) -> str:
        """`checkpoint`, or `swa`: the mean of the snapshots' weights."""
        return str(self.validation["kind"])


def find(storage: Storage, state: str, kind: str = "latest") -> tuple[int, str | None]:
    """See where a run stands.

    Args:
        storage: how it is reached.
        state: folder of the run's state.
        kind: `latest`, or `best`.

    Returns:
        Rounds finished and kept, and the URI of the state after them, or of the best
        weights so far; None where there is none.
    """
    kept: dict[str, dict[int, str]] = {"latest": {}, "best": {}}
    for entry in storage.list(join(state, FOLDER)):
        if found := re.fullmatch(r"(latest|best)-(\d+)\.pt", entry.key):
            kept[found[1]][int(found[2])] = entry.uri
    done = max(kept["latest"], default=0)
    # Best weights that are newer are of a pseudo-epoch whose state was not written any more.
    newest = max((number for number in kept[kind] if number <= done), default=0)
    return done, kept[kind].get(newest)


def is_done(storage: Storage, state: str, plan: TrainingPlan) -> bool:
    """Whether a training has come to its end."""
    return find(storage, state)[0] >= plan.rounds


def latest_of(storage: Storage, state: str) -> TrainState | None:
    """The training state that a run goes on from; None before the first."""
    _, found = find(storage, state)
    return None if found is None else TrainState(**from_bytes(storage.read(found)))


def best_of(storage: Storage, state: str) -> Kept | None:
    """The best weights that a run reached; None where it left none."""
    _, uri = find(storage, state, "best")
    if uri is None:
        return None
    from satray.train.evaluation import Predictions

    found = from_bytes(storage.read(uri))
    seen = {name: each.numpy() for name, each in found.pop("predictions").items()}
    return Kept(**found, predictions=Predictions(**seen))


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
        import torch

        files = {"latest-": vars(state)}
        if best is not None:  # before the state, which says that the pseudo-epoch is done
            seen = {name: torch.from_numpy(each) for name, each in vars(best.predictions).items()}
            files = {"best-": {**vars(best), "predictions": seen}, **files}
        number = f"{state.pseudo_epoch:06d}"
        for kind, content in files.items():
            self._storage.write(join(self._folder, f"{kind}{number}.pt"), to_bytes(content))
        for entry in self._storage.list(self._folder):
            if entry.key.startswith(tuple(files)) and not entry.key.endswith(f"-{number}.pt"):
                self._storage.delete(entry.uri)


def score(row: Mapping[str, Any], best: str) -> float:
    """What the weights of a round are compared by: more is better."""
    value = float(row.get("val_loss" if best == "loss" else best, math.nan))
    if math.isnan(value):
        return WORST
    return -value if best == "loss" else value


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


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copied(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(each) for each in value]
    return value.detach().to("cpu", copy=True) if hasattr(value, "detach") else value
