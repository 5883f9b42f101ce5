"""What a training makes of its best weights: temperature and thresholds, and the bundle.

Temperature and thresholds are fitted on one half of validation and measured on the other. Shapes: N
tiles, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from satray import __version__
from satray.config.train import CalibrateOptions
from satray.data.georeference import APART
from satray.data.index import TileIndex
from satray.metrics.calibration import (
    COLDEST,
    DEFAULT,
    HOTTEST,
    fit_temperature,
    fit_thresholds,
    halves,
)
from satray.metrics.scored import PLAIN, Rule, scores_of
from satray.metrics.summary import compute_metrics, said
from satray.models.pretrained import origin
from satray.models.spec import NEAR, BundleSpec, TrainedPixels
from satray.runs.run import Run, finite
from satray.train.checkpoints import Kept, Lost
from satray.train.setup import Setup
from satray.train.tracking import nested

BETAS = {"f1": 1.0, "f2": 2.0}
POSITIVES = 50
"""In the fitted half, below which a class keeps 0.5."""
MEASURED = ("log_loss", "ece", "f1_macro", "f2_macro")
"""Figures of `before` and `after`, as `compute_metrics` has them."""
GRIDS = 64
"""Grids of tiles that a bundle remembers, at most."""


# Calibration


@dataclass(frozen=True)
class Calibration:
    """What was fitted, and what it did."""

    rule: Rule
    """Temperature and thresholds; thresholds of all classes, whatever the task."""
    report: dict[str, Any]
    """For `metrics.json`: seed of the halves, tiles of either, temperature and how it came about,
    thresholds and positives by class, and `before` and `after`: log loss (nats), ECE, F1 and F2
    (macro) on the half that fitted nothing; none of these where it has no tile."""

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Score at and above which each class is predicted."""
        return self.rule.thresholds or ()

    def line(self) -> str:
        """What it did, for the person."""
        report = self.report
        if report["after"] is None:
            return "calibration: too few validation tiles to measure it"
        moved = sum(value != DEFAULT for value in self.thresholds)
        before, after = report["before"], report["after"]
        figures = ", ".join(
            f"{title} {said(before[name])} -> {said(after[name])}"
            for name, title in (("log_loss", "log loss"), ("ece", "ECE"), ("f1_macro", "F1"))
            if math.isfinite(before[name]) and math.isfinite(after[name])
        )
        return (
            f"calibration: temperature {self.rule.temperature:.3f} ({report['temperature_is']}), "
            f"thresholds of {moved} of {len(self.thresholds)} classes; on the other half of "
            f"validation {figures}"
        )


def calibrate(
    logits_NK: NDArray[Any],
    labels_NK: NDArray[Any],
    ids: Sequence[object],
    classes: Sequence[str],
    task: str,
    options: CalibrateOptions,
    seed: int = 0,
) -> Calibration:
    """Fit on one half, measure on the other.

    The temperature stays 1 where the fitting half has fewer than `POSITIVES` tiles or the
    fit runs beyond its bounds, and a class keeps threshold 0.5 where it has fewer positives than
    that. Of `multiclass`, whose decision is the highest score, the temperature only is fitted.

    Args:
        logits_NK: raw, finite; one tile at least.
        labels_NK: 0 or 1; one-hot for `multiclass`.
        ids: of the tiles; choose the halves, with the seed.
        classes: names.
        task: `binary`, `multilabel` or `multiclass`.
        options: what to fit.
        seed: draws other halves.
    """
    labels_NK = np.asarray(labels_NK).astype(bool)
    fit_N = halves(ids, seed)
    z_NK, y_NK = logits_NK[fit_N], labels_NK[fit_N]
    temperature, thresholds_K = 1.0, np.full(len(classes), DEFAULT)
    if not options.temperature:
        temperature_is = "not asked for"
    elif len(z_NK) < POSITIVES:
        temperature_is = f"kept: fewer than {POSITIVES} tiles to fit it on"
    elif (best := fit_temperature(z_NK, y_NK, task)) is None:
        temperature_is = f"kept: the best is not between {COLDEST:g} and {HOTTEST:g}"
    else:
        temperature, temperature_is = best, "fitted"
    by = "half" if task == "multiclass" else options.thresholds
    if by != "half":
        scores_NK = scores_of(z_NK, task, temperature)
        thresholds_K = fit_thresholds(scores_NK, y_NK, BETAS[by], POSITIVES)
    rule = Rule(temperature, tuple(float(value) for value in thresholds_K))
    report: dict[str, Any] = {
        "seed": seed,
        "fitted_tiles": int(fit_N.sum()),
        "measured_tiles": int((~fit_N).sum()),
        "temperature": temperature,
        "temperature_is": temperature_is,
        "thresholds_by": by,
        "thresholds": dict(zip(classes, map(float, thresholds_K), strict=True)),
        "fitted_positives": dict(zip(classes, map(int, y_NK.sum(axis=0)), strict=True)),
    }
    for name, used in (("before", PLAIN), ("after", rule)):
        rest = (logits_NK[~fit_N], labels_NK[~fit_N], classes, task, used)
        measured = None if fit_N.all() else compute_metrics(*rest)
        report[name] = measured and {figure: measured[figure] for figure in MEASURED}
    return Calibration(rule, report)


# The bundle


def bundle(setup: Setup, run: Run, kept: Kept) -> tuple[dict[str, bytes], Calibration]:
    """The files of the bundle, by name, and how it was calibrated.

    That is on those validation tiles that could be read, half of which fit and half measure.
    """
    from satray.models.bundle import bundle_files
    from satray.models.probe import probe_grid

    meta, wanted = setup.index.meta, setup.recipe.input
    seen = kept.predictions
    ids = setup.index.part("val").table.column("tile_id").take(pa.array(seen.rows)).to_pylist()
    known = (ids, meta.classes, setup.task, setup.recipe.calibrate, setup.recipe.seed)
    calibration = calibrate(seen.logits_NK, seen.labels_NK, *known)
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
            "index": setup.index.digest,
            "weights": {
                tower.name: origin(
                    tower.backbone,
                    setup.weights[tower.name],
                    setup.digests.get(f"weights.{tower.name}"),
                )
                for tower in setup.variant.towers
            },
            "weights_of": kept.kind,
            "precision": setup.recipe.precision,
            "learning_rates": [stage.peak for stage in setup.plan.stages],
            "satray": __version__,
            "validation": finite(nested(kept.validation)),
            "calibration": {
                "seed": setup.recipe.seed,
                "temperature": calibration.report["temperature_is"] == "fitted",
                "thresholds": any(value != DEFAULT for value in calibration.thresholds),
            },
        },
        units=meta.units_of(setup.bands),
    )
    return bundle_files(spec, kept.weights), calibration


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


def unreadable(setup: Setup, lost: Lost) -> pa.Table:
    """The table of tiles that training could not read."""
    rows: list[dict[str, Any]] = []
    for split, errors in sorted(lost.items()):
        tiles = setup.index.part(split).table.take(pa.array(sorted(errors), pa.int64()))
        ids, uris = (tiles.column(name).to_pylist() for name in ("tile_id", "uri"))
        rows += [
            {"tile_id": tile, "uri": uri, "split": split, "error": errors[row]}
            for row, tile, uri in zip(sorted(errors), ids, uris, strict=True)
        ]
    return pa.Table.from_pylist(rows)
