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
from satray.metrics.ranking import BoolArray
from satray.metrics.scored import PLAIN, Rule, scores_of
from satray.metrics.summary import compute_metrics, said

BETAS = {"f1": 1.0, "f2": 2.0}
FITTED = ("temperature", "thresholds")
"""What may be fitted."""
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
        return {"seed": self.report["seed"], **{name: name in fitted for name in FITTED}}

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

    The temperature stays 1 where the fitting half has fewer than `options.positives` tiles or the
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
    temperature, temperature_is = 1.0, "not asked for"
    fitted = []
    if options.temperature and len(z_NK) < options.positives:
        temperature_is = f"kept: fewer than {options.positives:,} tiles to fit it on"
    elif options.temperature:
        best = fit_temperature(z_NK, y_NK, task)
        temperature_is = f"kept: the best is not between {COLDEST:g} and {HOTTEST:g}"
        if best is not None:
            temperature, temperature_is = best, "fitted"
            fitted.append("temperature")
    thresholds_K = np.full(len(classes), DEFAULT)
    if options.thresholds != "half" and task != "multiclass":
        scores_NK = scores_of(z_NK, task, temperature)
        beta = BETAS[options.thresholds]
        thresholds_K = fit_thresholds(scores_NK, y_NK, beta, options.positives)
        fitted += ["thresholds"] if (thresholds_K != DEFAULT).any() else []
    rule = Rule(temperature, tuple(float(value) for value in thresholds_K))
    rest = (logits_NK[~fit_N], labels_NK[~fit_N], classes, task)
    report = {
        "seed": seed,
        "fitted": fitted,
        "fitted_tiles": int(fit_N.sum()),
        "measured_tiles": int((~fit_N).sum()),
        "temperature": temperature,
        "temperature_is": temperature_is,
        "thresholds_by": "half" if task == "multiclass" else options.thresholds,
        "thresholds": dict(zip(classes, map(float, thresholds_K), strict=True)),
        "fitted_positives": dict(zip(classes, map(int, y_NK.sum(axis=0)), strict=True)),
        "before": _measured(*rest, PLAIN),
        "after": _measured(*rest, rule),
    }
    return Calibration(rule, report)


def _measured(
    logits_NK: NDArray[Any], labels_NK: BoolArray, classes: Sequence[str], task: str, rule: Rule
) -> dict[str, float] | None:
    if not len(logits_NK):
        return None
    found = compute_metrics(logits_NK, labels_NK, classes, task, rule)
    return {name: found[name] for name in MEASURED}
