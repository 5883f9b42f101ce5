"""What a sweep shows: its best trial, leaderboard and curves as tables, one HTML page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from satray.config.cli import to_yaml
from satray.config.train import TrainRecipe
from satray.errors import TrainingError
from satray.report.page import html, number
from satray.report.style import short
from satray.runs.run import Run
from satray.storage import name as last_part
from satray.tune.plots import parallel, rates, trial_curves
from satray.tune.records import LABEL, Metric, TrialRecord, ended_words, label, ranked
from satray.tune.space import Space, canonical, text
from satray.tune.trials import Sweep

LEFT_OUT = ("out", "overwrite", "resources")
"""Keys of a training that are of one place and one day."""
EDGE = 0.05
"""Share of a range within which a value is at its end."""
LINES, ROWS = 12, 25
"""Trials of the table at the end of the job, and of the page's; files hold all."""
NAMED = {"map": "mAP", "accuracy": "accuracy", "val_loss": "val. loss"}
"""Figures of the best trial that stand at the head of the page, where trials have them."""
HEADINGS = {"learning_rate": "learning rate", "name": "schedule"}
"""Last part of a key -> heading, where another word says it better."""

# The best trial


def best_record(records: Iterable[TrialRecord], metric: Metric) -> TrialRecord:
    """The best of those that have shown something.

    Raises:
        TrainingError: none has.
    """
    order = ranked(records, metric)
    found = next((one for one in order if one.best is not None), None)
    if found is None:
        first = next((f"; the first of them: {one.reason}" for one in order if one.reason), "")
        raise TrainingError(
            f"none of {len(order):,} trials has a {metric.title}: all failed{first}"
        )
    return found


def best_yaml(recipe: TrainRecipe, notes: Sequence[str] = ()) -> str:
    """`best.yaml`: the index and every key that differs from its default.

    Args:
        recipe: of the best configuration, with the views that it was trained on.
        notes: lines written above it as comments.
    """
    tree = recipe.model_dump(mode="json", exclude_defaults=True, exclude=set(LEFT_OUT))
    head = [f"# {line}".rstrip() for note in notes for line in [*note.splitlines(), ""]]
    return "\n".join([*head, "#   python jobs/train.py best.yaml out=...", "", to_yaml(tree)])


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
        value = best.configuration.get(axis.key)
        if axis.kind == "values" or value is None or not axis.applies(best.configuration):
            continue
        low, high, here = (*axis.values, value)
        if axis.kind == "log_uniform":
            low, high, here = map(math.log, (low, high, here))
        share = (here - low) / (high - low)
        if not EDGE < share < 1 - EDGE:
            lines.append(
                f"the best {axis.key}, {text(value)}, is about the "
                f"{'lowest' if share <= EDGE else 'highest'} that was tried ({axis.words()}): "
                "beyond it may be better"
            )
    return tuple(lines)


def at_best(record: TrialRecord) -> dict[str, float]:
    """The evaluation at which a trial was best; empty where there is none."""
    return next((row for row in record.curve if row["samples"] == record.best_samples), {})


# Tables


def table_of(
    order: Sequence[TrialRecord], metric: Metric, letters: int | None = None
) -> list[tuple[str, ...]]:
    """Ranked trials in words under a row of heads; the first three columns are no figures.

    Args:
        order: of `ranked`.
        metric: what trials are compared by.
        letters: of a configuration at most; None: all of them.
    """
    rows: list[tuple[str, ...]] = [
        ("", "trial", "configuration", metric.title, "best at", "seconds", "")
    ]
    for place, one in enumerate(order, 1):
        at = "–" if one.best_samples is None else f"{one.best_samples:,}"
        status = "" if one.status == "done" else one.status
        name, value = label(one.configuration), number(one.best, 4)
        name = name if letters is None else short(name, letters)
        rows.append((str(place), one.id, name, value, at, f"{one.seconds:.1f}", status))
    return rows


def table_lines(records: Iterable[TrialRecord], metric: Metric, most: int = LINES) -> list[str]:
    """The best trials, a line each under a line of heads; then how many there are besides."""
    order = ranked(records, metric)
    rows = table_of(order[:most], metric, LABEL)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = "><<>>><"  # figures to the right, words to the left
    lines = [
        "  ".join(map(format, row, map("{}{}".format, sides, widths))).rstrip() for row in rows
    ]
    more = len(order) - most
    return [*lines, f"and {more:,} more: leaderboard.parquet"] if more > 0 else lines


def leaderboard(records: Iterable[TrialRecord], metric: Metric) -> pa.Table:
    """`leaderboard.parquet`: trials, best first.

    Columns: `rank` (null for failed trials and those without a value), `trial`, `label`, `status`,
    `regime`, the metric's best value under its name (loss: `loss`), one column a key of the
    configurations (numbers where all its values are, else text; null where it does not apply),
    `train_loss` and `val_loss` at the best evaluation, `best_samples`, `samples`, `seconds`,
    `seed`, `reason`.
    """
    order = ranked(records, metric)
    kinds: dict[str, Any] = {"rank": pa.int64()}
    kinds |= dict.fromkeys(("trial", "label", "status", "regime"), pa.string())
    kinds[metric.name] = pa.float64()
    given: dict[str, set[type]] = {}
    for one in order:
        for key, value in one.configuration.items():
            given.setdefault(key, set()).add(type(value))
    for key, types in given.items():
        numbers = pa.float64() if float in types else pa.int64()
        kinds[key] = numbers if types <= {int, float} else pa.string()
    kinds |= dict.fromkeys(("train_loss", "val_loss"), pa.float64())
    kinds |= dict.fromkeys(("best_samples", "samples"), pa.int64())
    kinds |= {"seconds": pa.float64(), "seed": pa.int64(), "reason": pa.string()}
    rows = [
        {
            **vars(one),
            "rank": None if one.best is None else place,
            "trial": one.id,
            "label": label(one.configuration),
            metric.name: one.best,
            **at_best(one),
            "samples": one.samples,
            **{
                key: text(value) if kinds[key] == pa.string() else value
                for key, value in one.configuration.items()
            },
        }
        for place, one in enumerate(order, 1)
    ]
    return _table(rows, kinds)


def curves(records: Iterable[TrialRecord]) -> pa.Table:
    """`trials.parquet`: every evaluation of every trial, in the order of the trials' ids.

    Columns: `trial`, `evaluation` (0 for the first), `samples`, and what rows of a curve hold.
    """
    rows: list[dict[str, Any]] = [
        {"trial": one.id, "evaluation": place, **row}
        for one in sorted(records, key=lambda one: one.id)
        for place, row in enumerate(one.curve)
    ]
    kinds = {"trial": pa.string(), "evaluation": pa.int64(), "samples": pa.int64()}
    kinds = dict.fromkeys((name for row in rows for name in row), pa.float64()) | kinds
    return _table(rows, kinds)


def _table(rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, Any]) -> pa.Table:
    columns = {name: pa.array([row.get(name) for row in rows], kinds[name]) for name in kinds}
    return pa.table(columns)


# Plots and the page


def draw(sweep: Sweep, records: Sequence[TrialRecord]) -> dict[str, bytes]:
    """The plots by name: `parallel`; `rates` where learning rates were searched; `curves`."""
    metric, keys = sweep.metric, sweep.space.keys
    order = sorted(records, key=lambda one: canonical(one.configuration))
    said = {key: {canonical(one.configuration.get(key)) for one in order} for key in keys}
    differing = [key for key in keys if len(said[key]) > 1]
    lasts = [HEADINGS.get(key.split(".")[-1], key.split(".")[-1]) for key in differing]
    axes = {
        key: last if lasts.count(last) == 1 else key
        for key, last in zip(differing, lasts, strict=True)
    }
    plots = {"parallel": parallel(order, axes, metric)}
    rate = next((key for key in keys if key.endswith(".learning_rate")), None)
    if rate is not None:
        panel = "variant" if "variant" in axes else ""
        colour = next((key for key in axes if key.endswith("schedule.name")), "")
        plots["rates"] = rates(order, rate, panel, colour, metric)
    return plots | {"curves": trial_curves(order, metric)}


def publish(
    sweep: Sweep,
    records: Sequence[TrialRecord],
    best: str,
    run: Run,
    *,
    about: Mapping[str, str],
    tests: Mapping[str, bytes],
) -> None:
    """Publish `plots/*.png` and `report.html`.

    Args:
        sweep: with the space that was searched.
        records: all trials that ended.
        best: `best.yaml`.
        run: of the sweep.
        about: what else was found out, name -> line: digest of the index, features, ...
        tests: range tests, heading -> PNG.

    Raises:
        TrainingError: no trial has a value.
    """
    recipe, metric, order = sweep.recipe, sweep.metric, ranked(records, sweep.metric)
    first = best_record(order, metric)
    top, values = at_best(first), [one.best for one in order if one.best is not None]
    heads, *rows = table_of(order[:ROWS], metric)
    goes_on = f", one in {recipe.stop.factor} goes on" if recipe.stop.name != "none" else ""
    with run.activity("drawing"):
        run.progress("drawing plots")
        plots = draw(sweep, records)
    page = html(
        "sweep.html",
        title=f"Sweep on {last_part(recipe.index)}: {label(first.configuration)}",
        subtitle=f"{len(order):,} of {sweep.planned:,} trials by {recipe.search} search, "
        f"{ended_words(order)} · best by {metric.title} · run {run.run_id}",
        warnings=(*sweep.notes, *edge_lines(sweep.space, first)),
        footer="Written by satray; self-contained. All trials are in leaderboard.parquet, "
        "their curves in trials.parquet, the plots in plots/, versions in run.json.",
        headlines=[
            (f"best {metric.title}", first.best, None, f"after {first.best_samples:,} samples"),
            (f"median {metric.title}", statistics.median(values), None,
             f"of {len(values):,} trials"),
            *((title, top[name], None, "of the best trial")
              for name, title in NAMED.items() if name in top and name != metric.column),
        ],
        valued=len(values),
        heads=heads,
        rows=rows,
        ranked=len(order),
        plots=plots,
        best_yaml=best,
        tests=tests,
        failed=[(one.id, label(one.configuration), one.reason or "")
                for one in order if one.status == "failed"][:ROWS],
        provenance=[
            ("run", run.run_id),
            ("index", recipe.index),
            ("search", f"{recipe.search}, seed {recipe.seed}"),
            ("early stopping", f"{recipe.stop.name}{goes_on}"),
            ("seconds of trials", f"{sum(one.seconds for one in order):,.0f}"),
            *about.items(),
            *((f"base: {key}", text(value)) for key, value in recipe.base.items()),
            *((f"space: {axis.key}", axis.words()) for axis in sweep.space.axes),
        ],
    )  # fmt: skip
    for name, picture in plots.items():
        run.publish(f"plots/{name}.png", picture)
    run.publish("report.html", page)
