"""The products of `evaluate` for the eye: plots, galleries and the HTML page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from satray.config.score import EvaluateRecipe
from satray.data.index import TileIndex
from satray.errors import InputError
from satray.evaluate.held import caution
from satray.evaluate.picks import Pick, ends, shown_classes, worst
from satray.evaluate.pictures import render
from satray.evaluate.plots import draw
from satray.evaluate.quality import Predicted, Quality
from satray.evaluate.reproduce import NO_CAUSE, Comparison
from satray.report.page import Headline, Html, Page, html, interval, number, versions
from satray.report.style import PANELS_MOST
from satray.runs.run import Run, RunRecord, find_run, finite, library_versions
from satray.storage import Storage, join, parent
from satray.storage import name as last_part

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec

SECRET = ("storage",)
"""Keys that are left out of the page: where a store is reached concerns nobody who reads it."""
CALIBRATED = {
    "log_loss": "log loss",
    "ece": "calibration error (ECE)",
    "accuracy": "accuracy",
    "f1_macro": "F1, mean of classes",
    "f2_macro": "F2, mean of classes",
    "f1_samples": "F1, mean of tiles",
    "f2_samples": "F2, mean of tiles",
}
"""Figures that are shown with and without the bundle's temperature and thresholds."""
CLASS_HEADS = (
    "class", "positives", "AP", "95 % interval", "ROC AUC", "threshold", "precision", "recall",
    "F1", "predicted",
)  # fmt: skip


@dataclass(frozen=True)
class Findings:
    """Everything that the report is about."""

    recipe: EvaluateRecipe
    """The run's."""
    spec: "BundleSpec"
    """The bundle's."""
    index: TileIndex
    """The split's tiles."""
    predicted: Predicted
    """What was predicted."""
    quality: Quality
    """What was measured."""
    comparison: Comparison | None
    """The run beside an earlier one; None where nobody asked."""
    failed: int
    """Tiles that could not be predicted."""


@dataclass(frozen=True)
class Origin:
    """The finished train run that made a bundle."""

    record: RunRecord
    """Its run.json."""
    metrics: Mapping[str, Any]
    """Its metrics.json; empty where there is none."""
    curves: bytes | None
    """Its curves.png: losses, headline metric and learning rate against samples seen."""


def find_origin(bundle: str, storage: Storage) -> Origin | None:
    """The run whose `out`, or whose `bundle/`, this is; None for a bundle that stands alone."""
    for folder in (bundle, parent(bundle)):
        try:
            record = find_run(storage, folder)
        except InputError:
            continue
        paths = {product.path for product in record.products} if record is not None else set()
        if record is not None and any(path.startswith("bundle/") for path in paths):
            found = {
                name: storage.read(join(folder, name))
                for name in ("metrics.json", "curves.png")
                if name in paths
            }
            metrics = json.loads(found.get("metrics.json", b"{}"))
            return Origin(record, metrics, found.get("curves.png"))
    return None


def publish_report(found: Findings, origin: Origin | None, run: Run) -> None:
    """Publish `plots/*.png` and `report.html`."""
    with run.activity("drawing"):
        run.progress("drawing plots")
        plots = draw(found.quality, found.spec.classes, found.spec.thresholds)
        if origin is not None and origin.curves is not None:
            plots["curves"] = origin.curves
        for name, data in plots.items():
            run.publish(f"plots/{name}.png", data)
        page = _page(found, origin, run, plots)
    run.publish("report.html", page)


def _page(found: Findings, origin: Origin | None, run: Run, plots: Mapping[str, bytes]) -> bytes:
    recipe, spec, quality = found.recipe, found.spec, found.quality
    scored, raw = quality.scored, quality.document["raw_metrics"]
    positives = [int(n) for n in scored.labels.sum(axis=0)]
    shelves = [ends(scored, k) for k in shown_classes(recipe.gallery, spec.classes, positives)]
    errors = worst(scored)
    picks = [pick for one in shelves for pick in (*one.top, *one.bottom)] + list(errors)
    sections = {
        "training": "Training" if "curves" in plots else "",
        "classes": "Classes",
        "calibration": "Calibration",
        "errors": "Errors",
        "tiles": "Tiles by class" if shelves else "",
        "reproduction": "Reproduction" if found.comparison is not None else "",
        "provenance": "Provenance",
    }
    fitted = origin.metrics.get("calibration") if origin is not None else None
    towers = " + ".join(tower.backbone for tower in spec.variant.towers)
    page = Page(
        title=f"{towers} on {recipe.split} of {last_part(recipe.index)}",
        subtitle=f"{spec.task}, {len(spec.classes)} "
        f"{'class' if len(spec.classes) == 1 else 'classes'}, {len(found.predicted.ids):,} tiles "
        f"· model {found.predicted.model_id} · run {run.run_id}",
        warnings=_warnings(found),
        head=Html(),
        sections=(),
        footer="Written by satray; self-contained. The figures are in metrics.json, the "
        "predictions in predictions/, the plots in plots/.",
    )
    return html(
        page,
        (files("satray.evaluate") / "templates" / "evaluate.html").read_text("utf-8"),
        sections={anchor: title for anchor, title in sections.items() if title},
        headlines=_headlines(quality),
        caution=caution(spec, found.index.digest, recipe.split, quality.held),
        recipe=recipe,
        spec=spec,
        classes=spec.classes,
        index=found.index,
        ids=found.predicted.ids,
        model_id=found.predicted.model_id,
        run_id=run.run_id,
        quality=quality,
        metrics=quality.metrics,
        held=quality.held,
        plots=plots,
        most=PANELS_MOST,
        class_heads=CLASS_HEADS,
        class_rows=_class_rows(quality),
        calibration=[
            (
                said,
                number(raw[name], 4),
                number(quality.metrics[name], 4),
            )
            for name, said in CALIBRATED.items()
            if spec.task == "multilabel" or not name.endswith("_samples")
        ],
        fitted=_json(finite(dict(fitted))) if isinstance(fitted, Mapping) else "",
        shelves=shelves,
        worst=errors,
        truth=scored.labels.argmax(axis=1).tolist(),
        pictures=_pictures(picks, found, run),
        comparison=found.comparison,
        no_cause=NO_CAUSE,
        origin=origin,
        listed=lambda values: ", ".join(f"{value:.4g}" for value in values),
        versions=versions(
            {"evaluate": library_versions()}
            | ({"train": origin.record.versions} if origin is not None else {})
        ),
        own_recipe=_shown(json.loads(recipe.model_dump_json())),
        train_recipe=_shown(origin.record.config) if origin is not None else "",
    )


def _pictures(picks: Sequence[Pick], found: Findings, run: Run) -> dict[tuple[int, int], bytes]:
    """Read the picked tiles again and draw them: (row, class) -> JPEG."""
    from satray.models.bundle import load_bundle

    if not picks:
        return {}
    columns = (found.index.table.column(name).to_pylist() for name in ("tile_id", "uri", "mask"))
    places = {tile: (uri, masked) for tile, uri, masked in zip(*columns, strict=True)}
    uris, masked = zip(*(places[tile] for tile in found.predicted.ids), strict=True)
    return render(
        picks,
        uris,
        masked,
        found.index.meta,
        load_bundle(found.recipe.bundle, run.storage),
        run.storage,
        d4=found.recipe.symmetries == "d4",
        progress=run.progress,
    )


def _headlines(quality: Quality) -> list[Headline]:
    """The task's figures, each beside what no skill would reach."""
    task = quality.scored.task
    one, softmax = quality.scored.labels.shape[1] == 1, task == "multiclass"
    base, metrics = quality.document["baselines"], quality.metrics
    always = "the majority" if softmax else "yes"
    named = {
        "map": ("average precision" if one else "mAP", f"{base['map']:.3f} by chance"),
        "auc": ("ROC AUC", "0.500 by chance"),
        "accuracy": (
            "accuracy, top-1" if softmax else "accuracy",
            f"{metrics['baseline_accuracy']:.3f} always saying the majority",
        ),
        "balanced_accuracy": ("balanced accuracy", f"{base['balanced_accuracy']:.3f} by chance"),
        "f1_macro": (
            "F1" if one else "F1, mean of classes", f"{base['f1_macro']:.3f} always saying {always}"
        ),
        "f2_samples": ("F2, mean of tiles", ""),
        "log_loss": ("log loss", f"{base['log_loss']:.3f} from prevalence alone"),
        "ece": ("calibration error", "0 is perfect"),
    }  # fmt: skip
    if task != "multilabel":
        del named["f2_samples"]
    order = ("accuracy", "balanced_accuracy", *named) if softmax else tuple(named)
    return [
        Headline(said, metrics[name], quality.intervals.get(name), beside)
        for name in dict.fromkeys(order)
        for said, beside in (named[name],)
    ]


def _class_rows(quality: Quality) -> list[tuple[str, ...]]:
    return [
        (
            name,
            f"{row['positives']:,}",
            number(row["ap"]),
            interval(row["ap_interval"], quality.draws) if row["ap_interval"] else "–",
            number(row["auc"]),
            "highest" if row["threshold"] is None else number(row["threshold"]),
            *(number(row[figure]) for figure in ("precision", "recall", "f1")),
            f"{row['given']:,}",
        )
        for name, row in quality.document["by_class"].items()
    ]


def _warnings(found: Findings) -> tuple[str, ...]:
    lines = list(found.quality.warnings)
    if found.failed:
        lines.append(f"{found.failed:,} tiles could not be predicted: failures.parquet says why.")
    if found.comparison is not None and not found.comparison.same:
        lines.append(found.comparison.line())
    return tuple(lines)


def _shown(config: Mapping[str, Any]) -> str:
    return _json({name: value for name, value in config.items() if name not in SECRET})


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False)
