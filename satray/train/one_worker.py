"""Short trainings on one worker, on Ray or in the job's process: for range tests and the check."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from satray.data.read import TileSource
from satray.errors import TrainingError
from satray.runs.run import Run
from satray.storage import Storage
from satray.train import worker
from satray.train.checkpoints import from_bytes
from satray.train.imbalance import class_weights
from satray.train.setup import Setup

if TYPE_CHECKING:
    import torch

    from satray.models.network import Network
    from satray.train.step import Batch, Inputs

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

    def begin(
        self, trainable: str, layer_decay: float = 1.0, parts: int = 1
    ) -> tuple[Network, Callable[[Inputs, float], float]]:
        """Make a training of its own, as the recipe says.

        Args:
            trainable: as of a stage.
            layer_decay: as of a stage.
            parts: pieces that a batch goes through the network in.

        Returns:
            A copy of the network, and what takes a step: (inputs, learning rate) -> the loss
            before it; NaN where that or its gradient is not finite.
        """
        from satray.train.losses import make_loss
        from satray.train.optim import make_optimizer, parameter_groups
        from satray.train.step import TrainStep

        recipe, network = self.setup.recipe, copy.deepcopy(self.network)
        network.set_trainable(trainable)
        network.train()
        weights = class_weights(recipe.loss, self.train.labels, recipe.repeat)
        step = TrainStep(
            network,
            make_optimizer(recipe.optimizer, parameter_groups(network, layer_decay)),
            make_loss(recipe.loss, self.setup.task, weights),
            clip=recipe.optimizer.clip,
            accumulate=parts,
            bf16=self.bf16,
        )

        def take(inputs: Inputs, rate: float) -> float:
            total, readable, bad = step(inputs, rate).tolist()
            loss = math.nan if bad or not readable else float(total / readable)
            self.tell(f"learning rate {rate:.2g}, loss {loss:.4f}")
            return loss

        return network, take

    def read(self, rows: NDArray[np.int64]) -> Iterator[Batch]:
        """Read tiles of the split, batch by batch, a few ahead of the caller.

        Args:
            rows: which tiles, in order; a row may come several times.

        Raises:
            TrainingError: more of them than the recipe's `error_budget` allows cannot be read.
        """
        recipe, lost, errors = self.setup.recipe, 0, dict[int, str]()
        for batch in worker.read_batches(self.train, rows, recipe.batch, recipe.resources, errors):
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
    source = setup.source("train", run.storage)
    task = (function, args, setup.without_table(), source, run.storage, initial)

    def show(message: dict[str, str]) -> None:
        for kind, line in message.items():
            (run.say if kind == "say" else run.progress)(f"{what}: {line}")

    with run.activity(what):
        if not run.ray:
            with worker.torch_here(setup.recipe.resources) as device:
                return _begin(show, device.type == "cuda", *task)
        from satray import cluster  # which imports Ray

        workers = cluster.allot(setup.recipe.resources, run.say, count=1)
        channel = cluster.ProgressChannel()
        with channel.watch(show):
            found: T = cluster.run_once(_begin, channel.send, workers.gpu, *task, workers=workers)
            return found


def _begin(
    send: Callable[[dict[str, str]], None],
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
    send({"say": f"precision: {kind} on a {'GPU' if gpu else 'CPU'}"})
    network = setup.network()
    network.load_state_dict(from_bytes(storage.read(initial)))
    network.to(device).to(memory_format=cast(Any, torch.channels_last))
    this = Worker(setup, train, network, device, bf16, lambda now: send({"now": now}))
    with determinism(recipe.deterministic):
        return function(this, *args)
