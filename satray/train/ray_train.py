"""Training on Ray Train: a worker group fed by Ray Data, restarted from the last checkpoint.

What a worker does is plain torch (`satray.train.worker`); here is what surrounds it on a cluster.
Nothing here imports torch before training begins: Ray's controller would wait for it.
"""

import contextlib
import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray.data
import ray.train
from ray.train import DataConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError
from ray.util.placement_group import PlacementGroup

from satray import cluster
from satray.data.cache import cache_lines
from satray.data.read import Batch
from satray.data.stream import batches, tile_dataset
from satray.errors import InputError, SatrayError, TrainingError
from satray.runs.run import Run
from satray.storage import join
from satray.train import checkpoints
from satray.train.setup import Setup
from satray.train.worker import Message, Task, train

NAME = "train"
"""Name of the Ray Train run; unique within the state folder of a satray run."""
STOPPED = "stopped.json"
"""Below the state: written by a worker that met an error which no restart can cure, and by a driver
that wants training to end."""
LOOK = 2.0
"""Seconds between two looks of a worker for it."""
MAX_FAILURES = 3
"""Restarts of the worker group before a run is given up; those of preempted nodes do not count."""


class Halt:
    """Ends a `fit` from another thread: workers end at their next step, checkpoints stay."""

    def __init__(self, run: Run) -> None:
        """Ready to end the training of a run, begun or not."""
        self._storage, self._uri = run.storage, join(run.state, STOPPED)
        self.asked = False

    def __call__(self) -> None:
        """End it now; `fit` then returns."""
        self.asked = True
        self._storage.write(self._uri, json.dumps({"status": 0, "message": "halted"}).encode())


class _HaltedError(Exception):
    """The driver wants training to end."""


def fit(
    setup: Setup,
    run: Run,
    initial: str,
    listen: Callable[[Message], None],
    workers: cluster.Workers | None = None,
    halt: Halt | None = None,
) -> None:
    """Train until the plan is done, from wherever the run's state stands. Ray is up.

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
    storage = run.storage
    stopped = join(run.state, STOPPED)
    storage.delete(stopped)
    if halt is not None and halt.asked:  # only now: the mark of one who asks later stays
        return
    if checkpoints.is_done(storage, run.state, setup.plan):
        return
    task = Task.of(setup, run, initial)
    if workers is None:
        workers = cluster.allot(setup.recipe.resources, run.say)
        for line in cluster.call_anywhere(cache_lines, task.train.cache):
            run.say(line)
    channel = cluster.ProgressChannel()
    kind = "GPU" if workers.gpu else "CPU"
    run.say(f"training on {workers.count} {kind} worker{'s' if workers.count > 1 else ''}")
    with channel.watch(listen, run.say):
        try:
            _trainer(functools.partial(_work, task, channel, workers), task, run, workers).fit()
        except SystemExit:  # Ray's answer to Ctrl-C, with status 0
            raise KeyboardInterrupt from None
        except TrainingFailedError as error:
            if not storage.exists(stopped):
                raise TrainingError(_cause(error)) from error
    if storage.exists(stopped) and not (halt is not None and halt.asked):
        stop = json.loads(storage.read(stopped))
        raise (InputError if stop["status"] == InputError.exit_status else TrainingError)(
            stop["message"]
        )


def give_back() -> None:
    """Remove what trainings of this job left behind; none of them runs any more.

    A trial's process may be gone before its controller has given back the workers' placement group.
    """
    mine = ray.get_runtime_context().get_job_id()
    for name, group in ray.util.placement_group_table().items():
        if name.endswith(mine) and group["state"] != "REMOVED":  # an id ends with that of its job
            left = PlacementGroup(ray.PlacementGroupID.from_hex(name))
            with contextlib.suppress(ray.exceptions.RayError):
                ray.util.remove_placement_group(left)


def _trainer(
    work: Callable[[], None], task: Task, run: Run, workers: cluster.Workers
) -> DataParallelTrainer:
    """Ray's trainer, set up for one training; checkpoints are ours, and it keeps none."""
    recipe, plan = task.setup.recipe, task.setup.plan
    filesystem, path = run.storage.arrow_filesystem(run.state)
    alone = workers.count == 1 and not workers.gpu
    backend: Any = None
    if not alone:  # importing it costs the controller seconds
        from ray.train.torch import TorchConfig

        backend = TorchConfig(backend="nccl" if workers.gpu else "gloo")
    dataset = functools.partial(
        tile_dataset,
        batch=plan.local_batch,
        workers=plan.workers,
        readers=workers.readers,
        deterministic=recipe.deterministic,
    )

    def train_data() -> Any:  # called in Ray's controller at each start of the workers
        start, _ = checkpoints.find(task.storage, task.state)
        return dataset(task.train, task.train_order, start=start)

    return DataParallelTrainer(
        work,
        backend_config=backend,
        scaling_config=ScalingConfig(
            num_workers=workers.count, use_gpu=workers.gpu, resources_per_worker=workers.each
        ),
        run_config=RunConfig(
            name=NAME,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
        ),
        datasets={"train": train_data, "val": lambda: dataset(task.val, task.val_order)},
        dataset_config=DataConfig(
            # One worker runs the streams itself, which saves two processes; several need those to
            # deal the tiles out, and a GPU shall not wait for its worker's other threads.
            datasets_to_split=[] if alone else "all",
            execution_options=ray.data.ExecutionOptions(preserve_order=recipe.deterministic),
            enable_shard_locality=False,
        ),
    )


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
    lines = str(cause).split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), type(cause).__name__)
    return f"{where} {MAX_FAILURES + 1} times: {last}"


def _work(task: Task, channel: cluster.ProgressChannel, workers: cluster.Workers) -> None:
    """What each worker does; also after a restart."""
    import ray.train.torch
    import torch

    rank, plan = ray.train.get_context().get_world_rank(), task.setup.plan
    stopped = join(task.state, STOPPED)
    looked = time.monotonic()

    def send(message: Message) -> None:
        nonlocal looked
        channel.send(message)
        if message["kind"] == "progress" and time.monotonic() - looked >= LOOK:
            looked = time.monotonic()
            if task.storage.exists(stopped):
                raise _HaltedError

    send({"kind": "worker", "rank": rank, "pid": os.getpid()})
    if task.storage.exists(stopped):
        return  # the same would only happen again
    if not workers.gpu:
        cluster.use_threads(workers.cpus)
    device = ray.train.torch.get_device() if workers.gpu else torch.device("cpu")
    errors: dict[str, dict[int, str]] = {"train": {}, "val": {}}

    def shard(split: str, **expected: int) -> Iterator[Batch]:
        return batches(
            ray.train.get_dataset_shard(split),
            batch=plan.local_batch,
            errors=errors[split],
            **expected,
        )

    try:
        train(
            task,
            lambda number: shard("train", pseudo_epoch=number, expected=plan.steps_in(number)),
            lambda: shard("val"),
            errors,
            rank,
            device,
            send,
        )
    except _HaltedError:
        if workers.count > 1:
            raise  # the others wait for this one, and end with the group
    except SatrayError as error:
        stop = {"status": error.exit_status, "message": str(error)}
        task.storage.write(stopped, json.dumps(stop).encode())
        if workers.count > 1:
            raise
