"""When each stage of scoring is done: in threads of this process, or on Ray by `pipeline`.

Items are opened one after another as there is room for them, and no more parts are read than
networks and writers can take.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic

from satray.config.base import Resources
from satray.errors import DecodeError, counted
from satray.runs.executor import torch_here
from satray.score.stages import (
    AHEAD,
    Ended,
    Executor,
    Forwarding,
    I,
    O,
    R,
    Stages,
    timed,
)
from satray.sessions import cores

if TYPE_CHECKING:  # it imports Ray
    from satray.cluster import Workers
    from satray.runs.run import Run

ACTIVITIES = ("reading", "waiting", "computing", "writing")
SMALL_PX = 32 << 20
"""Px of network input up to which `resources.ray=auto` works in the job's own process: until Ray's
processes have loaded the network, that one has looked at as many."""


def wants_ray(px: float, resources: Resources) -> bool:
    """Whether `resources.ray=auto` takes Ray for so many px of network input."""
    return px > SMALL_PX or resources.workers > 1


def run_stages(
    stages: Stages[I, O, R],
    items: Iterable[I],
    resources: Resources,
    tally: Tally,
    workers: Workers | None = None,
) -> Iterator[R]:
    """Score items; yields the result of each as it ends.

    Args:
        stages: what is done with them.
        items: what to score; taken one after another, as there is room for them.
        resources: `read_tasks` says how many parts are read at once.
        tally: told of each step.
        workers: actors on Ray, and what reads for them; None: threads of this process.

    Raises:
        SatrayError: what ended a task or an actor for good, in one line.
    """
    todo = iter(items)
    if not (first := list(itertools.islice(todo, 1))):
        return
    with contextlib.ExitStack() as ends:
        if workers is not None:
            from satray.score.pipeline import on_ray

            executor: Executor = ends.enter_context(on_ray(stages, workers))
        else:
            executor = _Threads(stages, resources, ends)
        yield from _Stream(stages, executor, tally).results(itertools.chain(first, todo))


class Tally:
    """How far a run is, for the person, and where its seconds went, for its record."""

    def __init__(self, run: Run, total: int, noun: str) -> None:
        """Begin.

        Args:
            run: told of progress.
            total: how many of them.
            noun: what is counted: `scene`, `tile`.
        """
        self._run, self._total, self._noun = run, total, noun
        self._start = time.perf_counter()
        self._done, self._px = 0, 0.0
        self._seconds = dict.fromkeys(ACTIVITIES, 0.0)
        self._engines: set[str] = set()

    def spend(self, activity: str, seconds: float) -> None:
        """Add a process's seconds."""
        self._seconds[activity] += seconds

    def looked(self, px: float, engine: str) -> None:
        """Add a part that went through the network."""
        self._px += px
        self._engines.add(engine)
        self._show()

    def count(self, number: int = 1) -> None:
        """Add what came to its end."""
        self._done += number
        self._show()

    def end(self) -> None:
        """Say how fast it was; the seconds of all processes go to the run's record."""
        for name, spent in self._seconds.items():
            self._run.add_seconds(f"{name} (all processes)", spent)
        if not self._engines:
            return
        seconds = time.perf_counter() - self._start
        self._run.say(f"engine: {'; '.join(sorted(self._engines))}")
        done = counted(self._done, self._noun)
        self._run.say(
            f"{done} in {seconds:.1f} s, start of the processes included: "
            f"{self._done / seconds:.2f} {self._noun}s and {self._px / 1e6 / seconds:.2f} Mpx of "
            "network input a second"
        )

    def _show(self) -> None:
        rate = self._px / 1e6 / (time.perf_counter() - self._start)
        self._run.progress(
            f"scored {self._done:,} of {counted(self._total, self._noun)}, {rate:.1f} Mpx a second"
        )


# The order of things, whoever does them


@dataclass(eq=False)
class _Item:
    """An item under way."""

    opened: Any
    beside: dict[int, Any] = field(default_factory=dict)
    looked: dict[int, Any] = field(default_factory=dict)
    engines: set[str] = field(default_factory=set)
    failed: bool = False


@dataclass
class _Stream(Generic[I, O, R]):
    """Hands out stages: reads no more than networks and writers can take."""

    stages: Stages[I, O, R]
    executor: Executor
    tally: Tally
    unread: deque[tuple[_Item, int]] = field(default_factory=deque)
    ready: deque[tuple[_Item, int, Any]] = field(default_factory=deque)
    calls: dict[Hashable, tuple[str, Any, int]] = field(default_factory=dict)

    def results(self, items: Iterable[I]) -> Iterator[R]:
        todo = iter(items)
        while True:
            self._hand_out(todo)
            if not (self.ready or self._busy("open", "read", "forward", "write")):
                return
            for call in self.executor.done(self.calls):
                kind, item, part = self.calls.pop(call)
                try:
                    yield from self._took(kind, item, part, self.executor.take(call))
                except DecodeError as error:
                    if kind == "open":
                        yield self.stages.unopened(item, error)
                        continue
                    if kind == "network" or item.failed:
                        continue
                    item.failed = True
                    yield self.stages.failed(item.opened, error, kind)

    def _hand_out(self, todo: Iterator[I]) -> None:
        executor = self.executor
        while self.ready and self._busy("forward") < executor.networks:
            item, part, pixels = self.ready.popleft()
            if not item.failed:
                self._submit("forward", item, part, item.opened, part, pixels)
        for call in executor.grow(len(self.ready)):
            self.calls[call] = "network", None, 0
        while (
            self._busy("open", "read") < executor.readers
            and self._busy("open", "read", "write") < 2 * executor.readers
            and len(self.ready) < max(executor.networks, AHEAD)
        ):
            if self.unread:
                item, part = self.unread.popleft()
                if not item.failed:
                    self._submit("read", item, part, item.opened, part)
                continue
            for new in todo:
                self._submit("open", new, 0, new)
                break
            else:
                return

    def _submit(self, kind: str, item: Any, part: int, *given: Any) -> None:
        self.calls[self.executor.submit(kind, *given)] = kind, item, part

    def _busy(self, *kinds: str) -> int:
        return sum(kind in kinds for kind, _, _ in self.calls.values())

    def _took(self, kind: str, item: Any, part: int, given: tuple[Any, ...]) -> Iterator[R]:
        if kind == "network":
            return
        if kind in ("open", "read"):
            (seconds, found), pixels, beside = given
            self.tally.spend("reading", seconds)
            if isinstance(found, Ended):
                yield found.result
                return
            if kind == "open":
                item = _Item(found)
                self.unread += [(item, n) for n in range(1, found.parts)]
            if not item.failed:
                item.beside[part] = beside
                self.ready.append((item, part, pixels))
        elif kind == "write":
            (seconds, result), *_ = given
            self.tally.spend("writing", seconds)
            yield result
        elif not item.failed:
            (waiting, seconds, engine), item.looked[part] = given
            self.tally.spend("waiting", waiting)
            self.tally.spend("computing", seconds)
            self.tally.looked(item.opened.px / item.opened.parts, engine)
            item.engines.add(engine)
            if len(item.looked) == item.opened.parts:
                parts = [(item.beside[n], item.looked[n]) for n in range(item.opened.parts)]
                engine = "; ".join(sorted(item.engines))
                self._submit("write", item, 0, item.opened, parts, engine)
                item.beside, item.looked = {}, {}


# In threads of this process


class _Threads:
    """Small work where the job runs: nothing is pickled, no process is started."""

    networks = AHEAD

    def __init__(self, stages: Any, resources: Resources, ends: contextlib.ExitStack) -> None:
        wanted = resources.read_tasks
        self.readers = wanted if isinstance(wanted, int) else max(2, cores())
        self._stages, self._resources, self._ends = stages, resources, ends
        self._forwarding: Forwarding | None = None
        self._io = ThreadPoolExecutor(self.readers + 1, thread_name_prefix="io")
        self._computing = ThreadPoolExecutor(1, thread_name_prefix="network")
        for pool in (self._io, self._computing):
            ends.callback(pool.shutdown, cancel_futures=True)

    def grow(self, waiting: int) -> Iterable[Hashable]:
        del waiting
        return ()

    def submit(self, kind: str, *given: Any) -> Hashable:
        if kind == "forward":
            return self._computing.submit(self._forward, *given)
        return self._io.submit(timed, self._stages, kind, *given)

    def done(self, calls: Iterable[Any]) -> Iterable[Hashable]:
        return wait(list(calls), return_when=FIRST_COMPLETED).done

    def take(self, call: Any) -> tuple[Any, ...]:
        future: Future[tuple[Any, ...]] = call
        return future.result()

    def _forward(self, *given: Any) -> tuple[Any, ...]:
        if self._forwarding is None:
            # it imports torch: seconds, in which the first parts are read
            gpu = self._ends.enter_context(torch_here(self._resources))
            self._forwarding = Forwarding(self._stages, gpu)
        return self._forwarding(*given)
