"""One process's share of a training, wherever it runs: alone in the job's own, or on Ray.

Nothing here imports torch before training begins: Ray's controller would wait for it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from satray.config.base import Resources
from satray.config.train import TrainRecipe
from satray.data.cache import cache_lines
from satray.data.order import TrainOrder, WholeOrder, copies
from satray.data.read import Batch, TileSource, errors_of, read_blocks, to_torch
from satray.errors import InputError, TrainingError
from satray.runs.executor import each_block
from satray.runs.run import Run
from satray.storage import Storage
from satray.train import checkpoints
from satray.train.checkpoints import Kept, Lost, Writer, score
from satray.train.imbalance import class_weights
from satray.train.plan import train_order
from satray.train.setup import Setup

if TYPE_CHECKING:
    import torch

    from satray.train.evaluation import Predictions

Message = dict[str, Any]
"""`kind`: `worker` (rank, pid), `precision` (bf16), `progress` (as `Loop` tells), `epoch` (row of
rank 0, else None)."""

NVIDIA = "/proc/driver/nvidia/gpus"
"""There where the machine has GPUs; a look that needs neither torch nor Ray."""


@dataclass(frozen=True)
class Task:
    """What each worker is given; small but for the sources' tables of URIs and labels."""

    setup: Setup
    """The run, resolved, without its index's table."""
    train: TileSource
    """The train split."""
    val: TileSource
    """The validation split."""
    initial: str
    """URI of the network's first weights."""
    state: str
    """Folder of the run's state."""
    storage: Storage
    """How URIs are reached."""

    @classmethod
    def of(cls, setup: Setup, run: Run, initial: str) -> Task:
        """Gather what workers need."""
        train, val = (setup.source(split, run.storage) for split in ("train", "val"))
        return cls(setup.without_table(), train, val, initial, run.state, run.storage)

    @property
    def train_order(self) -> TrainOrder:
        """Rows of each pseudo-epoch, and after the last those that renew batch statistics."""
        return train_order(self.setup.recipe, self.setup.plan, self.train.labels)

    @property
    def val_order(self) -> WholeOrder:
        """Rows of validation."""
        return WholeOrder(len(self.val), self.setup.plan.workers)


class Feed(Protocol):
    """Gives a worker its batches."""

    @property
    def errors(self) -> Lost:
        """Tiles that could not be read so far."""

    def train(self, pseudo_epoch: int) -> Iterator[Batch]:
        """This worker's batches of a pseudo-epoch."""

    def val(self) -> Iterator[Batch]:
        """This worker's share of validation."""


def train(
    task: Task, feed: Feed, rank: int, device: torch.device, send: Callable[[Message], None]
) -> None:
    """Train from wherever the run's state stands, to the end of the plan.

    Args:
        task: of the run.
        feed: batches.
        rank: of this worker.
        device: where it computes.
        send: takes messages for the person.

    Raises:
        InputError, TrainingError: in one line, what no restart can cure.
    """
    from satray.train.loop import Loop
    from satray.train.parallel import by_rank_0, synchronised
    from satray.train.state import begin, takes_bf16
    from satray.train.step import AugmentedTiles

    setup, recipe, plan, storage = task.setup, task.setup.recipe, task.setup.plan, task.storage
    if recipe.sync_batchnorm and device.type != "cuda":
        raise InputError("sync_batchnorm=true: works on GPUs only; accepted: false on CPUs")
    begin(recipe.seed, recipe.deterministic)
    network: torch.nn.Module = setup.network()
    network.load_state_dict(checkpoints.from_bytes(storage.read(task.initial)))
    if recipe.sync_batchnorm and plan.workers > 1:
        network = synchronised(network)
    bf16 = takes_bf16(recipe.precision, device)
    latest = checkpoints.latest_of(storage, task.state)

    def progress(now: dict[str, Any]) -> None:
        if rank == 0:
            send({"kind": "progress", **now})

    if rank == 0:
        send({"kind": "precision", "bf16": bf16})
    preprocess = setup.preprocess()
    loop = Loop(
        network,
        plan,
        recipe,
        setup.task,
        setup.index.meta.classes,
        train_input=AugmentedTiles.of(recipe, preprocess, recipe.seed),
        eval_input=preprocess,
        positive_weight=class_weights(recipe.loss, task.train.labels, recipe.repeat),
        bf16=bf16,
        device=device,
        state=latest,
        progress=progress,
    )
    writer = Writer(storage, task.state)

    def keep(
        kind: str,
        row: dict[str, Any] | None,
        weights: dict[str, torch.Tensor],
        seen: Predictions | None,
    ) -> None:
        """Keep where training stands, and the weights where none were better."""
        before = {} if latest is None else latest.lost
        lost = by_rank_0(feed.errors, lambda shards: _joined([before, *shards]))
        if rank:
            return
        best = None
        scores = [score(each, setup.best) for each in loop.history]
        if row is not None and seen is not None and score(row, setup.best) >= max(scores):
            shown = {name: value for name, value in row.items() if "second" not in name}
            samples = row.get("samples_seen", plan.total_samples)
            copied = {name: value.cpu().clone() for name, value in weights.items()}
            best = Kept(kind, samples, copied, shown, seen, loop.precision)
        writer.keep(replace(loop.state().copied(), lost=lost), best)

    try:
        while not loop.done:
            row, seen = loop.step(feed.train, feed.val)
            keep("checkpoint", row, loop.kept(), seen)
            send({"kind": "epoch", "row": row if rank == 0 else None})
        if plan.snapshots and loop.pseudo_epoch == plan.pseudo_epochs:
            weights, seen = loop.average(feed.train, feed.val)
            keep("swa", loop.averaged, weights, seen)
    except TrainingError as error:
        reasons = [reason for rows in feed.errors.values() for reason in rows.values()]
        more = f"; a tile that could not be read: {reasons[0]}" if reasons else ""
        raise TrainingError(f"{error}{more}") from error
    finally:
        writer.wait()


def _joined(shards: list[Lost]) -> Lost:
    """What several know of tiles that could not be read."""
    return {
        split: {row: why for shard in shards for row, why in shard.get(split, {}).items()}
        for split in ("train", "val")
    }


# In the job's own process


@dataclass
class Reader:
    """A `Feed` of one worker alone: threads of this process are a few batches ahead of it."""

    task: Task
    errors: Lost = field(default_factory=lambda: {"train": {}, "val": {}})

    def train(self, pseudo_epoch: int) -> Iterator[Batch]:
        """The batches of a pseudo-epoch, in order."""
        rows = self.task.train_order.rows(pseudo_epoch)
        return self._batches(self.task.train, rows, self.errors["train"])

    def val(self) -> Iterator[Batch]:
        """Validation, in order."""
        return self._batches(self.task.val, self.task.val_order.rows(0), self.errors["val"])

    def _batches(
        self, source: TileSource, rows: NDArray[np.int64], errors: dict[int, str]
    ) -> Iterator[Batch]:
        setup = self.task.setup
        return read_batches(source, rows, setup.plan.local_batch, setup.recipe.resources, errors)


def read_batches(
    source: TileSource,
    rows: NDArray[np.int64],
    batch: int,
    resources: Resources,
    errors: dict[int, str],
) -> Iterator[Batch]:
    """Read batches of tiles in order, a few ahead of the caller, in threads of this process.

    Args:
        source: the split.
        rows: which tiles, in order; a row may come several times.
        batch: tiles a batch.
        resources: how many are read at once.
        errors: takes in which rows could not be read, and why.
    """
    came_before = copies(rows)

    def read(start: int) -> pa.Table:
        some = slice(start, start + batch)
        (table,) = read_blocks(source.rows(rows[some]), batch, copies=came_before[some])
        return table

    starts = range(0, len(rows), batch)
    for table in each_block(read, starts, resources, ray=False, ordered=True):
        errors.update(errors_of(table))
        yield to_torch(table, source.shape, source.dtype)


@contextlib.contextmanager
def torch_here(resources: Resources) -> Iterator[torch.device]:
    """Have torch as a worker has it, within the block: on a GPU where there is one, else all cores.

    Raises:
        InputError: `resources.gpus=yes` where there is none.
    """
    import torch

    gpu = resources.gpus != "no" and torch.cuda.is_available()
    if resources.gpus == "yes" and not gpu:
        raise InputError("resources.gpus=yes: this machine has no GPU; accepted: auto, no")
    threads = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_flush_denormal(True)  # networks make denormals, and CPUs crawl over them
    try:
        yield torch.device("cuda" if gpu else "cpu")
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)


def wants_ray(recipe: TrainRecipe, setup: Setup) -> bool:
    """Whether `resources.ray=auto` takes Ray: for several workers, or a GPU."""
    return recipe.resources.workers > 1 or may_use_gpu(recipe, setup)


def may_use_gpu(recipe: TrainRecipe, _setup: Setup) -> bool:
    """Whether work may be done on a GPU, which needs Ray's readers to keep it busy."""
    gpus = recipe.resources.gpus
    return gpus == "yes" or (gpus == "auto" and Path(NVIDIA).is_dir())


def fit(setup: Setup, run: Run, initial: str, listen: Callable[[Message], None]) -> None:
    """Do a training of one worker in this process, from wherever the run's state stands.

    Args:
        setup: the run, resolved.
        run: its folder; state goes to `run.state`.
        initial: URI of the network's first weights.
        listen: called with each message.

    Raises:
        InputError, TrainingError: what stopped it, in one line.
    """
    resources = setup.recipe.resources
    if checkpoints.is_done(run.storage, run.state, setup.plan):
        return
    if resources.workers > 1:
        raise InputError(
            f"resources.workers={resources.workers}: several workers need Ray; accepted: 1, or "
            "resources.ray=auto"
        )
    with torch_here(resources) as device:
        task = Task.of(setup, run, initial)
        kind = "GPU" if device.type == "cuda" else "CPU"
        run.say(f"training on 1 {kind} worker, in this process")
        for line in cache_lines(task.train.cache):
            run.say(line)
        train(task, Reader(task), 0, device, listen)
