"""The products of a training run that need torch or the index's rows: bundle, unreadable tiles."""

import math
from typing import Any

import numpy as np
import pyarrow as pa

from satray import __version__
from satray.data.georeference import APART
from satray.data.index import TileIndex
from satray.models.bundle import bundle_files
from satray.models.pretrained import origin
from satray.models.probe import probe_grid
from satray.models.spec import NEAR, BundleSpec, TrainedPixels
from satray.runs.run import Run, finite
from satray.train.calibrate import Calibration
from satray.train.checkpoints import Kept, Lost
from satray.train.setup import Setup
from satray.train.tracking import nested, parquet

GRIDS = 64
"""Grids of tiles that a bundle remembers, at most."""


def bundle(setup: Setup, run: Run, kept: Kept, calibration: Calibration) -> dict[str, bytes]:
    """The files of the bundle, by name."""
    meta, wanted = setup.index.meta, setup.recipe.input
    x, y, trained = resolution(setup.index)
    spec = BundleSpec(
        variant=setup.variant,
        task=setup.task,
        classes=meta.classes,
        bands=setup.bands,
        mean=setup.mean,
        std=setup.std,
        radiometry=setup.radiometry,
        dtype=meta.dtype,
        size=wanted.size,
        resize=wanted.resize,
        evaluate=wanted.evaluate,
        tile_shape=meta.tile_shape,
        resolution=x,
        resolution_y=y,
        trained_px=trained,
        thresholds=calibration.thresholds,
        temperature=calibration.rule.temperature,
        grids={tower.name: probe_grid(tower.backbone) for tower in setup.variant.towers},
        dropout=setup.recipe.dropout,
        nodata=nodata(setup.index),
        provenance={
            "run_id": run.run_id,
            "index": setup.digest,
            "weights": {
                tower.name: origin(tower.backbone, setup.weights[tower.name])
                for tower in setup.variant.towers
            },
            "precision": setup.recipe.precision,
            "learning_rates": [stage.peak for stage in setup.plan.stages],
            "satray": __version__,
            "validation": finite(nested(kept.validation)),
            "calibration": calibration.origin(),
        },
        units=meta.units_of(setup.bands),
    )
    return bundle_files(spec, kept.weights)


def resolution(
    index: TileIndex,
) -> tuple[float | None, float | None, tuple[TrainedPixels, ...]]:
    """Ground size of a px: along x, along y where it is another, and the grids that differ.

    The medians over all tiles that have a place; None without one.
    """
    columns = ("resolution_x", "resolution_y", "crs", "transform")
    x_N, y_N, crs, transforms = (index.table.column(name).to_pylist() for name in columns)
    known = [n for n, size in enumerate(x_N) if size is not None]
    if not known:
        return None, None, ()
    ground_N2 = np.array([(x_N[n], y_N[n]) for n in known])
    x, y = np.median(ground_N2, axis=0).tolist()
    if abs(x - y) <= APART * min(x, y):
        x = y = math.sqrt(x * y)
    medians = np.array([x, y])
    grids: dict[tuple[str, float, float], list[int]] = {}
    for place, n in enumerate(known):
        a, b, _, d, e, _ = transforms[n]
        key = (crs[n], float(f"{math.hypot(a, d):.4g}"), float(f"{math.hypot(b, e):.4g}"))
        grids.setdefault(key, []).append(place)
    trained = []
    for (name, step_x, step_y), members in sorted(grids.items(), key=lambda pair: -len(pair[1])):
        low, high = ground_N2[members].min(axis=0), ground_N2[members].max(axis=0)
        if (high > (1 + NEAR) * medians).any() or (low < (1 - NEAR) * medians).any():
            span = [(float(side[0]), float(side[1])) for side in (low, high)]
            trained.append(TrainedPixels(name, step_x, step_y, *span))
    return x, None if x == y else y, tuple(trained[:GRIDS])


def nodata(index: TileIndex) -> float | None:
    """The one finite nodata value that tiles declare; None where none or several."""
    values = set(index.table.column("nodata").drop_null().to_pylist())
    (value,) = values if len(values) == 1 else (math.nan,)
    return value if math.isfinite(value) else None


def unreadable(setup: Setup, lost: Lost) -> bytes:
    """The table of tiles that training could not read."""
    rows: list[dict[str, Any]] = []
    for split, errors in sorted(lost.items()):
        tiles = setup.index.part(split).table.take(pa.array(sorted(errors), pa.int64()))
        ids, uris = (tiles.column(name).to_pylist() for name in ("tile_id", "uri"))
        rows += [
            {"tile_id": tile, "uri": uri, "split": split, "error": errors[row]}
            for row, tile, uri in zip(sorted(errors), ids, uris, strict=True)
        ]
    return parquet(rows)
