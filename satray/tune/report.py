"""What a sweep shows: its best trial, leaderboard and curves as tables, plots, one HTML page."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from satray.config.cli import to_yaml
from satray.config.train import TrainRecipe
from satray.errors import TrainingError
from satray.report.page import html, number
from satray.runs.run import Run, library_versions
from satray.storage import name as last_part
from satray.tune.plots import parallel, rates, trial_curves
from satray.tune.records import (
    Metric,
    TrialRecord,
    by_status,
    ended_words,
    label,
    ranked,
)
from satray.tune.space import Range, Space, canonical, text
from satray.tune.trials import Sweep

LEFT_OUT = ("out", "overwrite", "resources")
"""Keys of a training that are of one place and one day."""
EDGE = 0.05
"""Share of a range within which a value is at its end."""
ROWS = 25
"""Rows of the page's tables; files hold all."""
NAMED = {"map": "mAP", "accuracy": "accuracy", "val_loss": "val. loss"}
"""Figures of the best trial that stand at the head of the page, where trials have them."""
HEADINGS = {"learning_rate": "learning rate", "name": "schedule"}
"""Last part of a key -> heading, where another word says it better."""

# The best trial


def best_record(records: Sequence[TrialRecord], metric: Metric) -> TrialRecord:
    """The best of those that have shown something.

    Raises:
        TrainingError: none has.
    """
    found = [one for one in ranked(records, metric) if one.best is not None]
    if not found:
        reasons = [one.reason for one in records if one.reason]
        first = f"; the first of them: {reasons[0]}" if reasons else ""
        raise TrainingError(
            f"none of {len(records):,} trials has a {metric.title}: all failed{first}"
        )
    return found[0]


def best_yaml(recipe: TrainRecipe, notes: Sequence[str] = ()) -> str:
    """`best.yaml`: the index and every key that differs from its default.

    Args:
        recipe: of the best configuration, with the views that it was trained on.
        notes: lines written above it as comments.
    """
    tree = recipe.model_dump(mode="json", exclude_defaults=True, exclude=set(LEFT_OUT))
    head = [f"# {line}".rstrip() for note in notes for line in note.splitlines()]
    usage = "#   python jobs/train.py best.yaml out=..."
    return "\n".join([*head, *(["#"] if head else []), usage, "", to_yaml(tree)])


def best_lines(records: Sequence[TrialRecord], metric: Metric, space: Space) -> tuple[str, ...]:
    """What is told of the best at the end; raises TrainingError where there is none."""
    best = best_record(records, metric)
    return (
        f"best by {metric.title}: {best.best:.4f} after {best.best_samples:,} samples, trial "
        f"{best.id}: {label(best.configuration)}",
        *edge_lines(space, best),
    )


def edge_lines(space: Space, best: TrialRecord) -> tuple[str, ...]:
    """A line for each range at whose end the best trial stands: beyond may be better."""
    lines = []
    for axis in space.axes:
        value, domain = best.configuration.get(axis.key), axis.domain
        if not isinstance(domain, Range) or not axis.applies(best.configuration):
            continue
        if not isinstance(value, int | float):
            continue
        low, high, here = float(domain.low), float(domain.high), float(value)
        if domain.kind == "log_uniform":
            low, high, here = math.log(low), math.log(high), math.log(here)
        share = (here - low) / (high - low)
        if not EDGE < share < 1 - EDGE:
            lines.append(
                f"the best {axis.key}, {text(value)}, is about the "
                f"{'lowest' if share <= EDGE else 'highest'} that was tried ({domain.words()}): "
                "beyond it may be better"
            )
    return tuple(lines)


def at_best(record: TrialRecord) -> dict[str, float]:
    """The evaluation at which a trial was best; empty where there is none."""
    found = [row for row in record.curve if row["samples"] == record.best_samples]
    return found[0] if found else {}


# Tables


def leaderboard(records: Sequence[TrialRecord], metric: Metric) -> pa.Table:
    """`leaderboard.parquet`: trials, best first.

    Columns: `rank` (null for failed trials and those without a value), `trial`, `label`, `status`,
    `regime`, the metric's best value under its name (loss: `loss`), one column a key of the
    configurations (numbers where all its values are, else text; null where it does not apply),
    `train_loss` and `val_loss` at the best evaluation, `best_samples`, `samples`, `seconds`,
    `seed`, `reason`.
    """
    order = ranked(records, metric)
    tops = [at_best(one) for one in order]
    keys = dict.fromkeys(key for one in order for key in one.configuration)
    ranks = [None if one.best is None else place for place, one in enumerate(order, 1)]

    def column(name: str, kind: pa.DataType) -> pa.Array:
        return pa.array([getattr(one, name) for one in order], kind)

    return pa.table(
        {
            "rank": pa.array(ranks, pa.int64()),
            "trial": column("id", pa.string()),
            "label": pa.array([label(one.configuration) for one in order], pa.string()),
            "status": column("status", pa.string()),
            "regime": column("regime", pa.string()),
            metric.name: column("best", pa.float64()),
            **{key: _configured(order, key) for key in keys},
            "train_loss": pa.array([top.get("train_loss") for top in tops], pa.float64()),
            "val_loss": pa.array([top.get("val_loss") for top in tops], pa.float64()),
            "best_samples": column("best_samples", pa.int64()),
            "samples": column("samples", pa.int64()),
            "seconds": column("seconds", pa.float64()),
            "seed": column("seed", pa.int64()),
            "reason": column("reason", pa.string()),
        }
    )


def curves(records: Sequence[TrialRecord]) -> pa.Table:
    """`trials.parquet`: every evaluation of every trial, in the order of the trials' ids.

    Columns: `trial`, `evaluation` (0 for the first), `samples`, and what rows of a curve hold.
    """
    order = sorted(records, key=lambda one: one.id)
    evaluations = [(one.id, place, row) for one in order for place, row in enumerate(one.curve)]
    names = dict.fromkeys(["samples", *(name for _, _, row in evaluations for name in row)])
    columns = {
        "trial": pa.array([trial for trial, _, _ in evaluations], pa.string()),
        "evaluation": pa.array([place for _, place, _ in evaluations], pa.int64()),
    }
    for name in names:
        kind = pa.int64() if name == "samples" else pa.float64()
        columns[name] = pa.array([row.get(name) for _, _, row in evaluations], kind)
    return pa.table(columns)


def parquet(table: pa.Table) -> bytes:
    """A table as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _configured(order: Sequence[TrialRecord], key: str) -> pa.Array:
    """What configurations say of a key: numbers where all are, else text as it would be typed."""
    there = [key in one.configuration for one in order]
    found = [one.configuration.get(key) for one in order]
    kinds = {type(value) for value, known in zip(found, there, strict=True) if known}
    if kinds <= {int, float}:
        return pa.array(found, pa.float64() if float in kinds else pa.int64())
    said = [text(value) if known else None for value, known in zip(found, there, strict=True)]
    return pa.array(said, pa.string())


# Plots


@dataclass(frozen=True)
class Reported:
    """A sweep that is over, as far as it is reported."""

    sweep: Sweep
    """With the space that was searched."""
    records: Sequence[TrialRecord]
    """All trials that ended."""
    best_yaml: str
    """`best.yaml`."""
    about: Mapping[str, str] = field(default_factory=dict)
    """What else was found out, name -> line: digest of the index, features, refit, ..."""
    tests: Mapping[str, bytes] = field(default_factory=dict)
    """Range tests: heading -> PNG."""


def draw(done: Reported) -> dict[str, bytes]:
    """The plots by name: `parallel`; `rates` where learning rates were searched; `curves`."""
    metric, axes = done.sweep.metric, _axes(done)
    order = sorted(done.records, key=lambda one: canonical(one.configuration))
    plots = {"parallel": parallel(order, axes, metric)}
    rate = next((key for key in done.sweep.space.keys if key.endswith(".learning_rate")), None)
    if rate is not None:
        panel = "variant" if "variant" in axes else ""
        colour = next((key for key in axes if key.endswith("schedule.name")), "")
        plots["rates"] = rates(order, rate, panel, colour, metric)
    plots["curves"] = trial_curves(order, metric)
    return plots


def _axes(done: Reported) -> dict[str, str]:
    """Keys that trials differ in, with headings."""
    found = []
    for key in done.sweep.space.keys:
        values = [one.configuration[key] for one in done.records if key in one.configuration]
        if len(set(map(canonical, values))) > 1:
            found.append(key)
    lasts = [HEADINGS.get(key.split(".")[-1], key.split(".")[-1]) for key in found]
    return {
        key: last if lasts.count(last) == 1 else key for key, last in zip(found, lasts, strict=True)
    }


# The page


def publish(done: Reported, run: Run) -> None:
    """Publish `plots/*.png` and `report.html`; raises TrainingError where no trial has a value."""
    with run.activity("drawing"):
        run.progress("drawing plots")
        plots = draw(done)
        data = page(done, plots, run.run_id)
    for name, picture in plots.items():
        run.publish(f"plots/{name}.png", picture)
    run.publish("report.html", data)


def page(done: Reported, plots: Mapping[str, bytes], run_id: str) -> bytes:
    """`report.html`.

    Raises:
        TrainingError: no trial has a value.
    """
    sweep, records = done.sweep, done.records
    recipe, metric = sweep.recipe, sweep.metric
    best, order = best_record(records, metric), ranked(records, metric)
    top = at_best(best)
    values = [one.best for one in records if one.best is not None]
    beside = [name for name in ("train_loss", "val_loss") if name != metric.column]
    goes_on = f", one in {recipe.stop.factor} goes on" if recipe.stop.name != "none" else ""
    return html(
        "sweep.html",
        title=f"Sweep on {last_part(recipe.index)}: {label(best.configuration)}",
        subtitle=f"{len(records):,} of {sweep.planned:,} trials by {recipe.search} search, "
        f"{ended_words(by_status(records))} · best by {metric.title} · run {run_id}",
        warnings=(*sweep.notes, *edge_lines(sweep.space, best)),
        footer="Written by satray; self-contained. All trials are in leaderboard.parquet, "
        "their curves in trials.parquet, the plots in plots/.",
        headlines=[
            (f"best {metric.title}", best.best, None, f"after {best.best_samples:,} samples"),
            (
                f"median {metric.title}",
                statistics.median(values),
                None,
                f"of {len(values):,} trials",
            ),
            *(
                (title, top[name], None, "of the best trial")
                for name, title in NAMED.items()
                if name in top and name != metric.column
            ),
        ],
        valued=len(values),
        heads=("trial", metric.title, *(name.replace("_", " ") for name in beside), "best at",
               "samples", "seconds", ""),
        rows=[
            (
                f"{place}. {label(one.configuration)}",
                number(one.best, 4),
                *(number(at_best(one).get(name), 4) for name in beside),
                "–" if one.best_samples is None else f"{one.best_samples:,}",
                f"{one.samples:,}",
                f"{one.seconds:.1f}",
                "" if one.status == "done" else one.status,
            )
            for place, one in enumerate(order[:ROWS], 1)
        ],
        ranked=len(order),
        plots=plots,
        best_yaml=done.best_yaml,
        tests=done.tests,
        failed=[
            (one.id, label(one.configuration), one.reason or "")
            for one in records
            if one.status == "failed"
        ][:ROWS],
        provenance=[
            ("run", run_id),
            ("index", recipe.index),
            ("search", f"{recipe.search}, seed {recipe.seed}"),
            ("early stopping", f"{recipe.stop.name}{goes_on}"),
            ("seconds of trials", f"{sum(one.seconds for one in records):,.0f}"),
            *done.about.items(),
            *((f"base: {key}", text(value)) for key, value in recipe.base.items()),
            *((f"space: {axis.key}", axis.words()) for axis in sweep.space.axes),
        ],
        versions=library_versions(),
    )  # fmt: skip
