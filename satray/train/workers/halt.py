"""Ending a training on Ray from another thread: a sweep does it with trials it leaves behind."""

import contextlib
from typing import Any

import ray
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.util.placement_group import PlacementGroup

from satray import cluster

KIND = "controller"
"""Of the message that brings the handle of Ray's controller."""


class Halt:
    """Ends a `launch.fit` as Ctrl-C would: workers and placement group are given back at once.

    A driver that just dies leaves its placement group to Ray's cleaner, which needs the dashboard.
    """

    def __init__(self) -> None:
        self.asked = False
        self._controller: Any = None
        self._group: Any = None

    def __call__(self) -> None:
        """End it now; where there are no workers yet, as soon as there are."""
        self.asked = True
        if self._controller is not None:  # it exits, so that no answer comes
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(self._controller.abort.remote(), timeout=60)
            # Where training was just ending, the controller goes without giving it back.
            with contextlib.suppress(ray.exceptions.RayError, ValueError):
                ray.util.remove_placement_group(self._group)

    def know(self, controller: Any, group: Any) -> None:
        """Take the handles of Ray's controller and of the workers' placement group."""
        self._controller, self._group = controller, group
        if self.asked:
            self()


class Introduce(WorkerGroupCallback):
    """Sends the driver handles of the controller, whose process this is, and of its workers."""

    def __init__(self, channel: cluster.ProgressChannel) -> None:
        self._channel = channel

    def after_worker_group_start(self, worker_group: Any) -> None:
        """As soon as there are workers to end; again where they are started again."""
        me = ray.get_runtime_context().current_actor
        group = worker_group._worker_group_state.placement_group_handle.placement_group
        self._channel.send({"kind": KIND, "handle": me, "group": group})


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
