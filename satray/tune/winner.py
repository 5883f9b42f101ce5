"""The best trial's network as a bundle, and its training again, whole. Imports torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from satray import cluster
from satray.config.train import TrainRecipe
from satray.data.index import TileIndex
from satray.errors import TrainingError
from satray.runs.run import Run
from satray.storage import join
from satray.train import checkpoints, measure
from satray.train.checkpoints import Kept, best_of
from satray.train.job import calibrate_on
from satray.train.job import work as train
from satray.train.products import bundle
from satray.train.setup import set_up
from satray.train.tracking import nested
from satray.tune.records import TrialRecord, trial_folder
from satray.tune.trials import Trial
from satray.tune.tuner import Work, config_of, head_setup, open_trial

REFIT = "refit"
"""Folder of the best configuration trained again."""


@dataclass(frozen=True)
class Won:
    """The best configuration, as a bundle."""

    files: dict[str, bytes]
    """Of the bundle, by name."""
    validation: dict[str, Any]
    """Metrics of its weights on validation, `ap` by class, `val_loss`."""
    lines: tuple[str, ...]
    """For the person: what calibration did."""


def winner(work: Work, trial: Trial, start: str, record: TrialRecord, run: Run) -> Won:
    """Make the bundle of a trial.

    Args:
        work: of the sweep.
        trial: the trial.
        start: key of what it started from.
        record: what it showed.
        run: of the sweep.

    Raises:
        TrainingError: it left no weights.
    """
    first, folder = work.starts.get(start), trial_folder(work.state, trial.id)
    if record.regime == "head":
        if first is None:
            raise TrainingError(f"trial {trial.id}: its first weights cannot be had any more")
        setup = head_setup(trial.recipe, first, work.index, work.storage)
        best = _trained(work, config_of(trial, start, "head"), folder, record.best_samples)
        whole = checkpoints.from_bytes(work.storage.read(first.weights)) | best.weights
        kept = replace(best, weights=whole)
    else:
        own = Run("train", work.run_id, folder, work.storage)
        setup = set_up(trial.recipe, work.storage, work.index)
        setup = measure.complete(setup, own) if first is None else first.under(setup)
        found = best_of(own.storage, own.state)
        if found is None:
            raise TrainingError(f"trial {trial.id}: its training left no checkpoint")
        kept = found
    calibration = calibrate_on(setup, kept.predictions)
    files = bundle(setup, run, kept, calibration)
    return Won(files, nested(kept.validation), (calibration.line(),))


def _trained(work: Work, config: Mapping[str, str], folder: str, samples: int | None) -> Kept:
    """A head as it was after so many samples; its process may have gone before it could write."""
    best = best_of(work.storage, folder)
    if best is None or best.samples_seen != samples:
        work.storage.delete(folder)
        cluster.run_once(train_again, work, config, samples)
        best = best_of(work.storage, folder)
    if best is None:
        raise TrainingError(f"{folder}: a head left no weights")
    return best


def train_again(work: Work, config: Mapping[str, str], samples: int | None) -> None:
    """Train a head anew up to an evaluation, which it keeps; on a worker.

    Args:
        work: of the sweep.
        config: of the trial.
        samples: seen at that evaluation; None: to the end.
    """
    training = open_trial(work, config)
    while not training.done:
        if training.step()["samples_seen"] == samples:
            break
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
    return Won(files, figures["bundle"]["validation"], lines)
