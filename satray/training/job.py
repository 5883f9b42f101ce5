"""The job `train`: inputs, plan, work."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from satray import __version__
from satray.config.train import TrainRecipe
from satray.errors import TrainingError
from satray.runs.inputs import digest_file
from satray.runs.jsonable import to_json
from satray.runs.run import Outcome, Run
from satray.storage import Storage
from satray.tiles.index import index_digest
from satray.training import history
from satray.training.setup import Setup, set_up, weight_files
from satray.training.stages import TrainingPlan

HEADLINES = ("map", "accuracy", "baseline_accuracy", "balanced_accuracy", "auc", "val_loss")


def inputs(recipe: TrainRecipe, storage: Storage) -> dict[str, str]:
    """Digests of the index and of weight files; raises InputError. No Ray, no torch."""
    set_up(recipe, storage)
    found = {"index": index_digest(recipe.index, storage)}
    for tower, uri in weight_files(recipe).items():
        found[f"weights.{tower}"] = digest_file(storage, uri)
    return found


def plan(recipe: TrainRecipe, storage: Storage) -> list[str]:
    """What would be done, in a few lines."""
    setup = set_up(recipe, storage)
    schedule, meta = setup.plan, setup.index.meta
    towers = "; ".join(
        f"{tower.name}: {tower.backbone} on {', '.join(tower.bands)}"
        for tower in setup.variant.towers
    )
    height, width = meta.tile_shape
    stored = sum(setup.index.table.column("bytes").to_pylist())
    return [
        f"index: {setup.train_tiles:,} train and {setup.val_tiles:,} validation tiles, "
        f"{height} x {width} px, {len(meta.bands)} bands {meta.dtype}, {meta.task}, "
        f"{len(meta.classes)} classes, {stored / 1e6:,.0f} MB stored",
        f"variant: {towers}; pooling {setup.variant.pooling}",
        f"{schedule.total_steps:,} steps of {schedule.global_batch} tiles on {schedule.workers} "
        f"workers: {schedule.total_samples:,} samples, "
        f"{schedule.total_samples / setup.train_tiles:.1f} times the train split",
        f"{schedule.pseudo_epochs} evaluations, one every {schedule.samples_per_pseudo_epoch:,} "
        f"samples; best by {setup.best}",
        *(f"note: {line}" for line in schedule.warnings),
    ]


def work(recipe: TrainRecipe, run: Run) -> Outcome:
    """Train, then write bundle, history, metrics, events and curves. Ray is up."""
    return train_with(recipe, run, None)


def train_with(
    recipe: TrainRecipe, run: Run, listen: Callable[[dict[str, Any]], None] | None
) -> Outcome:
    """Do `work`, and hand on each message of the workers."""
    from satray.training import initial, launch

    with run.activity("preparing"):
        setup = set_up(recipe, run.storage)
        for line in setup.plan.warnings:
            run.say(f"note: {line}")
        weights = initial.stage(setup, run)
    told = _Teller(setup, run, listen)
    with run.activity("starting and saving"):
        launch.fit(setup, run, weights, told)
    return finish(setup, run, told.errors)


class _Teller:
    """Turns the workers' messages into lines for the person."""

    def __init__(
        self, setup: Setup, run: Run, listen: Callable[[dict[str, Any]], None] | None
    ) -> None:
        self._setup = setup
        self._run = run
        self._listen = listen
        self._last: dict[str, Any] | None = None
        self._starts = 0
        self.errors: dict[tuple[str, int], str] = {}

    def __call__(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "worker" and message["rank"] == 0:
            self._starts += 1
            if self._starts > 1:
                self._run.say("  workers were started again; going on from the last checkpoint")
        elif kind == "progress":
            now = message["now"]
            self._run.progress(
                f"pseudo-epoch {now.pseudo_epoch + 1} of {self._setup.plan.pseudo_epochs}, step "
                f"{now.step:,} of {now.total_steps:,}, loss {now.loss:.4f}, "
                f"{now.images_per_second:.1f} images/s"
            )
        elif kind == "epoch":
            for split, rows in message["errors"].items():
                self.errors.update({(split, row): reason for row, reason in rows.items()})
            if message["row"] is not None:
                self._run.say("  " + _epoch_line(self._setup, message["row"]))
        if self._listen is not None:
            self._listen(message)


def _epoch_line(setup: Setup, row: dict[str, Any]) -> str:
    shown = "" if setup.best == "loss" else f", {setup.best} {row[setup.best]:.4f}"
    lost = row["unreadable"] + row["val_unreadable"]
    return (
        f"pseudo-epoch {row['pseudo_epoch'] + 1} of {setup.plan.pseudo_epochs}: loss "
        f"{row['train_loss']:.4f} train, {row['val_loss']:.4f} validation{shown}, "
        f"{row['images_per_second']:.1f} images/s" + (f", {lost} tiles unreadable" if lost else "")
    )


def finish(setup: Setup, run: Run, errors: dict[tuple[str, int], str]) -> Outcome:
    """Write the products of a trained run from its state."""
    from satray.report.curves import curves
    from satray.training import checkpoints
    from satray.training.product import bundle, unreadable

    found = checkpoints.find(run.storage, run.state)
    if found.latest is None or found.best is None:
        raise TrainingError("training ended without a checkpoint")
    with run.activity("reading checkpoints"):
        rows = checkpoints.load(run.storage, found.latest).history
        best_state = checkpoints.load(run.storage, found.best)
    best, last = rows[found.best_pseudo_epoch - 1], rows[-1]
    for name, data in bundle(setup, run, best_state.model, best).items():
        run.publish(f"bundle/{name}", data)
    run.publish("history.parquet", history.parquet(rows), rows=len(rows))
    shown = "map" if setup.best == "loss" else setup.best
    title = f"{run.run_id}: {_name(setup)}"
    picture = curves(rows, shown, title, best["samples_seen"], _rates(setup.plan, 1000))
    run.publish("curves.png", picture)
    with tempfile.TemporaryDirectory() as folder:
        events = history.write_events(rows, Path(folder))
        run.publish_file(f"tensorboard/{events.name}", events)
    if errors:
        data, count = unreadable(setup, errors)
        run.publish("unreadable.parquet", data, rows=count)
    figures = {
        "best_by": setup.best,
        "best": history.nested(best),
        "last": history.nested(last),
        "images_per_second": history.throughput(rows),
    }
    run.publish("metrics.json", to_json(figures))
    _account(run, rows)
    return Outcome(
        counts={
            "train_tiles": setup.train_tiles,
            "val_tiles": setup.val_tiles,
            "classes": len(setup.index.meta.classes),
            "pseudo_epochs": len(rows),
            "samples": last["samples_seen"],
            "unreadable_tiles": len(errors),
        },
        metrics={name: best[name] for name in HEADLINES}
        | {"images_per_second": history.throughput(rows), "best_by": setup.best},
        summary=_summary(setup, best, rows),
    )


def _rates(schedule: TrainingPlan, points: int) -> list[tuple[int, float]]:
    """Learning rate against samples seen, at up to so many points and at the run's end."""
    steps = range(0, schedule.total_steps, max(1, schedule.total_steps // points))
    taken = sorted({*steps, schedule.total_steps - 1})
    return [((step + 1) * schedule.global_batch, schedule.learning_rate(step)) for step in taken]


def _account(run: Run, rows: Any) -> None:
    """Take the workers' seconds out of the driver's wait for them."""
    spent = history.seconds(rows)
    for name, value in spent.items():
        run.add_seconds(name, value)
    around = run.seconds.get("starting and saving", 0.0) - sum(spent.values())
    run.seconds["starting and saving"] = max(0.0, around)


def _name(setup: Setup) -> str:
    variant = setup.recipe.variant
    return variant if isinstance(variant, str) else " + ".join(t.name for t in variant.towers)


def _summary(setup: Setup, best: dict[str, Any], rows: Any) -> tuple[str, ...]:
    counted = f"{best['classes_counted']:.0f} of {len(setup.index.meta.classes)} classes"
    return (
        f"best by {setup.best}: pseudo-epoch {best['pseudo_epoch'] + 1} of {len(rows)}, "
        f"mAP {best['map']:.4f} over {counted}, AUC {best['auc']:.4f}",
        f"accuracy {best['accuracy']:.4f}, of the majority class {best['baseline_accuracy']:.4f}; "
        f"validation loss {best['val_loss']:.4f}",
        f"{history.throughput(rows):.1f} images a second (satray {__version__})",
    )
