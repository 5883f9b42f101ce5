"""Temperature and thresholds of a bundle: fitted on one half of validation, measured on the other.

Pure arithmetic on arrays, without torch. Shapes: N tiles, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.config.train import CalibrateOptions
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

BETAS = {"f1": 1.0, "f2": 2.0}
POSITIVES = 50
"""In the fitted half, below which a class keeps 0.5."""
MEASURED = ("log_loss", "ece", "f1_macro", "f2_macro")
"""Figures of `before` and `after`, as `compute_metrics` has them."""


@dataclass(frozen=True)
class Calibration:
    """What was fitted, and what it did."""

    rule: Rule
    """Temperature and thresholds; thresholds of all classes, whatever the task."""

    report: dict[str, Any]
    """For `metrics.json`: seed of the halves, tiles of either, temperature and how it came about,
    thresholds and positives by class, and `before` and `after`: log loss (nats), ECE, F1 and F2
    (macro) on the half that fitted nothing; none of these where it has no tile."""

    def origin(self) -> dict[str, Any]:
        """For the bundle's provenance: which half was fitted on, and what was fitted on it."""
        fitted = self.report["fitted"]
        which = {name: name in fitted for name in ("temperature", "thresholds")}
        return {"seed": self.report["seed"]} | which

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
        "fitted": ["temperature"] * (temperature_is == "fitted")
        + ["thresholds"] * bool((thresholds_K != DEFAULT).any()),
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
