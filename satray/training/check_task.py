"""The check on the cluster: one task, with a GPU where there is one, that reads and examines."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from satray import cluster
from satray.config.check import CheckRecipe
from satray.models.preprocess import Preprocess
from satray.runs.run import Run
from satray.storage import Storage
from satray.tiles.blocks import TileSource, tile_source
from satray.training import precision
from satray.training.check import Setting, examine
from satray.training.diagnose import Evidence
from satray.training.feed import read_batches
from satray.training.imbalance import class_weights
from satray.training.landscape import Inputs
from satray.training.losses import make_loss
from satray.training.optimizers import depth_groups, make_optimizer
from satray.training.setup import Setup
from satray.training.state import begin, determinism


@dataclass(frozen=True)
class CheckTask:
    """What the task is given."""

    setup: Setup
    """The run, resolved, without its index's table."""
    recipe: CheckRecipe
    """Its recipe."""
    train: TileSource
    """The train split."""
    rows: NDArray[np.int64]
    """Rows of the batch."""
    rate: float
    """Learning rate."""
    preprocess: Preprocess
    """From stored pixels to the network's input."""
    initial: str
    """URI of the network's first weights."""
    storage: Storage
    """How URIs are reached."""
    gpu: bool
    """Whether it runs on a GPU."""
    channel: cluster.ProgressChannel
    """Where messages to the driver go."""


def run_check(
    setup: Setup,
    recipe: CheckRecipe,
    run: Run,
    initial: str,
    rows: NDArray[np.int64],
    rate: float,
) -> Evidence:
    """Examine a batch of the train split on a worker. Ray is up.

    Args:
        setup: the run, resolved.
        recipe: its recipe.
        run: its folder.
        initial: URI of the network's first weights.
        rows: rows of the train split: the batch.
        rate: learning rate.

    Raises:
        InputError: `check.trainable` is no block of the network.
        TrainingError: tiles that cannot be read.
    """
    channel = cluster.progress_channel()
    gpu = cluster.use_gpus(recipe.resources)
    task = CheckTask(
        setup=setup.without_table(),
        recipe=recipe,
        train=tile_source(
            setup.index, "train", setup.bands, run.storage, digest=setup.digest, cache=recipe.cache
        ),
        rows=rows,
        rate=rate,
        preprocess=setup.preprocess(),
        initial=initial,
        storage=run.storage,
        gpu=gpu,
        channel=channel,
    )

    def show(message: dict[str, Any]) -> None:
        if "bf16" in message:
            run.say(f"check: {precision.line(message['bf16'])}")
            return
        run.progress(
            f"learning rate {message['rate']:.3g}: step {message['step']} of "
            f"{recipe.check.steps}, loss {message['loss']:.4f}"
        )

    run.say(
        f"check: {len(rows)} tiles, up to {recipe.check.steps} steps at learning rate {rate:.3g} "
        f"on a {'GPU' if gpu else 'CPU'}"
    )
    with run.activity("checking"), channel.watch(show):
        return cluster.run_once(_run, task, gpu=gpu)


def _run(task: CheckTask) -> Evidence:
    recipe = task.recipe
    begin(recipe.seed, recipe.deterministic)
    device = torch.device("cuda" if task.gpu else "cpu")
    bf16 = precision.takes_bf16(recipe.precision, device)
    task.channel.send({"bf16": bf16})
    network = task.setup.network()
    network.load_state_dict(
        torch.load(io.BytesIO(task.storage.read(task.initial)), weights_only=True)
    )
    network.to(device).to(memory_format=cast(Any, torch.channels_last))
    network.set_trainable(recipe.check.trainable)
    without_dropout(network)

    def tell(rate: float, step: int, loss: float) -> None:
        task.channel.send({"rate": rate, "step": step, "loss": loss})

    # Smoothed labels have a lowest loss above 0, which no batch could pass.
    sharp = recipe.loss.model_copy(update={"smoothing": 0.0})
    weights = class_weights(sharp, task.train.labels, recipe.repeat)
    setting = Setting(
        task=task.setup.task,
        loss=make_loss(sharp, task.setup.task, weights),
        options=recipe.check,
        optimizer=lambda network: make_optimizer(recipe.optimizer, depth_groups(network, 1.0)),
        bf16=bf16,
        tell=tell,
    )
    with determinism(recipe.deterministic):
        return examine(network, _Batch(task, device), task.rate, setting)


class _Batch:
    """The batch; read from storage twice, since that is where tiles and labels may come apart."""

    def __init__(self, task: CheckTask, device: torch.device) -> None:
        self._task = task
        self._device = device

    def __call__(self, time: int) -> Inputs:
        return self._read(min(time, 1))

    @functools.cache  # noqa: B019
    def _read(self, time: int) -> Inputs:  # noqa: ARG002
        task = self._task
        (batch,) = read_batches(task.train, task.rows, len(task.rows), task.recipe.error_budget)
        x_BCHW = task.preprocess(batch["pixels"].to(self._device))
        return x_BCHW, batch["labels"].to(self._device).float()


def without_dropout(network: nn.Module) -> None:
    """Switch off all dropout, of units and of whole branches (timm's `DropPath`)."""
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif hasattr(module, "drop_prob"):
            module.drop_prob = cast(Any, 0.0)
