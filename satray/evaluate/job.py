"""The job `evaluate`: predictions of a split of a tile index, and how good they are."""

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from satray.config.score import EvaluateRecipe
from satray.data.bands import select
from satray.data.index import TileIndex, read_index
from satray.errors import InputError, counted
from satray.evaluate.quality import Gathered, Quality, caution, measure
from satray.evaluate.report import Inputs, publish_report
from satray.evaluate.reproduce import Comparison, Earlier, causes, compare, earlier
from satray.metrics.summary import said
from satray.models.spec import bundle_digest, bundle_digests, read_spec
from satray.runs.executor import computes_on_gpu
from satray.runs.run import Outcome, Run, digest_file, library_versions, to_json
from satray.score.blocks import Blocks
from satray.score.job import refuse_dtype, score_tiles
from satray.score.predictions import failure_lines
from satray.score.scheduler import wants_ray
from satray.score.settings import D4_SAID
from satray.score.tile_stages import TileScoring
from satray.score.tiles import tiles_of_index, wanted_of
from satray.storage import Storage, join

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec


def read(recipe: EvaluateRecipe, storage: Storage) -> Inputs:
    """Read the bundle's description and the split of the index, with the digests of both.

    With `reproduce`, of that run and of what computes too: the question is whether it comes out the
    same now, so another torch makes another run, which finds nothing of this one done.

    Raises:
        InputError: no bundle, no index, an empty split, or an index that does not fit the bundle:
            its classes, task, bands or dtype; or nothing to reproduce.
    """
    bundle = bundle_digests(recipe.bundle, storage)
    spec = read_spec(recipe.bundle, storage)
    whole = read_index(recipe.index, storage)
    _check_fit(spec, whole)
    index = whole.part(recipe.split)
    digests = {"bundle": bundle_digest(bundle), "index": index.digest}
    before: Earlier | None = None
    if recipe.reproduce is not None:
        before = earlier(recipe, spec.classes, storage)
        digests["reproduce"] = digest_file(storage, join(recipe.reproduce, "run.json"))
        computes = [library_versions(), recipe.batch, recipe.resources.gpus]
        digests["computes"] = hashlib.sha256(to_json(computes)).hexdigest()
    tiles = tiles_of_index(index, spec.classes)
    return Inputs(spec, index, tiles, before, bundle, digests)


def _check_fit(spec: "BundleSpec", index: TileIndex) -> None:
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


def plan(recipe: EvaluateRecipe, found: Inputs, _: Storage) -> list[str]:
    """Say what would be predicted, and with what."""
    spec, tiles = found.spec, found.tiles
    wanted = wanted_of(spec, tiles)
    blocks = Blocks.of("", len(tiles), wanted.tile_bytes)
    lines = [
        f"bundle: {', '.join(tower.backbone for tower in spec.variant.towers)}, "
        f"{counted(len(spec.classes), 'class')} ({spec.task}), bands {', '.join(spec.bands)}",
        f"split {recipe.split}: {counted(len(tiles), 'tile')} of {wanted.height} x {wanted.width} "
        f"px, one request each, in {counted(blocks.count, 'block')} of {blocks.size}; actors: "
        f"{recipe.resources.workers}, read tasks: {recipe.resources.read_tasks}",
    ]
    if recipe.symmetries == "d4":
        lines.append(D4_SAID)
    if found.before is not None:
        lines.append(f"compared with run {found.before.record.run_id}, within {recipe.tolerance:g}")
    return lines


def large(recipe: EvaluateRecipe, found: Inputs) -> bool:
    """Whether `resources.ray=auto` takes Ray."""
    return wants_ray(_scoring(recipe, found.spec).px(len(found.tiles)), recipe.resources)


def work(recipe: EvaluateRecipe, found: Inputs, run: Run) -> Outcome:
    """Predict the split; publish predictions, metrics, plots and the report.

    Returns:
        an outcome whose `verdict` says where the run to reproduce is not reproduced.
    """
    spec, index, before = found.spec, found.index, found.before
    # read first: no use in scoring where it is out of reach
    then = before.predicted(run.storage) if before is not None else None
    gathered = Gathered(spec.classes)
    merged = score_tiles(
        run,
        _scoring(recipe, spec),
        found.tiles,
        recipe.resources,
        gathered.add,
        fresh=recipe.reproduce is not None,
    )
    predicted = gathered.predicted()
    quality: Quality | None = None
    if len(predicted.ids):
        with run.activity("measuring"):
            quality = measure(predicted, spec, recipe.bootstrap, run.progress)
    document: dict[str, Any] = {
        "split": recipe.split,
        "tiles": merged.tiles,
        "failed": merged.failed,
        "task": spec.task,
        "classes": list(spec.classes),
        "device": device(recipe, run),
        "engine": merged.engine,
        "bundle": found.bundle,
        "caution": caution(spec, index.digest, recipe.split) or None,
        "metrics": {},
        **(quality.document if quality else {}),
    }
    comparison: Comparison | None = None
    if before is not None and then is not None:
        comparison = compare(predicted, then, spec.classes, recipe.tolerance, before.record.run_id)
        if not comparison.same:
            comparison = replace(comparison, differs=causes(recipe, before, document, index.digest))
    document["reproduction"] = comparison.document() if comparison else None
    run.publish("metrics.json", to_json(document))
    if quality is not None:
        publish_report(found, recipe, predicted, quality, comparison, merged, run)
    same = comparison is None or comparison.same
    return Outcome(
        counts={"tiles": merged.tiles, "failed": merged.failed, "classes": len(spec.classes)},
        metrics=document["metrics"],
        summary=(
            f"{recipe.split}: {counted(merged.tiles - merged.failed, 'tile')}, "
            f"{counted(len(spec.classes), 'class')} ({spec.task}): report.html, metrics.json, "
            "predictions/",
            *_metric_lines(quality, len(spec.classes)),
            *filter(None, [document["caution"]]),
            *([comparison.line()] if comparison and same else []),
            *failure_lines(merged.reasons, merged.tiles, "tile"),
        ),
        attempted=merged.tiles,
        failed=merged.failed,
        error_budget=recipe.error_budget,
        verdict=None if comparison is None or same else
        f"reproduce={recipe.reproduce}: {comparison.line()}",
    )  # fmt: skip


def device(recipe: EvaluateRecipe, run: Run) -> str:
    """What computed: `cpu`, or `gpu (H100)`, `gpu` where Ray knows no model."""
    if not run.ray:
        return "gpu" if computes_on_gpu(recipe.resources) else "cpu"
    from satray import cluster

    if not cluster.use_gpus(recipe.resources):
        return "cpu"
    models = cluster.gpu_types()
    return f"gpu ({', '.join(models)})" if models else "gpu"


def _scoring(recipe: EvaluateRecipe, spec: "BundleSpec") -> TileScoring:
    return TileScoring(recipe.bundle, spec, batch=recipe.batch, d4=recipe.symmetries == "d4")


def _metric_lines(quality: Quality | None, classes: int) -> list[str]:
    """The figures that matter, in a few calm lines."""
    if quality is None:
        return ["no tile could be measured"]
    metrics = quality.document["metrics"]

    def shown(name: str) -> str:
        interval = quality.document["intervals"].get(name)
        ends = f" ({said(interval['low'], 3)} to {said(interval['high'], 3)})" if interval else ""
        return said(metrics[name], 3) + ends

    return [
        f"accuracy {shown('accuracy')} beside {said(metrics['baseline_accuracy'], 3)} for "
        f"always deciding the majority; balanced accuracy {shown('balanced_accuracy')}",
        f"mAP {shown('map')} over {metrics['classes_counted']:.0f} of {classes} classes with both "
        f"kinds; AUC {shown('auc')}",
        *quality.warnings,
    ]
