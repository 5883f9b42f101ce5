"""The products of a sweep for the eye: plots and one HTML page."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from satray.report.page import (
    Child,
    Headline,
    Html,
    Page,
    Section,
    cards,
    details,
    html,
    joined,
    number,
    pairs,
    plot,
    table,
    tag,
    versions,
)
from satray.report.style import PANELS_MOST
from satray.runs.run import Run, library_versions
from satray.storage import name as last_part
from satray.tune.best import best_record, edge_lines
from satray.tune.board import duration
from satray.tune.leaderboard import at_best
from satray.tune.pictures import Reported, axes_of, draw, groups, in_order
from satray.tune.records import TrialRecord, by_status, ended_words, ranked
from satray.tune.space import text
from satray.tune.trials import label, short_value

__all__ = ["Reported", "draw", "page", "publish"]

ROWS, OPEN = 50, 15
"""Rows of the page's tables, and those of the leaderboard that are not folded; files hold all."""
PLOTS = {
    "parallel": (
        "All trials",
        "One line a trial, from its configuration to its best value on the right, the best at the "
        "top: the darker the better, the best in red; below an axis where its key does not apply, "
        "dashed where a trial has no value.",
    ),
    "curves": ("Curves", "Validation along each trial; the best have names."),
    "rates": (
        "Learning rate",
        "Each dot a trial, at its best value; losses beyond the axis stand at its end. Where there "
        "are few rates, lines join the best of a colour at each.",
    ),
}
"""Plot -> heading and how to read it."""


def publish(sweep: Reported, run: Run) -> None:
    """Publish `plots/*.png` and `report.html`; raises TrainingError where no trial has a value."""
    with run.activity("drawing"):
        run.progress("drawing plots")
        plots = draw(sweep)
        data = page(sweep, plots, run.run_id)
    for name, picture in plots.items():
        run.publish(f"plots/{name}.png", picture)
    run.publish("report.html", data)


def page(sweep: Reported, plots: Mapping[str, bytes], run_id: str) -> bytes:
    """`report.html`.

    Raises:
        TrainingError: no trial has a value.
    """
    best = best_record(sweep.records, sweep.metric)
    failed = [one for one in sweep.records if one.status == "failed"]
    sections = [
        Section("leaderboard", "Leaderboard", _leaderboard(sweep)),
        Section("search", "What was searched", joined((_figures(plots), _by_value(sweep)))),
        Section("best", "The best configuration", _best(sweep)),
    ]
    if sweep.tests:
        shown = [plot(data, title, wide=True) for title, data in sweep.tests.items()]
        tests = tag("div", *shown, class_="plots")
        sections.append(Section("rates", "Range tests", tests))
    if failed:
        sections.append(Section("failed", "Failed trials", _failed(failed)))
    sections.append(Section("provenance", "Provenance", _provenance(sweep, run_id)))
    return html(
        Page(
            title=f"Sweep on {last_part(sweep.recipe.index)}: {label(best.configuration)}",
            subtitle=f"{len(sweep.records):,} of {sweep.planned:,} trials by {sweep.recipe.search} "
            f"search, {ended_words(by_status(sweep.records))} · "
            f"best by {sweep.metric.title} · run {run_id}",
            warnings=(*sweep.notes, *edge_lines(sweep.space, best)),
            head=_head(sweep, best),
            sections=sections,
            footer="Written by satray; self-contained. All trials are in leaderboard.parquet, "
            "their curves in trials.parquet, the plots in plots/.",
        )
    )


def _head(sweep: Reported, best: TrialRecord) -> Html:
    title = sweep.metric.title
    values = [one.best for one in sweep.records if one.best is not None]
    headlines = [
        Headline(f"best {title}", best.best, None, f"after {best.best_samples:,} samples"),
        Headline(f"median {title}", statistics.median(values), None, f"of {len(values):,} trials"),
    ]
    top = at_best(best)
    headlines += [
        Headline(said, top[name], None, "of the best trial")
        for name, said in (("map", "mAP"), ("accuracy", "accuracy"), ("val_loss", "val. loss"))
        if name in top and name != sweep.metric.column
    ]
    caution = (
        f"The best of {len(values):,} is chosen on the validation tiles that its figure is of, so "
        "it looks somewhat better than it is; tiles that no trial was compared on (evaluate "
        "split=test) say what it is worth."
    )
    return joined((cards(headlines), tag("p", caution, class_="note")))


def _leaderboard(sweep: Reported) -> Html:
    order = ranked(sweep.records, sweep.metric)
    parts: list[Child] = [_places(sweep, order[:OPEN], 1)]
    if len(order) > OPEN:
        more = order[OPEN:ROWS]
        parts.append(details(f"The next {len(more)}", _places(sweep, more, OPEN + 1)))
    if len(order) > ROWS:
        said = f"The first {ROWS} of {len(order):,}; leaderboard.parquet has all."
        parts.append(tag("p", said, class_="note"))
    return joined(parts)


def _places(sweep: Reported, records: Sequence[TrialRecord], first: int) -> Html:
    """A table of some trials, the first of them at a place of the leaderboard."""
    beside = [name for name in ("train_loss", "val_loss") if name != sweep.metric.column]
    heads = ("trial", sweep.metric.title, *(name.replace("_", " ") for name in beside),
             "best at", "samples", "seconds", "")  # fmt: skip
    rows = [
        (
            f"{place}. {label(one.configuration)}",
            number(one.best, 4),
            *(number(at_best(one).get(name), 4) for name in beside),
            "–" if one.best_samples is None else f"{one.best_samples:,}",
            f"{one.samples:,}",
            f"{one.seconds:.1f}",
            "" if one.status == "done" else one.status,
        )
        for place, one in enumerate(records, first)
    ]
    return table(heads, rows)


def _figures(plots: Mapping[str, bytes]) -> Html:
    shown = [
        plot(plots[name], title, note, wide=name == "parallel")
        for name, (title, note) in PLOTS.items()
        if name in plots
    ]
    return tag("div", *shown, class_="plots")


def _by_value(sweep: Reported) -> Html:
    """For each key with a few values: how its values did, at best and in the middle."""
    parts: list[Child] = []
    for key, heading in axes_of(sweep).items():
        by_value = groups(in_order(sweep), key)
        if not 1 < len(by_value) <= PANELS_MOST:
            continue
        rows = []
        for value, members in by_value:
            values = sorted(
                (one.best for one in members if one.best is not None), key=sweep.metric.worth
            )
            top = number(values[-1], 4) if values else "–"
            middle = number(statistics.median(values), 4) if values else "–"
            rows.append((short_value(key, value), f"{len(members):,}", top, middle))
        parts.append(table((heading, "trials", "best", "median"), rows))
    if not parts:
        return Html()
    return joined((tag("h3", "By value"), tag("div", *parts, class_="plots")))


def _best(sweep: Reported) -> Html:
    said = "best.yaml, which train takes unchanged."
    return joined((tag("p", said, class_="note"), tag("pre", sweep.best_yaml)))


def _failed(failed: Sequence[TrialRecord]) -> Html:
    rows = [(one.id, label(one.configuration), one.reason or "") for one in failed[:ROWS]]
    return table(("trial", "configuration", "reason"), rows, texts=3)


def _provenance(sweep: Reported, run_id: str) -> Html:
    recipe = sweep.recipe
    stop = recipe.stop.name if recipe.stop.name == "none" else (
        f"{recipe.stop.name}, one in {recipe.stop.factor} goes on"
    )  # fmt: skip
    rows: list[tuple[str, Child]] = [
        ("run", run_id),
        ("index", recipe.index),
        ("search", f"{recipe.search}, seed {recipe.seed}"),
        ("early stopping", stop),
        ("seconds of trials", duration(sum(one.seconds for one in sweep.records))),
        *sweep.about.items(),
        *((f"base: {key}", text(value)) for key, value in recipe.base.items()),
    ]
    rows += [(f"space: {axis.key}", axis.words()) for axis in sweep.space.axes]
    return joined((pairs(rows), versions({"": library_versions()})))
