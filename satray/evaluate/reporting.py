"""The products of `evaluate` for the eye: plots, galleries and the HTML page."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from satray.evaluate.findings import Findings
from satray.evaluate.galleries import galleries
from satray.evaluate.headlines import headlines
from satray.evaluate.held import caution
from satray.evaluate.origin import Origin
from satray.evaluate.plots import draw
from satray.evaluate.provenance import calibration, provenance, reproduction
from satray.evaluate.quality import Quality
from satray.report.page import (
    Html,
    Page,
    Section,
    Shelf,
    Tile,
    cards,
    class_table,
    gallery,
    html,
    joined,
    plot,
    shelf,
    tag,
)
from satray.report.style import PANELS_MOST
from satray.runs.run import Run
from satray.storage import name as last_part

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec

OPEN = 3
"""With so many classes or fewer, their galleries are unfolded."""

PLOTS = {
    "average_precision": (
        "Average precision by class",
        "Bars with 95 % bootstrap intervals; the mark is the prevalence, which scores without "
        "skill would reach.",
    ),
    "precision_recall": (
        "Precision and recall",
        "The area below the steps is the average precision; dotted: the prevalence.",
    ),
    "roc": ("ROC curves", "Dotted: chance."),
    "tail_accuracy": (
        "Tail accuracy",
        "Share of right decisions among those with a score above a threshold. Classes drop out as "
        "it rises: the mean of classes may fall where the same classes' mean rises.",
    ),
    "tail_quantiles": (
        "Tail accuracy at quantiles",
        "The same where a class's threshold is a quantile of its own scores: at 0.9, of the tenth "
        "of the tiles with its highest scores. No class drops out but for equal scores.",
    ),
    "reliability": (
        "Reliability",
        "All decisions in 15 bins: on the diagonal, scores mean what they say.",
    ),
    "scores": ("Scores", "Of decisions by true label; counts on a logarithmic axis."),
}
"""Plot -> heading and how to read it."""
CLASS_PLOTS = ("average_precision", "precision_recall", "roc", "tail_accuracy", "tail_quantiles")
CUT = ("average_precision", "precision_recall", "roc")
"""Plots that show some classes only where there are too many."""


def publish_report(found: Findings, origin: Origin | None, run: Run) -> None:
    """Publish `plots/*.png` and `report.html`."""
    with run.activity("drawing"):
        run.progress("drawing plots")
        plots = draw(found.quality, found.spec.classes, found.spec.thresholds)
        if origin is not None and origin.curves is not None:
            plots["curves"] = origin.curves
        for name, data in plots.items():
            run.publish(f"plots/{name}.png", data)
        shelves, errors = galleries(found, run)
        page = html(_page(found, origin, run, plots, shelves, errors))
    run.publish("report.html", page)


def _page(
    found: Findings,
    origin: Origin | None,
    run: Run,
    plots: Mapping[str, bytes],
    shelves: Sequence[Shelf],
    errors: Sequence[Tile],
) -> Page:
    spec, quality = found.spec, found.quality
    towers = " + ".join(tower.backbone for tower in spec.variant.towers)
    many = len(spec.classes) > 4
    sections = []
    if origin is not None and "curves" in plots:
        sections.append(Section("training", "Training", _training(plots["curves"], origin)))
    sections.append(
        Section(
            "classes",
            "Classes",
            joined(
                (
                    _figures(plots, CLASS_PLOTS, len(spec.classes)),
                    class_table(_class_rows(quality), quality.draws),
                    tag("p", _rule_said(found), class_="note"),
                )
            ),
        )
    )
    sections.append(
        Section(
            "calibration",
            "Calibration",
            joined((_figures(plots, ("reliability", "scores")), calibration(quality, origin))),
        )
    )
    title, note = _errors_said(found)
    matrix = tag("div", plot(plots["errors"], title, note, wide=many), class_="plots")
    sections.append(Section("errors", "Errors", joined((matrix, _worst(errors)))))
    if shelves:
        sections.append(Section("tiles", "Tiles by class", _shelves(shelves, spec)))
    if found.comparison is not None:
        sections.append(Section("reproduction", "Reproduction", reproduction(found.comparison)))
    sections.append(Section("provenance", "Provenance", provenance(found, origin, run)))
    return Page(
        title=f"{towers} on {found.recipe.split} of {last_part(found.recipe.index)}",
        subtitle=f"{spec.task}, {len(spec.classes)} "
        f"{'class' if len(spec.classes) == 1 else 'classes'}, {len(found.predicted.ids):,} tiles · "
        f"model {found.predicted.model_id} · run {run.run_id}",
        warnings=_warnings(found),
        head=joined((cards(headlines(quality)), _caution(found))),
        sections=sections,
        footer="Written by satray; self-contained. The figures are in metrics.json, the "
        "predictions in predictions/, the plots in plots/.",
    )


def _warnings(found: Findings) -> tuple[str, ...]:
    lines = list(found.quality.warnings)
    if found.failed:
        lines.append(f"{found.failed:,} tiles could not be predicted: failures.parquet says why.")
    if found.comparison is not None and not found.comparison.same:
        lines.append(found.comparison.line())
    return tuple(lines)


def _caution(found: Findings) -> Html:
    text = caution(found.spec, found.digest, found.recipe.split, found.quality.held)
    return tag("p", text, class_="note") if text else Html()


def _training(curves: bytes, origin: Origin) -> Html:
    made_of = (origin.metrics.get("bundle") or {}).get("weights_of", "checkpoint")
    caption = (
        "Loss and headline metric against samples seen, with the learning rate below; dashed lines "
        "mark where a stage begins"
    ) + {
        "checkpoint": ", the solid one the evaluation that made the bundle.",
        "swa": ". The bundle is an average of snapshots, of no single evaluation.",
    }.get(made_of, ".")
    return tag("div", plot(curves, "Training curves", caption), class_="plots")


def _figures(plots: Mapping[str, bytes], names: Sequence[str], classes: int = 0) -> Html:
    shown = []
    for name in names:
        title, note = PLOTS[name]
        shown.append(plot(plots[name], title, note + (_cut(classes) if name in CUT else "")))
    return tag("div", *shown, class_="plots")


def _cut(classes: int) -> str:
    if classes <= PANELS_MOST:
        return ""
    return f" The {PANELS_MOST} of {classes:,} classes with most positives."


def _class_rows(quality: Quality) -> list[dict[str, object]]:
    rows = quality.document["by_class"]
    return [{"name": name, "interval": row["ap_interval"], **row} for name, row in rows.items()]


def _rule_said(found: Findings) -> str:
    counted = int(found.quality.metrics["classes_counted"])
    said = ""
    if len(found.spec.classes) > 1:
        said = (
            f"mAP is the mean over the {counted} of {len(found.spec.classes)} classes with "
            "positives; over all, with 0 for the others as in the Planet report, it is "
            f"{found.quality.metrics['map_paper']:.3f}. "
        )
    if found.quality.draws:
        said += f"Intervals: 95 %, {found.quality.draws:,} bootstrap draws of tiles"
        fewer = found.quality.draws < found.recipe.bootstrap
        said += f" ({found.recipe.bootstrap:,} would take too long)." if fewer else "."
    if found.quality.held is not None and found.quality.held.thresholds:
        said += (
            f" Precision, recall, F1 and predicted: of the {found.quality.held.rows.sum():,} tiles "
            "that no threshold was fitted on."
        )
    if found.recipe.symmetries == "d4":
        said += " Logits are means over the eight flips and transposes of each tile."
    return said


def _errors_said(found: Findings) -> tuple[str, str]:
    if found.spec.task == "multilabel":
        return (
            "Errors that go together",
            "Of the tiles where a class (row) was missed, in how many percent another (column) "
            f"was falsely given.{_cut(len(found.spec.classes))}",
        )
    cut = _cut(len(found.spec.classes))
    return "Confusion matrix", f"Counts; shaded by the share of each true class (row).{cut}"


def _worst(errors: Sequence[Tile]) -> Html:
    if not errors:
        return tag("p", "No decision is wrong.", class_="note")
    intro = "Wrong decisions of highest loss: FP = falsely given, FN = missed."
    return joined((tag("h3", "Worst errors"), tag("p", intro, class_="note"), gallery(errors)))


def _shelves(shelves: Sequence[Shelf], spec: "BundleSpec") -> Html:
    intro = (
        "Among the tiles that are given a class, the most and the least confident; TP = it is so, "
        "FP = it is not, then the score."
    )
    if spec.variant.head == "linear":
        intro += (
            " Beside each tile, where the class comes from (class activation map): bright for "
            "evidence in favour, one scale a class."
        )
    else:
        intro += " The dense head of this network has no class activation maps."
    unfold = len(shelves) <= OPEN
    return joined((tag("p", intro, class_="note"), *(shelf(one, open_=unfold) for one in shelves)))
