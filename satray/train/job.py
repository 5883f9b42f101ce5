"""The job `train`: read, plan, work."""

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from satray import __version__
from satray.config.train import TrainRecipe
from satray.errors import TrainingError, counted
from satray.metrics.summary import said, watch
from satray.runs.run import Outcome, Run, to_json
from satray.storage import Storage
from satray.train import checkpoints, tracking, worker
from satray.train.setup import Setup
from satray.train.setup import read as setup_of

if TYPE_CHECKING:  # it imports torch
    from satray.train.range_test import Finding

POINTS = 1000
"""Learning rates that the picture of a training shows, about."""
HEADLINES = ("map", "accuracy", "baseline_accuracy", "balanced_accuracy", "auc", "val_loss")


def read(recipe: TrainRecipe, storage: Storage) -> Setup:
    """Index and weight files, and what the recipe makes of them; raises InputError. No torch."""
    setup = setup_of(recipe, storage)
    tracking.check(recipe)
    return setup


def plan(recipe: TrainRecipe, setup: Setup, storage: Storage) -> list[str]:
    """What would be done, in a few lines.

    Raises:
        InputError: a stage that the network cannot train, or weights that do not fit it.
    """
    from satray.train.initial import outlook

    del recipe
    schedule = setup.plan
    return outlook(
        setup,
        storage,
        f"{counted(schedule.total_steps, 'step')} of {schedule.global_batch} tiles on "
        f"{counted(schedule.workers, 'worker')}: {counted(schedule.total_samples, 'sample')}, "
        f"{schedule.total_samples / setup.train_tiles:.1f} times the train split",
        f"{counted(schedule.pseudo_epochs, 'evaluation')}, one every "
        f"{schedule.samples_per_pseudo_epoch:,} samples to the nearest batch; best by {setup.best}",
        *schedule.lines,
        *(f"note: {line}" for line in setup.notes),
    )


def work(recipe: TrainRecipe, setup: Setup, run: Run) -> Outcome:
    """Train, then write bundle, history, metrics, events and curves."""
    from satray.train import range_test
    from satray.train.initial import prepare

    with tracking.follow(recipe, run) as tracker:
        for line in setup.notes:
            run.say(f"note: {line}")
        weights = prepare(setup, run)
        setup, tested = range_test.settle(setup, run, weights)
        teller = _Teller(setup, run, tracker)
        with run.activity("starting and saving"):
            if run.ray:
                from satray.train import ray_train

                ray_train.fit(setup, run, weights, teller)
            else:
                worker.fit(setup, run, weights, teller)
        # The workers' seconds of this attempt are not the driver's wait for them.
        spent = tracking.seconds(teller.rows)
        around = run.seconds.get("starting and saving", 0.0) - sum(spent.values())
        run.seconds.update(spent, **{"starting and saving": max(0.0, around)})
        return _finish(setup, run, tracker, tested)


class _Teller:
    """Turns the workers' messages into lines for the person."""

    def __init__(self, setup: Setup, run: Run, tracker: tracking.Tracker) -> None:
        self._setup, self._run, self._tracker = setup, run, tracker
        self._starts = 0
        self.rows: list[dict[str, Any]] = []
        """Evaluations of this attempt."""

    def __call__(self, message: worker.Message) -> None:
        kind, plan = message["kind"], self._setup.plan
        if kind == "worker" and message["rank"] == 0:
            self._starts += 1
            if self._starts > 1:
                self._run.say("  workers were started again; going on from the last checkpoint")
        elif kind == "precision" and self._starts < 2:
            self._run.say(f"  precision: {'bf16 autocast' if message['bf16'] else 'fp32'}")
        elif kind == "progress":
            self._run.progress(
                f"pseudo-epoch {message['pseudo_epoch'] + 1} of {plan.pseudo_epochs}, step "
                f"{message['step']:,} of {plan.total_steps:,}, loss {said(message['loss'])}, "
                f"{message['images_per_second']:.1f} images/s"
            )
        elif kind == "epoch" and message["row"] is not None:
            row, best = message["row"], self._setup.best
            self.rows.append(row)
            self._tracker.row(row)
            lost = row["unreadable"] + row["val_unreadable"]
            trapped = row["classes_always"] + row["classes_never"]
            self._run.say(
                f"  pseudo-epoch {row['pseudo_epoch'] + 1} of {plan.pseudo_epochs}: loss "
                f"{said(row['train_loss'])} train, {said(row['val_loss'])} validation"
                + ("" if best == "loss" else f", {best} {said(row[best])}")
                + f", {row['images_per_second']:.1f} images/s"
                + (f", {lost} tiles unreadable" if lost else "")
                + (f", {counted(row['skipped'], 'step')} left out" if row["skipped"] else "")
                + (f", {trapped} classes predicted always or never" if trapped else "")
            )


def _finish(
    setup: Setup, run: Run, tracker: tracking.Tracker, tested: tuple["Finding", ...]
) -> Outcome:
    """Write the products of a trained run from its state."""
    from satray.report.curves import curves
    from satray.train import range_test
    from satray.train.products import bundle, unreadable

    with run.activity("reading checkpoints"):
        latest = checkpoints.latest_of(run.storage, run.state)
        kept = checkpoints.best_of(run.storage, run.state)
    if latest is None or kept is None:
        raise TrainingError("training ended without a checkpoint")
    plan, classes = setup.plan, setup.index.meta.classes
    rows = latest.history[: plan.pseudo_epochs]
    best = max(reversed(rows), key=lambda row: checkpoints.score(row, setup.best))
    files, calibration = bundle(setup, run, kept)
    for name, data in files.items():
        run.publish(f"bundle/{name}", data)
    run.publish_table("history.parquet", pa.Table.from_pylist(latest.history))
    title = f"{run.run_id}: {setup.variant_name}"
    stages = [(stage.first_step * plan.global_batch, stage.number) for stage in plan.stages]
    each = max(1, plan.total_steps // POINTS)
    steps = sorted({*range(0, plan.total_steps, each), plan.total_steps - 1})
    rates = [((step + 1) * plan.global_batch, plan.learning_rate(step)) for step in steps]
    shown = "map" if setup.best == "loss" else setup.best
    mark = kept.samples_seen if kept.kind == "checkpoint" else None
    run.publish("curves.png", curves(rows, shown, title, mark, rates, stages))
    tracker.publish(rows)
    if lost := sum(map(len, latest.lost.values())):
        run.publish_table("unreadable.parquet", unreadable(setup, latest.lost))
    if tested:
        picture = range_test.picture(tested, f"{title}: range test before training")
        run.publish("landscape.png", picture)
    trap = watch(kept.predictions.logits_NK, kept.predictions.labels_NK, classes, setup.task)
    speed = tracking.throughput(rows)
    figures = {
        "best_by": setup.best,
        "warnings": list(trap.warnings()),
        "best": tracking.nested(best),
        "images_per_second": speed,
        "skipped_steps": sum(row["skipped"] for row in rows),
        "bundle": {
            "weights_of": kept.kind,
            "precision": kept.precision,
            "validation": tracking.nested(kept.validation),
        },
        "calibration": calibration.report,
        "range_tests": [each.figures() for each in tested],
    }
    average = []
    if plan.snapshots:
        name, found = "val_loss" if setup.best == "loss" else setup.best, "not finite"
        mean = latest.history[-1]
        if name in mean:
            figures["swa"] = tracking.nested(mean)
            found = said(mean[name])
        average.append(
            f"average of {counted(len(plan.snapshots), 'snapshot')}: {name} {found}, best "
            f"checkpoint {said(best[name])}; the bundle is the "
            + ("average" if kept.kind == "swa" else "best checkpoint")
        )
    run.publish("metrics.json", to_json(figures))
    return Outcome(
        counts={
            "train_tiles": setup.train_tiles,
            "val_tiles": setup.val_tiles,
            "classes": len(classes),
            "pseudo_epochs": len(rows),
            "samples": rows[-1]["samples_seen"],
            "unreadable_tiles": lost,
        },
        metrics={name: kept.validation[name] for name in HEADLINES}
        | {"images_per_second": speed, "best_by": setup.best},
        summary=(
            f"best by {setup.best}: pseudo-epoch {best['pseudo_epoch'] + 1} of {len(rows)}, mAP "
            f"{said(best['map'])} over {best['classes_counted']:.0f} of {len(classes)} classes, "
            f"AUC {said(best['auc'])}",
            f"accuracy {said(best['accuracy'])}, of the majority class "
            f"{said(best['baseline_accuracy'])}; validation loss {said(best['val_loss'])}",
            f"{speed:.1f} images a second (satray {__version__})",
            *average,
            *(each.line() for each in tested),
            calibration.line(),
            *trap.warnings(),
        ),
    )
