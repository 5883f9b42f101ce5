"""The check on the cluster: one task, with a GPU where there is one, that reads and examines."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from satray.config.train import CheckRecipe
from satray.runs.run import Run
from satray.train.check.diagnose import Evidence
from satray.train.check.overfit import Setting, examine
from satray.train.landscape.sweep import Inputs
from satray.train.loop.losses import make_loss
from satray.train.loop.optimizers import make_optimizer, parameter_groups
from satray.train.loop.state import determinism
from satray.train.plan.imbalance import class_weights
from satray.train.plan.setup import Setup
from satray.train.workers.feed import read_batches
from satray.train.workers.worker_task import WorkerTask, call, first_network, worker_task


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
    task = worker_task(setup, run, initial)

    def show(message: dict[str, Any]) -> None:
        run.progress(
            f"learning rate {message['rate']:.3g}: step {message['step']} of "
            f"{recipe.check.steps}, loss {message['loss']:.4f}"
        )

    run.say(
        f"check: {len(rows)} tiles, up to {recipe.check.steps} steps at learning rate {rate:.3g} "
        f"on a {task.where}"
    )
    return call(run, "check", show, _run, task, recipe, rows, rate)


def _run(task: WorkerTask, recipe: CheckRecipe, rows: NDArray[np.int64], rate: float) -> Evidence:
    network, device, bf16 = first_network(task)
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
        optimizer=lambda network: make_optimizer(recipe.optimizer, parameter_groups(network, 1.0)),
        bf16=bf16,
        tell=tell,
    )
    reads: list[Inputs] = []

    def batch(time: int) -> Inputs:
        """The batch; read twice from storage, where tiles and labels may come apart."""
        wanted = min(time, 1)
        while len(reads) <= wanted:
            (read,) = read_batches(task.train, rows, len(rows), recipe.error_budget)
            x_BCHW = task.preprocess(read["pixels"].to(device))
            reads.append((x_BCHW, read["labels"].to(device).float()))
        return reads[wanted]

    with determinism(recipe.deterministic):
        return examine(network, batch, rate, setting)


def without_dropout(network: nn.Module) -> None:
    """Switch off all dropout, of units and of whole branches (timm's `DropPath`)."""
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif hasattr(module, "drop_prob"):
            module.drop_prob = cast(Any, 0.0)
