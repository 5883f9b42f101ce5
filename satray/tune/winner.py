"""The best trial's network as a bundle, and its training again, whole. Imports torch."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from satray import cluster
from satray.config.train import TrainRecipe
from satray.data.index import TileIndex
from satray.errors import TrainingError
from satray.runs.run import Run
from satray.storage import join
from satray.train import checkpoints
from satray.train.checkpoints import best_of
from satray.train.job import work as train
from satray.train.products import bundle
from satray.train.setup import set_up
from satray.train.tracking import nested
from satray.tune.records import TrialRecord
from satray.tune.trials import Trial
from satray.tune.tuner import Work, open_trial, set_up_trial

REFIT = "refit"
"""Folder of the best configuration trained again."""
Won = tuple[dict[str, bytes], dict[str, Any], tuple[str, ...]]
"""The best configuration: files of its bundle by name; metrics of its weights on validation, `ap`
by class, `val_loss`; lines for the person."""


def winner(work: Work, trial: Trial, record: TrialRecord, run: Run) -> Won:
    """Make the bundle of a trial.

    Args:
        work: of the sweep.
        trial: the trial.
        record: what it showed.
        run: of the sweep.

    Raises:
        TrainingError: it left no weights, or they have no backbone any more.
    """
    start, head = work.sweep.starts.get(trial.start), record.regime == "head"
    if head and start is None:
        raise TrainingError(f"trial {trial.id}: its first weights cannot be had any more")
    setup, own = set_up_trial(work, trial, "head" if head else "backbone")
    folder = own.out if head else own.state
    kept = best_of(work.storage, folder)
    if head and (kept is None or kept.samples_seen != record.best_samples):
        # Its process went before it could write, or went on past what was told of it.
        work.storage.delete(folder)
        cluster.run_once(train_again, work, trial, record.best_samples)
        kept = best_of(work.storage, folder)
    if kept is None:
        raise TrainingError(f"trial {trial.id}: its training left no weights")
    if head and start is not None:
        whole = checkpoints.from_bytes(work.storage.read(start.weights)) | kept.weights
        kept = replace(kept, weights=whole)
    files, calibration = bundle(setup, run, kept)
    return files, nested(kept.validation), (calibration.line(),)


def train_again(work: Work, trial: Trial, samples: int | None) -> None:
    """Train a head anew up to an evaluation, which it keeps; on a worker.

    Args:
        work: of the sweep.
        trial: the trial.
        samples: seen at that evaluation.
    """
    training = open_trial(work, trial, "head", {})
    while not training.done and training.step()["samples_seen"] != samples:
        pass
    training.close()


def refit(recipe: TrainRecipe, index: TileIndex, run: Run) -> Won:
    """Train a configuration again as the job `train` does, below `refit/`. Ray is up.

    Args:
        recipe: of the best configuration, with what the sweep gives all trials.
        index: its tile index.
        run: of the sweep; the training's products become its own, but for the bundle.
    """
    out = run.uri(REFIT)
    own = Run("train", run.run_id, out, run.storage, run.say, run.progress)
    run.begin_writing()
    whole = recipe.model_copy(update={"out": out})
    outcome = train(whole, set_up(whole, run.storage, index), own)
    for activity, seconds in own.seconds.items():
        run.add_seconds(activity, seconds)
    files = {}
    for product in own.products:
        if product.path.startswith("bundle/"):
            files[product.path.removeprefix("bundle/")] = run.storage.read(join(out, product.path))
        else:
            run.record(replace(product, path=f"{REFIT}/{product.path}"))
    figures = json.loads(run.storage.read(join(out, "metrics.json")))
    for folder in ("bundle", "state"):
        run.storage.delete(join(out, folder))
    lines = tuple(f"refit: {line}" for line in outcome.summary)
    return files, figures["bundle"]["validation"], lines
