"""How good a split's predictions are: every figure, as the document `metrics.json`.

Shapes: N tiles, K classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from satray.evaluate.bootstrap import affordable, bootstrap
from satray.evaluate.held import Held
from satray.evaluate.tail import Tail, tail_accuracy, tail_quantiles
from satray.metrics.calibration import ece, reliability
from satray.metrics.decisions import Counts
from satray.metrics.ranking import BoolArray, FloatArray, divided
from satray.metrics.scored import Rule, Scored
from satray.metrics.summary import compute_metrics
from satray.metrics.trap import trapped
from satray.scoring.predictions import OK, matrix

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec


@dataclass(frozen=True)
class Predicted:
    """Tiles that were predicted."""

    ids: tuple[str, ...]
    """N tile ids."""
    logits: FloatArray
    """(N, K) raw."""
    labels: FloatArray
    """(N, K) 0 or 1."""
    model_id: str
    """The bundle's id."""

    def of(self, rows_N: NDArray[np.bool_]) -> "Predicted":
        """Some of its tiles."""
        ids = tuple(name for name, there in zip(self.ids, rows_N.tolist(), strict=True) if there)
        return Predicted(ids, self.logits[rows_N], self.labels[rows_N], self.model_id)


class Gathered:
    """Collects a predictions table block by block."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self._classes = classes
        self._blocks: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        """Take a block; its failed tiles are left out."""
        figures = [f"{what}_{name}" for what in ("logit", "target") for name in self._classes]
        good = table.filter(pc.equal(table["status"], OK))
        self._blocks.append(good.select(["tile_id", "model_id", *figures]))

    def predicted(self) -> Predicted:
        """All of it."""
        table = pa.concat_tables(self._blocks)
        return Predicted(
            tuple(table["tile_id"].to_pylist()),
            matrix(table, "logit", self._classes),
            matrix(table, "target", self._classes),
            ", ".join(sorted(pc.unique(table["model_id"]).to_pylist())),
        )


@dataclass(frozen=True)
class Quality:
    """What was measured."""

    scored: Scored
    """The split under the bundle's temperature and thresholds."""
    calibrated: Scored
    """The tiles that scores are measured on: all, or those that fitted no temperature."""
    held: Held | None
    """Which tiles those are; None where all of them are."""
    draws: int
    """Of the bootstrap; fewer than asked for where tiles are many."""
    metrics: dict[str, Any]
    """`compute_metrics` under them."""
    intervals: Mapping[str, Mapping[str, float]]
    """Figure -> `low, high, sd, draws` by bootstrap; `ap_<class>` too. Empty without draws; `draws`
    are those in which the figure was defined."""
    document: dict[str, Any]
    """All else that goes into metrics.json."""
    warnings: tuple[str, ...]
    """The majority trap, in words."""


def measure(
    predicted: Predicted,
    spec: "BundleSpec",
    draws: int,
    held: Held | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Quality:
    """Measure a split.

    Args:
        predicted: one tile at least.
        spec: the bundle's task, classes, temperature and thresholds.
        draws: of the bootstrap, at most; 0 for no intervals.
        held: tiles that the bundle's temperature and thresholds were not fitted on; None: all.
        progress: told how far it is.
    """
    classes, task = spec.classes, spec.task
    rule = Rule(spec.temperature, tuple(spec.thresholds))
    draws = affordable(draws, len(predicted.ids))

    def both(figures: Callable[[Predicted], dict[str, Any]]) -> dict[str, Any]:
        # those of all tiles, with what hangs on the fit as measured on the tiles held back
        found = figures(predicted)
        if held is not None:
            apart = figures(predicted.of(held.rows))
            found |= {name: value for name, value in apart.items() if held.concerns(name)}
        return found

    def scored_of(part: Predicted) -> Scored:
        return Scored.of(part.logits, part.labels, len(classes), task, rule)

    def intervals_of(part: Predicted) -> dict[str, dict[str, float]]:
        def show(done: int, of: int) -> None:
            progress(f"intervals of {len(part.ids):,} tiles: {done:,} of {of:,} draws")

        found = bootstrap(part.logits, part.labels, classes, task, draws, rule=rule, progress=show)
        return {
            name: {"low": one.low, "high": one.high, "sd": one.sd, "draws": one.draws}
            for name, one in found.items()
        }

    scored = scored_of(predicted)
    rest = scored if held is None else scored_of(predicted.of(held.rows))
    judged = rest if held is not None and held.thresholds else scored
    calibrated = rest if held is not None and held.temperature else scored

    def metrics_by(rule: Rule) -> dict[str, Any]:
        return both(lambda part: compute_metrics(part.logits, part.labels, classes, task, rule))

    metrics, raw = metrics_by(rule), metrics_by(Rule())
    intervals = both(intervals_of) if draws else {}
    watch = trapped(judged.given, judged.labels, classes)
    document: dict[str, Any] = {
        "temperature": spec.temperature,
        "thresholds": dict(zip(classes, spec.thresholds, strict=True)),
        "measured_apart": held.document() if held is not None else None,
        "raw_metrics": raw,
        "bootstrap_draws": draws,
        "intervals": intervals,
        "baselines": both(lambda part: baselines(scored_of(part))),
        "by_class": _by_class(scored, judged, calibrated, spec, metrics["ap"], intervals),
        "classes_always": list(watch.always),
        "classes_never": list(watch.never),
        "reliability": _reliability(calibrated, classes),
        "tail": _tail(tail_accuracy(calibrated.scores, calibrated.labels), classes),
        "tail_quantiles": _tail(tail_quantiles(calibrated.ranks, calibrated.labels), classes),
    }
    if task == "multilabel":
        document["errors_together"] = errors_together(judged.given, judged.labels).tolist()
    else:
        document["confusion"] = _confusion(judged).tolist()
    return Quality(scored, calibrated, held, draws, metrics, intervals, document, watch.warnings())


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


def errors_together(given_NK: BoolArray, labels_NK: BoolArray) -> FloatArray:
    """Which class is falsely given where another is missed (`multilabel`).

    Args:
        given_NK: decisions.
        labels_NK: truth.

    Returns:
        (K, K): [i, j] the share of the tiles with i missed where j was falsely given; a row of
        NaN for a class that is never missed.
    """
    missed_NK = (labels_NK & ~given_NK).astype(np.float64)
    false_NK = (given_NK & ~labels_NK).astype(np.float64)
    return divided(missed_NK.T @ false_NK, missed_NK.sum(axis=0)[:, None])


def _confusion(scored: Scored) -> NDArray[np.int64]:
    """Tiles by truth (rows) and decision (columns); `no` before `yes` for one class."""
    from sklearn.metrics import confusion_matrix  # a second that few need

    classes = scored.labels.shape[1]
    if classes == 1:
        truth_N, given_N = scored.labels[:, 0].astype(int), scored.given[:, 0].astype(int)
    else:
        truth_N, given_N = scored.labels.argmax(axis=1), scored.given.argmax(axis=1)
    matrix_KK: NDArray[np.int64] = confusion_matrix(truth_N, given_N, labels=range(max(2, classes)))
    return matrix_KK


def _by_class(
    scored: Scored,
    judged: Scored,
    calibrated: Scored,
    spec: "BundleSpec",
    ap: Mapping[str, float],
    intervals: Mapping[str, Mapping[str, float]],
) -> dict[str, dict[str, Any]]:
    """Figures of each class: AP and AUC, decisions and scores, each of the tiles that it is of."""
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
    ones_1N = np.ones((1, len(scored.labels)))
    table = {}
    for k, name in enumerate(spec.classes):
        table[name] = {
            "positives": int(scored.labels[:, k].sum()),
            "judged_positives": int(judged.labels[:, k].sum()),
            "given": int(judged.given[:, k].sum()),
            "ap": ap[name],
            "ap_interval": intervals.get(f"ap_{name}"),
            "auc": float(scored.rankings[k].areas(ones_1N)[1][0]),
            # a softmax gives the class of the highest logit, whatever the threshold
            "threshold": None if scored.task == "multiclass" else spec.thresholds[k],
            **{column: float(values[k]) for column, values in columns.items()},
        }
    return table


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
