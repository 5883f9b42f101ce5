"""The job `tune`: read, plan, work. No torch at import, and Ray in `work` only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from satray.config.tune import TuneRecipe
from satray.errors import counted
from satray.models.pretrained import refuse_unreachable, sources_of
from satray.models.variant import resolve
from satray.runs.run import Outcome, Run, to_json
from satray.storage import Storage
from satray.train.setup import weights_wanted
from satray.tune import report
from satray.tune.board import table_lines
from satray.tune.feature_table import SPLITS, head_only
from satray.tune.records import Metric, TrialRecord, by_status, ended_words
from satray.tune.trials import RATE, Sweep, Trial, fine_tuning, note_lines, resolved


def read(recipe: TuneRecipe, storage: Storage) -> Sweep:
    """The sweep, with digests of index and weight files, once all trials are seen to fit.

    Raises:
        InputError: the first thing wrong with space, base or a configuration.
    """
    sweep = resolved(recipe, storage)
    digests = {"index": sweep.index.digest}
    for trial in sweep.listed():
        variant = resolve(trial.recipe.variant, trial.recipe.pooling)
        refuse_unreachable(trial.recipe.weights, variant)
        sweep.check(trial)
        sources = sources_of(trial.recipe.weights, variant)
        for wanted in weights_wanted(variant, sources).values():
            digests[f"weights {' '.join(wanted).strip()}"] = sweep.digest_of(wanted)
    return replace(sweep, digests=digests)


def wants_dashboard(recipe: TuneRecipe, sweep: Sweep) -> bool:
    """Whether any trial may train on workers of its own, which an early end would leave behind."""
    del recipe
    return sweep.optuna or not all(trial.head for trial in sweep.listed())


def early(recipe: TuneRecipe, sweep: Sweep, run: Run) -> None:
    """Before Ray is started: refuse an archive that is not the one that was indexed."""
    del recipe
    for line in sweep.check_unchanged(run.storage):
        run.say(line)


def plan(recipe: TuneRecipe, sweep: Sweep, storage: Storage) -> list[str]:
    """What would be done. No Ray, nothing written.

    Raises:
        InputError: see `read`; or weights that do not fit their network.
    """
    trials = sweep.listed()
    samples = [sweep.check(trial) for trial in trials]
    sweep.check_networks(trials)
    heads = [trial for trial in trials if trial.head]
    others = [trial for trial in trials if not trial.head]
    low, high = min(samples), max(samples)
    lines = [
        f"{counted(sweep.planned, 'trial')} by {recipe.search} search, compared by "
        f"{sweep.metric.title}",
        *_space_lines(sweep),
        f"a trial sees {low:,} samples"
        if low == high
        else f"a trial sees {low:,} to {high:,} samples",
    ]
    about = " of those looked at" if sweep.optuna else ""
    most = "" if recipe.concurrent == "auto" else f", at most {recipe.concurrent}"
    if heads:
        lines += [*_head_lines(sweep, heads, about), f"at once: a head a core{most}"]
    if others:
        share = f"{recipe.gpu_share:g} GPU a worker" if recipe.gpu_share < 1 else "a GPU a worker"
        workers = counted(recipe.resources.workers, "worker")
        lines += [
            f"{counted(len(others), 'trial')}{about} train on workers of their own "
            f"({head_only(others[0].recipe)}, for one)",
            f"at once: {workers} a trial, {share}; without GPUs a worker a machine{most}",
        ]
    if recipe.stop.name != "none":
        lines.append(f"early stopping: {recipe.stop.name}, one in {recipe.stop.factor} goes on")
    if recipe.refit:
        lines.append(
            "the best configuration is trained again, as train would, a pretrained head's network "
            "then fine-tuned (refit)"
        )
    return [*lines, *note_lines(sweep.notes), *sweep.check_unchanged(storage)]


def work(recipe: TuneRecipe, sweep: Sweep, run: Run) -> Outcome:
    """Search, then publish leaderboard, curves, the best recipe and its bundle. Ray is up."""
    from satray.tune.search import search

    found = search(sweep, run)
    records, sweep = list(found.log.records.values()), found.sweep
    _publish_tables(records, sweep.metric, run)  # whatever becomes of the best
    top = report.best_record(records, sweep.metric)
    lines = report.best_lines(records, sweep.metric, sweep.space)
    trial = sweep.trial(top.configuration)
    whole = fine_tuning(trial.recipe) if recipe.refit else trial.recipe
    yaml = report.best_yaml(whole, [f"run {run.run_id}", *lines])
    run.publish("best.yaml", yaml.encode())
    with run.activity("best trial"):
        from satray.tune.winner import refit, winner  # torch: seconds before the first trial

        if recipe.refit:
            won = refit(whole, sweep.index, run)
        else:
            won = winner(found.work, trial, sweep.start_of(trial), top, run)
    for name, data in won.files.items():
        run.publish(f"bundle/{name}", data)
    numbers = by_status(records)
    figures = {
        "metric": sweep.metric.name,
        "best": {"trial": top.id, "value": top.best, "configuration": top.configuration},
        "validation": won.validation,
        "trials": numbers,
        "planned": sweep.planned,
        "at_once": found.work.at_once,
        "features": sweep.features,
        "refit": recipe.refit,
    }
    run.publish("sweep.json", to_json(figures))
    about = {
        "index": sweep.index.digest,
        "features": ", ".join(sweep.features) or "none",
        "bundle": "of the refit, in refit/" if recipe.refit else "of the best trial",
    }
    report.publish(report.Reported(sweep, records, yaml, about, found.tested), run)
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


def _space_lines(sweep: Sweep) -> Iterator[str]:
    tested = sweep.recipe.landscape
    for axis in sweep.space.axes:
        if not (tested and axis.key == RATE):
            yield f"space: {axis.key}: {axis.words()}"
    if tested:
        yield f"space: {RATE}: around what a range test of each variant finds"


def _head_lines(sweep: Sweep, heads: Sequence[Trial], about: str) -> Iterator[str]:
    starts = {sweep.start_of(trial): trial.recipe for trial in heads}
    yield (
        f"{counted(len(heads), 'trial')}{about} train heads, from the features of "
        f"{counted(len(starts), 'frozen network')}, extracted once"
    )
    recipe, index = sweep.recipe, sweep.index
    each = [trained.augment.views or 1 for trained in starts.values()]
    train, val = (index.split_counts.get(split, 0) for split in SPLITS)
    images = sum(views * train + val for views in each)
    named = recipe.features.folder is not None or recipe.out is not None
    yield (
        f"features: {counted(images, 'image')} to send through networks, less those that are in "
        f"{sweep.store(recipe.out or '') if named else 'features/ below out'}; "
        f"{' or '.join(f'{views}' for views in sorted(set(each)))} views of a train tile"
    )


def _publish_tables(records: Sequence[TrialRecord], metric: Metric, run: Run) -> None:
    tables = {
        "leaderboard.parquet": report.leaderboard(records, metric),
        "trials.parquet": report.curves(records),
    }
    for name, table in tables.items():
        run.publish(name, report.parquet(table), rows=len(table))
