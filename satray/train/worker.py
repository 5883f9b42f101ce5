"""What one process does of a training, wherever it runs: in the job's own, or on Ray.

That is its share of a whole training, or a short one by itself (range test, check). Nothing here
imports torch before training begins: Ray's controller would wait for it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from satray.config.base import Resources
from satray.config.train import TrainRecipe
from satray.data.cache import cache_lines
from satray.data.order import TrainOrder, WholeOrder, copies
from satray.data.read import Batch, TileSource, errors_of, read_blocks, to_torch
from satray.errors import TrainingError
from satray.runs.executor import each_block, torch_here
from satray.runs.run import Run
from satray.storage import Storage
from satray.train import checkpoints
from satray.train.checkpoints import Lost, Writer, score
from satray.train.imbalance import class_weights
from satray.train.plan import PlannedStage, train_order
from satray.train.setup import Setup

if TYPE_CHECKING:
    import torch

    from satray.models.network import Network
    from satray.train.evaluation import Predictions
    from satray.train.step import Inputs

T = TypeVar("T")
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

    def begin(self) -> Network:
        """Seed this process; give the network with its first weights."""
        from satray.train.process import begin

        begin(self.setup.recipe.seed, self.setup.recipe.deterministic)
        network = self.setup.network()
        network.load_state_dict(checkpoints.from_bytes(self.storage.read(self.initial)))
        return network

    @property
    def train_order(self) -> TrainOrder:
        """Rows of each pseudo-epoch."""
        return train_order(self.setup.recipe, self.setup.plan, self.train.labels)

    @property
    def val_order(self) -> WholeOrder:
        """Rows of validation."""
        return WholeOrder(len(self.val), self.setup.plan.workers)


def train(
    task: Task,
    train_batches: Callable[[int], Iterator[Batch]],
    val_batches: Callable[[], Iterator[Batch]],
    errors: Lost,
    rank: int,
    device: torch.device,
    send: Callable[[Message], None],
) -> None:
    """Train from wherever the run's state stands, to the end of the plan.

    Args:
        task: of the run.
        train_batches: pseudo-epoch -> this worker's batches of it.
        val_batches: this worker's share of validation.
        errors: where what reads the batches notes tiles that could not be read.
        rank: of this worker.
        device: where it computes.
        send: takes messages for the person.

    Raises:
        InputError, TrainingError: in one line, what no restart can cure.
    """
    from satray.train.loop import Loop
    from satray.train.process import by_rank_0, takes_bf16
    from satray.train.step import AugmentedTiles

    setup, recipe, plan, storage = task.setup, task.setup.recipe, task.setup.plan, task.storage
    network = task.begin()
    bf16 = takes_bf16(recipe.precision, device)
    latest = checkpoints.latest_of(storage, task.state)
    before: Lost = {} if latest is None else latest.lost
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
        progress=None if rank else lambda now: send({"kind": "progress", **now}),
    )

    def all_lost(shards: list[Lost]) -> Lost:
        return {
            split: {
                row: why for one in (before, *shards) for row, why in one.get(split, {}).items()
            }
            for split in ("train", "val")
        }

    writer = Writer(storage, task.state)

    def keep(row: dict[str, Any], seen: Predictions | None) -> None:
        lost = by_rank_0(errors, all_lost)
        if rank:
            return
        best, highest = None, max(score(each, setup.best) for each in loop.history)
        if seen is not None and score(row, setup.best) >= highest:
            best = loop.kept(seen)
        writer.keep(replace(loop.state().copied(), lost=lost), best)

    try:
        while not loop.done:
            row, seen = loop.step(train_batches, val_batches)
            keep(row, seen)
            if row["kind"] == "checkpoint":
                send({"kind": "epoch", "row": row if rank == 0 else None})
    except TrainingError as error:
        reasons = [reason for rows in errors.values() for reason in rows.values()]
        more = f"; a tile that could not be read: {reasons[0]}" if reasons else ""
        if loop.pseudo_epoch:
            more += f"; the checkpoint of pseudo-epoch {loop.pseudo_epoch} stays in {task.state}"
        raise TrainingError(f"{error}{more}") from error
    finally:
        writer.wait()


# In the job's own process


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
    import torch

    with torch_here(resources) as gpu:
        task, batch = Task.of(setup, run, initial), setup.plan.local_batch
        errors: Lost = {"train": {}, "val": {}}
        order, val_order = task.train_order, task.val_order
        run.say(f"training on 1 {'GPU' if gpu else 'CPU'} worker, in this process")
        for line in cache_lines(task.train.cache):
            run.say(line)
        train(
            task,
            lambda pseudo_epoch: read_batches(
                task.train, order.rows(pseudo_epoch), batch, resources, errors["train"]
            ),
            lambda: read_batches(task.val, val_order.rows(0), batch, resources, errors["val"]),
            errors,
            0,
            torch.device("cuda" if gpu else "cpu"),
            listen,
        )


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
        yield to_torch(table)


# A short training on one worker


@dataclass(frozen=True)
class Worker:
    """What there is to work with."""

    task: Task
    """The run."""
    network: Network
    """With its first weights, on the device; to be copied."""
    device: torch.device
    """A GPU, or the CPU."""
    bf16: bool
    """Whether to autocast to bfloat16."""
    tell: Callable[[str], None]
    """Shows how far the work is."""

    def begin(
        self, stage: PlannedStage, parts: int
    ) -> tuple[Network, Callable[[Inputs, float], float]]:
        """Make a training of its own, as the recipe says.

        Args:
            stage: what is trained.
            parts: pieces that a batch goes through the network in.

        Returns:
            A copy of the network, and what takes a step: (inputs, learning rate) -> the loss
            before it; NaN where that or its gradient is not finite.
        """
        from satray.train.losses import make_loss
        from satray.train.step import TrainStep

        setup, recipe = self.task.setup, self.task.setup.recipe
        network = copy.deepcopy(self.network)
        weights = class_weights(recipe.loss, self.task.train.labels, recipe.repeat)
        loss = make_loss(recipe.loss, setup.task, weights)
        options = recipe.optimizer
        step = TrainStep(network, options, stage, loss, accumulate=parts, bf16=self.bf16)

        def take(inputs: Inputs, rate: float) -> float:
            total, readable, bad = step(inputs, rate).tolist()
            loss = math.nan if bad or not readable else float(total / readable)
            self.tell(f"learning rate {rate:.2g}, loss {loss:.4f}")
            return loss

        return network, take

    def read(self, rows: NDArray[np.int64]) -> Iterator[Batch]:
        """Read tiles of the train split, batch by batch, a few ahead of the caller.

        Args:
            rows: which tiles, in order; a row may come several times.

        Raises:
            TrainingError: more of them than the recipe's `error_budget` allows cannot be read.
        """
        recipe, lost, errors = self.task.setup.recipe, 0, dict[int, str]()
        batches = read_batches(self.task.train, rows, recipe.batch, recipe.resources, errors)
        for batch in batches:
            lost += int((~batch["valid"]).sum())
            if lost > recipe.error_budget * len(rows):
                raise TrainingError(
                    f"{lost} of {len(rows):,} tiles could not be read (error_budget="
                    f"{recipe.error_budget:g}); the last: {list(errors.values())[-1]}"
                )
            yield batch


def work_on_one(
    function: Callable[..., T], setup: Setup, run: Run, initial: str, what: str, *args: Any
) -> T:
    """Call `function(worker, *args)`, on Ray where it is up for the run, else here.

    Args:
        function: what to call; found by its name.
        setup: the run, resolved.
        run: its folder; the seconds go to its activity `what`.
        initial: URI of the network's first weights.
        what: what this is, to the person.
        args: more arguments.

    Raises:
        InputError: `resources.gpus=yes` where there is none.
    """
    task, resources = Task.of(setup, run, initial), setup.recipe.resources

    def show(message: dict[str, str]) -> None:
        for kind, line in message.items():
            (run.say if kind == "say" else run.progress)(f"{what}: {line}")

    with run.activity(what):
        if not run.ray:
            with torch_here(resources) as gpu:
                return _on_one(show, gpu, task, function, *args)
        from satray import cluster  # which imports Ray

        workers = cluster.allot(resources, run.say, count=1)
        channel = cluster.ProgressChannel()
        with channel.watch(show):
            given = (channel.send, workers.gpu, task, function, *args)
            found: T = cluster.run_once(_on_one, *given, workers=workers)
            return found


def _on_one(
    send: Callable[[dict[str, str]], None],
    gpu: bool,
    task: Task,
    function: Callable[..., T],
    *args: Any,
) -> T:
    """On the worker: build the network, and call the function."""
    import torch

    from satray.train.process import determinism, takes_bf16

    recipe, network = task.setup.recipe, task.begin()
    device = torch.device("cuda" if gpu else "cpu")
    bf16 = takes_bf16(recipe.precision, device)
    kind = "bf16 autocast" if bf16 else "fp32"
    send({"say": f"precision: {kind} on a {'GPU' if gpu else 'CPU'}"})
    network.to(device).to(memory_format=cast(Any, torch.channels_last))
    this = Worker(task, network, device, bf16, lambda now: send({"now": now}))
    with determinism(recipe.deterministic):
        return function(this, *args)


# Where a training runs


def wants_ray(recipe: TrainRecipe, setup: Setup) -> bool:
    """Whether `resources.ray=auto` takes Ray: for several workers, or a GPU."""
    return recipe.resources.workers > 1 or may_use_gpu(recipe, setup)


def may_use_gpu(recipe: TrainRecipe, _setup: Setup) -> bool:
    """Whether work may be done on a GPU, which needs Ray's readers to keep it busy."""
    gpus = recipe.resources.gpus
    return gpus == "yes" or (gpus == "auto" and Path(NVIDIA).is_dir())
