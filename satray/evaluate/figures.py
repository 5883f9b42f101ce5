"""Figures beside the metrics: class by class, and what no skill would reach.

Shapes: N tiles, K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from satray.metrics.calibration import ece, reliability
from satray.metrics.decisions import Counts
from satray.metrics.ranking import roc_auc
from satray.metrics.scored import Scored


def by_class(
    scored: Scored,
    judged: Scored,
    calibrated: Scored,
    classes: Sequence[str],
    thresholds: Sequence[float],
    ap: Mapping[str, float],
    intervals: Mapping[str, Mapping[str, float]],
) -> dict[str, dict[str, Any]]:
    """Figures of each class under the bundle's rule.

    Args:
        scored: the tiles that AP and AUC are of.
        judged: those that decisions are measured on.
        calibrated: those that scores are measured on.
        classes: K names.
        thresholds: K scores.
        ap: class name -> average precision.
        intervals: figure -> interval.
    """
    counts = Counts.of(judged.given, judged.labels)
    columns = {
        "precision": counts.precision(),
        "recall": counts.recall(),
        "specificity": counts.specificity(),
        "f1": counts.f_beta(1),
        "f2": counts.f_beta(2),
        "given_rate": counts.given_rate(),
        "prevalence": scored.labels.mean(axis=0),
        "ece": ece(reliability(calibrated.scores, calibrated.labels)),
    }
    table = {}
    for k, name in enumerate(classes):
        table[name] = {
            "positives": int(scored.labels[:, k].sum()),
            "judged_positives": int(judged.labels[:, k].sum()),
            "given": int(judged.given[:, k].sum()),
            "ap": ap[name],
            "ap_interval": intervals.get(f"ap_{name}"),
            "auc": roc_auc(scored.ranks[:, k], scored.labels[:, k]),
            # a softmax gives the class of the highest logit, whatever the threshold
            "threshold": None if scored.task == "multiclass" else thresholds[k],
            **{column: float(values[k]) for column, values in columns.items()},
        }
    return table


def baselines(scored: Scored) -> dict[str, float]:
    """What no skill at all would reach.

    `f1_macro`: giving every class to every tile (2 p / (1 + p), over the classes with positives);
    `multiclass`, which gives one class a tile: the most frequent one to all (that of the others
    is 0).
    `log_loss`: scores equal to the prevalence.
    """
    p_K = scored.labels.mean(axis=0)
    there_K = p_K[p_K > 0]
    both_K = p_K[(p_K > 0) & (p_K < 1)]
    with np.errstate(divide="ignore", invalid="ignore"):
        of_class_K = -p_K * np.log(p_K) - (1 - p_K) * np.log(1 - p_K)
    if scored.task == "multiclass":
        log_loss = float(-(there_K * np.log(there_K)).sum())
    else:
        log_loss = float(np.nan_to_num(of_class_K).mean())
    multiclass = scored.task == "multiclass"
    f1_K = 2 * there_K / (1 + there_K)
    if multiclass:
        f1_K = np.where(np.arange(len(f1_K)) == f1_K.argmax(), f1_K, 0.0)
    return {
        "map": float(both_K.mean()) if len(both_K) else float("nan"),
        "auc": 0.5,
        "balanced_accuracy": 1 / max(len(there_K), 1) if multiclass else 0.5,
        "f1_macro": float(f1_K.mean()) if len(there_K) else float("nan"),
        "log_loss": log_loss,
    }
