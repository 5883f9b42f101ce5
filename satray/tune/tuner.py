"""Trials on Ray Tune: one actor class for both regimes, and the driver's side of a sweep.

Tune starts, stops and schedules; what is kept of a trial is the ledger's business, so that nothing
of Tune's own state is needed to go on.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends a sweep as it ends any job
    "TUNE_WARN_THRESHOLD_S": "60",
    "RAY_AIR_NEW_OUTPUT": "0",
}
for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

from satray import cluster  # noqa: E402
from satray.config.tune import StopOptions  # noqa: E402
from satray.runs.run import Run  # noqa: E402
from satray.storage import join  # noqa: E402
from satray.train.workers.halt import give_back  # noqa: E402
from satray.tune.actor import Session, Work  # noqa: E402
from satray.tune.concurrency import Available  # noqa: E402
from satray.tune.desk import Desk, Job  # noqa: E402
from satray.tune.records import Metric, TrialRecord  # noqa: E402

TIME, WORTH = "place", "worth"
"""Keys of a result: samples asked for, and the metric as a number that is larger the better.

By samples seen, which are whole batches, trials of other batches would be compared at other
evaluations."""
FOREVER = 10**15
"""Samples that no trial sees: ASHA ends none for its length."""
RETRIES = 1
"""Times that a trial whose process died goes on from its checkpoint before it counts as failed."""


def available() -> Available:
    """What the cluster has. Ray is up."""
    found = ray.cluster_resources()
    return Available(
        cpus=found.get("CPU", 0.0),
        gpus=found.get("GPU", 0.0),
        nodes=cluster.node_count(),
        cores=cluster.cores(),
    )


def run_trials(
    desk: Desk,
    work: Work,
    run: Run,
    *,
    at_once: int,
    reuse: bool,
    stop: StopOptions,
    grace: int,
    metric: Metric,
    earlier: Sequence[tuple[TrialRecord, int]],
) -> None:
    """Run trials until the desk has no more. Ray is up.

    Args:
        desk: gives and takes trials.
        work: what all of them need; goes to the object store once.
        run: of the sweep; Tune's own files lie below its state.
        at_once: trials at a time.
        reuse: keep actors from trial to trial: for trials of one regime.
        stop: whether trials end early.
        grace: samples before which none is ended.
        metric: what trials are compared by.
        earlier: trials that ended before, and samples from one of their evaluations to the next
            as asked for; early stopping compares with them.
    """
    for name in ("ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    searcher = _Searcher(desk)
    state = join(run.state, "tune")
    run.storage.delete(state)
    filesystem, path = run.storage.arrow_filesystem(state)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(Trial, work=work), _resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler(stop, grace, metric, earlier),
            num_samples=-1,
            max_concurrent_trials=at_once,
            reuse_actors=reuse,
            trial_name_creator=lambda trial: str(trial.config["trial"]),
            trial_dirname_creator=lambda trial: str(trial.config["trial"]),
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=path,
            storage_filesystem=filesystem,
            verbose=0,
            callbacks=[_Watch(searcher)],
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            checkpoint_config=tune.CheckpointConfig(
                checkpoint_frequency=0, checkpoint_at_end=False
            ),
        ),
    )
    tuner.fit()
    give_back()


def scheduler(
    stop: StopOptions, grace: int, metric: Metric, earlier: Sequence[tuple[TrialRecord, int]]
) -> TrialScheduler:
    """What ends trials early, told of those that ended before."""
    if stop.name == "none":
        return FIFOScheduler()
    asha: Any = ASHAScheduler(
        time_attr=TIME,
        metric=WORTH,
        mode="max",
        max_t=FOREVER,
        grace_period=grace,
        reduction_factor=stop.factor,
    )
    for record, each in earlier:
        if record.status == "failed" or not record.curve:
            continue
        trial = SimpleNamespace(trial_id=record.id)
        asha.on_trial_add(None, trial)
        results = [
            {TIME: number * each, WORTH: metric.worth(metric.of(row))}
            for number, row in enumerate(record.curve, 1)
        ]
        for result in results:
            asha.on_trial_result(None, trial, result)
        asha.on_trial_complete(None, trial, results[-1])
    return cast(TrialScheduler, asha)


def _resources(config: Mapping[str, Any]) -> Any:
    """A CPU for a head; next to nothing for the driver of workers that have their own."""
    if json.loads(config["job"])["regime"] == "head":
        return tune.PlacementGroupFactory([{"CPU": 1}])
    # On the head node, as Ray wants drivers of Train; with a CPU each they would starve workers.
    return tune.PlacementGroupFactory([{"node:__internal_head__": 0.001}])


class Trial(tune.Trainable):
    """A trial's process; where it is kept, one trial after another."""

    def setup(self, config: dict[str, Any], work: Work | None = None) -> None:
        """Begin the first trial."""
        assert work is not None  # tune.with_parameters
        self._session = Session(work)
        self._session.begin(json.loads(config["job"]))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the next."""
        self._session.end()
        self._session.begin(json.loads(new_config["job"]))
        return True

    def step(self) -> dict[str, Any]:
        """A pseudo-epoch, or several short ones."""
        return self._session.step()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Trials keep their own, whenever they can go on from it."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """A trial goes on from its own."""

    def cleanup(self) -> None:
        """Leave off; workers and placement groups are given back."""
        self._session.end()


class _Searcher(Searcher):
    """Hands Tune the desk's trials."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(metric=WORTH, mode="max")
        self.desk = desk
        self.jobs: dict[str, Job] = {}
        """By Tune's own id."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles what it is given, to restore by it; the desk stays with the driver."""
        return {}

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """There is nothing to set."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next trial, for Tune."""
        job = self.desk.next()
        if job is None:
            return Searcher.FINISHED
        self.jobs[trial_id] = job
        # As one text: Tune looks into mappings, and cuts keys at their dots.
        return {"trial": job.trial, "job": json.dumps(vars(job))}

    def on_trial_complete(self, *_: Any, **__: Any) -> None:
        """The desk is told by `_Watch`."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a sweep goes on from its ledger."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class _Watch(tune.Callback):
    """Brings the desk what Tune hears of trials."""

    def __init__(self, searcher: _Searcher) -> None:
        self._searcher = searcher

    def on_trial_result(self, *, trial: Any, result: dict[str, Any], **_: Any) -> None:  # type: ignore[override]
        """An evaluation."""
        self._searcher.desk.moved(self._searcher.jobs[trial.trial_id], result)

    def on_trial_complete(self, *, trial: Any, **_: Any) -> None:  # type: ignore[override]
        """The end, by itself or by the scheduler."""
        over = bool((trial.last_result or {}).get("over"))
        self._searcher.desk.ended(self._searcher.jobs[trial.trial_id], not over, None)

    def on_trial_error(self, *, trial: Any, **_: Any) -> None:  # type: ignore[override]
        """Its process died once too often."""
        error = trial.get_pickled_error() or trial.get_error()
        # Raised by the trial, and not the death of its process: it may pass (`Session`).
        passing = isinstance(error, ray.exceptions.RayTaskError)
        job = self._searcher.jobs[trial.trial_id]
        self._searcher.desk.ended(job, False, _one_line(error, passing), passing)


def _one_line(error: Any, passing: bool) -> str:
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    said = lines[-1] if lines else type(cause).__name__
    return said if passing else f"its process died: {said}"
