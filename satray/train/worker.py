"""One process's share of a training, wherever it runs: alone in the job's own, or on Ray.

Nothing here imports torch before training begins: Ray's controller would wait for it.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from satray.config.base import Resources
from satray.config.train import TrainRecipe
from satray.data.cache import cache_lines
from satray.data.order import TrainOrder, WholeOrder, copies
from satray.data.read import Batch, TileSource, errors_of, read_blocks, tile_source, to_torch
from satray.errors import InputError, TrainingError
from satray.runs.executor import each_block
from satray.runs.run import Run
from satray.storage import Storage
from satray.train import checkpoints
from satray.train.checkpoints import Kept, Writer
from satray.train.imbalance import class_weights
from satray.train.plan import renewal_steps, snapshot_steps, train_order
from satray.train.setup import Setup

if TYPE_CHECKING:
    import torch

    from satray.train.loop import Progress

Message = dict[str, Any]
"""`kind`: `worker` (rank, pid), `precision` (bf16), `progress` (now), `epoch` (row: of rank 0, else
None; bytes_read), `average` (row, None where it is not finite; steps)."""


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
        recipe = setup.recipe
        source = functools.partial(
            tile_source,
            setup.index,
            bands=setup.bands,
            storage=run.storage,
            digest=setup.digest,
            cache=recipe.cache,
        )
        return cls(
            setup=setup.without_table(),
            train=source("train"),
            val=source("val"),
            initial=initial,
            state=run.state,
            storage=run.storage,
        )

    @property
    def train_order(self) -> TrainOrder:
        """Rows of each pseudo-epoch, and after the last those that renew batch statistics."""
        return train_order(self.setup.recipe, self.setup.plan, self.train.labels)

    @property
    def val_order(self) -> WholeOrder:
        """Rows of validation."""
        return WholeOrder(len(self.val), self.setup.plan.workers)

    def steps_in(self, pseudo_epoch: int) -> int:
        """Steps of a pseudo-epoch; past the last, those that renew batch statistics."""
        plan = self.setup.plan
        if pseudo_epoch < plan.pseudo_epochs:
            return plan.steps_in(pseudo_epoch)
        return renewal_steps(plan, self.setup.recipe.average)


class Tally(Protocol):
    """What reading a split told beside its tiles."""

    bytes_read: int
    errors: dict[int, str]


class Feed(Protocol):
    """Gives a worker its batches."""

    tallies: dict[str, Tally]
    """By split, of all passes so far."""

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
    from satray.train.parallel import synchronised
    from satray.train.state import begin, takes_bf16
    from satray.train.step import AugmentedTiles

    setup, recipe, plan, storage = task.setup, task.setup.recipe, task.setup.plan, task.storage
    begin(recipe.seed, recipe.deterministic)
    network: torch.nn.Module = setup.network()
    network.load_state_dict(checkpoints.from_bytes(storage.read(task.initial)))
    if recipe.sync_batchnorm and plan.workers > 1:
        network = synchronised(network)
    latest = checkpoints.find(storage, task.state).latest
    bf16 = takes_bf16(recipe.precision, device)

    def progress(now: Progress) -> None:
        if rank == 0:
            send({"kind": "progress", "now": now})

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
        state=None if latest is None else checkpoints.load(storage, latest),
        progress=progress,
    )
    writer, told = Writer(storage, task.state), _Told()
    try:
        while not loop.done:
            row, predictions = loop.step(feed.train, feed.val)
            lost = told.news(feed)
            checkpoints.keep_lost(storage, task.state, row["pseudo_epoch"], rank, lost)
            if predictions is not None:  # rank 0
                state, best = loop.state().copied(), None
                if checkpoints.is_best(loop.history, setup.best):
                    weights = {name: value.cpu().clone() for name, value in loop.kept().items()}
                    shown = {name: value for name, value in row.items() if "second" not in name}
                    samples = row["samples_seen"]
                    best = Kept("checkpoint", samples, weights, shown, predictions, loop.precision)
                writer.keep(state, best)
            read = {name: tally.bytes_read for name, tally in feed.tallies.items()}
            send({"kind": "epoch", "row": None if predictions is None else row, "bytes_read": read})
        writer.wait()
        _average(task, loop, feed, rank, send)
    except TrainingError as error:
        reasons = [reason for tally in feed.tallies.values() for reason in tally.errors.values()]
        more = f"; a tile that could not be read: {reasons[0]}" if reasons else ""
        raise TrainingError(f"{error}{more}") from error
    finally:
        writer.wait()


def _average(task: Task, loop: Any, feed: Feed, rank: int, send: Callable[[Message], None]) -> None:
    """Make and keep the average of the snapshots, where that is asked for and not done yet."""
    plan, average = task.setup.plan, task.setup.recipe.average
    if checkpoints.is_done(task.storage, task.state, plan, average):
        return
    kept = row = None
    try:
        weights, row, predictions = loop.average(feed.train, feed.val)
        if predictions is not None:
            samples = plan.total_samples
            kept = Kept("swa", samples, weights, row, predictions, loop.precision)
    except TrainingError:  # logits that are not finite: the best checkpoint stays
        pass
    if rank == 0:
        checkpoints.write_average(task.storage, task.state, kept)
        steps = len(snapshot_steps(plan, average))
        send({"kind": "average", "row": row, "steps": steps})


@dataclass
class _Told:
    """Rows whose errors were written already, by split."""

    rows: dict[str, set[int]] = field(default_factory=dict)

    def news(self, feed: Feed) -> dict[str, dict[int, str]]:
        """The errors that are new, by split and row."""
        found = {}
        for split, tally in feed.tallies.items():
            known = self.rows.setdefault(split, set())
            found[split] = {row: why for row, why in tally.errors.items() if row not in known}
            known.update(found[split])
        return found


# In the job's own process


@dataclass
class ReadTally:
    """A `Tally` of this process."""

    bytes_read: int = 0
    errors: dict[int, str] = field(default_factory=dict)


class Reader:
    """A `Feed` of one worker alone: threads of this process are a few batches ahead of it."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._order = task.train_order
        self.tallies: dict[str, Tally] = {"train": ReadTally(), "val": ReadTally()}

    def train(self, pseudo_epoch: int) -> Iterator[Batch]:
        """The batches of a pseudo-epoch, in order."""
        return self._batches("train", self._task.train, self._order.rows(pseudo_epoch))

    def val(self) -> Iterator[Batch]:
        """Validation, in order."""
        return self._batches("val", self._task.val, self._task.val_order.rows(0))

    def _batches(self, split: str, source: TileSource, rows: NDArray[np.int64]) -> Iterator[Batch]:
        tally, setup = self.tallies[split], self._task.setup
        tables = read_tables(
            source, rows, setup.plan.local_batch, setup.recipe.resources, copies(rows)
        )
        for table in tables:
            tally.bytes_read += int(np.sum(table.column("bytes").to_numpy()))
            tally.errors.update(errors_of(table))
            yield to_torch(table, source.shape, source.dtype)


def read_tables(
    source: TileSource,
    rows: NDArray[np.int64],
    batch: int,
    resources: Resources,
    came_before: NDArray[np.int64],
) -> Iterator[pa.Table]:
    """Read batches of tiles in order, a few ahead of the caller, in threads of this process.

    Args:
        source: the split.
        rows: which tiles, in order; a row may come several times.
        batch: tiles a batch.
        resources: how many are read at once.
        came_before: how often each of `rows` did.
    """

    def read(start: int) -> pa.Table:
        some = slice(start, start + batch)
        (table,) = read_blocks(source.rows(rows[some]), batch, copies=came_before[some])
        return table

    return each_block(read, range(0, len(rows), batch), resources, ray=False, ordered=True)


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
    recipe = setup.recipe
    if checkpoints.is_done(run.storage, run.state, setup.plan, recipe.average):
        return
    if recipe.resources.workers > 1:
        raise InputError(
            f"resources.workers={recipe.resources.workers}: several workers need Ray; accepted: 1, "
            "or resources.ray=auto"
        )
    with torch_here(recipe.resources) as device:
        gpu = device.type == "cuda"
        if recipe.sync_batchnorm and not gpu:
            raise InputError("sync_batchnorm=true: works on GPUs only; accepted: false on CPUs")
        task = Task.of(setup, run, initial)
        run.say(f"training on 1 {'GPU' if gpu else 'CPU'} worker, in this process")
        for line in cache_lines(task.train.cache):
            run.say(line)
        train(task, Reader(task), 0, device, listen)
