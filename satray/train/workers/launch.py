"""Training on Ray: a worker group fed by the streaming room, restarted from the last checkpoint.

The loop itself is plain torch (`satray.train.loop`); here is what surrounds it on a cluster.
"""

import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from satray import cluster
from satray.data.cache import cache_lines
from satray.data.read import Batch
from satray.data.stream import StreamTally, batches
from satray.errors import InputError, SatrayError, TrainingError
from satray.runs.run import Run
from satray.storage import join
from satray.storage.temporary import scratch
from satray.train.loop.epoch import EpochReport, Progress
from satray.train.loop.parallel import synchronised
from satray.train.loop.precision import takes_bf16
from satray.train.loop.state import TrainState, begin
from satray.train.loop.step import AugmentedTiles
from satray.train.loop.train import Loop, LoopSettings
from satray.train.setup import Setup
from satray.train.workers import checkpoints, lost_tiles, snapshots
from satray.train.workers.choice import score
from satray.train.workers.halt import KIND, Halt
from satray.train.workers.train_task import Task, make_task
from satray.train.workers.trainer import MAX_FAILURES, make_trainer

STOPPED = "stopped.json"
"""Written by a worker that met an error which no restart can cure."""
Message = dict[str, Any]


def fit(
    setup: Setup,
    run: Run,
    initial: str,
    listen: Callable[[Message], None],
    workers: cluster.Workers | None = None,
    halt: Halt | None = None,
) -> None:
    """Train until the plan is done, from wherever the run's state stands.

    Args:
        setup: the run, resolved.
        run: its folder; state goes to `run.state`.
        initial: URI of the network's first weights.
        listen: called with each message of the workers, from a thread of the driver.
        workers: what they get, where that is not for this training alone to decide.
        halt: ends it early; this then returns.

    Raises:
        InputError, TrainingError: what stopped the workers, in one line.
    """
    if checkpoints.mend(run.storage, run.state):
        run.say("the list of checkpoints was broken: made anew from the checkpoints")
    stopped = join(run.state, STOPPED)
    run.storage.delete(stopped)
    reached, end = checkpoints.find(run.storage, run.state).pseudo_epochs, setup.plan.pseudo_epochs
    average = setup.recipe.average
    if reached >= end and not snapshots.pending(run.storage, run.state, setup.plan, average):
        return
    workers = workers or cluster.allot(setup.recipe.resources, run.say)
    channel = cluster.ProgressChannel()
    task = make_task(setup, run, initial, channel, workers)
    if setup.recipe.sync_batchnorm and not workers.gpu:
        raise InputError("sync_batchnorm=true: works on GPUs only; accepted: false on CPUs")
    run.say(_team(workers))
    for line in cache_lines(task.train.cache):
        run.say(line)

    def heard(message: Message) -> None:
        if message["kind"] != KIND:
            listen(message)
        elif halt is not None:
            halt.know(message["handle"], message["group"])

    with channel.watch(heard, run.say):
        while halt is None or not halt.asked:
            begun = reached
            try:
                make_trainer(functools.partial(_work, task), task, run).fit()
                break
            except ray.exceptions.RayActorError:
                if halt is not None and halt.asked:
                    return
                raise
            except SystemExit:  # Ray's answer to Ctrl-C, with status 0
                raise KeyboardInterrupt from None
            except TrainingFailedError as error:
                if halt is not None and halt.asked:
                    return
                if run.storage.exists(stopped):
                    break
                checkpoints.mend(run.storage, run.state)
                reached = checkpoints.find(run.storage, run.state).pseudo_epochs
                if reached <= begun:
                    raise TrainingError(_cause(error)) from error
                run.say(f"  {_cause(error)}; {reached} of {end} pseudo-epochs are done: going on")
    if run.storage.exists(stopped):
        told = json.loads(run.storage.read(stopped))
        raise (InputError if told["status"] == InputError.exit_status else TrainingError)(
            told["message"]
        )


def _team(workers: cluster.Workers) -> str:
    kind = "GPU" if workers.gpu else "CPU"
    return f"training on {workers.count} {kind} worker{'s' if workers.count > 1 else ''}"


def _cause(error: TrainingFailedError) -> str:
    """The first worker's error, or the controller's, in one line."""
    where: str = "training failed"
    cause: Exception = error
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        rank = min(error.worker_failures)
        where, cause = f"train worker {rank} failed", error.worker_failures[rank]
    elif isinstance(error, ControllerError):
        cause = error.controller_failure
    cause = getattr(cause, "cause", None) or cause
    lines = [line.strip() for line in str(cause).strip().splitlines() if line.strip()]
    return f"{where} {MAX_FAILURES + 1} times: {lines[-1] if lines else type(cause).__name__}"


def _work(task: Task) -> None:
    """What each worker does; also after a restart."""
    rank = ray.train.get_context().get_world_rank()
    task.channel.send({"kind": "worker", "rank": rank, "pid": os.getpid()})
    if task.storage.exists(join(task.state, STOPPED)):
        return  # the same would only happen again
    try:
        _train(task, rank)
    except SatrayError as error:
        told = {"status": error.exit_status, "message": str(error)}
        task.storage.write(join(task.state, STOPPED), json.dumps(told).encode())
        if task.setup.plan.workers > 1:
            raise  # the others wait for this one, and end with the group


def _train(task: Task, rank: int) -> None:
    import torch

    from satray.train.workers import combining, initial

    setup, recipe, plan = task.setup, task.setup.recipe, task.setup.plan
    begin(recipe.seed, recipe.deterministic)
    if not task.workers.gpu:
        cluster.use_threads(task.workers.cpus)
    device = ray.train.torch.get_device() if task.workers.gpu else torch.device("cpu")
    network: torch.nn.Module = setup.network()
    initial.load(network, task.storage, task.initial)
    if recipe.sync_batchnorm and plan.workers > 1:
        network = synchronised(network)
    state = _resume(device)
    shards = {name: ray.train.get_dataset_shard(name) for name in ("train", "val")}
    tallies = {name: StreamTally() for name in shards}
    written: dict[str, set[int]] = {name: set() for name in shards}

    def train_batches(pseudo_epoch: int) -> Iterator[Batch]:
        return batches(
            shards["train"],
            task.train.shape,
            task.train.dtype,
            batch=plan.local_batch,
            tally=tallies["train"],
            pseudo_epoch=pseudo_epoch,
            expected=task.steps_in(pseudo_epoch),
        )

    def val_batches() -> Iterator[Batch]:
        return batches(
            shards["val"],
            task.val.shape,
            task.val.dtype,
            batch=plan.local_batch,
            tally=tallies["val"],
        )

    def report(epoch: EpochReport, state: TrainState) -> None:
        told: Message = {"kind": "epoch", "rank": rank, "row": epoch.row() if rank == 0 else None}
        told["bytes_read"] = {name: tally.bytes_read for name, tally in tallies.items()}
        errors = {name: _news(tally, written[name]) for name, tally in tallies.items()}
        lost_tiles.keep(task.storage, task.state, epoch.pseudo_epoch, rank, errors)
        _report(epoch, state, setup.best, rank)
        task.channel.send(told)

    def progress(now: Progress) -> None:
        if rank == 0:
            task.channel.send({"kind": "progress", "now": now})

    settings = LoopSettings.of(setup, task.train.labels, takes_bf16(recipe.precision, device))
    if rank == 0:
        task.channel.send({"kind": "precision", "bf16": settings.bf16})
    preprocess = setup.preprocess()
    train_input = AugmentedTiles.of(recipe, preprocess, recipe.seed)
    loop = Loop(
        network,
        plan,
        settings=settings,
        train_input=train_input,
        eval_input=preprocess,
        device=device,
        state=state,
        progress=progress,
        keep=combining.keeper(task.storage, task.state, rank),
    )
    try:
        loop.run(train_batches, val_batches, report)
    except TrainingError as error:
        lost = [reason for tally in tallies.values() for reason in tally.errors.values()]
        told = f"{error}; a tile that could not be read: {lost[0]}" if lost else str(error)
        raise TrainingError(told) from error
    combining.finish(task, rank, network, train_batches, val_batches, settings, train_input, device)


def _news(tally: StreamTally, written: set[int]) -> dict[int, str]:
    """The errors that were not written yet, by row; they count as written from here on."""
    fresh = {row: reason for row, reason in tally.errors.items() if row not in written}
    written.update(fresh)
    return fresh


def _resume(device: Any) -> TrainState | None:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        data = (Path(folder) / checkpoints.STATE).read_bytes()
    return TrainState.from_bytes(data, device)


def _report(epoch: EpochReport, state: TrainState, best: str, rank: int) -> None:
    """Keep a checkpoint; every rank comes here, rank 0 brings the files."""
    name = checkpoints.folder_name(state.pseudo_epoch)
    if rank != 0:
        ray.train.report({}, checkpoint_dir_name=name)
        return
    metrics = {
        "score": score({"val_loss": epoch.val_loss, **epoch.metrics}, best),
        "pseudo_epochs": state.pseudo_epoch,
    }
    with scratch("checkpoint") as folder:
        (folder / checkpoints.STATE).write_bytes(state.to_bytes())
        predictions = folder / checkpoints.PREDICTIONS
        predictions.write_bytes(epoch.predictions.to_bytes())
        (folder / checkpoints.REPORT).write_text(json.dumps(metrics))
        checkpoint = ray.train.Checkpoint.from_directory(str(folder))
        ray.train.report(metrics, checkpoint=checkpoint, checkpoint_dir_name=name)
