"""Tiles of a split as a stream of batches, through Ray Data.

One read task fetches and decodes a run of tiles and yields blocks as they fill
(`satray.data.read`). The order of a pass is a function of the pseudo-epoch alone: Ray Data
calls `get_read_tasks` anew at each execution and says which execution it is.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from satray.cluster import Readers, executions
from satray.data.order import Order, copies, falling_chunks
from satray.data.read import Batch, TileSource, errors_of, read_blocks, to_torch

BLOCK_BYTES = 8 << 20
"""A block aims at this size: small enough for an early first batch, large enough to amortise."""
TASK_TILES = 512
"""Most tiles a read task takes: some hundred milliseconds of work."""


def tile_dataset(
    source: TileSource,
    order: Order,
    *,
    batch: int,
    workers: int = 1,
    readers: Readers | None = None,
    start: int = 0,
    deterministic: bool = False,
) -> Any:
    """Make a Ray dataset that streams a split; each time it is iterated is one pseudo-epoch.

    Args:
        source: the split.
        order: which rows, in which order, at each pseudo-epoch.
        batch: tiles a step of one worker.
        workers: workers that the stream is divided among.
        readers: tasks that read at once (`cluster.readers`); default two.
        start: pseudo-epoch of the first iteration.
        deterministic: keep the order, with one worker's batch a block.
    """
    readers = readers or Readers(2)
    total = len(order.rows(start))
    block = batch if deterministic else _block_tiles(source.spec.nbytes, batch, total, workers)
    dataset = ray.data.read_datasource(
        _Tiles(source, order, block, readers.expected, start),
        override_num_blocks=1,  # the source itself says how many; Ray shall not split further
        num_cpus=readers.cpus,
        concurrency=readers.at_once,
    )
    context = dataset.context
    context.execution_options.preserve_order = deterministic
    context.enable_progress_bars = False
    # Blocks leave as they are read: just below their size, so that one fills Ray's buffer.
    context.target_max_block_size = max(1, int(block * source.spec.nbytes * 0.9))
    return dataset


def batches(
    shard: Any,
    *,
    batch: int,
    errors: dict[int, str],
    pseudo_epoch: int | None = None,
    expected: int | None = None,
) -> Iterator[Batch]:
    """Iterate one pass over a dataset or over a worker's shard of it.

    How many unreadable tiles are too many is for the caller to judge, over all shards.

    Args:
        shard: a Ray dataset, or one part of a split one.
        batch: tiles a batch; the last may be smaller.
        errors: takes in which rows of the split could not be read, and why.
        pseudo_epoch: checked against the stream's own where given.
        expected: batches that the caller will take. Ray ends a pass only when somebody asks for
            more than there is, so the end is asked for before the last batch is handed out.

    Yields:
        `pixels` (b, C, H, W) in the stored dtype, `labels` (b, K) uint8, `row` and `copy` (b,)
        int64, `valid` (b,) bool; CPU tensors.

    Raises:
        RuntimeError: the stream is at another pseudo-epoch than the caller.
    """
    stream = iter(shard.iter_batches(batch_size=batch, batch_format="pyarrow", prefetch_batches=2))
    count = 0
    while True:
        table = next(stream, None)
        if table is None:
            break
        count += 1
        if count == expected and next(stream, None) is not None:
            raise RuntimeError(f"the stream has more than the {expected} batches expected")
        found = table.column("pseudo_epoch")[0].as_py()
        if pseudo_epoch is not None and found != pseudo_epoch:
            raise RuntimeError(f"stream is at pseudo-epoch {found}, training at {pseudo_epoch}")
        errors.update(errors_of(table))
        yield to_torch(table)


def _block_tiles(tile_bytes: int, batch: int, total: int, workers: int) -> int:
    """Tiles of a block: whole batches of about `BLOCK_BYTES`, and a block at least a worker."""
    share = max(1, total // workers)
    batches = max(1, min(BLOCK_BYTES // tile_bytes, share, TASK_TILES) // batch)
    return min(batch * batches, share)


class _Tiles(Datasource):
    """Tiles of a split in the order of the pass that Ray Data is at."""

    def __init__(
        self, source: TileSource, order: Order, block: int, readers: int, start: int
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._source, self._order, self._block = source, order, block
        self._readers, self._start = readers, start

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of one pass."""
        return len(self._order.rows(self._start)) * self._source.spec.nbytes

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: Any = None,
    ) -> list[ReadTask]:
        """Cut the rows of this execution's pseudo-epoch into tasks."""
        del parallelism
        pseudo_epoch = self._start + (executions(data_context) if data_context is not None else 0)
        order = self._order.rows(pseudo_epoch)
        came_before = copies(order)

        tasks = []
        for piece in falling_chunks(np.arange(len(order)), self._block, self._readers, TASK_TILES):
            source = self._source.rows(order[piece])  # pickled with its own rows only
            read = partial(read_blocks, source, self._block, pseudo_epoch, came_before[piece])
            size = len(piece) * source.spec.nbytes
            metadata = BlockMetadata(
                num_rows=len(piece), size_bytes=size, input_files=None, exec_stats=None
            )
            tasks.append(ReadTask(read, metadata, per_task_row_limit=per_task_row_limit))
        return tasks
