"""The best trial's network as a bundle, and its training again, whole. Imports torch."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from satray import cluster
from satray.config.train import TrainRecipe
from satray.errors import TrainingError
from satray.runs.run import Run
from satray.storage import join
from satray.train.checkpoints import Kept, best_of, from_bytes
from satray.train.job import work as train
from satray.train.products import bundle
from satray.train.setup import set_up, with_digests
from satray.train.tracking import nested
from satray.tune.head import HeadTrial
from satray.tune.records import TrialRecord
from satray.tune.trials import Trial
from satray.tune.tuner import HEADS_A_GPU, Work, open_trial, set_up_trial

REFIT = "refit"
"""Folder of the best configuration trained again."""
Won = tuple[dict[str, bytes], dict[str, Any], tuple[str, ...]]
"""The best configuration: files of its bundle by name; metrics of its weights on validation, `ap`
by class, `val_loss`; lines for the person."""


def winner(work: Work, trial: Trial, record: TrialRecord, run: Run) -> Won:
    """Make the bundle of a trial; a head is trained once more, up to its best evaluation.

    Args:
        work: of the sweep.
        trial: the trial.
        record: what it showed.
        run: of the sweep.

    Raises:
        TrainingError: it left no weights, or they have no backbone any more.
    """
    regime = record.regime or "backbone"
    start = work.sweep.starts.get(trial.start)
    if regime == "head" and start is None:
        raise TrainingError(f"trial {trial.id}: its first weights cannot be had any more")
    setup, own = set_up_trial(work, trial, regime)
    if regime == "head" and start is not None:
        same = replace(work.workers, cpus=1, gpu_share=1 / HEADS_A_GPU)  # as in the search
        kept = cluster.run_once(train_again, work, trial, record.best_samples, workers=same)
        whole = from_bytes(work.storage.read(start.weights)) | kept.weights
        kept = replace(kept, weights=whole)
    elif (found := best_of(work.storage, own.state)) is not None:
        kept = found
    else:
        raise TrainingError(f"trial {trial.id}: its training left no weights")
    files, calibration = bundle(with_digests(setup, work.sweep.digest_of), run, kept)
    return files, nested(kept.validation), (calibration.line(),)


def train_again(work: Work, trial: Trial, samples: int | None) -> Kept:
    """Train a head anew up to an evaluation; on a worker.

    One that was trained in a stack then has other last digits.

    Args:
        work: of the sweep.
        trial: the trial.
        samples: seen at that evaluation.

    Raises:
        TrainingError: as of `Loop.step`.
    """
    training = open_trial(work, trial, "head", {})
    assert isinstance(training, HeadTrial), "its start has features"
    while training.step()["samples_seen"] != samples and not training.done:
        pass
    return training.kept()


def refit(recipe: TrainRecipe, given: Work, run: Run) -> Won:
    """Train a configuration again as the job `train` does, below `refit/`. Ray is up.

    Args:
        recipe: of the best configuration, with what the sweep gives all trials.
        given: of the sweep of which it came.
        run: of the sweep; the training's products become its own, but for the bundle.
    """
    out, sweep = run.uri(REFIT), given.sweep
    own = Run("train", run.run_id, out, run.storage, run.say, run.progress, ray=not given.alone)
    run.begin_writing()
    whole = recipe.model_copy(update={"out": out})
    setup = with_digests(set_up(whole, run.storage, sweep.index), sweep.digest_of)
    outcome = train(whole, setup, own)
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
