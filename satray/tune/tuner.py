"""A sweep on Ray Tune: its searcher, scheduler, trainable and callback.

Tune starts, stops and schedules; what is kept of a trial is the log's business, so that nothing of
Tune's own state is needed to go on.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

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
from satray.errors import InputError, SatrayError, TrainingError, attempt, one_line  # noqa: E402
from satray.runs.run import Run  # noqa: E402
from satray.sessions import cores  # noqa: E402
from satray.storage import Storage, join  # noqa: E402
from satray.train import checkpoints, ray_train, worker  # noqa: E402
from satray.train.setup import Setup, set_up  # noqa: E402
from satray.tune.feature_table import SPLITS  # noqa: E402
from satray.tune.records import (  # noqa: E402
    Regime,
    Status,
    TrialLog,
    TrialRecord,
    curve_row,
    trial_folder,
)
from satray.tune.trials import Sweep, Trial  # noqa: E402

if TYPE_CHECKING:
    from satray.tune.feature_table import Features
    from satray.tune.head import HeadTrial

TIME, WORTH = "place", "worth"
"""Keys of a result: samples asked for, and the metric as a number that is larger the better.

By samples seen, which are whole batches, trials of other batches would be compared at other
evaluations."""
HEADS_A_GPU = 16
"""Heads that share a GPU: a step of one fills little of it."""
FOREVER = 10**15
"""Samples that no trial sees: ASHA ends none for its length."""
RETRIES = 1
"""Times that a trial whose process died is run again before it counts as failed: a head anew, a
backbone from its checkpoint."""
TOGETHER = 1.0
"""Seconds of evaluations that are reported together, where none of them can end the trial: an
answer of Tune's takes longer than a head's pseudo-epoch."""
STOPPING = 60.0
"""Seconds that workers have to come to rest when their trial is left."""
STOPPED = "others were better at equal samples seen"


@dataclass(frozen=True)
class Work:
    """What the processes of a sweep's trials need; with the index's labels, not small."""

    sweep: Sweep
    """With what trials start from."""
    storage: Storage
    """How URIs are reached."""
    state: str
    """Folder of the sweep's state."""
    run_id: str
    """Of the sweep."""
    workers: cluster.Workers
    """What those of a trial that trains its backbone get."""
    at_once: dict[Regime, int]
    """Regime -> trials at a time."""
    alone: bool
    """Whether the one worker of a trial that trains its backbone is the trial's own process, as it
    is `train`'s on this machine."""


def run_trials(
    stacks: Iterator[tuple[Trial, ...]], log: TrialLog, work: Work, run: Run, *, heads: bool
) -> None:
    """Run trials until there are no more. Ray is up.

    Args:
        stacks: those to run, a stack as one trial of Tune's (`Sweep.stacks`), each asked for when
            there is room for it.
        log: keeps what they show.
        work: what all of them need; goes to the object store once.
        run: of the sweep; Tune's own files lie below its state.
        heads: whether all of them surely train heads. Their processes are then kept from trial to
            trial; else there are no more at once than if all trained on workers of their own,
            which would wait for the CPUs of heads.
    """
    for name in ("ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    state = join(run.state, "tune")
    run.storage.delete(state)
    filesystem, path = run.storage.arrow_filesystem(state)
    resources = functools.partial(resources_of, work.workers, work.alone)
    given = replace(work, sweep=replace(work.sweep, trials=()))  # each is sent its own
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(TrainTrial, work=given), resources),
        tune_config=tune.TuneConfig(
            search_alg=TrialSearcher(work.sweep, stacks, log),
            max_concurrent_trials=work.at_once["head" if heads else "backbone"],
            scheduler=scheduler_of(work.sweep, log.records.values()),
            num_samples=-1,
            reuse_actors=heads,
            trial_name_creator=lambda trial: str(trial.config["trials"][0].id),
            trial_dirname_creator=lambda trial: str(trial.config["trials"][0].id),
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=path,
            storage_filesystem=filesystem,
            verbose=0,
            callbacks=[LogCallback(log)],
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # trials keep theirs
        ),
    )
    tuner.fit()
    ray_train.give_back()


# How many at once, and with what


def refuse_shared_gpus(sweep: Sweep) -> None:
    """Refuse a share of a GPU for each of several workers, which NCCL would, late and at length.

    Ray is up. Trials of heads take one process each, so that it does not matter to them.

    Raises:
        InputError: trials may train on such workers.
    """
    recipe, count = sweep.recipe, sweep.recipe.resources.workers
    heads = not sweep.optuna and all(trial.head for trial in sweep.trials)
    if recipe.gpu_share < 1 < count and not heads and cluster.use_gpus(recipe.resources):
        raise InputError(
            f"resources.workers={count}: several workers of a training cannot share a GPU "
            f"(gpu_share={recipe.gpu_share:g}); accepted: one worker, or gpu_share=1"
        )


def work_of(sweep: Sweep, run: Run) -> Work:
    """What trials are given, and how many run at once: no more than are asked for. Ray is up."""
    recipe = sweep.recipe
    allot = functools.partial(cluster.allot, recipe.resources, run.say, gpu_share=recipe.gpu_share)
    workers = allot()
    there = ray.cluster_resources()
    one = cores() if cluster.node_count() == 1 else int(there.get("CPU", 0))
    fitting = trials_at_once(there, len(cluster.cpu_nodes()), one, workers)
    most = math.inf if recipe.concurrent == "auto" else recipe.concurrent
    at_once: dict[Regime, int] = {name: int(min(each, most)) for name, each in fitting.items()}
    of_all = allot(count=workers.count * at_once["backbone"])
    workers = replace(of_all, count=workers.count)
    on_ray = recipe.resources.ray == "yes" or workers.gpu or workers.count > 1
    alone = cluster.is_local() and not on_ray
    return Work(sweep, run.storage, run.state, run.run_id, workers, at_once, alone)


def trials_at_once(
    there: Mapping[str, float], nodes: int, cores: int, workers: cluster.Workers
) -> dict[Regime, int]:
    """How many trials fit, one at least.

    A head takes a thread, a CPU and a share of a GPU. Ray is told of more CPUs than a small machine
    has cores, for tasks that wait for tiles; heads compute, so there are no more than cores.

    Trials with workers of their own: on GPUs as many as their shares hold, whole workers a GPU,
    since a share never spans two; without GPUs one worker a machine, since each takes all its
    cores. In both cases the CPUs must be enough: one a worker, and one for each of the trial's two
    streams of tiles. Ray Data divides what Train leaves by the number of streams and rounds down;
    with less than one CPU for each, all of them would wait for ever.

    Args:
        there: `CPU` and `GPU` of the cluster, by Ray's count.
        nodes: machines with CPUs.
        cores: of the machine, where the driver's is the only one.
        workers: of a trial that trains its backbone.
    """
    cpus, gpus = there.get("CPU", 0), there.get("GPU", 0)
    heads = min(cpus, cores) if nodes == 1 else cpus
    fitting = nodes
    if workers.gpu:
        heads = min(heads, gpus * HEADS_A_GPU)
        fitting = int(gpus * math.floor(1 / workers.gpu_share + 1e-9))
    backbones = min(fitting // workers.count, cpus // (workers.count + 2))
    return {"head": max(1, int(heads)), "backbone": max(1, int(backbones))}


def resources_of(workers: cluster.Workers, alone: bool, config: Mapping[str, Any]) -> Any:
    """What Tune reserves: next to nothing for the driver of workers that have their own.

    Args:
        workers: of a trial that trains its backbone.
        alone: as of `Work`.
        config: `regime` of the trial. A head takes a CPU and, where there are GPUs, a share of one.
    """
    if config["regime"] == "head":
        share = {"GPU": 1 / HEADS_A_GPU} if workers.gpu else {}
        return tune.PlacementGroupFactory([{"CPU": 1, **share}])
    if alone:
        return tune.PlacementGroupFactory([workers.each])
    # On the head node, as Ray wants drivers of Train; with a CPU each they would starve workers.
    return tune.PlacementGroupFactory([{"node:__internal_head__": 0.001}])


def scheduler_of(sweep: Sweep, ended: Iterable[TrialRecord]) -> TrialScheduler:
    """What ends trials early, told of those that ended before.

    Args:
        sweep: resolved.
        ended: trials that ended before.
    """
    stop, metric = sweep.recipe.stop, sweep.metric
    if stop.name == "none":
        return FIFOScheduler()
    longest = max((sweep.length_of(trial)[0] for trial in sweep.trials), default=0)
    asha: Any = ASHAScheduler(
        time_attr=TIME,
        metric=WORTH,
        mode="max",
        max_t=FOREVER,
        grace_period=stop.grace or max(1, int(longest // 10)),
        reduction_factor=stop.factor,
    )
    for record in ended:
        if record.status == "failed" or not record.curve:
            continue
        _, each = sweep.length_of(sweep.trial(record.configuration))
        trial = SimpleNamespace(trial_id=record.id)
        asha.on_trial_add(None, trial)
        for number, row in enumerate(record.curve, 1):
            result = {TIME: number * each, WORTH: metric.worth(metric.of(row))}
            asha.on_trial_result(None, trial, result)
        asha.on_trial_complete(None, trial, result)
    return cast(TrialScheduler, asha)


# What runs in a trial's process


def set_up_trial(work: Work, trial: Trial, regime: Regime) -> tuple[Setup, Run]:
    """A trial's set-up, a head's as if by one worker, and its own run below the sweep's state."""
    count = 1 if regime == "head" else work.workers.count
    resources = trial.recipe.resources.model_copy(update={"workers": count})
    recipe = trial.recipe.model_copy(update={"resources": resources})
    run = Run("train", work.run_id, trial_folder(work.state, trial.id), work.storage)
    setup = set_up(recipe, work.storage, work.sweep.index)
    return setup, run


def open_trial(
    work: Work, trial: Trial, regime: Regime, opened: dict[tuple[str, str], list[Features]]
) -> HeadTrial | BackboneTrial:
    """Begin a trial, or go on with one that trains its backbone.

    Args:
        work: of the sweep.
        trial: the trial.
        regime: `Sweep.regime_of` it.
        opened: features that this process has open.
    """
    setup, run = set_up_trial(work, trial, regime)
    start = work.sweep.starts.get(trial.start)
    if start is None:
        from satray.train import initial

        return BackboneTrial(setup, run, initial.prepare(setup, run), work)
    if start.features is None or regime == "backbone":
        return BackboneTrial(setup, run, start.weights, work)
    from satray.tune.head import HeadTrial

    cluster.use_threads(1)  # the CPU that it asks for
    table, pooling, index = start.features, setup.variant.pooling, work.sweep.index
    key = (table.uri, pooling)
    if key not in opened:
        opened[key] = [table.open(each, pooling, index.part(each).labels) for each in SPLITS]
    train, val = opened[key]
    return HeadTrial(setup, train, val, start.head, work.storage)


class BackboneTrial:
    """A network in training, on workers of its own or alone.

    It runs in a thread of the trial's process, which hands on each evaluation as it comes. Training
    does not wait for that: what is decided of a trial comes while it is at the next pseudo-epoch.
    """

    def __init__(self, setup: Setup, run: Run, weights: str, given: Work) -> None:
        """Begin, or go on from the trial's checkpoints.

        Args:
            setup: the trial, resolved.
            run: the trial's own; checkpoints lie below its state.
            weights: URI of the network's first weights.
            given: of the sweep; what its workers get.
        """
        self._plan = setup.plan
        self.each = setup.plan.samples_per_pseudo_epoch
        """Samples from one evaluation to the next."""
        self.done = False
        """Whether all evaluations have been given, and workers and resources given back."""
        self._halt = ray_train.Halt(run)
        self._rows: queue.Queue[dict[str, Any] | Exception | None] = queue.Queue()
        self._given = 0
        self._put_history(run)

        def listen(message: dict[str, Any]) -> None:
            if message["kind"] == "epoch" and message["row"] is not None:
                self._rows.put(message["row"])
            if given.alone and self._halt.asked:
                raise TrainingError("left")

        def work() -> None:
            try:
                if given.alone:
                    worker.fit(setup, run, weights, listen)
                else:
                    ray_train.fit(setup, run, weights, listen, given.workers, self._halt)
                self._put_history(run)  # should a message have been lost with its worker
                self._rows.put(None)
            except Exception as error:  # a trial that fails is a row of the leaderboard
                self._rows.put(error)
            except BaseException as error:  # else nobody would hear of it
                self._rows.put(TrainingError(f"training ended by {type(error).__name__}"))

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def step(self) -> dict[str, Any]:
        """The next evaluation, waited for; after the last, until training is at its end.

        Raises:
            SatrayError: what ended training.
        """
        row = self._take()
        if row is None:
            raise TrainingError("training ended before its plan was done")
        self._given = row["pseudo_epoch"] + 1
        if self._given == self._plan.pseudo_epochs:
            self.done = self._take() is None
        return row

    def close(self) -> None:
        """Leave off: workers end now, checkpoints stay."""
        if not self.done:
            self._halt()
            self._thread.join(STOPPING)

    def _put_history(self, run: Run) -> None:
        latest = checkpoints.latest_of(run.storage, run.state)
        for row in () if latest is None else latest.history[: self._plan.pseudo_epochs]:
            self._rows.put(row)

    def _take(self) -> dict[str, Any] | None:
        """The next new row; None when training is over."""
        while True:
            found = self._rows.get()
            if isinstance(found, Exception):
                raise found
            # What is told of again, after a worker's death and at the end, counts once.
            if found is None or found["pseudo_epoch"] >= self._given:
                return found


class TrainTrial(tune.Trainable):
    """The process of a trial, or of a stack of them; where it is kept, of one after another.

    A trial that fails reports so and ends, so that its process lives and takes the next; but what
    may pass (a store that is away, no room) is raised, and the trials begun again.
    """

    def setup(self, config: dict[str, Any], work: Work | None = None) -> None:
        """Take trials; they are opened by their first step."""
        assert work is not None  # tune.with_parameters
        self._work = work
        self._opened: dict[tuple[str, str], list[Features]] = {}
        self._trainings: dict[str, HeadTrial | BackboneTrial] = {}
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Leave the trials at hand, and take the next."""
        self.cleanup()
        self._take(new_config)
        return True

    def _take(self, config: dict[str, Any]) -> None:
        self._left: dict[str, Trial] = {trial.id: trial for trial in config["trials"]}
        self._regime, self._place = config["regime"], 0

    def step(self) -> dict[str, Any]:
        """Evaluate once or, where that is quick, several times.

        Returns:
            `shown`: of each trial that was left its id as `trial`, `rows` (curve rows, new ones)
            and the `seconds` that each took; `failed`: why it did, else None; `over`: it is at its
            end. `place`, the samples at which the last evaluation of a single trial was asked for,
            the same for trials of any batch; its `worth`; `done`: nothing is left.

        Raises:
            Exception: what may pass.
        """
        metric, begun = self._work.sweep.metric, time.monotonic()
        # each by itself, where it may be the trial's last
        pause = TOGETHER if self._work.sweep.recipe.stop.name == "none" else 0.0
        shown: dict[str, dict[str, Any]] = {
            name: {"trial": name, "rows": [], "seconds": [], "failed": None, "over": False}
            for name in self._left
        }
        worth = math.nan
        while self._left:
            for name, found in self._evaluate().items():
                one, worth = shown[name], math.nan
                if not isinstance(found, Exception):
                    row = curve_row(found, metric)
                    spent = sum(v for key, v in found.items() if key.startswith("seconds_"))
                    one["rows"].append(row)
                    one["seconds"].append(spent)
                    one["over"] = self._trainings[name].done
                    self._place += self._trainings[name].each
                    worth = metric.worth(metric.of(row))
                    if not math.isfinite(worth):
                        samples, worth = row["samples"], math.nan
                        one["failed"] = (
                            f"{metric.title} is not a number after {samples:,.0f} samples"
                        )
                elif may_pass(found):
                    raise found
                else:
                    one["failed"] = one_line(found)
                one["over"] |= one["failed"] is not None
                if one["over"]:
                    del self._left[name]
            if time.monotonic() - begun >= pause:
                break
        over = not self._left
        return {"shown": list(shown.values()), TIME: self._place, WORTH: worth, "done": over}

    def _evaluate(self) -> dict[str, dict[str, Any] | Exception]:
        """Of each trial that is left the next evaluation, or why there is none."""
        found: dict[str, dict[str, Any] | Exception] = {}
        ready: dict[str, Any] = {}
        for name, trial in self._left.items():
            training: Any = self._trainings.get(name) or attempt(self.open, trial)
            if isinstance(training, Exception):
                found[name] = training
            else:
                ready[name] = self._trainings[name] = training
        if len(ready) > 1:
            from satray.tune.head import step_all  # heads: all others are by themselves

            return found | dict(zip(ready, step_all(list(ready.values())), strict=True))
        return found | {name: attempt(each.step) for name, each in ready.items()}

    def open(self, trial: Trial) -> HeadTrial | BackboneTrial:
        """Begin a trial at hand, or go on with it."""
        return open_trial(self._work, trial, self._regime, self._opened)

    def cleanup(self) -> None:
        """Leave off; workers and placement groups are given back."""
        trainings, self._trainings = self._trainings, {}
        for training in trainings.values():
            if isinstance(training, BackboneTrial) and not training.done:
                training.close()


def may_pass(error: Exception) -> bool:
    """Whether the same trial may do another time: then it was not the trial that failed."""
    if isinstance(error, SatrayError):
        return not isinstance(error, InputError | TrainingError)
    return isinstance(error, OSError)


# What runs in the driver


class _Driver:
    """Stays with the driver: Tune pickles what it is given, to restore by it."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class TrialSearcher(_Driver, Searcher):
    """Hands Tune its trials, those of a stack as one."""

    def __init__(self, sweep: Sweep, stacks: Iterator[tuple[Trial, ...]], log: TrialLog) -> None:
        super().__init__(metric=WORTH, mode="max")
        self._sweep, self._stacks, self._log = sweep, stacks, log

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """There is nothing to set."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next stack."""
        del trial_id
        trials = next(self._stacks, None)
        if trials is None:
            return Searcher.FINISHED
        regime = self._sweep.regime_of(trials[0])
        for trial in trials:
            self._log.begin(trial.configuration, regime, trial.recipe.seed)
        return {"trials": trials, "regime": regime}

    def on_trial_complete(self, *_: Any, **__: Any) -> None:
        """The log keeps how trials end."""


class LogCallback(_Driver, tune.Callback):
    """Writes down what Tune hears of trials."""

    def __init__(self, log: TrialLog) -> None:
        self._log = log

    def on_trial_result(self, *, result: dict[str, Any], **_: Any) -> None:  # type: ignore[override]
        """Evaluations, and ends that trials come to by themselves."""
        for one in result["shown"]:
            if (name := one["trial"]) in self._log.running:  # else told again by a second attempt
                self._log.evaluated(name, one["rows"], one["seconds"])
                if one["over"]:
                    status: Status = "done" if one["failed"] is None else "failed"
                    self._log.end(name, status, one["failed"])

    def on_trial_complete(self, *, trial: Any, **_: Any) -> None:  # type: ignore[override]
        """The end by the scheduler."""
        for name in self._running(trial):
            self._log.end(name, "stopped", STOPPED)

    def on_trial_error(self, *, trial: Any, **_: Any) -> None:  # type: ignore[override]
        """Their process died once too often, or raised what may pass."""
        error, running = trial.get_pickled_error() or trial.get_error(), self._running(trial)
        passing = isinstance(error, ray.exceptions.RayTaskError)
        reason = one_line(getattr(error, "cause", None) or error)
        reason = reason if passing else f"its process died: {reason}"
        for name in running:  # of several that died together nobody knows which it was
            self._log.end(name, "failed", reason, keep=not passing and len(running) == 1)

    def _running(self, trial: Any) -> list[str]:
        return [one.id for one in trial.config["trials"] if one.id in self._log.running]
