"""How good a split's predictions are: every figure, as the document `metrics.json`.

Shapes: N tiles, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from satray.metrics.bootstrap import bootstrap
from satray.metrics.calibration import ece, reliability
from satray.metrics.decisions import Counts, confusion_matrix, errors_together
from satray.metrics.ranking import roc_auc
from satray.metrics.scored import Rule, Scored
from satray.metrics.summary import compute_metrics
from satray.metrics.tail import Tail, tail_accuracy, tail_quantiles
from satray.scoring.predictions import OK, matrix
from satray.scoring.reproduce import Logits

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec

Floats = NDArray[np.float64]
NAMED = 8
"""Classes that a warning names."""


@dataclass(frozen=True)
class Split:
    """Tiles that were predicted."""

    ids: tuple[str, ...]
    """N tile ids."""
    logits: Floats
    """(N, K) raw."""
    labels: Floats
    """(N, K) 0 or 1."""
    model_id: str
    """The bundle's id."""

    def logits_by_id(self) -> Logits:
        """For a comparison with another run."""
        return Logits(self.ids, self.logits, self.model_id)


@dataclass(frozen=True)
class Quality:
    """What was measured."""

    scored: Scored
    """The split under the bundle's temperature and thresholds."""
    metrics: dict[str, Any]
    """`compute_metrics` under them."""
    intervals: Mapping[str, Mapping[str, float]]
    """Figure -> `low, high, sd` by bootstrap; `ap_<class>` too. Empty without draws."""
    document: dict[str, Any]
    """All else that goes into metrics.json."""
    warnings: tuple[str, ...]
    """The majority trap, in words."""


class Gathered:
    """Collects the predictions table block by block."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self._classes = classes
        self._ids: list[str] = []
        self._models: set[str] = set()
        self._logits: list[Floats] = []
        self._labels: list[Floats] = []

    def add(self, table: pa.Table) -> None:
        """Take a block; its failed tiles are left out."""
        good = table.filter(pc.equal(table.column("status"), OK))
        self._ids += good.column("tile_id").to_pylist()
        self._models.update(pc.unique(table.column("model_id")).to_pylist())
        self._logits.append(matrix(good, "logit", self._classes))
        self._labels.append(matrix(good, "target", self._classes))

    def split(self) -> Split:
        """All of it."""
        return Split(
            tuple(self._ids),
            np.concatenate(self._logits),
            np.concatenate(self._labels),
            ", ".join(sorted(self._models)),
        )


def measure(split: Split, spec: "BundleSpec", draws: int) -> Quality:
    """Measure a split.

    Args:
        split: one tile at least.
        spec: the bundle's task, classes, temperature and thresholds.
        draws: of the bootstrap; 0 for no intervals.
    """
    classes, task = spec.classes, spec.task
    rule = Rule(spec.temperature, tuple(spec.thresholds))
    scored = Scored.of(split.logits, split.labels, len(classes), task, rule)
    metrics = compute_metrics(split.logits, split.labels, classes, task, rule)
    intervals: dict[str, dict[str, float]] = {}
    if draws:
        found = bootstrap(split.logits, split.labels, classes, task, draws, rule=rule)
        intervals = {
            name: {"low": one.low, "high": one.high, "sd": one.sd} for name, one in found.items()
        }
    always, never = trapped(scored, classes)
    document: dict[str, Any] = {
        "temperature": spec.temperature,
        "thresholds": dict(zip(classes, spec.thresholds, strict=True)),
        "raw_metrics": compute_metrics(split.logits, split.labels, classes, task),
        "intervals": intervals,
        "baselines": baselines(scored),
        "by_class": by_class(scored, classes, spec.thresholds, metrics["ap"], intervals),
        "classes_always": always,
        "classes_never": never,
        "reliability": _reliability(scored, classes),
        "tail": _tail(tail_accuracy(scored.scores, scored.labels), classes),
        "tail_quantiles": _tail(tail_quantiles(scored.ranks, scored.labels), classes),
    }
    if task == "multilabel":
        document["errors_together"] = errors_together(scored.given, scored.labels).tolist()
    else:
        document["confusion"] = confusion_matrix(scored.given, scored.labels).tolist()
    return Quality(scored, metrics, intervals, document, _warnings(always, never))


def by_class(
    scored: Scored,
    classes: Sequence[str],
    thresholds: Sequence[float],
    ap: Mapping[str, float],
    intervals: Mapping[str, Mapping[str, float]],
) -> dict[str, dict[str, Any]]:
    """Figures of each class under the bundle's rule."""
    counts = Counts.of(scored.given, scored.labels)
    columns = {
        "precision": counts.precision(),
        "recall": counts.recall(),
        "specificity": counts.specificity(),
        "f1": counts.f_beta(1),
        "f2": counts.f_beta(2),
        "given_rate": counts.given_rate(),
        "prevalence": counts.prevalence(),
        "ece": ece(reliability(scored.scores, scored.labels)),
    }
    table = {}
    for k, name in enumerate(classes):
        table[name] = {
            "positives": int(scored.labels[:, k].sum()),
            "given": int(scored.given[:, k].sum()),
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

    `f1_macro`: giving every class to every tile (2 p / (1 + p), over the classes with positives).
    `log_loss`: scores equal to the prevalence.
    """
    p_K = scored.labels.mean(axis=0)
    there_K = p_K[p_K > 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        of_class_K = -p_K * np.log(p_K) - (1 - p_K) * np.log(1 - p_K)
    if scored.task == "multiclass":
        log_loss = float(-(there_K * np.log(there_K)).sum())
    else:
        log_loss = float(np.nan_to_num(of_class_K).mean())
    multiclass = scored.task == "multiclass"
    return {
        "map": float(there_K.mean()) if len(there_K) else float("nan"),
        "auc": 0.5,
        "balanced_accuracy": 1 / max(len(there_K), 1) if multiclass else 0.5,
        "f1_macro": float((2 * there_K / (1 + there_K)).mean()) if len(there_K) else float("nan"),
        "log_loss": log_loss,
    }


def trapped(scored: Scored, classes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Classes that are given always, and never, though the split has both kinds of tiles."""
    both_K = scored.labels.any(axis=0) & ~scored.labels.all(axis=0)
    always_K, never_K = scored.given.all(axis=0), ~scored.given.any(axis=0)
    return (
        [classes[k] for k in np.flatnonzero(both_K & always_K).tolist()],
        [classes[k] for k in np.flatnonzero(both_K & never_K).tolist()],
    )


def _warnings(always: Sequence[str], never: Sequence[str]) -> tuple[str, ...]:
    lines = []
    for names, word in ((always, "always"), (never, "never")):
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            lines.append(
                f"majority trap: predicted {word}, though some tiles have it and some do not: "
                f"{', '.join(names[:NAMED])}{more}"
            )
    return tuple(lines)


def _reliability(scored: Scored, classes: Sequence[str]) -> dict[str, Any]:
    """All decisions together, and class by class."""
    every = reliability(scored.scores.reshape(-1, 1), scored.labels.reshape(-1, 1))
    single = reliability(scored.scores, scored.labels)

    def row(found: Any, k: int) -> dict[str, Any]:
        return {
            "counts": found.counts[k].tolist(),
            "mean_score": found.mean_score[k].tolist(),
            "mean_label": found.mean_label[k].tolist(),
        }

    return {
        "edges": every.edges.tolist(),
        "all": row(every, 0),
        "by_class": {name: row(single, k) for k, name in enumerate(classes)},
    }


def _tail(found: Tail, classes: Sequence[str]) -> dict[str, Any]:
    plain = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in asdict(found).items()
    }
    plain["fixed_classes"] = [classes[k] for k in found.fixed_classes]
    return plain
