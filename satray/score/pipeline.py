"""The stages of scoring on Ray: tasks that read and write, actors that compute.

Pixels and results stay in Ray's object stores, and are named by references; of a call's objects the
driver fetches the first alone, the head. Tasks and actors in place of Ray Data: the parts of a
scene must meet again, which is a shuffle there, and a barrier.
"""

import contextlib
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

import ray

from satray import cluster
from satray.errors import DecodeError, InputError, SatrayError, one_line
from satray.score.stages import AHEAD, Executor, Forwarding, timed

_OF_A_TASK = (
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.ActorUnavailableError,
)
"""What Ray raises of a call whose process died as often as it tries."""
RESTARTS = 50
"""Of an actor: spot nodes come and go, but a network that cannot be loaded ends the run."""


@contextlib.contextmanager
def on_ray(stages: Any, workers: cluster.Workers) -> Iterator[Executor]:
    """Have the stages done on Ray within the block, which is up.

    Args:
        stages: what is done (`satray.score.stages.Stages`).
        workers: the actors, and what reads for them.
    """
    executor = _Ray(stages, workers)
    try:
        yield executor
    finally:
        executor.end()


class _Ray:
    """Tasks that read and write, actors that compute; an actor more only where parts wait.

    Parts go to actors that are up: a busy cluster may have no room for the others for hours.
    """

    def __init__(self, stages: Any, workers: cluster.Workers) -> None:
        readers, self._workers = workers.readers, workers
        self.readers = readers.at_once or readers.expected * workers.count
        self._stages = ray.put(stages)
        task = ray.remote(num_cpus=readers.cpus)(_guarded)
        self._tasks = {
            kind: task.options(name=kind, num_returns=3, scheduling_strategy=where).remote
            for kind, where in (("open", "SPREAD"), ("read", "SPREAD"), ("write", "DEFAULT"))
        }
        self._make: Any = ray.remote(
            num_cpus=workers.cpus,
            num_gpus=workers.gpu_share if workers.gpu else 0,
            max_restarts=RESTARTS,
            max_task_retries=3,
        )(_Actor)
        self._actors: list[Any] = []
        self._load: dict[int, int] = {}  # of those that are up
        self._calls: dict[Hashable, tuple[list[Any], int | None]] = {}

    @property
    def networks(self) -> int:
        return AHEAD * len(self._load)

    def grow(self, waiting: int) -> Iterable[Hashable]:
        workers, threads = self._workers, 0 if self._workers.gpu else self._workers.cpus
        while len(self._actors) < workers.count and (
            not self._actors or len(self._actors) - len(self._load) < waiting
        ):
            actor = self._make.remote(self._stages, workers.gpu, threads)
            self._actors.append(actor)
            yield self._under_way([actor.up.remote()], len(self._actors) - 1)

    def submit(self, kind: str, *given: Any) -> Hashable:
        if kind == "forward":
            number = min(self._load, key=self._load.__getitem__)
            self._load[number] += 1
            method = self._actors[number].forward.options(num_returns=2)
            return self._under_way(method.remote(*given), number)
        function = _fetched if kind == "write" else timed
        return self._under_way(self._tasks[kind](3, function, self._stages, kind, *given))

    def done(self, calls: Iterable[Any]) -> Iterable[Hashable]:
        heads = list(calls)
        ray.wait(heads, num_returns=1)
        ready, _ = ray.wait(heads, num_returns=len(heads), timeout=0)
        return ready

    def take(self, call: Any) -> tuple[Any, ...]:
        references, actor = self._calls.pop(call)
        if actor is not None:  # it did something, or came up
            self._load[actor] = self._load.get(actor, 1) - 1
        try:
            head = ray.get(references[0])
        except _OF_A_TASK as error:
            raise DecodeError(f"the process that did it died: {cluster.cause(error)}") from error
        except ray.exceptions.RayError as error:
            raise SatrayError(f"a worker died: {cluster.cause(error)}") from error
        if isinstance(head, SatrayError):
            raise head
        return head, *references[1:]

    def end(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        for references, number in self._calls.values():
            if number is None:
                ray.cancel(references[0])

    def _under_way(self, references: list[Any], actor: int | None = None) -> Hashable:
        head: Hashable = references[0]
        self._calls[head] = references, actor
        return head


class _Actor:
    """Holds the network; loads it at once, while the first parts are being read."""

    def __init__(self, stages: Any, gpu: bool, threads: int) -> None:
        if threads:
            cluster.use_threads(threads)
        # arrays in Ray's shared memory are read-only, and nobody writes to them here
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        self._forward = Forwarding(stages, gpu)
        with contextlib.suppress(Exception):  # it comes again at the first part, which tells it
            self._forward.load()

    def up(self) -> tuple[()]:
        """Done once the network is loaded."""
        return ()

    def forward(self, opened: Any, part: int, pixels: Any) -> tuple[Any, ...]:
        return _guarded(2, self._forward, opened, part, pixels)


def _guarded(
    returns: int, function: Callable[..., tuple[Any, ...]], *given: Any
) -> tuple[Any, ...]:
    """Call a stage that returns so much; what it raises is its head, in one line, of its kind."""
    try:
        found = function(*given)
    except Exception as error:  # of a device that is too small, say
        kinds = (DecodeError, InputError)
        kind = next((kind for kind in kinds if isinstance(error, kind)), SatrayError)
        found = (kind(one_line(error)), *[None] * (returns - 1))
    return found


def _fetched(
    stages: Any, kind: str, opened: Any, parts: list[tuple[Any, Any]], engine: str
) -> tuple[Any, ...]:
    """Write, with parts that are fetched one after another."""
    each = ((ray.get(beside), ray.get(said)) for beside, said in parts)
    return timed(stages, kind, opened, each, engine)
