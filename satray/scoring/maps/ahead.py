"""Reading ahead: the next window is decoded while the network looks at this one."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class Ahead(Generic[T]):
    """Gives the results of some reads in order, each begun while the one before is in use."""

    reads: Sequence[Callable[[], T]]
    """What to read."""
    waiting: float = field(default=0.0, init=False)
    """Seconds for which the caller had to wait."""
    reading: float = field(default=0.0, init=False)
    """Seconds of reading, in its own thread."""

    def __iter__(self) -> Iterator[T]:
        """Read; of an error the reads before it are given first."""
        with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
            coming: Future[T] | None = None
            for number in range(len(self.reads)):
                start = time.perf_counter()
                coming = coming or pool.submit(self._timed, self.reads[number])
                found = coming.result()
                self.waiting += time.perf_counter() - start
                more = number + 1 < len(self.reads)
                coming = pool.submit(self._timed, self.reads[number + 1]) if more else None
                yield found
                del found

    def _timed(self, read: Callable[[], T]) -> T:
        start = time.perf_counter()
        try:
            return read()
        finally:
            self.reading += time.perf_counter() - start
