"""Metrics of a whole split, from raw logits gathered over all workers.

Never average them over shards: an average precision of parts is not that of the whole.

Shapes: N tiles, K classes, D rows of weights, B bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.errors import listed
from satray.metrics.scored import (
    BINS,
    PLAIN,
    BoolArray,
    FloatArray,
    Rule,
    Scored,
    decide,
    divided,
    mean_of_defined,
)

Metrics = dict[str, Any]
"""Metric name -> value; of `ap` it is a dict, class name -> value."""


def compute_metrics(
    logits_NK: NDArray[Any],
    labels_NK: NDArray[Any],
    classes: Sequence[str],
    task: str,
    rule: Rule = PLAIN,
) -> Metrics:
    """All metrics of one split.

    Args:
        logits_NK: raw logits, float32 or float64, one row a tile (each tile once).
        labels_NK: 0 or 1; one-hot where the task is `multiclass`.
        classes: K names.
        task: `binary`, `multilabel` or `multiclass`.
        rule: temperature and thresholds, those of a bundle; default 1 and 0.5.

    Returns:
        `ap`: average precision by class, NaN for a class that no tile has, or every tile
            (scikit-learn's 0.0 and 1.0 would silently move the mean). Ranked by logits, since
            sigmoids saturate into ties.
        `map`: mean of `ap` over the classes that have one; NaN if none has.
        `classes_counted`: how many classes entered `map`.
        `map_paper`: mean over all classes, 0 for those that no tile has, 1 for those that all have.
        `baseline_map`: the mAP of scores that say nothing: mean prevalence of the same classes.
        `accuracy`: share of right decisions (tile by class; `multiclass`: of tiles whose highest
            logit is the true class, top-1).
        `baseline_accuracy`: the accuracy of always deciding each class's majority in this split
            (`multiclass`: of always the most frequent class).
        `balanced_accuracy`: mean of true-positive and true-negative rate, averaged over the
            classes that have both kinds (`multiclass`: mean recall of the classes present).
        `auc`: area under the ROC curve, averaged over the classes that have both kinds
            (`multiclass`: one against the rest); NaN if none has.
        `predicted_positive_rate`: share of decisions that are positive (`multiclass`: share of
            tiles given to the class given most often). The majority trap shows as 0 or 1.
        `precision_macro, recall_macro, f1_macro, f2_macro`: means over the classes with
            positives; of these, one that is never given counts precision and F 0 (scikit-learn's
            `zero_division=0`). NaN if no class has positives.
        `f2_samples`: mean over tiles; a tile without classes that is given none counts 1.0
            (`zero_division=1`). With one class, or one a tile, that is the accuracy.
        `log_loss`: cross-entropy in nats, averaged over decisions (`multiclass`: over tiles).
        `ece`: expected calibration error (Guo et al., 2017) in 15 equal bins (a, b], mean over all
            classes (`multiclass`: each against the rest).

        Decisions are score >= threshold (at 0.5: logit >= 0), for `multiclass` the highest logit.
        The temperature moves thresholds other than 0.5, `log_loss` and `ece`. All in float64.

    Raises:
        ValueError: no tile, shapes that do not fit, `multiclass` labels that are not one-hot, or
            a logit that is not finite.
    """
    return metrics_of(Scored.of(logits_NK, labels_NK, len(classes), task, rule), classes)


def metrics_of(scored: Scored, classes: Sequence[str]) -> Metrics:
    """`compute_metrics` of a split that is scored already."""
    found = figures(scored, classes, np.ones((1, len(scored.labels))))
    return {
        name: {of: float(each[0]) for of, each in values.items()}
        if isinstance(values, dict)
        else float(values[0])
        for name, values in found.items()
    }


def figures(scored: Scored, classes: Sequence[str], w_DN: FloatArray) -> Metrics:
    """Every figure of `compute_metrics`, for each row of weights.

    Args:
        scored: the split.
        classes: K names.
        w_DN: float64, weight of each tile, 0 or more; ones give the split's own figures.

    Returns:
        as `compute_metrics`, with an array (D,) in place of each number.
    """
    by_class = figures_by_class(scored, w_DN)
    ap_DK, recall_DK, prevalence_DK = (by_class[name] for name in ("ap", "recall", "prevalence"))
    total_D = w_DN.sum(axis=1)
    tiles = {name: divided(w_DN @ values_N, total_D) for name, values_N in scored.by_tile.items()}

    def macro(name: str) -> FloatArray:
        # Over the classes that occur; one that is never given counts 0 there, or silence would pay.
        values_DK = np.nan_to_num(by_class[name])
        return mean_of_defined(np.where(prevalence_DK > 0, values_DK, np.nan))

    if scored.task == "multiclass":
        majority_D = prevalence_DK.max(axis=1)
        balanced_D = mean_of_defined(recall_DK)
        positive_D = by_class["given_rate"].max(axis=1)
    else:
        majority_D = np.maximum(prevalence_DK, 1 - prevalence_DK).mean(axis=1)
        balanced_D = mean_of_defined((recall_DK + by_class["specificity"]) / 2)
        positive_D = by_class["given_rate"].mean(axis=1)
    return {
        "map": mean_of_defined(ap_DK),
        # as scikit-learn has it: 0 for a class that is nowhere, 1 for one that is everywhere
        "map_paper": np.where(np.isnan(ap_DK), prevalence_DK > 0, ap_DK).mean(axis=1),
        "baseline_map": mean_of_defined(np.where(np.isnan(ap_DK), np.nan, prevalence_DK)),
        "classes_counted": np.isfinite(ap_DK).sum(axis=1).astype(np.float64),
        "ap": dict(zip(classes, ap_DK.T, strict=True)),
        "auc": mean_of_defined(by_class["auc"]),
        "accuracy": tiles["accuracy"],
        "baseline_accuracy": majority_D,
        "balanced_accuracy": balanced_D,
        "predicted_positive_rate": positive_D,
        **{f"{name}_macro": macro(name) for name in ("precision", "recall", "f1", "f2")},
        "f2_samples": tiles["f2_samples"],
        "log_loss": tiles["log_loss"],
        "ece": by_class["ece"].mean(axis=1),
    }


def figures_by_class(scored: Scored, w_DN: FloatArray) -> dict[str, FloatArray]:
    """Figures of each class, for each row of weights.

    Args:
        scored: the split.
        w_DN: float64, weight of each tile, 0 or more.

    Returns:
        name -> (D, K), NaN where undefined: `ap` and `auc` without tiles of both kinds, `precision`
        of a class that is never given, `recall` of one without tiles, `specificity` of one that
        all have, `f1` and `f2` of one neither given nor true. `given_rate` and `prevalence` are
        shares of all tiles; `ece` is the calibration error.
    """
    areas = [ranking.areas(w_DN) for ranking in scored.rankings]
    total_D1 = w_DN.sum(axis=1)[:, None]
    w_ND = np.ascontiguousarray(w_DN.T)
    hits_DK, predicted_DK, support_DK = np.split((scored.tallies @ w_ND).T, 3, axis=1)
    absent_DK = total_D1 - support_DK
    gaps_KBD = (scored.gaps @ w_ND).reshape(scored.labels.shape[1], BINS, len(w_DN))

    def f_beta(beta: float) -> FloatArray:
        return divided((1 + beta**2) * hits_DK, beta**2 * support_DK + predicted_DK)

    return {
        "ap": np.stack([ap_D for ap_D, _ in areas], axis=1),
        "auc": np.stack([auc_D for _, auc_D in areas], axis=1),
        "precision": divided(hits_DK, predicted_DK),
        "recall": divided(hits_DK, support_DK),
        "specificity": divided(absent_DK - (predicted_DK - hits_DK), absent_DK),
        "f1": f_beta(1),
        "f2": f_beta(2),
        "given_rate": divided(predicted_DK, total_D1),
        "prevalence": divided(support_DK, total_D1),
        "ece": divided(np.abs(gaps_KBD).sum(axis=1).T, total_D1),
    }


@dataclass(frozen=True)
class Watch:
    """The majority trap: a class that occurs both ways is predicted always, or never.

    Accuracy hides it: where 78 % of the tiles have no ship, "never a ship" is 78 % right.
    """

    rates: dict[str, float]
    """Class name -> share of tiles that it is predicted on."""

    always: tuple[str, ...] = ()
    """Classes that occur both ways and are predicted on every tile."""

    never: tuple[str, ...] = ()
    """Classes that occur both ways and are predicted on no tile."""

    def warnings(self) -> tuple[str, ...]:
        """One line each for what is predicted always and never; none where nothing is stuck."""
        return tuple(
            f"majority trap: {listed(names, 8)} predicted {kind}, though the labels go both ways"
            for kind, names in (
                ("always (on every tile)", self.always), ("never (on no tile)", self.never)
            )
            if names
        )  # fmt: skip


def watch(
    logits_NK: NDArray[Any],
    labels_NK: NDArray[Any],
    classes: Sequence[str],
    task: str,
    rule: Rule = PLAIN,
) -> Watch:
    """See which classes are predicted always or never.

    Args:
        logits_NK: raw logits.
        labels_NK: 0 or 1.
        classes: K names.
        task: `binary`, `multilabel` or `multiclass`.
        rule: how decisions come of logits; default before anything is calibrated.
    """
    labels_NK = np.asarray(labels_NK).astype(bool)
    both_K: BoolArray = (labels_NK != labels_NK[:1]).any(axis=0)
    rates = dict(zip(classes, decide(logits_NK, task, rule).mean(axis=0).tolist(), strict=True))
    moving = [name for name, both in zip(classes, both_K, strict=True) if both]
    always, never = (tuple(n for n in moving if rates[n] == rate) for rate in (1.0, 0.0))
    return Watch(rates, always, never)


def said(value: float, places: int = 4) -> str:
    """A figure for a person: `0.1234`, or `undefined` where it is none."""
    return f"{value:.{places}f}" if math.isfinite(value) else "undefined"


def flat(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """One level: `ap` of class c becomes `ap_c`."""
    by_class = {f"ap_{of}": each for of, each in metrics["ap"].items()}
    return {name: value for name, value in metrics.items() if name != "ap"} | by_class
