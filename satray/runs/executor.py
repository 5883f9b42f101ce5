"""Work in this process or by Ray: a function over many blocks, and torch as a worker has it.

Small work is done where the job runs, without Ray: no process is started, nothing is pickled, and a
debugger works. What the function gives is the same either way.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import TypeVar

from satray.config.base import Resources
from satray.errors import InputError
from satray.sessions import cores

B = TypeVar("B")
T = TypeVar("T")

THREADS = 8
"""Most threads of this process: what they do between decodes holds Python's lock."""

THREAD = "satray-block"
"""What their names begin with."""

AHEAD = 256
"""Ray tasks handed out ahead where nothing bounds them: a cluster that can grow sees them wait."""


def computes_on_gpu(resources: Resources) -> bool:
    """Whether work in this process computes on a GPU.

    Raises:
        InputError: `resources.gpus=yes` where there is none.
    """
    import torch

    gpu = resources.gpus != "no" and torch.cuda.is_available()
    if resources.gpus == "yes" and not gpu:
        raise InputError("resources.gpus=yes: this machine has no GPU; accepted: auto, no")
    return gpu


@contextmanager
def torch_here(resources: Resources) -> Iterator[bool]:
    """Have torch compute in this process as on a worker, within the block; gives `computes_on_gpu`.

    Without a GPU it takes all cores.
    """
    import torch

    gpu, threads = computes_on_gpu(resources), torch.get_num_threads()
    torch.set_num_threads(cores())
    torch.set_flush_denormal(True)  # of this thread; networks make denormals, CPUs crawl over them
    try:
        yield gpu
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)


def each_block(
    function: Callable[[B], T],
    blocks: Iterable[B],
    resources: Resources,
    *,
    ray: bool,
    ordered: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[T]:
    """Call a function on each block, several at once and ahead of the caller.

    Args:
        function: what to do; pickled where Ray calls it.
        blocks: what to do it on; taken one after another, as there is room for them.
        resources: `read_tasks` says how many at once.
        ray: whether they are Ray tasks; Ray is up then. Else threads.
        ordered: results come in the blocks' order; else as they are ready.
        say: told what of a cluster is waited for.

    Yields:
        What the function returns.

    Raises:
        SatrayError: from Ray, what the function raised as it was, or a line about what else ended
            it, or that no CPU came. From threads, whatever the function raised.
    """
    with ExitStack() as ends:
        if ray:
            from satray import cluster  # which imports Ray

            readers = cluster.await_readers(resources, say)
            submit = ends.enter_context(cluster.tasks(function, readers.cpus))
            ahead = readers.at_once or AHEAD
        else:
            wanted = resources.read_tasks
            ahead = wanted if isinstance(wanted, int) else min(THREADS, max(2, cores()))
            pool = ThreadPoolExecutor(ahead, thread_name_prefix=THREAD)
            ends.callback(_end, pool)
            submit = _on(pool, function)
        coming: deque[Future[T]] = deque()
        todo = iter(blocks)
        while True:
            coming.extend(submit(block) for block in islice(todo, ahead + 1 - len(coming)))
            if not coming:
                return
            if ordered:
                yield coming.popleft().result()
                continue
            ready = wait(coming, return_when=FIRST_COMPLETED).done
            coming = deque(each for each in coming if each not in ready)
            for each in ready:
                yield each.result()


def _end(pool: ThreadPoolExecutor) -> None:
    """Wait for the blocks under way: a caller that stops early may remove what they write."""
    # But not for oneself, where an iterator that nobody ended is collected in a thread of the pool.
    own = threading.current_thread().name.startswith(THREAD)
    pool.shutdown(wait=not own, cancel_futures=True)


def _on(pool: ThreadPoolExecutor, function: Callable[[B], T]) -> Callable[[B], Future[T]]:
    return lambda block: pool.submit(function, block)
