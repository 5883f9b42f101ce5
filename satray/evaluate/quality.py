"""How good a split's predictions are: every figure, as the document `metrics.json`.

Shapes: N tiles, K classes, T thresholds, D draws of a bootstrap.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from satray.metrics.scored import (
    BINS,
    BoolArray,
    FloatArray,
    Rule,
    Scored,
    bin_of,
    divided,
    mean_of_defined,
)
from satray.metrics.summary import (
    compute_metrics,
    figures,
    figures_by_class,
    flat,
    metrics_of,
    watch,
)
from satray.score.predictions import OK, matrix

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec

CHUNK = 1_000_000
"""Weights at a time: 8 MB."""
MOST_WEIGHTS = 200_000_000
"""Weights of all draws: about two minutes for 17 classes on one core."""
LEAST_DRAWS = 100
"""Draws however many tiles there are; many tiles make narrow intervals, and ends matter less."""
AT_T = np.linspace(0.5, 1.0, 20, endpoint=False)
"""Thresholds of tail accuracy, or shares of the tiles: 0.5 to 0.975 in steps of 0.025."""


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
    document: dict[str, Any]
    """What goes into metrics.json of it."""
    warnings: tuple[str, ...]
    """The majority trap, in words."""


def measure(
    predicted: Predicted,
    spec: "BundleSpec",
    draws: int,
    progress: Callable[[str], None] = lambda _: None,
) -> Quality:
    """Measure a split.

    Args:
        predicted: one tile at least.
        spec: the bundle's task, classes, temperature and thresholds.
        draws: of the bootstrap, at most; 0 for no intervals.
        progress: told how far it is.
    """
    classes, task = spec.classes, spec.task
    tiles = predicted.logits, predicted.labels
    rule = Rule(spec.temperature, tuple(spec.thresholds))
    scored = Scored.of(*tiles, len(classes), task, rule)
    draws = affordable(draws, len(predicted.ids))

    def show(done: int, of: int) -> None:
        progress(f"intervals: {done:,} of {of:,} draws")

    intervals = bootstrap(scored, classes, draws, progress=show) if draws else {}
    trap = watch(*tiles, classes, task, rule)
    document: dict[str, Any] = {
        "metrics": metrics_of(scored, classes),
        "temperature": spec.temperature,
        "thresholds": dict(zip(classes, spec.thresholds, strict=True)),
        "bootstrap_draws": draws,
        "intervals": intervals,
        "baselines": baselines(scored, classes),
        "by_class": _by_class(scored, spec, intervals),
        "classes_always": list(trap.always),
        "classes_never": list(trap.never),
        "reliability": {
            "edges": np.linspace(0, 1, BINS + 1).tolist(),
            **reliability(scored.scores, scored.labels),
        },
        "tail": tail_accuracy(scored.scores, scored.labels, classes),
        "tail_quantiles": tail_accuracy(scored.ranks, scored.labels, classes, quantiles=True),
    }
    truth_NK, said_NK = scored.labels, scored.predicted
    if task == "multilabel":
        document["errors_together"] = errors_together(said_NK, truth_NK).tolist()
    else:  # tiles by truth (rows) and decision (columns); `no` before `yes` for one class
        if len(classes) == 1:
            truth_NK, said_NK = (np.hstack([~one, one]) for one in (truth_NK, said_NK))
        document["confusion"] = (truth_NK.T.astype(np.int64) @ said_NK).tolist()
    return Quality(scored, document, trap.warnings())


def _by_class(
    scored: Scored, spec: "BundleSpec", intervals: dict[str, dict[str, float]]
) -> dict[str, dict[str, Any]]:
    found = figures_by_class(scored, np.ones((1, len(scored.labels))))
    return {
        name: {
            "positives": int(scored.labels[:, k].sum()),
            "given": int(scored.predicted[:, k].sum()),
            "ap_interval": intervals.get(f"ap_{name}"),
            # a softmax gives the class of the highest logit, whatever the threshold
            "threshold": None if scored.task == "multiclass" else spec.thresholds[k],
            **{figure: float(values_1K[0, k]) for figure, values_1K in found.items()},
        }
        for k, name in enumerate(spec.classes)
    }


def affordable(draws: int, tiles: int) -> int:
    """So many of the draws asked for as a large split leaves time for, `LEAST_DRAWS` at least."""
    return min(draws, max(LEAST_DRAWS, MOST_WEIGHTS // max(tiles, 1)))


def bootstrap(
    scored: Scored,
    classes: Sequence[str],
    draws: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, dict[str, float]]:
    """95 % intervals of every figure of `compute_metrics`: what another sample of tiles might give.

    Tiles are drawn with replacement, all classes of a tile together. Intervals are percentiles of
    the draws (Efron and Tibshirani, 1993) moved by their bias, since a draw's repeated tiles raise
    average precision and calibration error: unmoved, 95 % intervals of the calibration error held
    the true one in a third of trials on 483 tiles, moved in three quarters; those of mAP in 93 %
    either way. A class whose labels are alike in a draw is left out of its means, as it is of the
    figures.

    Args:
        scored: the split.
        classes: K names.
        draws: D, one at least; 1,000 of 483 tiles of 17 classes take about a second.
        seed: of the draws; the same seed and N draw the same tiles.
        progress: told how many draws are measured, and how many there will be.

    Returns:
        by name, as in a flat row (`map`, `accuracy`, ..., `ap_<class>`): `low` and `high`, the ends
        of the interval, which holds the figure itself; `sd`, the standard deviation of the draws;
        and `draws`, those in which the figure was defined: a rare class may be absent from some.
        Without one the others are NaN.
    """
    tiles = len(scored.labels)
    rng = np.random.default_rng(seed)
    at_once = max(1, CHUNK // tiles)
    parts = []
    for start in range(0, draws, at_once):
        rows = min(at_once, draws - start)
        chosen_DN = rng.integers(0, tiles, (rows, tiles)) + tiles * np.arange(rows)[:, None]
        counts = np.bincount(chosen_DN.ravel(), minlength=rows * tiles)
        w_DN = counts.reshape(rows, tiles).astype(np.float64)
        parts.append(flat(figures(scored, classes, w_DN)))
        progress(start + rows, draws)
    return {
        name: _interval(name, value, np.concatenate([part[name] for part in parts]))
        for name, value in flat(metrics_of(scored, classes)).items()
        if name != "classes_counted"
    }


def _interval(name: str, value: float, drawn_D: FloatArray) -> dict[str, float]:
    defined = drawn_D[np.isfinite(drawn_D)]
    if not len(defined):
        return {"low": np.nan, "high": np.nan, "sd": np.nan, "draws": 0}
    bias = float(defined.mean()) - value if np.isfinite(value) else 0.0
    low, high = (float(end) - bias for end in np.quantile(defined, [0.025, 0.975]))
    top = np.inf if name == "log_loss" else 1.0  # shares stay shares
    low, high = max(min(low, value), 0.0), min(max(high, value), top)
    return {"low": low, "high": high, "sd": float(defined.std()), "draws": len(defined)}


def baselines(scored: Scored, classes: Sequence[str]) -> dict[str, float]:
    """What no skill would reach: every tile has the prevalence as its scores, and is given all.

    That is every class, or, of `multiclass`, the most frequent one.
    """
    p_K = np.clip(scored.labels.mean(axis=0), 1e-12, 1 - 1e-12)
    logits_K = np.log(p_K) if scored.task == "multiclass" else np.log(p_K) - np.log1p(-p_K)
    logits_NK = np.tile(logits_K, (len(scored.labels), 1))
    rule = Rule(thresholds=(0.0,) * len(classes))
    found = compute_metrics(logits_NK, scored.labels, classes, scored.task, rule)
    names = ("map", "auc", "balanced_accuracy", "f1_macro", "log_loss")
    return {name: found[name] for name in names}


def errors_together(predicted_NK: BoolArray, labels_NK: BoolArray) -> FloatArray:
    """Which class is falsely given where another is missed (`multilabel`).

    Returns:
        (K, K): [i, j] the share of the tiles with i missed where j was falsely given; a row of
        NaN for a class that is never missed.
    """
    missed_NK = (labels_NK & ~predicted_NK).astype(np.float64)
    false_NK = (predicted_NK & ~labels_NK).astype(np.float64)
    return divided(missed_NK.T @ false_NK, missed_NK.sum(axis=0)[:, None])


def reliability(scores: FloatArray, labels: BoolArray) -> dict[str, list[float]]:
    """Compare scores (0 to 1, of any shape) with what came true, in equal bins (a, b].

    Returns:
        lists of `BINS`: `counts` of decisions; `mean_score`, what was said, and `mean_label`, the
        share that came true, NaN where there are none.
    """
    where, true = bin_of(scores.ravel()), labels.ravel()
    counts = np.bincount(where, minlength=BINS)
    said, so = (np.bincount(where, values, BINS) for values in (scores.ravel(), true))
    return {
        "counts": counts.tolist(),
        "mean_score": divided(said, counts).tolist(),
        "mean_label": divided(so, counts).tolist(),
    }


def tail_accuracy(
    scores_NK: FloatArray,
    labels_NK: BoolArray,
    classes: Sequence[str],
    *,
    quantiles: bool = False,
) -> dict[str, Any]:
    """How often a class is right where its score is high, at the paper's 20 thresholds.

    Of the tiles with score > t, the share that has the class: the precision at t (Luque 2022). A
    class without such tiles has none (NaN), so that the mean over classes is one over fewer and
    fewer classes as t rises, and may fall where every class's own curve rises. Hence, beside it,
    the mean over the classes that last to the end, and the same at quantiles of each class's own
    scores: of N tiles its highest N (1 - q) are looked at, but for equal scores, so that a class
    that never scores high lasts as long as any other.

    Args:
        scores_NK: probabilities; for quantiles also logits, since only their order matters.
        labels_NK: whether each tile has each class.
        classes: K names.
        quantiles: whether the thresholds are quantiles.

    Returns:
        lists (T,), NaN where undefined. `at`: thresholds of the score; for quantiles, shares of the
        class's tiles below them. `mean`: of the classes that have tiles above, the paper's figure.
        `classes`: how many these are. `fixed`: mean over the same classes at every threshold,
        `fixed_classes`. `micro`: all classes' tiles above thrown together.
    """
    thresholds_KT = np.tile(AT_T, (len(classes), 1))
    if quantiles:
        # An order statistic, no blend of two: a threshold that is a score leaves the higher ones.
        places_T = np.ceil(AT_T * len(scores_NK) - 1e-9).astype(np.intp) - 1
        thresholds_KT = np.sort(scores_NK, axis=0)[places_T].T
    hits_KT, counts_KT = np.zeros_like(thresholds_KT), np.zeros(thresholds_KT.shape, np.int64)
    for k, thresholds_T in enumerate(thresholds_KT):
        above_NT = scores_NK[:, k, None] > thresholds_T
        counts_KT[k] = above_NT.sum(axis=0)
        hits_KT[k] = (labels_NK[:, k, None] & above_NT).sum(axis=0)
    accuracy_KT = divided(hits_KT, counts_KT)
    lasting_K = (counts_KT > 0).all(axis=1)
    found = {
        "at": AT_T,
        "mean": mean_of_defined(accuracy_KT.T),
        "classes": (counts_KT > 0).sum(axis=0),
        "fixed": mean_of_defined(accuracy_KT[lasting_K].T),
        "micro": divided(hits_KT.sum(axis=0), counts_KT.sum(axis=0)),
    }
    lists = {name: values.tolist() for name, values in found.items()}
    return lists | {"fixed_classes": [classes[int(k)] for k in np.flatnonzero(lasting_K)]}


def caution(spec: "BundleSpec", digest: str, split: str) -> str:
    """What the split was used for before, in words; empty for nothing.

    Args:
        spec: the bundle's.
        digest: SHA-256 of the index that it is measured on.
        split: part of that index.
    """
    index, fitted = (spec.provenance.get(name) for name in ("index", "calibration"))
    if index is None:
        return "The bundle does not say which tile index it was trained on: maybe on these tiles."
    if index != digest:
        return (
            "The bundle was trained on another tile index: whether it has seen these tiles is not "
            "known."
        )
    if split == "train":
        return "The bundle was trained on this split: the figures say how well it was learned."
    if split != "val":
        return ""
    chosen = "The bundle was chosen by its figures on this split: they are a little optimistic."
    fitted = fitted if isinstance(fitted, dict) else {}
    kinds = [name for name in ("temperature", "thresholds") if fitted.get(name)]
    if not kinds:
        return chosen
    return (
        f"{chosen} To half of these tiles its {' and '.join(kinds)} are fitted, on which all "
        "figures but average precision and AUC hang; the training's metrics.json has what was "
        "measured on the other half."
    )
