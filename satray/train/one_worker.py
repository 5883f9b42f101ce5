"""Short trainings on one worker, on Ray or in the job's process: for range tests and the check."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from satray.config.train import TrainRecipe
from satray.data.read import TileSource, tile_source
from satray.errors import TrainingError
from satray.runs.run import Run
from satray.storage import Storage
from satray.train import worker
from satray.train.checkpoints import from_bytes
from satray.train.setup import Setup

if TYPE_CHECKING:
    import torch

    from satray.models.network import Network
    from satray.train.step import Batch

T = TypeVar("T")


@dataclass(frozen=True)
class Worker:
    """What there is to work with."""

    setup: Setup
    """The run, resolved, without its index's table."""

    train: TileSource
    """The train split."""

    network: Network
    """With its first weights, on the device; to be copied."""

    device: torch.device
    """A GPU, or the CPU."""

    bf16: bool
    """Whether to autocast to bfloat16."""

    tell: Callable[[str], None]
    """Shows how far the work is."""


def read_batches(
    source: TileSource, rows: NDArray[np.int64], batch: int, recipe: TrainRecipe
) -> Iterator[Batch]:
    """Read tiles of a split where they are needed, some batches ahead of the caller.

    Args:
        source: the split.
        rows: which tiles, in order; a row may come several times.
        batch: tiles a batch.
        recipe: says how many may be unreadable (`error_budget`), and how many are read at once.

    Raises:
        TrainingError: more tiles than the budget allows cannot be read.
    """
    lost, errors = 0, dict[int, str]()
    for each in worker.read_batches(source, rows, batch, recipe.resources, errors):
        lost += int((~each["valid"]).sum())
        if lost > recipe.error_budget * len(rows):
            raise TrainingError(
                f"{lost} of {len(rows):,} tiles could not be read (error_budget="
                f"{recipe.error_budget:g}); the last: {list(errors.values())[-1]}"
            )
        yield each


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
    source = tile_source(
        setup.index,
        "train",
        setup.bands,
        run.storage,
        digest=setup.digest,
        cache=setup.recipe.cache,
    )
    given = (function, args, setup.without_table(), source, run.storage, initial)

    def show(message: dict[str, Any]) -> None:
        if "precision" in message:
            run.say(f"{what}: {message['precision']}")
        else:
            run.progress(f"{what}: {message['now']}")

    with run.activity(what):
        if not run.ray:
            with worker.torch_here(setup.recipe.resources) as device:
                return _begin(show, device.type == "cuda", *given)
        from satray import cluster  # which imports Ray

        workers = cluster.allot(setup.recipe.resources, run.say, count=1)
        channel = cluster.ProgressChannel()
        with channel.watch(show):
            found: T = cluster.run_once(_begin, channel.send, workers.gpu, *given, workers=workers)
            return found


def _begin(
    send: Callable[[dict[str, Any]], None],
    gpu: bool,
    function: Callable[..., T],
    args: tuple[Any, ...],
    setup: Setup,
    train: TileSource,
    storage: Storage,
    initial: str,
) -> T:
    """On the worker: build the network, and call the function."""
    import torch

    from satray.train.state import begin, determinism, takes_bf16

    recipe = setup.recipe
    begin(recipe.seed, recipe.deterministic)
    device = torch.device("cuda" if gpu else "cpu")
    bf16 = takes_bf16(recipe.precision, device)
    kind = "bf16 autocast" if bf16 else "fp32"
    send({"precision": f"precision: {kind} on a {'GPU' if gpu else 'CPU'}"})
    network = setup.network()
    network.load_state_dict(from_bytes(storage.read(initial)))
    network.to(device).to(memory_format=cast(Any, torch.channels_last))
    given = Worker(setup, train, network, device, bf16, lambda now: send({"now": now}))
    with determinism(recipe.deterministic):
        return function(given, *args)
