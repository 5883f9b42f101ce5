"""Range tests on the cluster: one task, with a GPU where there is one, that reads and sweeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from satray.config.train import StageOptions
from satray.data.augment import send
from satray.data.order import copies, samples, window
from satray.models.network import Network
from satray.runs.run import Run
from satray.storage import join
from satray.train.landscape import findings
from satray.train.landscape.findings import Finding
from satray.train.landscape.range_test import Curve
from satray.train.landscape.sweep import Inputs, sweep
from satray.train.loop.dropout import HeadDropout
from satray.train.loop.losses import make_loss
from satray.train.loop.mixup import mix, shares
from satray.train.loop.optimizers import make_optimizer, parameter_groups
from satray.train.loop.stage_check import refuse_single
from satray.train.loop.state import determinism, seed_torch
from satray.train.loop.step import AugmentedTiles
from satray.train.plan.imbalance import class_weights, repeat_factors
from satray.train.plan.setup import Setup
from satray.train.workers.feed import read_batches
from satray.train.workers.worker_task import WorkerTask, call, first_network, worker_task

FILE = "range_tests.json"
"""Below a run's state: what was found, so that a run that goes on does not search again."""
_STREAM = 3001
"""Keeps the sweeps' generators apart from training's."""


def explore(setup: Setup, run: Run, initial: str, stages: Sequence[int]) -> tuple[Finding, ...]:
    """Find learning rates for some stages, once: a run that goes on reads what it found.

    Stages that train the same part alike share a test. Each starts from the network's first
    weights, on batches as they would come in training. Ray is up.

    Args:
        setup: the run, resolved.
        run: its folder.
        initial: URI of the network's first weights.
        stages: which stages, 0 for the first.

    Raises:
        TrainingError: a loss that bursts before it says anything, or tiles that cannot be read.
    """
    kept = join(run.state, FILE)
    if run.storage.exists(kept):
        return findings.from_bytes(run.storage.read(kept))
    groups = alike(setup.recipe.stages, stages)
    wanted = setup.recipe.landscape
    task = worker_task(setup, run, initial)
    sweeps = len(groups) * wanted.seeds
    run.say(
        f"range test: {sweeps} sweeps of {wanted.steps} batches of {setup.recipe.batch} on a "
        f"{task.where}, {wanted.lowest:g} to {wanted.highest:g}"
    )

    def show(message: dict[str, Any]) -> None:
        run.progress(
            f"range test: sweep {message['sweep'] + 1} of {sweeps}, batch {message['step']} of "
            f"{wanted.steps}, loss {message['loss']:.4f}"
        )

    tested = tuple(group[0] for group in groups)
    found = call(run, "range test", show, _explore, task, tested)
    result = tuple(
        Finding(group, setup.recipe.stages[group[0]].trainable, curves, wanted.suggestion)
        for group, curves in zip(groups, found, strict=True)
    )
    run.storage.write(kept, findings.to_bytes(result))
    return result


def alike(options: Sequence[StageOptions], stages: Sequence[int]) -> list[tuple[int, ...]]:
    """Stages in groups that one test speaks for, in order."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number in stages:
        stage = options[number]
        key = (stage.trainable, stage.layer_decay, stage.dropout)
        groups.setdefault(key, []).append(number)
    return [tuple(group) for group in groups.values()]


def _explore(task: WorkerTask, stages: tuple[int, ...]) -> list[tuple[Curve, ...]]:
    """All sweeps of some stages, 0 for the first; on the worker."""
    recipe = task.setup.recipe
    network, _, bf16 = first_network(task)
    seeds = range(recipe.landscape.seeds)
    with determinism(recipe.deterministic):
        return [
            tuple(
                _sweep(task, network, recipe.stages[stage], place * len(seeds) + seed, seed, bf16)
                for seed in seeds
            )
            for place, stage in enumerate(stages)
        ]


def _sweep(
    task: WorkerTask, network: Network, stage: StageOptions, number: int, seed: int, bf16: bool
) -> Curve:
    """One sweep; the network is then as it was."""
    setup, recipe = task.setup, task.setup.recipe
    device = next(network.parameters()).device
    network.set_trainable(stage.trainable)
    network.train()
    # Synchronised batch norms see the global batch as one.
    parts = 1 if recipe.sync_batchnorm else setup.plan.workers
    if setup.plan.global_batch == parts:
        refuse_single(network, recipe.batch, setup.plan.workers)
    HeadDropout(network).enter(recipe.dropout if stage.dropout is None else stage.dropout)
    seed_torch(recipe.seed, _STREAM, number)
    weights = class_weights(recipe.loss, task.train.labels, recipe.repeat)
    loss = make_loss(recipe.loss, setup.task, weights)

    def tell(step: int, value: float) -> None:
        task.channel.send({"sweep": number, "step": step, "loss": value})

    return sweep(
        network,
        make_optimizer(recipe.optimizer, parameter_groups(network, stage.layer_decay)),
        _inputs(task, recipe.seed + seed, device),
        loss,
        recipe.landscape,
        parts=parts,
        bf16=bf16,
        tell=tell,
    )


def _inputs(task: WorkerTask, seed: int, device: torch.device) -> Iterator[Inputs]:
    """Batches as training would draw them with that seed, always shuffled."""
    recipe = task.setup.recipe
    train_input = AugmentedTiles.of(recipe, task.preprocess, seed)
    steps = recipe.landscape.steps
    repeats = repeat_factors(task.train.labels, recipe.repeat)
    rows_N = window(seed, 0, steps * recipe.batch, len(task.train), True, repeats)
    budget, came_before = recipe.error_budget, copies(rows_N)
    for batch in read_batches(task.train, rows_N, recipe.batch, budget, came_before):
        rows, came = batch["row"].numpy(), batch["copy"].numpy()
        x_BCHW = train_input(send(batch["pixels"], device), rows, came, 0)
        labels_BK = send(batch["labels"], device).float()
        if recipe.augment.mixup > 0:
            share_B = shares(recipe.augment.mixup, seed, 0, samples(rows, came))
            x_BCHW, labels_BK = mix(x_BCHW, labels_BK, share_B, np.ones(len(rows), dtype=bool))
        yield x_BCHW, labels_BK
