"""Whole blocks of tiles on Ray Data: read tasks fill them, a pool of actors takes each at once.

A row of the stream is a whole block, so that Ray can neither split nor merge one. Actors write what
they make to storage themselves; the driver hears of each block by a small report.
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from satray import cluster
from satray.errors import InputError, SatrayError

Row: TypeAlias = Mapping[str, Any]
"""A block in the actor's hands, by the columns of what its `BlockRead` gave: a `pa.Buffer` for what
was `held`, a Python value for the rest."""
Report: TypeAlias = dict[str, Any]
"""What an actor tells of a block; pickled on the way."""


@dataclass(frozen=True)
class BlockRead:
    """One block, to be read; called by its read task."""

    read: Callable[[], pa.Table]
    """Gives a table of one row (`held` for what is large); pickled to its task."""
    size: int
    """Bytes of that row, about."""
    __name__: str = "read_block"  # Ray names the function in its warnings

    def __call__(self) -> Iterator[pa.Table]:
        """Read, as Ray asks for it."""
        yield self.read()


def through_actors(
    name: str,
    blocks: Sequence[BlockRead],
    workers: cluster.Workers,
    make: Callable[[], Callable[[Row], Report]],
    *,
    calls: int = 1,
) -> Iterator[Report]:
    """Read blocks and have actors work on them; yields the report of each as it ends.

    Args:
        name: what the blocks are, for messages and Ray's logs.
        blocks: what to read.
        workers: the actors, and what reads for them; fewer start where there are fewer blocks.
        make: called in each actor for what works on its blocks; pickled.
        calls: blocks that an actor works on at a time, in threads.

    Raises:
        SatrayError: what ended a block for good, in one line (Ray would drown it in its own words).
    """
    if not blocks:
        return
    dataset = ray.data.read_datasource(
        _Blocks(name, blocks),
        override_num_blocks=1,  # the source says how many; Ray shall not split further
        num_cpus=workers.readers.cpus,
        concurrency=workers.readers.at_once,
    )
    dataset.context.enable_progress_bars = False
    actors: Any = ActorPoolStrategy(
        size=min(workers.count, len(blocks)),
        max_concurrent_calls_per_actor=calls,
        enable_true_multi_threading=calls > 1,
    )
    stream = dataset.map_batches(
        BlockActor,
        fn_constructor_args=(name, 0 if workers.gpu else workers.cpus, make),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=actors,
        num_cpus=workers.cpus,
        num_gpus=workers.gpu_share if workers.gpu else 0,
    )
    table: Any
    for table in stream.iter_batches(batch_size=None, batch_format="pyarrow"):
        for cell in table.column("report"):
            report = pickle.loads(cell.as_py())
            if isinstance(report, SatrayError):
                raise report
            yield report


def held(data: Any) -> pa.Array:
    """One cell of bytes (large_binary) over a buffer, which is not copied."""
    offsets = pa.py_buffer(np.array([0, memoryview(data).nbytes], dtype=np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(data)])


def rows_of(batch: pa.Table) -> Iterator[Row]:
    """Rows of a batch, as actors get them: what is `held` is not copied."""
    for values in zip(*map(_values, batch.columns), strict=True):
        yield dict(zip(batch.column_names, values, strict=True))


def _values(column: pa.ChunkedArray) -> Iterator[Any]:
    """Cells of a column; an Arrow scalar would be a copy of its bytes."""
    for chunk in column.chunks:
        if chunk.type != pa.large_binary():
            yield from chunk.to_pylist()
            continue
        _, offsets, data = chunk.buffers()
        ends = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
        for start, end in itertools.pairwise(ends.tolist()):
            yield data.slice(start, end - start)


class _Blocks(Datasource):
    """One block a read task."""

    def __init__(self, name: str, blocks: Sequence[BlockRead]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._name = name
        self._blocks = tuple(blocks)

    def get_name(self) -> str:
        """Name of the operator in Ray's logs."""
        return f"Blocks({self._name})"

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all blocks."""
        return sum(block.size for block in self._blocks)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One task a block, with its own tiles only."""
        del parallelism, data_context
        return [
            ReadTask(
                block,
                BlockMetadata(num_rows=1, size_bytes=block.size, input_files=None, exec_stats=None),
                per_task_row_limit=per_task_row_limit,
            )
            for block in self._blocks
        ]


class BlockActor:
    """Holds what works on blocks; a report a block."""

    def __init__(
        self, name: str, threads: int, make: Callable[[], Callable[[Row], Report]]
    ) -> None:
        """Begin; `threads` is 0 where it computes on a GPU."""
        if threads:
            cluster.use_threads(threads)
        self._name = name
        self._work = make()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Work on the blocks of a batch, in order."""
        reports = [pickle.dumps(self._one(row)) for row in rows_of(batch)]
        return pa.table({"report": pa.array(reports, pa.binary())})

    def _one(self, row: Row) -> Report | SatrayError:
        try:
            return self._work(row)
        except Exception as error:  # of a device that is too small, say
            line = " ".join(str(error).split())
            if isinstance(error, InputError):
                return InputError(line)
            own = isinstance(error, SatrayError)
            return SatrayError(line if own else f"{self._name}: {type(error).__name__}: {line}")
