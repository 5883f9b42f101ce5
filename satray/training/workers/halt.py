"""Ending a training on Ray from another thread: a sweep does it with trials it leaves behind."""

import contextlib
from typing import Any

import ray
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

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

    def __call__(self) -> None:
        """End it now; where there are no workers yet, as soon as there are."""
        self.asked = True
        if self._controller is not None:  # it exits, so that no answer comes
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(self._controller.abort.remote(), timeout=60)

    def know(self, controller: Any) -> None:
        """Take the handle of Ray's controller."""
        self._controller = controller
        if self.asked:
            self()


class Introduce(WorkerGroupCallback):
    """Sends the driver a handle of the controller, in whose process this runs."""

    def __init__(self, channel: cluster.ProgressChannel) -> None:
        self._channel = channel
        self._done = False

    def after_worker_group_start(self, *_: Any, **__: Any) -> None:
        """As soon as there are workers to end."""
        if not self._done:
            me = ray.get_runtime_context().current_actor
            self._channel.send({"kind": KIND, "handle": me})
        self._done = True
