"""Ray's trainer, set up for one training."""

from collections.abc import Callable
from typing import Any, cast

import ray.data
from ray.train import CheckpointConfig, DataConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from satray import cluster
from satray.runs.run import Run
from satray.train.workers import checkpoints
from satray.train.workers.halt import Introduce
from satray.train.workers.train_task import Task

MAX_FAILURES = 3
"""Restarts of the worker group without a new checkpoint before a run is given up, at the least.

Ray counts over a trainer's whole `fit`; `fit` of this room starts another where the last one
got further.
"""


def make_trainer(work: Callable[[], None], task: Task, run: Run) -> DataParallelTrainer:
    """Make the trainer; it goes on from what is below the run's state.

    Args:
        work: what each worker does.
        task: what it works on.
        run: its folder.
    """
    setup = task.setup
    filesystem, path = run.storage.arrow_filesystem(run.state)
    options = ray.data.ExecutionOptions(preserve_order=setup.recipe.deterministic)
    workers = task.workers
    alone = workers.count == 1 and not workers.gpu
    return _Trainer(
        work,
        backend_config=None if alone else _torch(workers.gpu),
        scaling_config=ScalingConfig(
            num_workers=workers.count, use_gpu=workers.gpu, resources_per_worker=workers.each
        ),
        run_config=RunConfig(
            name=checkpoints.NAME,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            callbacks=[cast(Any, Introduce(task.channel))],
            checkpoint_config=CheckpointConfig(
                num_to_keep=1,  # and the latest, which Ray never removes
                checkpoint_score_attribute="score",
                checkpoint_score_order="max",
            ),
        ),
        datasets={"train": task.train_data, "val": task.val_data},
        dataset_config=DataConfig(
            # One worker runs the streams itself, which saves two processes; several need those to
            # deal the tiles out, and a GPU shall not wait for its worker's other threads.
            datasets_to_split=[] if alone else "all",
            execution_options=options,
            enable_shard_locality=False,
        ),
    )


def _torch(gpu: bool) -> Any:
    """How workers talk to each other; importing it costs the controller seconds."""
    from ray.train.torch import TorchConfig

    return TorchConfig(backend="nccl" if gpu else "gloo")


class _Trainer(DataParallelTrainer):
    """Without Ray's cleaner of placement groups where it can do nothing.

    It asks the dashboard whether the controller lives. Where there is none (a local cluster, which
    ends with its driver) it is an actor for nothing; and where `ray start` once left an address
    behind that is no more, it asks there, and each training waits 12 s for it at its end.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()
        if cluster.has_dashboard():
            return callbacks
        return [one for one in callbacks if not isinstance(one, PlacementGroupCleanerCallback)]
