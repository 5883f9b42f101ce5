"""Blocks of tiles without Ray's actors: read and worked on in this process, one after another.

For what is not Ray's doing: an actor takes seconds to start.
"""

import pickle
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa

from satray.data.block_pool import BlockRead, Pool, Report, Row


def through_actors(
    name: str, blocks: Sequence[BlockRead], pool: Pool, make: Callable[[], Callable[[Row], Report]]
) -> Iterator[Report]:
    """In place of `satray.data.block_pool.through_actors`."""
    work = make()
    for block in blocks:
        yield pickle.loads(pickle.dumps(work(row_of(block.read()))))


def row_of(table: pa.Table) -> Row:
    """The one row of a block as actors get it."""
    assert table.num_rows == 1
    return {
        name: cell.as_buffer() if pa.types.is_large_binary(cell.type) else cell.as_py()
        for name, cell in ((name, table.column(name)[0]) for name in table.column_names)
    }
