"""Batches of a few tiles, read where they are needed: for jobs too short for a stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from satray import cluster
from satray.data.read import Batch, TileSource, read_blocks, to_torch
from satray.errors import TrainingError

MOST_THREADS = 4
"""Batches read at once, and ahead."""


def read_batches(
    source: TileSource,
    rows: NDArray[np.int64],
    batch: int,
    error_budget: float,
    copies: NDArray[np.int64] | None = None,
) -> Iterator[Batch]:
    """Read tiles in order, a few batches ahead of the caller; unreadable ones are left out.

    Args:
        source: the split.
        rows: which tiles, in order; a row may come several times.
        batch: tiles a batch; fewer where some cannot be read, and in the last.
        error_budget: share of `rows` that may be unreadable.
        copies: how often each of `rows` came before; None: never.

    Yields:
        `pixels` (b, C, H, W) as stored, `labels` (b, K) uint8, `row` and `copy` (b,) int64; torch
        tensors.

    Raises:
        TrainingError: more tiles than the budget allows cannot be read, or a whole batch.
    """
    lost = 0
    for table in _tables(source, rows, copies, batch, min(MOST_THREADS, cluster.cores())):
        found = to_torch(table, source.shape, source.dtype)
        valid = found.pop("valid")
        lost += int((~valid).sum())
        if lost > error_budget * len(rows) or not valid.any():
            reason = next(e for e in table.column("error").to_pylist() if e is not None)
            raise TrainingError(
                f"{lost} of {len(rows):,} tiles could not be read (error_budget="
                f"{error_budget:g}); the last: {reason}"
            )
        yield found if valid.all() else {name: _kept(each, valid) for name, each in found.items()}


def _kept(values: Any, valid: Any) -> Any:
    """Rows of a tensor of any dtype; torch cannot index uint16 everywhere."""
    import torch

    return torch.from_numpy(values.numpy()[valid.numpy()])


def _tables(
    source: TileSource,
    rows: NDArray[np.int64],
    copies: NDArray[np.int64] | None,
    batch: int,
    threads: int,
) -> Iterator[pa.Table]:
    """Read batches in so many threads (decoding holds no lock), and give them in order."""

    def read(start: int) -> pa.Table:
        some = rows[start : start + batch]
        came_before = None if copies is None else copies[start : start + batch]
        (table,) = read_blocks(source.rows(some), batch, copies=came_before)
        return table

    with ThreadPoolExecutor(threads) as pool:
        coming: deque[Future[pa.Table]] = deque()
        for start in range(0, len(rows), batch):
            coming.append(pool.submit(read, start))
            if len(coming) > threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
