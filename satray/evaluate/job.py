"""The job `evaluate`: predictions of a split of a tile index, and how good they are."""

import hashlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from satray.config.score import EvaluateRecipe
from satray.data.bands import select
from satray.data.index import TileIndex, read_index
from satray.errors import InputError
from satray.evaluate.held import held_back
from satray.evaluate.picks import check_asked
from satray.evaluate.quality import Gathered, Predicted, Quality, measure
from satray.evaluate.reproduce import (
    Comparison,
    causes,
    compare,
    earlier,
    read_document,
    read_predicted,
)
from satray.metrics.summary import said
from satray.models.spec import bundle_digest, bundle_digests, read_spec
from satray.runs.run import Outcome, Run, RunRecord, digest_file, library_versions, to_json
from satray.scoring.blocks import Blocks
from satray.scoring.over_tiles import (
    D4_SAID,
    Maps,
    failure_lines,
    refuse_dtype,
    score_tiles,
    wanted_of,
)
from satray.scoring.sources import TileSet, tiles_of_index
from satray.storage import Storage, join

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Split:
    """A split of an index, and the bundle that it is measured with."""

    spec: "BundleSpec"
    """The bundle's description."""
    index: TileIndex
    """The split."""
    tiles: TileSet
    """Its tiles, with their labels in the bundle's order."""
    digests: dict[str, str]
    """Of bundle and index, and of what is to be reproduced."""


def read(recipe: EvaluateRecipe, storage: Storage) -> Split:
    """Read the bundle's description and the split of the index, with the digests of both.

    With `reproduce`, of that run and of what computes too: the question is whether it comes out the
    same now, so another torch makes another run, which finds nothing of this one done.

    Raises:
        InputError: no bundle, no index, an empty split, or an index that does not fit the bundle:
            its classes, task, bands or dtype; a gallery of a class that is not the bundle's; or
            nothing to reproduce.
    """
    found = bundle_digest(recipe.bundle, storage)
    spec = read_spec(recipe.bundle, storage)
    whole = read_index(recipe.index, storage)
    _check_fit(spec, whole)
    index = whole.part(recipe.split)
    tiles = tiles_of_index(index, spec.classes)
    check_asked(recipe.gallery, spec.classes)
    digests = {"bundle": found, "index": index.digest}
    if recipe.reproduce is not None:
        earlier(recipe, spec.classes, storage)
        digests["reproduce"] = digest_file(storage, join(recipe.reproduce, "run.json"))
        computes = [library_versions(), recipe.batch, recipe.resources.gpus]
        digests["computes"] = hashlib.sha256(to_json(computes)).hexdigest()
    return Split(spec, index, tiles, digests)


def plan(recipe: EvaluateRecipe, found: Split, storage: Storage) -> list[str]:
    """Say what would be predicted, and with what."""
    spec, tiles = found.spec, found.tiles
    wanted = wanted_of(spec, tiles, Maps())
    blocks = Blocks.of("", len(tiles), wanted.tile_bytes)
    lines = [
        f"bundle: {', '.join(tower.backbone for tower in spec.variant.towers)}, "
        f"{len(spec.classes)} classes ({spec.task}), bands {', '.join(spec.bands)}",
        f"split {recipe.split}: {len(tiles):,} tiles of {wanted.height} x {wanted.width} px, "
        f"one request each, in {blocks.count:,} blocks of {blocks.size}; actors: "
        f"{recipe.resources.workers}, read tasks: {recipe.resources.read_tasks}",
    ]
    if recipe.symmetries == "d4":
        lines.append(D4_SAID)
    if recipe.reproduce is not None:
        record = earlier(recipe, spec.classes, storage)
        lines.append(f"compared with run {record.run_id}, within {recipe.tolerance:g}")
    return lines


def work(recipe: EvaluateRecipe, found: Split, run: Run) -> Outcome:
    """Predict the split; publish predictions, metrics, plots and the report.

    Returns:
        an outcome whose `verdict` says where the run to reproduce is not reproduced.
    """
    from satray.evaluate.report import Findings, find_origin, publish_report

    spec, index, tiles = found.spec, found.index, found.tiles
    before: tuple[RunRecord, Predicted] | None = None
    if recipe.reproduce is not None:  # read first: no use in scoring where it is out of reach
        record = earlier(recipe, spec.classes, run.storage)
        then = read_predicted(recipe.reproduce, record, spec.classes, run.storage)
        before = record, then
    gathered = Gathered(spec.classes)
    merged = score_tiles(
        run,
        recipe.bundle,
        tiles,
        Maps(),
        recipe.batch,
        recipe.resources,
        gathered.add,
        symmetries=recipe.symmetries,
        fresh=recipe.reproduce is not None,
    )
    predicted = gathered.predicted()
    quality: Quality | None = None
    if len(predicted.ids):
        held = held_back(spec, index.digest, recipe.split, predicted.ids)
        with run.activity("measuring"):
            quality = measure(predicted, spec, recipe.bootstrap, held, run.progress)
    document: dict[str, Any] = {
        "split": recipe.split,
        "tiles": merged.tiles,
        "failed": merged.failed,
        "task": spec.task,
        "classes": list(spec.classes),
        "device": device(recipe),
        "bundle": bundle_digests(recipe.bundle, run.storage),
        "metrics": quality.metrics if quality else {},
        **(quality.document if quality else {}),
    }
    comparison: Comparison | None = None
    if before is not None:
        comparison = _compared(recipe, predicted, before, document, index, run.storage)
    document["reproduction"] = comparison.document() if comparison else None
    run.publish("metrics.json", to_json(document))
    if quality is not None:
        findings = Findings(recipe, spec, index, predicted, quality, comparison, merged.failed)
        publish_report(findings, find_origin(recipe.bundle, run.storage), run)
    verdict: str | None = None
    if comparison is not None and not comparison.same:
        verdict = f"reproduce={recipe.reproduce}: {comparison.line()}"
    metrics = document["metrics"]
    return Outcome(
        counts={
            "tiles": merged.tiles,
            "failed": merged.failed,
            "classes": len(spec.classes),
        },
        metrics=metrics,
        summary=(
            f"{recipe.split}: {merged.tiles - merged.failed:,} tiles, "
            f"{len(spec.classes)} classes ({spec.task}): report.html, metrics.json, predictions/",
            *metric_lines(quality, len(spec.classes)),
            *([comparison.line()] if comparison and comparison.same else []),
            *failure_lines(merged),
        ),
        attempted=merged.tiles,
        failed=merged.failed,
        error_budget=recipe.error_budget,
        verdict=verdict,
    )


def device(recipe: EvaluateRecipe) -> str:
    """What the actors computed on: `cpu`, or `gpu (H100)`, `gpu` where Ray knows no model."""
    from satray import cluster

    if not cluster.use_gpus(recipe.resources):
        return "cpu"
    models = cluster.gpu_types()
    return f"gpu ({', '.join(models)})" if models else "gpu"


def _check_fit(spec: "BundleSpec", index: TileIndex) -> None:
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


def metric_lines(quality: Quality | None, classes: int) -> list[str]:
    """The figures that matter, in a few calm lines."""
    if quality is None:
        return ["no tile could be measured"]
    metrics = quality.metrics
    counted = int(metrics["classes_counted"])
    return [
        f"accuracy {_said(quality, 'accuracy')} beside {said(metrics['baseline_accuracy'], 3)} for "
        f"always deciding the majority; balanced accuracy {_said(quality, 'balanced_accuracy')}",
        f"mAP {_said(quality, 'map')} over {counted} of {classes} classes with both kinds; "
        f"AUC {_said(quality, 'auc')}",
        *([f"note: the {quality.held.line()}"] if quality.held is not None else []),
        *quality.warnings,
    ]


def _compared(
    recipe: EvaluateRecipe,
    now: Predicted,
    before: tuple[RunRecord, Predicted],
    document: Metrics,
    index: TileIndex,
    storage: Storage,
) -> Comparison:
    """This run beside the one to reproduce."""
    record, then = before
    classes = document["classes"]
    found = compare(now, then, classes, recipe.tolerance, record.run_id)
    if found.same:
        return found
    documents = document, read_document(str(recipe.reproduce), storage)
    ids = (*found.over, *found.only_there, *found.only_here)
    return replace(found, differs=causes(recipe, record, documents, index, ids, storage))


def _said(quality: Quality, name: str) -> str:
    value = said(quality.metrics[name], 3)
    interval = quality.intervals.get(name)
    if not interval or not math.isfinite(interval["low"]):
        return value
    return f"{value} ({interval['low']:.3f} to {interval['high']:.3f})"
