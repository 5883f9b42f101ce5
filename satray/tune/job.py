"""The job `tune`: read, plan, work. No torch at import, and Ray in `work` only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from satray.config.base import idle_keys
from satray.config.tune import TuneRecipe
from satray.data.index import read_index
from satray.errors import counted
from satray.runs.run import Outcome, Run, to_json
from satray.storage import Storage
from satray.train.setup import best_metric
from satray.tune import report
from satray.tune.feature_table import SPLITS, head_only
from satray.tune.records import Metric, by_status, ended_words
from satray.tune.trials import RATE, Sweep, dotted, space_of


def read(recipe: TuneRecipe, storage: Storage) -> Sweep:
    """The sweep, with digests of index and weight files, once all trials are seen to fit.

    Raises:
        InputError: the first thing wrong with index, space, base or a configuration.
    """
    index = read_index(recipe.index, storage)
    space = space_of(recipe, index.meta.bands, index.split_counts.get("train", 0))
    best = recipe.metric if recipe.metric != "auto" else dotted(recipe.base).get("best", "auto")
    metric = Metric(best_metric(str(best), index.meta.task))
    notes = dict.fromkeys(idle_keys(recipe))
    sweep = Sweep(recipe, index, space, metric, notes=notes).over(space)
    for trial in sweep.trials:
        sweep.check(trial)
    weights = {f"weights {' '.join(name).strip()}": is_ for name, is_ in sweep.weights.items()}
    return replace(sweep, digests={"index": index.digest, **weights})


def wants_dashboard(recipe: TuneRecipe, sweep: Sweep) -> bool:
    """Whether any trial may train on workers of its own, which an early end would leave behind."""
    del recipe
    return sweep.optuna or not all(trial.head for trial in sweep.trials)


def early(recipe: TuneRecipe, sweep: Sweep, run: Run) -> None:
    """Before Ray is started: refuse an archive that is not the one that was indexed."""
    del recipe
    for line in sweep.check_unchanged(run.storage):
        run.say(line)


def plan(recipe: TuneRecipe, sweep: Sweep, storage: Storage) -> list[str]:
    """What would be done. No Ray, nothing written.

    Raises:
        InputError: weights that do not fit their network.
    """
    sweep.check_networks(sweep.trials)
    return [
        f"{counted(sweep.planned, 'trial')} by {recipe.search} search, compared by "
        f"{sweep.metric.title}",
        *_plan_lines(recipe, sweep),
        *(f"note: {line}" for line in sweep.notes),
        *sweep.check_unchanged(storage),
    ]


def _plan_lines(recipe: TuneRecipe, sweep: Sweep) -> Iterator[str]:
    for axis in sweep.space.axes:
        if not (recipe.landscape and axis.key == RATE):
            yield f"space: {axis.key}: {axis.words()}"
    if recipe.landscape:
        yield f"space: {RATE}: around what a range test of each variant finds"
    samples = [sweep.check(trial) for trial in sweep.trials]
    low, high = min(samples), max(samples)
    yield f"a trial sees {low:,}{'' if low == high else f' to {high:,}'} samples"
    about = " of those looked at" if sweep.optuna else ""
    most = "" if recipe.concurrent == "auto" else f", at most {recipe.concurrent}"
    heads = [trial for trial in sweep.trials if trial.head]
    others = [trial for trial in sweep.trials if not trial.head]
    if heads:
        starts = {trial.start: trial.recipe.augment.views or 1 for trial in heads}
        yield (
            f"{counted(len(heads), 'trial')}{about} train heads, from the features of "
            f"{counted(len(starts), 'frozen network')}, extracted once"
        )
        train, val = (sweep.index.split_counts.get(split, 0) for split in SPLITS)
        images = sum(views * train + val for views in starts.values())
        named = recipe.features.folder is not None or recipe.out is not None
        yield (
            f"features: {counted(images, 'image')} to send through networks, less those that are "
            f"in {sweep.store(recipe.out or '') if named else 'features/ below out'}; "
            f"{' or '.join(map(str, sorted(set(starts.values()))))} views of a train tile"
        )
        as_one = "; those alike but for rate and schedule train as one" if sweep.stacked else ""
        yield f"at once: a head a core{most}{as_one}"
    if others:
        share = f"{recipe.gpu_share:g} GPU a worker" if recipe.gpu_share < 1 else "a GPU a worker"
        yield (
            f"{counted(len(others), 'trial')}{about} train on workers of their own "
            f"({head_only(others[0].recipe)}, for one)"
        )
        yield (
            f"at once: {counted(recipe.resources.workers, 'worker')} a trial, {share}; without "
            f"GPUs a worker a machine{most}"
        )
    if recipe.stop.name != "none":
        yield f"early stopping: {recipe.stop.name}, one in {recipe.stop.factor} goes on"
    if recipe.refit:
        yield (
            "the best configuration is trained again, as train would, a pretrained head's network "
            "then fine-tuned (refit)"
        )


def work(recipe: TuneRecipe, sweep: Sweep, run: Run) -> Outcome:
    """Search, then publish leaderboard, curves, the best recipe and its bundle. Ray is up."""
    from satray.tune.search import search

    log, given, tested = search(sweep, run)
    sweep, records = given.sweep, list(log.records.values())
    metric = sweep.metric
    # whatever becomes of the best
    for name, table in (
        ("leaderboard.parquet", report.leaderboard(records, metric)),
        ("trials.parquet", report.curves(records)),
    ):
        run.publish_table(name, table)
    top = report.best_record(records, metric)
    lines = report.best_lines(records, metric, sweep.space)
    trial = sweep.trial(top.configuration)
    whole = sweep.final(trial)
    yaml = report.best_yaml(whole, [f"run {run.run_id}", *lines])
    run.publish("best.yaml", yaml.encode())
    with run.activity("best trial"):
        from satray.tune.winner import refit, winner  # torch: seconds before the first trial

        if recipe.refit:
            files, validation, told = refit(whole, given, run)
        else:
            files, validation, told = winner(given, trial, top, run)
    for name, data in files.items():
        run.publish(f"bundle/{name}", data)
    numbers = by_status(records)
    tables = {key: each.features for key, each in sweep.starts.items() if each.features is not None}
    features = sorted(tables)
    lost = {
        (split, row)
        for table in tables.values()
        for split, rows in table.record["unreadable"].items()
        for row in rows
    }
    figures = {
        "metric": metric.name,
        "best": {"trial": top.id, "value": top.best, "configuration": top.configuration},
        "validation": validation,
        "trials": numbers,
        "planned": sweep.planned,
        "at_once": given.at_once,
        "features": features,
        "refit": recipe.refit,
    }
    run.publish("sweep.json", to_json(figures))
    about = {
        "index": sweep.index.digest,
        "features": ", ".join(features) or "none",
        "bundle": "of the refit, in refit/" if recipe.refit else "of the best trial",
    }
    report.publish(sweep, records, yaml, run, about=about, tests=tested)
    return Outcome(
        counts={f"trials_{status}": number for status, number in numbers.items()}
        | {"trials": len(records), "samples": sum(one.samples for one in records)}
        | {"unreadable_tiles": len(lost)},
        metrics={metric.name: top.best, "best_by": metric.name, "trial": top.id},
        summary=(
            *report.table_lines(records, metric),
            *lines,
            *told,
            f"{counted(len(records), 'trial')}: {ended_words(records)}",
            f"train it with: python jobs/train.py {run.uri('best.yaml')} out=...",
        ),
        attempted=len(records),
        failed=numbers["failed"],
    )
