"""Mean and deviation of values that the index knows nothing of, measured on a sample of tiles.

The driver reads it, before workers start; the figures are kept in the run's state, so that a run
that goes on normalises as it began. C bands.
"""

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from satray.data.read import TileSource, errors_of, read_blocks, tile_source, to_torch
from satray.errors import InputError
from satray.models.radiometry import Radiometry
from satray.runs.run import Run
from satray.storage import join

if TYPE_CHECKING:
    from satray.train.setup import Setup

MOST = 1024
"""Tiles of a sample, at the most."""

BLOCK = 16
"""Tiles in memory at once."""

FILE = "normalisation.json"


def complete(setup: "Setup", run: Run) -> "Setup":
    """The set-up with mean and deviation: as it is where it has them, else measured once a run.

    Raises:
        InputError: no tile of the sample can be read.
    """
    if setup.mean:
        return setup
    uri = join(run.state, FILE)
    if run.storage.exists(uri):
        found = json.loads(run.storage.read(uri))
    else:
        source = tile_source(setup.index, "train", setup.bands, run.storage, digest=setup.digest)
        mean, std, tiles = measure(source, setup.bands, setup.radiometry)
        found = {"mean": mean, "std": std, "tiles": tiles}
        run.storage.write(uri, json.dumps(found).encode())
    shown = ", ".join(
        f"{band} {mean:.4g} ({std:.4g})"
        for band, mean, std in zip(setup.bands, found["mean"], found["std"], strict=True)
    )
    run.say(
        f"normalisation: mean (deviation) of {setup.radiometry.name} values over "
        f"{found['tiles']:,} train tiles: {shown}"
    )
    return replace(setup, mean=tuple(found["mean"]), std=tuple(found["std"]))


def measure(
    source: TileSource, bands: tuple[str, ...], radiometry: Radiometry
) -> tuple[list[float], list[float], int]:
    """Mean and standard deviation of each band's values over a sample.

    The sample is spread evenly over the source's rows, so it is the same each time.

    Args:
        source: tiles to read, with the bands.
        bands: their names, in the source's order.
        radiometry: which values.

    Returns:
        Means and standard deviations (divided by n) of the finite values, 0 for a band without
        one, and how many tiles could be read.

    Raises:
        InputError: none of them can be read.
    """
    from satray.models.preprocess import to_values

    rows = _spread(len(source))
    count_C, total_C, squares_C = np.zeros((3, len(bands)))
    tiles, reasons = 0, dict[int, str]()
    for table in read_blocks(source.rows(rows), BLOCK):
        reasons.update(errors_of(table))
        batch = to_torch(table, source.shape, source.dtype)
        valid = batch["valid"].numpy()
        values = to_values(batch["pixels"], radiometry, bands).double().numpy()[valid]
        x_CN = np.moveaxis(values, 1, 0).reshape(len(bands), -1)
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
    mean_C = total_C / np.maximum(count_C, 1)
    variance_C = squares_C / np.maximum(count_C, 1) - mean_C**2
    return mean_C.tolist(), np.sqrt(np.maximum(variance_C, 0)).tolist(), tiles


def _spread(tiles: int) -> NDArray[np.int64]:
    """Up to `MOST` rows, evenly over all."""
    most = min(MOST, tiles)
    return np.arange(most, dtype=np.int64) * tiles // most
