"""The products of `evaluate` for the eye: plots, galleries and the HTML page."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from satray.config.score import EvaluateRecipe
from satray.data.index import TileIndex
from satray.errors import counted
from satray.evaluate.gallery import ends, render, worst
from satray.evaluate.plots import draw
from satray.evaluate.quality import Predicted, Quality, caution
from satray.evaluate.reproduce import NO_CAUSE, Comparison, Earlier
from satray.report.page import html, interval, number
from satray.report.style import PANELS_MOST, most_frequent
from satray.runs.run import Run
from satray.score.blocks import Merged
from satray.score.tiles import TileSet
from satray.storage import name as last_part

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec

CLASS_HEADS = (
    "class", "positives", "AP", "95 % interval", "ROC AUC", "threshold", "precision", "recall",
    "F1", "predicted",
)  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """What is measured."""

    spec: "BundleSpec"
    """The bundle's description."""
    index: TileIndex
    """The split of the index."""
    tiles: TileSet
    """Its tiles, with their labels in the bundle's order."""
    before: Earlier | None
    """The run to reproduce; None where nobody asked."""
    bundle: dict[str, str]
    """Digest of each of the bundle's files."""
    digests: dict[str, str]
    """Of bundle and index, and of what is to be reproduced."""


def publish_report(
    found: Inputs,
    recipe: EvaluateRecipe,
    predicted: Predicted,
    quality: Quality,
    comparison: Comparison | None,
    merged: Merged,
    run: Run,
) -> None:
    """Publish `plots/*.png` and `report.html`.

    Args:
        found: what is measured.
        recipe: the run's.
        predicted: what was predicted.
        quality: what was measured.
        comparison: the run beside an earlier one; None where nobody asked.
        merged: how many tiles could not be predicted, and what computed.
        run: the run.
    """
    spec, document = found.spec, quality.document
    with run.activity("drawing"):
        run.progress("drawing plots")
        plots = draw(quality, spec.classes)
        for name, data in plots.items():
            run.publish(f"plots/{name}.png", data)
        warnings = list(quality.warnings)
        if merged.failed:
            failed = counted(merged.failed, "tile")
            warnings.append(f"{failed} could not be predicted: failures.parquet says why.")
        if comparison is not None and not comparison.same:
            warnings.append(comparison.line())
        towers = " + ".join(tower.backbone for tower in spec.variant.towers)
        data = html(
            "evaluate.html",
            title=f"{towers} on {recipe.split} of {last_part(recipe.index)}",
            subtitle=f"{spec.task}, {counted(len(spec.classes), 'class')}, "
            f"{counted(len(predicted.ids), 'tile')} "
            f"· model {predicted.model_id} · run {run.run_id}",
            warnings=warnings,
            footer="Written by satray; self-contained. The figures are in metrics.json, the "
            "predictions in predictions/, the plots in plots/, recipe and versions in run.json.",
            headlines=_headlines(quality),
            caution=caution(spec, found.index.digest, recipe.split),
            recipe=recipe,
            spec=spec,
            index=found.index,
            predicted=predicted,
            run_id=run.run_id,
            engine=merged.engine,
            quality=quality,
            metrics=document["metrics"],
            draws=document["bootstrap_draws"],
            plots=plots,
            most=PANELS_MOST,
            class_heads=CLASS_HEADS,
            class_rows=_class_rows(document),
            truth=quality.scored.labels.argmax(axis=1).tolist(),
            comparison=comparison,
            no_cause=NO_CAUSE,
            listed=lambda values: ", ".join(f"{value:.4g}" for value in values),
            **_gallery(recipe, found.tiles, predicted, quality, run),
        )
    run.publish("report.html", data)


def _gallery(
    recipe: EvaluateRecipe, tiles: TileSet, predicted: Predicted, quality: Quality, run: Run
) -> dict[str, Any]:
    """The tiles that are shown: `shelves`, one a class, `worst` errors, and `pictures` of all.

    Shelves have the classes with most positives.
    """
    from satray.models.bundle import load_bundle

    scored = quality.scored
    shown = most_frequent([int(n) for n in scored.labels.sum(axis=0)])
    shelves = [ends(scored, k) for k in shown]
    errors = worst(scored)
    picks = [pick for one in shelves for pick in (*one.top, *one.bottom)] + list(errors)
    pictures: dict[tuple[int, int], bytes] = {}
    if picks:
        place = {name: i for i, name in enumerate(tiles.table["tile_id"].to_pylist())}
        rows = [place[name] for name in predicted.ids]
        tiles = replace(tiles, table=tiles.table.take(rows))
        bundle, d4 = load_bundle(recipe.bundle, run.storage), recipe.symmetries == "d4"
        pictures = render(picks, tiles, bundle, run.storage, d4=d4, progress=run.progress)
    return {"shelves": shelves, "worst": errors, "pictures": pictures}


def _headlines(quality: Quality) -> list[tuple[Any, ...]]:
    """The task's figures: name, value, interval, and beside it what no skill would reach."""
    task, document = quality.scored.task, quality.document
    one, softmax = quality.scored.labels.shape[1] == 1, task == "multiclass"
    base = {name: number(value) for name, value in document["baselines"].items()}
    metrics = document["metrics"]
    always = "the majority" if softmax else "yes"
    named: list[tuple[str, str, str]] = [
        ("map", "average precision" if one else "mAP", f"{base['map']} by chance"),
        ("auc", "ROC AUC", "0.500 by chance"),
        ("accuracy", "accuracy, top-1" if softmax else "accuracy",
         f"{metrics['baseline_accuracy']:.3f} always saying the majority"),
        ("balanced_accuracy", "balanced accuracy", f"{base['balanced_accuracy']} by chance"),
        ("f1_macro", "F1" if one else "F1, mean of classes",
         f"{base['f1_macro']} always saying {always}"),
        *([("f2_samples", "F2, mean of tiles", "")] if task == "multilabel" else []),
        ("log_loss", "log loss", f"{base['log_loss']} from prevalence alone"),
        ("ece", "calibration error", "0 is perfect"),
    ]  # fmt: skip
    intervals = document["intervals"]
    return [(title, metrics[name], intervals.get(name), beside) for name, title, beside in named]


def _class_rows(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            name,
            f"{row['positives']:,}",
            number(row["ap"]),
            interval(row["ap_interval"]) if row["ap_interval"] else "–",
            number(row["auc"]),
            "highest" if row["threshold"] is None else number(row["threshold"]),
            *(number(row[figure]) for figure in ("precision", "recall", "f1")),
            f"{row['given']:,}",
        )
        for name, row in document["by_class"].items()
    ]
