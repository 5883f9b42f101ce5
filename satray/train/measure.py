"""Mean and deviation of values that the index knows nothing of, measured on a sample of tiles.

The driver reads it, before workers start; the figures are kept in the run's state, so that a run
that goes on normalises as it began. C bands.
"""

import json
from dataclasses import replace
from typing import Any

import numpy as np

from satray.data.read import errors_of, read_blocks, to_torch
from satray.errors import InputError
from satray.runs.run import Run
from satray.storage import Storage, join
from satray.train.setup import Setup

MOST = 1024
"""Tiles of a sample, at the most; spread evenly over the split."""
BLOCK = 16
"""Tiles in memory at once."""
FILE = "normalisation.json"


def complete(setup: Setup, run: Run) -> Setup:
    """The set-up with mean and deviation: as it is where it has them, else measured once a run.

    Raises:
        InputError: no tile of the sample can be read.
    """
    if setup.mean:
        return setup
    uri = join(run.state, FILE)
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
    from satray.models.preprocess import to_values

    source = setup.source("train", storage)
    most = min(MOST, len(source))
    rows = np.arange(most, dtype=np.int64) * len(source) // max(most, 1)
    count_C, total_C, squares_C = np.zeros((3, len(setup.bands)))
    tiles, reasons = 0, dict[int, str]()
    for table in read_blocks(source.rows(rows), BLOCK):
        reasons.update(errors_of(table))
        batch = to_torch(table, source.shape, source.dtype)
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
