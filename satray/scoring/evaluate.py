"""The job `evaluate`: predictions of a split of a tile index, and how good they are."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from satray.config.evaluate import EvaluateRecipe
from satray.errors import InputError
from satray.runs.jsonable import to_json
from satray.runs.run import Outcome, Run
from satray.scoring.blocks import Blocks
from satray.scoring.line import (
    Maps,
    failure_lines,
    read_spec,
    refuse_dtype,
    score_tiles,
    wanted_of,
)
from satray.scoring.predictions import OK, matrix
from satray.scoring.sources import TileSet, tiles_of_index
from satray.storage import Storage
from satray.tiles.bands import select
from satray.tiles.index import TileIndex, index_digest, read_index

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec

Metrics = dict[str, Any]


def inputs(recipe: EvaluateRecipe, storage: Storage) -> dict[str, str]:
    """Digests of the bundle and of the index.

    Raises:
        InputError: no bundle, no index, an empty split, or an index that does not fit the bundle:
            its classes, task, bands or dtype.
    """
    from satray.models.bundle import bundle_digest

    found = bundle_digest(recipe.bundle, storage)
    tiles_of(recipe, storage)
    return {"bundle": found, "index": index_digest(recipe.index, storage)}


def plan(recipe: EvaluateRecipe, storage: Storage) -> list[str]:
    """Say what would be predicted, and with what."""
    spec, tiles = tiles_of(recipe, storage)
    wanted = wanted_of(spec, tiles, Maps())
    blocks = Blocks.of("", len(tiles), wanted.tile_bytes)
    return [
        f"bundle: {', '.join(tower.backbone for tower in spec.variant.towers)}, "
        f"{len(spec.classes)} classes ({spec.task}), bands {', '.join(spec.bands)}",
        f"split {recipe.split}: {len(tiles):,} tiles of {wanted.height} x {wanted.width} px, "
        f"one request each, in {blocks.count:,} blocks of {blocks.size}; actors: "
        f"{recipe.resources.workers}, read tasks: {recipe.resources.read_tasks}",
    ]


def work(recipe: EvaluateRecipe, run: Run) -> Outcome:
    """Predict the split; publish `predictions/`, `failures.parquet` and `metrics.json`."""
    spec, tiles = tiles_of(recipe, run.storage)
    gathered = _Gathered(spec.classes)
    merged = score_tiles(
        run, recipe.bundle, tiles, Maps(), recipe.batch, recipe.resources, gathered.add
    )
    metrics = gathered.metrics(spec.task)
    document = {
        "split": recipe.split,
        "tiles": merged.tiles,
        "failed": merged.failed,
        "task": spec.task,
        "classes": list(spec.classes),
        "metrics": metrics,
    }
    run.publish("metrics.json", to_json(document))
    return Outcome(
        counts={
            "tiles": merged.tiles,
            "failed": merged.failed,
            "classes": len(spec.classes),
        },
        metrics=metrics,
        summary=(
            f"{recipe.split}: {merged.tiles - merged.failed:,} tiles, "
            f"{len(spec.classes)} classes ({spec.task}): predictions/, metrics.json",
            *metric_lines(metrics, len(spec.classes)),
            *failure_lines(merged),
        ),
        attempted=merged.tiles,
        failed=merged.failed,
        error_budget=recipe.error_budget,
    )


def tiles_of(recipe: EvaluateRecipe, storage: Storage) -> tuple["BundleSpec", TileSet]:
    """The bundle's spec, and the split's tiles with their labels in the bundle's order.

    Raises:
        InputError: see `inputs`.
    """
    spec = read_spec(recipe.bundle, storage)
    index = read_index(recipe.index, storage)
    check_fit(spec, index)
    return spec, tiles_of_index(index.part(recipe.split), spec.classes)


def check_fit(spec: "BundleSpec", index: TileIndex) -> None:
    """Refuse an index that the bundle cannot be measured on.

    Raises:
        InputError: it lacks a class or a band, or its task or dtype is another.
    """
    meta = index.meta
    absent = [name for name in spec.classes if name not in meta.classes]
    if absent:
        raise InputError(
            f"index: no labels of {', '.join(absent)}, which the bundle predicts; the index has "
            f"{', '.join(meta.classes)}"
        )
    # of one class among many, labels say yes or no alike; a softmax needs all its classes
    softmax = "multiclass" in (spec.task, meta.task)
    if softmax and (spec.task != meta.task or len(spec.classes) != len(meta.classes)):
        raise InputError(
            f"index: task {meta.task} with {len(meta.classes)} classes, the bundle's is "
            f"{spec.task} with {len(spec.classes)}"
        )
    select(meta.bands, spec.bands)
    refuse_dtype(meta.dtype, spec, "index")


def metric_lines(metrics: Metrics, classes: int) -> list[str]:
    """The figures that matter, in two calm lines."""
    if not metrics:
        return ["no tile could be measured"]
    counted = int(metrics["classes_counted"])
    return [
        f"accuracy {_said(metrics['accuracy'])} beside {_said(metrics['baseline_accuracy'])} for "
        f"always deciding the majority; balanced accuracy {_said(metrics['balanced_accuracy'])}",
        f"mAP {_said(metrics['map'])} over {counted} of {classes} classes with positives; "
        f"AUC {_said(metrics['auc'])}",
    ]


class _Gathered:
    """Logits and labels of all tiles that were predicted."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self._classes = classes
        self._logits: list[NDArray[np.float64]] = []
        self._labels: list[NDArray[np.float64]] = []

    def add(self, table: pa.Table) -> None:
        good = table.filter(pc.equal(table.column("status"), OK))
        self._logits.append(matrix(good, "logit", self._classes))
        self._labels.append(matrix(good, "target", self._classes))

    def metrics(self, task: str) -> Metrics:
        """Metrics over all tiles; none where no tile could be predicted."""
        from satray.training.metrics import compute_metrics

        logits, labels = np.concatenate(self._logits), np.concatenate(self._labels)
        return compute_metrics(logits, labels, self._classes, task) if len(logits) else {}


def _said(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "undefined"
