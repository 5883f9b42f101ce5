"""One call on a worker that trains a little: what range tests and the check have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch

from satray import cluster
from satray.data.read import TileSource, tile_source
from satray.models.network import Network
from satray.models.preprocess import Preprocess
from satray.runs.run import Run
from satray.storage import Storage
from satray.train.loop import precision
from satray.train.loop.state import begin
from satray.train.plan.setup import Setup
from satray.train.workers import initial

T = TypeVar("T")


@dataclass(frozen=True)
class WorkerTask:
    """What the worker is given."""

    setup: Setup
    """The run, resolved, without its index's table."""
    train: TileSource
    """The train split."""
    preprocess: Preprocess
    """From stored pixels to the network's input."""
    initial: str
    """URI of the network's first weights."""
    storage: Storage
    """How URIs are reached."""
    workers: cluster.Workers
    """What it runs on."""
    channel: cluster.ProgressChannel
    """Where messages to the driver go."""

    @property
    def where(self) -> str:
        """GPU or CPU."""
        return "GPU" if self.workers.gpu else "CPU"


def worker_task(setup: Setup, run: Run, weights: str) -> WorkerTask:
    """Gather what a worker needs. Ray is up.

    Args:
        setup: the run, resolved.
        run: its folder.
        weights: URI of the network's first weights.
    """
    recipe = setup.recipe
    return WorkerTask(
        setup=setup.without_table(),
        train=tile_source(
            setup.index, "train", setup.bands, run.storage, digest=setup.digest, cache=recipe.cache
        ),
        preprocess=setup.preprocess(),
        initial=weights,
        storage=run.storage,
        workers=cluster.allot(recipe.resources, run.say, count=1),
        channel=cluster.ProgressChannel(),
    )


def call(
    run: Run,
    activity: str,
    show: Callable[[dict[str, Any]], None],
    function: Callable[..., T],
    task: WorkerTask,
    *args: Any,
) -> T:
    """Call `function(task, *args)` on a worker, and wait.

    Args:
        run: told which precision the worker takes; its seconds go to `activity`.
        activity: what this is.
        show: called with each message of the worker.
        function: what to call; pickled.
        task: its first argument.
        args: more of them.
    """

    def heard(message: dict[str, Any]) -> None:
        if "bf16" in message:
            run.say(f"{activity}: {precision.line(message['bf16'])}")
        else:
            show(message)

    with run.activity(activity), task.channel.watch(heard):
        return cluster.run_once(function, task, *args, workers=task.workers)


def first_network(task: WorkerTask) -> tuple[Network, torch.device, bool]:
    """On the worker: the network with its first weights, its device, and whether to use bf16."""
    recipe = task.setup.recipe
    begin(recipe.seed, recipe.deterministic)
    device = torch.device("cuda" if task.workers.gpu else "cpu")
    bf16 = precision.takes_bf16(recipe.precision, device)
    task.channel.send({"bf16": bf16})
    network = task.setup.network()
    initial.load(network, task.storage, task.initial)
    network.to(device).to(memory_format=cast(Any, torch.channels_last))
    return network, device, bf16
