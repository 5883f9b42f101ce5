"""The job `train`: read, plan, work."""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from satray import __version__
from satray.config.train import TrainRecipe
from satray.errors import TrainingError, counted
from satray.metrics.summary import said
from satray.metrics.trap import stuck, watch
from satray.runs.run import Outcome, Run, to_json
from satray.storage import Storage
from satray.train import tracking
from satray.train.calibrate import Calibration, calibrate
from satray.train.imbalance import constant_classes
from satray.train.loop import precision
from satray.train.plan import TrainingPlan, snapshot_note
from satray.train.setup import Setup, unchanged
from satray.train.setup import read as setup_of
from satray.train.workers import lost_tiles

if TYPE_CHECKING:  # it imports torch
    from satray.train.loop.evaluation import Predictions
    from satray.train.range_test import Finding

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
    from satray.train.loop.stage_check import block_lines
    from satray.train.workers.initial import prepared

    schedule = setup.plan
    network, loaded = prepared(setup, storage)
    return [
        *setup.lines,
        *loaded,
        *block_lines(network),
        f"{counted(schedule.total_steps, 'step')} of {schedule.global_batch} tiles on "
        f"{counted(schedule.workers, 'worker')}: {counted(schedule.total_samples, 'sample')}, "
        f"{schedule.total_samples / setup.train_tiles:.1f} times the train split",
        f"{counted(schedule.pseudo_epochs, 'evaluation')}, one every "
        f"{schedule.samples_per_pseudo_epoch:,} samples to the nearest batch; best by {setup.best}",
        *schedule.lines,
        *([snapshots] if (snapshots := snapshot_note(schedule, recipe.average)) else []),
        *(f"note: {line}" for line in (*schedule.warnings, *setup.notes)),
        *unchanged(setup, storage),
    ]


def work(recipe: TrainRecipe, setup: Setup, run: Run) -> Outcome:
    """Train, then write bundle, history, metrics, events and curves. Ray is up."""
    return train_with(recipe, setup, run, None)


def train_with(
    recipe: TrainRecipe,
    setup: Setup,
    run: Run,
    listen: Callable[[dict[str, Any]], None] | None,
) -> Outcome:
    """Do `work`, and hand on each message of the workers."""
    with tracking.follow(recipe, run) as tracker:
        return _train(setup, run, tracker, listen)


def _train(
    setup: Setup,
    run: Run,
    tracker: tracking.Tracker,
    listen: Callable[[dict[str, Any]], None] | None,
) -> Outcome:
    from satray.train import measure, range_test
    from satray.train.workers import initial, launch

    with run.activity("preparing"):
        setup = measure.complete(setup, run)
        for line in (*setup.plan.warnings, *setup.notes):
            run.say(f"note: {line}")
        weights = initial.stage(setup, run)
    setup, tested = range_test.settle(setup, run, weights)
    told = _Teller(setup, run, tracker, listen)
    with run.activity("starting and saving"):
        launch.fit(setup, run, weights, told)
    return finish(setup, run, tracker, told.heard, tested)


class _Teller:
    """Turns the workers' messages into lines for the person."""

    def __init__(
        self,
        setup: Setup,
        run: Run,
        tracker: tracking.Tracker,
        listen: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self._setup = setup
        self._run = run
        self._tracker = tracker
        self._listen = listen
        self._starts = 0
        self._constant = constant_classes(setup.index.part("val").labels)
        self._stuck: tuple[str, ...] = ()
        self.heard: set[int | str] = set()

    def __call__(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "worker" and message["rank"] == 0:
            self._starts += 1
            if self._starts > 1:
                self._run.say("  workers were started again; going on from the last checkpoint")
        elif kind == "precision" and self._starts < 2:
            self._run.say(f"  {precision.line(message['bf16'])}")
        elif kind == "progress":
            now = message["now"]
            self._run.progress(
                f"pseudo-epoch {now.pseudo_epoch + 1} of {self._setup.plan.pseudo_epochs}, step "
                f"{now.step:,} of {now.total_steps:,}, loss {said(now.loss)}, "
                f"{now.images_per_second:.1f} images/s"
            )
        elif kind == "epoch":
            if message["row"] is not None:
                self.heard.add(message["row"]["pseudo_epoch"])
                self._run.say("  " + _epoch_line(self._setup, message["row"]))
                self._warn(message["row"])
                self._tracker.row(message["row"])
        elif kind == "combined":
            record = message["record"]
            self.heard.add(kind)
            self._run.say(f"  {len(record['steps'])} snapshots combined: {record['kind']}")
        if self._listen is not None:
            self._listen(message)

    def _warn(self, row: dict[str, Any]) -> None:
        """Tell of classes predicted always or never, each time that these are others."""
        found = stuck(tracking.by_class(row, "ppr"), self._constant).warnings()
        if found != self._stuck:
            for line in found or ("majority trap: over, every class is predicted both ways",):
                self._run.say(f"  {line}")
        self._stuck = found


def _epoch_line(setup: Setup, row: dict[str, Any]) -> str:
    shown = "" if setup.best == "loss" else f", {setup.best} {said(row[setup.best])}"
    lost = row["unreadable"] + row["val_unreadable"]
    return (
        f"pseudo-epoch {row['pseudo_epoch'] + 1} of {setup.plan.pseudo_epochs}: loss "
        f"{said(row['train_loss'])} train, {said(row['val_loss'])} validation{shown}, "
        f"{row['images_per_second']:.1f} images/s" + (f", {lost} tiles unreadable" if lost else "")
    )


def finish(
    setup: Setup,
    run: Run,
    tracker: tracking.Tracker,
    heard: Collection[int | str],
    tested: tuple["Finding", ...] = (),
) -> Outcome:
    """Write the products of a trained run from its state.

    Args:
        setup: the run, resolved, with all learning rates.
        run: its folder.
        tracker: takes the history.
        heard: what this attempt did itself: pseudo-epochs, 0 for the first, and `combined`.
        tested: the range tests of `learning_rate: auto`.
    """
    from satray.report.curves import curves
    from satray.train import range_test
    from satray.train.products import bundle, unreadable
    from satray.train.workers import checkpoints
    from satray.train.workers.choice import choice_lines, choose

    found = checkpoints.find(run.storage, run.state)
    if found.latest is None or found.best is None:
        raise TrainingError("training ended without a checkpoint")
    with run.activity("reading checkpoints"):
        rows = checkpoints.load(run.storage, found.latest).history
        choice = choose(setup, run, found.best, rows[found.best_pseudo_epoch - 1])
    best, last = rows[found.best_pseudo_epoch - 1], rows[-1]
    calibration = calibrate_on(setup, choice.predictions)
    for name, data in bundle(setup, run, choice, calibration).items():
        run.publish(f"bundle/{name}", data)
    run.publish("history.parquet", tracking.parquet(rows), rows=len(rows))
    shown = "map" if setup.best == "loss" else setup.best
    title = f"{run.run_id}: {setup.variant_name}"
    batch = setup.plan.global_batch
    stages = [(stage.first_step * batch, stage.number) for stage in setup.plan.stages]
    picture = curves(rows, shown, title, choice.mark(best), _rates(setup.plan, 1000), stages)
    run.publish("curves.png", picture)
    tracker.publish(rows)
    errors = lost_tiles.kept(run.storage, run.state)
    if errors:
        data, count = unreadable(setup, errors)
        run.publish("unreadable.parquet", data, rows=count)
    seen = choice.predictions
    trap = watch(seen.logits_NK, seen.labels_NK, setup.index.meta.classes, setup.task)
    figures = {
        "best_by": setup.best,
        "warnings": list(trap.warnings()),
        "watch": {"always": list(trap.always), "never": list(trap.never)},
        "best": tracking.nested(best),
        "last": tracking.nested(last),
        "images_per_second": tracking.throughput(rows),
        "bundle": choice.origin() | {"validation": choice.validation},
        "calibration": calibration.report,
    }
    if choice.combined is not None:
        figures["snapshots"] = choice.combined
    if tested:
        figures["range_tests"] = [each.figures() for each in tested]
        picture_of_tests = range_test.picture(tested, f"{title}: range test before training")
        run.publish("landscape.png", picture_of_tests)
    run.publish("metrics.json", to_json(figures))
    _account(run, rows, choice.combined, heard)
    return Outcome(
        counts={
            "train_tiles": setup.train_tiles,
            "val_tiles": setup.val_tiles,
            "classes": len(setup.index.meta.classes),
            "pseudo_epochs": len(rows),
            "samples": last["samples_seen"],
            "unreadable_tiles": len(errors),
        },
        metrics={name: choice.validation[name] for name in HEADLINES}
        | {"images_per_second": tracking.throughput(rows), "best_by": setup.best},
        summary=(
            *_summary(setup, best, rows),
            *choice_lines(choice, setup.best, best),
            *(each.line() for each in tested),
            calibration.line(),
            *trap.warnings(),
        ),
    )


def calibrate_on(setup: Setup, predictions: "Predictions") -> Calibration:
    """Fit temperature and thresholds on half of the validation tiles that could be read."""
    ids = setup.index.part("val").table.column("tile_id").take(pa.array(predictions.rows))
    return calibrate(
        predictions.logits_NK,
        predictions.labels_NK,
        ids.to_pylist(),
        setup.index.meta.classes,
        setup.task,
        setup.recipe.calibrate,
        setup.recipe.seed,
    )


def _rates(schedule: TrainingPlan, points: int) -> list[tuple[int, float]]:
    """Learning rate against samples seen, at up to so many points and at the run's end."""
    steps = range(0, schedule.total_steps, max(1, schedule.total_steps // points))
    taken = sorted({*steps, schedule.total_steps - 1})
    return [((step + 1) * schedule.global_batch, schedule.learning_rate(step)) for step in taken]


def _account(
    run: Run, rows: Any, combined: dict[str, Any] | None, heard: Collection[int | str]
) -> None:
    """Take the workers' seconds of this attempt out of the driver's wait for them."""
    spent = tracking.seconds([row for row in rows if row["pseudo_epoch"] in heard])
    if combined is not None and "combined" in heard:
        spent["combining snapshots"] = combined["seconds"]
    for name, value in spent.items():
        run.add_seconds(name, value)
    around = run.seconds.get("starting and saving", 0.0) - sum(spent.values())
    run.seconds["starting and saving"] = max(0.0, around)


def _summary(setup: Setup, best: dict[str, Any], rows: Any) -> tuple[str, ...]:
    counted = f"{best['classes_counted']:.0f} of {len(setup.index.meta.classes)} classes"
    return (
        f"best by {setup.best}: pseudo-epoch {best['pseudo_epoch'] + 1} of {len(rows)}, "
        f"mAP {said(best['map'])} over {counted}, AUC {said(best['auc'])}",
        f"accuracy {said(best['accuracy'])}, of the majority class "
        f"{said(best['baseline_accuracy'])}; validation loss {said(best['val_loss'])}",
        f"{tracking.throughput(rows):.1f} images a second (satray {__version__})",
    )
