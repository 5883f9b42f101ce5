"""The job `tune`: read, plan, work. No torch at import, and Ray in `work` only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from satray.config.tune import TuneRecipe
from satray.errors import counted
from satray.runs.run import Outcome, Run, to_json
from satray.storage import Storage
from satray.train.setup import look_up
from satray.tune import report
from satray.tune.board import table_lines
from satray.tune.plan import plan
from satray.tune.records import Metric, TrialRecord, by_status, ended_words
from satray.tune.sweep import Sweep, resolved, unchanged
from satray.tune.trials import fine_tuning

if TYPE_CHECKING:
    from satray.tune.search import Found

__all__ = ["early", "plan", "read", "work"]


def read(recipe: TuneRecipe, storage: Storage) -> Sweep:
    """The sweep, with digests of index and weight files, once all configurations are seen to fit.

    Raises:
        InputError: the first thing wrong with space, base or a configuration.
    """
    sweep = resolved(recipe, storage)
    found = {"index": sweep.tiles.digest}
    for configuration in sweep.listed():
        look_up(sweep.whole(configuration))
        sweep.check(configuration)
        for wanted in sweep.wanted(configuration).values():
            found[f"weights {' '.join(wanted).strip()}"] = sweep.digest_of(wanted)
    return replace(sweep, digests=found)


def early(recipe: TuneRecipe, sweep: Sweep, run: Run) -> None:
    """Before Ray is started: refuse an archive that is not the one that was indexed."""
    del recipe
    for line in unchanged(sweep, run.storage):
        run.say(line)


def work(recipe: TuneRecipe, sweep: Sweep, run: Run) -> Outcome:
    """Search, then publish leaderboard, curves, the best recipe and its bundle. Ray is up."""
    from satray.tune.search import search

    found = search(sweep, run)
    records, sweep = list(found.records.values()), found.sweep
    _publish_tables(records, sweep.metric, run)  # whatever becomes of the best
    top = report.best_record(records, sweep.metric)
    lines = report.best_lines(records, sweep.metric, sweep.space)
    whole = found.whole(top.configuration)
    whole = fine_tuning(whole) if recipe.refit else whole
    told = report.best_yaml(whole, [f"run {run.run_id}", *lines])
    run.publish("best.yaml", told.encode())
    with run.activity("best trial"):
        from satray.tune.winner import refit, winner  # torch: seconds before the first trial

        job = found.describe(top.configuration)
        won = refit(whole, sweep.tiles, run) if recipe.refit else winner(found.work, job, top, run)
    for name, data in won.files.items():
        run.publish(f"bundle/{name}", data)
    numbers = by_status(records)
    figures = {
        "metric": sweep.metric.name,
        "best": {"trial": top.id, "value": top.best, "configuration": top.configuration},
        "validation": won.validation,
        "trials": numbers,
        "planned": found.planned,
        "at_once": found.at_once,
        "features": sorted(found.features),
        "refit": recipe.refit,
    }
    run.publish("sweep.json", to_json(figures))
    _publish_page(found, told, run)
    return Outcome(
        counts={f"trials_{status}": number for status, number in numbers.items()}
        | {"trials": len(records), "samples": sum(one.samples for one in records)},
        metrics={sweep.metric.name: top.best, "best_by": sweep.metric.name, "trial": top.id},
        summary=(
            *table_lines(records, sweep.metric),
            *lines,
            *won.lines,
            f"{counted(len(records), 'trial')}: {ended_words(numbers)}",
            f"train it with: python jobs/train.py {run.uri('best.yaml')} out=...",
        ),
        attempted=len(records),
        failed=numbers["failed"],
    )


def _publish_tables(records: Sequence[TrialRecord], metric: Metric, run: Run) -> None:
    tables = {
        "leaderboard.parquet": report.leaderboard(records, metric),
        "trials.parquet": report.curves(records),
    }
    for name, table in tables.items():
        run.publish(name, report.parquet(table), rows=len(table))


def _publish_page(found: Found, yaml: str, run: Run) -> None:
    sweep = found.sweep
    about = {
        "index": sweep.tiles.digest,
        "features": ", ".join(sorted(found.features)) or "none",
        "bundle": "of the refit, in refit/" if sweep.recipe.refit else "of the best trial",
    }
    shown = report.Reported(
        recipe=sweep.recipe,
        space=sweep.space,
        metric=sweep.metric,
        records=list(found.records.values()),
        planned=found.planned,
        best_yaml=yaml,
        about=about,
        tests=found.tested.pictures if found.tested is not None else {},
        notes=sweep.notes,
    )
    report.publish(shown, run)
