"""Where the figures come from, and what else was found out about them, as parts of the page."""

import json
from collections.abc import Mapping
from typing import Any

from satray.evaluate.findings import Findings
from satray.evaluate.origin import Origin
from satray.evaluate.quality import Quality
from satray.evaluate.reproduce import NO_CAUSE, Comparison
from satray.report.page import (
    Child,
    Html,
    details,
    joined,
    number,
    pairs,
    table,
    tag,
    versions,
)
from satray.runs.run import Run, finite, library_versions
from satray.storage import is_remote

FIGURES = {
    "log_loss": "log loss",
    "ece": "calibration error (ECE)",
    "accuracy": "accuracy",
    "f1_macro": "F1, mean of classes",
    "f2_macro": "F2, mean of classes",
    "f1_samples": "F1, mean of tiles",
    "f2_samples": "F2, mean of tiles",
}
SECRET = ("storage",)
"""Keys that are left out of the page: where a store is reached concerns nobody who reads it."""


def calibration(quality: Quality, origin: Origin | None) -> Html:
    """Raw scores beside those under the bundle's temperature and thresholds, on the same tiles."""
    raw = quality.document["raw_metrics"]
    rows = [
        (said, number(raw[name], 4), number(quality.metrics[name], 4))
        for name, said in FIGURES.items()
        if quality.scored.task == "multilabel" or not name.endswith("_samples")
    ]
    parts: list[Child] = [
        tag("h3", "Temperature and thresholds"),
        tag("p", f"The bundle divides logits by its temperature, "
                 f"{quality.document['temperature']:.3f}; its thresholds are in the table of "
                 "classes."),
        *([tag("p", f"The {quality.held.line()}.", class_="note")] if quality.held else []),
        table(("", "raw logits, 0.5", "the bundle's"), rows),
    ]  # fmt: skip
    fitted = origin.metrics.get("calibration") if origin is not None else None
    if isinstance(fitted, Mapping):
        text = json.dumps(finite(dict(fitted)), indent=2, ensure_ascii=False)
        parts.append(details("As fitted at the end of training", tag("pre", text)))
    return joined(parts)


def reproduction(found: Comparison) -> Html:
    """The comparison with the earlier run."""
    word = "yes" if found.same else "no"
    rows: list[tuple[str, Child]] = [
        ("same as run", f"{found.run_id}: {word}"),
        ("tiles compared", f"{found.compared:,}"),
        ("largest difference", f"{found.largest:.3g} ({found.where})" if found.compared else "–"),
        ("tolerance", f"{found.tolerance:g}"),
        ("tiles over it", f"{len(found.over):,}"),
        ("tiles only in this run", f"{len(found.only_here):,}"),
        ("tiles only in the earlier run", f"{len(found.only_there):,}"),
    ]
    parts: list[Child] = [pairs(rows)]
    if found.differs:
        parts += [tag("h3", "What differs"), tag("ul", *(tag("li", one) for one in found.differs))]
    elif not found.same:
        parts.append(tag("p", f"{NO_CAUSE[0].upper()}{NO_CAUSE[1:]}."))
    return joined(parts)


def provenance(found: Findings, origin: Origin | None, run: Run) -> Html:
    """Bundle, data, runs, versions and recipes."""
    recipe, spec, digest = found.recipe, found.spec, found.digest
    towers = "; ".join(
        f"{tower.name}: {tower.backbone} on {', '.join(tower.bands)}"
        for tower in spec.variant.towers
    )
    rows: list[tuple[str, Child]] = [
        ("bundle", tag("code", recipe.bundle)),
        ("model id", tag("code", found.predicted.model_id)),
        ("towers", towers),
        ("pooling, head", f"{spec.variant.pooling}, {spec.variant.head}"),
        ("input", f"{spec.size} px, {spec.evaluate}; mean {_list(spec.mean)}, std "
                  f"{_list(spec.std)} of {', '.join(spec.bands)} ({spec.dtype})"),
        ("tile index", tag("code", recipe.index)),
        ("index SHA-256", tag("code", digest)),
        ("split", f"{recipe.split}: {len(found.index):,} tiles"),
        ("run", tag("code", run.run_id)),
    ]  # fmt: skip
    columns: dict[str, Mapping[str, str]] = {"evaluate": library_versions()}
    recipes: list[Child] = [details("Recipe of evaluate", _recipe(json.loads(
        recipe.model_dump_json())))]  # fmt: skip
    if origin is not None:
        record = origin.record
        same = record.inputs.get("index") == digest
        rows += [
            ("trained by run", tag("code", record.run_id)),
            ("trained", f"{record.started[:19]} to {record.finished[:19]} UTC, "
                        f"{number(record.seconds.get('total', 0) / 60, 1)} min"),
            ("trained on", "the same index" if same else
             tag("code", record.inputs.get("index", "–"))),
            ("training said", joined(tag("div", line) for line in record.summary)),
        ]  # fmt: skip
        columns["train"] = record.versions
        recipes.append(details("Recipe of train", _recipe(record.config)))
    else:
        rows.append(("trained by", "unknown: the bundle does not lie in its run folder"))
    place = "object store" if is_remote(recipe.index) else "disk"
    rows.append(("read from", place))
    return joined(
        (pairs(rows), tag("h3", "Library versions"), versions(columns), tag("h3", "Recipes"),
         *recipes)
    )  # fmt: skip


def _recipe(config: Mapping[str, Any]) -> Html:
    shown = {name: value for name, value in config.items() if name not in SECRET}
    return tag("pre", json.dumps(shown, indent=2, ensure_ascii=False))


def _list(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
