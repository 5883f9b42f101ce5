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
from satray.evaluate.figures import baselines, by_class
from satray.evaluate.held import Held
from satray.evaluate.reproduce import Logits
from satray.evaluate.tail import Tail, tail_accuracy, tail_quantiles
from satray.metrics.calibration import reliability
from satray.metrics.decisions import confusion_matrix, errors_together
from satray.metrics.scored import Rule, Scored
from satray.metrics.summary import compute_metrics
from satray.metrics.trap import trapped
from satray.scoring.predictions import OK, matrix

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec

Floats = NDArray[np.float64]


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

    def of(self, rows_N: NDArray[np.bool_]) -> "Split":
        """Some of its tiles."""
        ids = tuple(name for name, there in zip(self.ids, rows_N.tolist(), strict=True) if there)
        return Split(ids, self.logits[rows_N], self.labels[rows_N], self.model_id)


@dataclass(frozen=True)
class Quality:
    """What was measured."""

    scored: Scored
    """The split under the bundle's temperature and thresholds."""
    judged: Scored
    """The tiles that decisions are measured on: all, or those that fitted no threshold."""
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


def measure(
    split: Split,
    spec: "BundleSpec",
    draws: int,
    held: Held | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Quality:
    """Measure a split.

    Args:
        split: one tile at least.
        spec: the bundle's task, classes, temperature and thresholds.
        draws: of the bootstrap, at most; 0 for no intervals.
        held: tiles that the bundle's temperature and thresholds were not fitted on; None: all.
        progress: told how far it is.
    """
    classes, task = spec.classes, spec.task
    rule = Rule(spec.temperature, tuple(spec.thresholds))
    draws = affordable(draws, len(split.ids))
    parts = [_Part(split, spec, ())]
    if held is not None:
        parts.append(_Part(split.of(held.rows), spec, held.figures))
    ruled = [part.scored(rule) for part in parts]
    scored, rest = ruled[0], ruled[-1]
    judged = rest if held is not None and held.thresholds else scored
    calibrated = rest if held is not None and held.temperature else scored
    metrics, raw = (_merged([part.metrics(r) for part in parts]) for r in (rule, Rule()))
    intervals = _merged([part.intervals(rule, draws, progress) for part in parts]) if draws else {}
    watch = trapped(judged.given, judged.labels, classes)
    document: dict[str, Any] = {
        "temperature": spec.temperature,
        "thresholds": dict(zip(classes, spec.thresholds, strict=True)),
        "measured_apart": held.document() if held is not None else None,
        "raw_metrics": raw,
        "bootstrap_draws": draws,
        "intervals": intervals,
        "baselines": _merged(
            [part.wanted(baselines(one)) for part, one in zip(parts, ruled, strict=True)]
        ),
        "by_class": by_class(
            scored, judged, calibrated, classes, spec.thresholds, metrics["ap"], intervals
        ),
        "classes_always": list(watch.always),
        "classes_never": list(watch.never),
        "reliability": _reliability(calibrated, classes),
        "tail": _tail(tail_accuracy(calibrated.scores, calibrated.labels), classes),
        "tail_quantiles": _tail(tail_quantiles(calibrated.ranks, calibrated.labels), classes),
    }
    if task == "multilabel":
        document["errors_together"] = errors_together(judged.given, judged.labels).tolist()
    else:
        document["confusion"] = confusion_matrix(judged.given, judged.labels).tolist()
    return Quality(
        scored, judged, calibrated, held, draws, metrics, intervals, document, watch.warnings()
    )


@dataclass(frozen=True)
class _Part:
    """Tiles, and which of their figures count."""

    split: Split
    spec: "BundleSpec"
    only: tuple[str, ...]
    """Names; none: all."""

    def scored(self, rule: Rule) -> Scored:
        split, spec = self.split, self.spec
        return Scored.of(split.logits, split.labels, len(spec.classes), spec.task, rule)

    def metrics(self, rule: Rule) -> dict[str, Any]:
        split, spec = self.split, self.spec
        return self.wanted(
            compute_metrics(split.logits, split.labels, spec.classes, spec.task, rule)
        )

    def intervals(
        self, rule: Rule, draws: int, progress: Callable[[str], None]
    ) -> dict[str, dict[str, float]]:
        split, spec = self.split, self.spec

        def show(done: int, of: int) -> None:
            progress(f"intervals of {len(split.ids):,} tiles: {done:,} of {of:,} draws")

        found = bootstrap(
            split.logits, split.labels, spec.classes, spec.task, draws, rule=rule, progress=show
        )
        return self.wanted(
            {
                name: {"low": one.low, "high": one.high, "sd": one.sd, "draws": one.draws}
                for name, one in found.items()
            }
        )

    def wanted(self, found: dict[str, Any]) -> dict[str, Any]:
        """Those of some figures that count."""
        by_class = "recall_of_" if "recall_of" in self.only else "-"
        return {
            name: value
            for name, value in found.items()
            if not self.only or name in self.only or name.startswith(by_class)
        }


def _merged(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of all tiles, with those of the tiles left alone in their place."""
    return {name: value for part in found for name, value in part.items()}


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
