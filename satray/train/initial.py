"""What a training starts from: mean and deviation, and the network's first weights.

The driver makes both once, before workers start, and keeps them in the run's state: a run that goes
on normalises as it began. C bands.
"""

import json
from dataclasses import replace
from typing import Any

import numpy as np

from satray.data.read import errors_of, read_blocks, to_torch
from satray.errors import InputError
from satray.models.network import Network
from satray.models.preprocess import to_values
from satray.models.weights import load_network_weights, read_weights
from satray.runs.run import Run
from satray.storage import Storage, join
from satray.train.checkpoints import to_bytes
from satray.train.parallel import live_norms
from satray.train.setup import Setup, unchanged
from satray.train.state import begin

FILE, NORMALISATION = "initial.pt", "normalisation.json"
"""Below a run's state."""
SAMPLE = 1024
"""Tiles that mean and deviation are measured on, at the most; spread evenly over the split."""
BLOCK = 16
"""Tiles in memory at once."""


def prepare(setup: Setup, run: Run) -> tuple[Setup, str]:
    """Measure what is not known yet, and write the first weights; later calls find both.

    Args:
        setup: the run, resolved.
        run: its folder.

    Returns:
        The set-up with mean and deviation, and the URI of the network's state dict.

    Raises:
        InputError: as `complete` and `prepared`.
    """
    with run.activity("preparing"):
        setup, uri = complete(setup, run), join(run.state, FILE)
        if not run.storage.exists(uri):
            network, lines = prepared(setup, run.storage)
            for line in lines:
                run.say(line)
            run.storage.write(uri, to_bytes(network.state_dict()))
    return setup, uri


def complete(setup: Setup, run: Run) -> Setup:
    """The set-up with mean and deviation: as it is where it has them, else measured once a run.

    Raises:
        InputError: no tile of the sample can be read.
    """
    if setup.mean:
        return setup
    uri = join(run.state, NORMALISATION)
    if not run.storage.exists(uri):
        run.storage.write(uri, json.dumps(_measured(setup, run.storage)).encode())
    found = json.loads(run.storage.read(uri))
    shown = ", ".join(
        f"{band} {mean:.4g} ({std:.4g})"
        for band, mean, std in zip(setup.bands, found["mean"], found["std"], strict=True)
    )
    run.say(
        f"normalisation: mean (deviation) of {setup.radiometry.name} values over "
        f"{found['tiles']:,} train tiles: {shown}"
    )
    return replace(setup, mean=tuple(found["mean"]), std=tuple(found["std"]))


def _measured(setup: Setup, storage: Storage) -> dict[str, Any]:
    """`mean` and `std` (divided by n) of each band's finite values, and `tiles` that were read."""
    source = setup.source("train", storage)
    most = min(SAMPLE, len(source))
    rows = np.arange(most, dtype=np.int64) * len(source) // max(most, 1)
    count_C, total_C, squares_C = np.zeros((3, len(setup.bands)))
    tiles, reasons = 0, dict[int, str]()
    for table in read_blocks(source.rows(rows), BLOCK):
        reasons.update(errors_of(table))
        batch = to_torch(table)
        valid = batch["valid"].numpy()
        read = to_values(batch["pixels"], setup.radiometry, setup.bands).double().numpy()[valid]
        x_CN = np.moveaxis(read, 1, 0).reshape(len(setup.bands), -1)
        finite_CN = np.isfinite(x_CN)
        x_CN = np.where(finite_CN, x_CN, 0)
        tiles += int(valid.sum())
        count_C += finite_CN.sum(axis=1)
        total_C += x_CN.sum(axis=1)
        squares_C += (x_CN**2).sum(axis=1)
    if not tiles:
        raise InputError(
            f"input.normalize: none of {len(rows):,} train tiles could be read to measure mean "
            f"and deviation; the first: {next(iter(reasons.values()))}"
        )
    count_C = np.maximum(count_C, 1)
    mean_C = total_C / count_C
    std_C = np.sqrt(np.maximum(squares_C / count_C - mean_C**2, 0))
    return {"mean": mean_C.tolist(), "std": std_C.tolist(), "tiles": tiles}


def prepared(setup: Setup, storage: Storage) -> tuple[Network, tuple[str, ...]]:
    """The network with its first weights, seen to be trainable, and a line on each tower's weights.

    Raises:
        InputError: weights that cannot be had, or do not fit; or a stage that cannot be trained.
    """
    begin(setup.recipe.seed)
    network = setup.network()
    _check_stages(network, setup)  # here, and not when the stage is reached after hours
    found = read_weights(setup.weights, setup.variant, storage)
    return network, load_network_weights(network, found, setup.recipe.first_conv)


def _check_stages(network: Network, setup: Setup) -> None:
    """See that every stage trains blocks that there are, in batches that batch norm can use."""
    plan, recipe = setup.plan, setup.recipe
    alone = plan.local_batch == recipe.accumulate
    # Such norms see the tiles of all workers.
    together = recipe.sync_batchnorm and plan.workers > 1
    for number, stage in enumerate(recipe.stages):
        try:
            network.set_trainable(stage.trainable)
        except InputError as error:
            raise InputError(f"stages.{number}.{error}") from None
        network.train()
        if alone and not together and any(live_norms(network)):
            raise InputError(
                f"batch={plan.global_batch}: one tile a worker, and batch norm needs two; take at "
                f"least {2 * plan.workers * recipe.accumulate}"
            )
    network.set_trainable("all")


def outlook(setup: Setup, storage: Storage, *lines: str) -> list[str]:
    """What a job would do: what it starts from, what `stages.N.trainable` may name, some lines.

    Raises:
        InputError: as `prepared`; or the archive is not the one that was indexed.
    """
    network, loaded = prepared(setup, storage)
    names = []
    for name, backbone in network.backbones().items():
        blocks = ", ".join(backbone.blocks)
        names.append(f"trainable: head, all, or of tower {name} ({backbone.name}): {blocks}")
    if len(names) > 1:
        names.append(
            "trainable: a block that all towers have stands for all of them; TOWER.block for one"
        )
    return [*setup.lines, *loaded, *names, *lines, *unchanged(setup, storage)]
