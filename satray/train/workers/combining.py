"""The end of training on a worker: snapshots kept on the way, and combined when it is over.

Plain torch and storage; `satray.train.workers.launch` calls it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from satray.storage import Storage
from satray.train.loop.combine import combine
from satray.train.loop.settings import LoopSettings
from satray.train.loop.step import Batch, TrainInput
from satray.train.workers import snapshots

if TYPE_CHECKING:  # it imports Ray
    from satray.train.workers.train_task import Task

State = dict[str, Tensor]


def to_bytes(state: State) -> bytes:
    """A state dict as `torch.save` writes it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def read_state(storage: Storage, uri: str, device: torch.device | str = "cpu") -> State:
    """Read what `to_bytes` made; runs no code from the file."""
    state: State = torch.load(io.BytesIO(storage.read(uri)), map_location=device, weights_only=True)
    return state


def keeper(storage: Storage, state: str, rank: int) -> Callable[[int, State], None]:
    """What keeps a snapshot: rank 0 writes it below the run's state."""

    def keep(step: int, weights: State) -> None:
        if rank == 0:
            storage.write(snapshots.snapshot_uri(state, step), to_bytes(weights))

    return keep


def finish(
    task: Task,
    rank: int,
    network: nn.Module,
    train_batches: Callable[[int], Iterator[Batch]],
    val_batches: Callable[[], Iterator[Batch]],
    settings: LoopSettings,
    train_input: TrainInput,
    device: torch.device | str,
) -> None:
    """Combine the snapshots and write what comes out, where that was not done yet.

    Args:
        task: of the run; rank 0 writes below its state, and tells its driver.
        rank: of this worker; every rank calls this.
        network: the one that was trained; overwritten.
        train_batches: pseudo-epoch -> this worker's batches; asked for the one past the last.
        val_batches: this worker's share of validation.
        settings: of the run.
        train_input: of the run.
        device: where this rank computes.
    """
    storage, state, plan = task.storage, task.state, task.setup.plan
    steps = snapshots.pending(storage, state, plan, settings.average)
    if not steps:
        return
    found = combine(
        network,
        steps,
        lambda step: read_state(storage, snapshots.snapshot_uri(state, step), device),
        lambda: train_batches(plan.pseudo_epochs),
        val_batches,
        plan=plan,
        settings=settings,
        train_input=train_input,
        eval_input=task.setup.preprocess(),
        device=device,
    )
    if rank != 0:
        return
    files = {snapshots.PREDICTIONS: found.predictions.to_bytes()}
    if found.weights is not None:
        files[snapshots.STATE] = to_bytes(found.weights)
    files[snapshots.RECORD] = json.dumps(found.record).encode()  # last: it says complete
    for name, data in files.items():
        storage.write(snapshots.combined_uri(state, name), data)
    task.channel.send({"kind": "combined", "record": found.record})
