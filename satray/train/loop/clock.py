"""Where the time of a pseudo-epoch went: waiting for batches, or computing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class Clock:
    """Times one worker's pseudo-epoch.

    GPU work is asynchronous, so time spent in `next` counts as waiting only where the GPU had
    nothing left to do when the batch came.
    """

    def __init__(self, device: torch.device) -> None:
        self._event: Any = _event() if device.type == "cuda" else None
        self._launched = False
        self._start = time.perf_counter()
        self._told = self._start
        self.waited = 0.0
        """Seconds spent waiting for batches."""

    def wait(self, batches: Iterator[T]) -> T | None:
        """The next batch; None when there is none."""
        start = time.perf_counter()
        batch = next(batches, None)
        busy = self._event is not None and self._launched and not self._event.query()
        if not busy:
            self.waited += time.perf_counter() - start
        return batch

    def launched(self) -> None:
        """A step has been handed to the device."""
        if self._event is not None:
            self._event.record()
            self._launched = True

    @property
    def elapsed(self) -> float:
        """Seconds since the pseudo-epoch began."""
        return time.perf_counter() - self._start

    def due(self, seconds: float = 1.0) -> bool:
        """Whether it is time to tell how far things are."""
        now = time.perf_counter()
        if now - self._told < seconds:
            return False
        self._told = now
        return True


def _event() -> Any:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]
