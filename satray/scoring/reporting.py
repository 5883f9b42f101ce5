"""The products of `evaluate` for the eye: plots, galleries and the HTML page."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from satray.report.markup import Html, joined, plot, tag
from satray.report.page import Page, Section, html
from satray.report.sections import Shelf, Tile, cards, class_table, gallery, shelf
from satray.runs.run import Run
from satray.scoring.findings import Findings
from satray.scoring.headlines import headlines
from satray.scoring.origin import Origin
from satray.scoring.plots import draw
from satray.scoring.provenance import calibration, provenance, reproduction
from satray.scoring.quality import Quality
from satray.scoring.shelves import galleries
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
    "reliability": (
        "Reliability",
        "All decisions in 15 bins: on the diagonal, scores mean what they say.",
    ),
    "scores": ("Scores", "Of decisions by true label; counts on a logarithmic axis."),
}
"""Plot -> heading and how to read it."""
CLASS_PLOTS = ("average_precision", "precision_recall", "roc", "tail_accuracy")


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
    if "curves" in plots:
        sections.append(Section("training", "Training", _training(plots["curves"])))
    sections.append(
        Section(
            "classes",
            "Classes",
            joined(
                (
                    _figures(plots, CLASS_PLOTS),
                    class_table(_class_rows(quality)),
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
    sections.append(
        Section("provenance", "Provenance", provenance(found.recipe, spec, found.index, origin,
                                                       found.split.model_id, run))
    )  # fmt: skip
    return Page(
        title=f"{towers} on {found.recipe.split} of {last_part(found.recipe.index)}",
        subtitle=f"{spec.task}, {len(spec.classes)} "
        f"{'class' if len(spec.classes) == 1 else 'classes'}, {len(found.split.ids):,} tiles · "
        f"model {found.split.model_id} · run {run.run_id}",
        warnings=_warnings(found),
        head=joined((cards(headlines(quality)), _caution(found, origin))),
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


def _caution(found: Findings, origin: Origin | None) -> Html:
    """What the split was used for before."""
    if origin is None or found.recipe.split not in ("train", "val"):
        return Html()
    if found.recipe.split == "train":
        text = "The bundle was trained on this split: the figures say how well it was learned."
    else:
        text = (
            "The bundle was chosen by its figures on the validation split of its index, and its "
            "temperature and thresholds were fitted on half of it: there, figures are a little "
            "optimistic."
        )
    return tag("p", text, class_="note")


def _training(curves: bytes) -> Html:
    caption = (
        "Loss and headline metric against samples seen, with the learning rate below; dashed lines "
        "mark where a stage begins, the solid one the evaluation that made the bundle."
    )
    return tag("div", plot(curves, "Training curves", caption), class_="plots")


def _figures(plots: Mapping[str, bytes], names: Sequence[str]) -> Html:
    return tag("div", *(plot(plots[name], *PLOTS[name]) for name in names), class_="plots")


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
    if found.recipe.bootstrap:
        said += f"Intervals: 95 %, {found.recipe.bootstrap:,} bootstrap draws of tiles."
    if found.recipe.average == "d4":
        said += " Logits are means over the eight flips and transposes of each tile."
    return said


def _errors_said(found: Findings) -> tuple[str, str]:
    if found.spec.task == "multilabel":
        return (
            "Errors that go together",
            "Of the tiles where a class (row) was missed, in how many percent another (column) "
            "was falsely given.",
        )
    return "Confusion matrix", "Counts; shaded by the share of each true class (row)."


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
