"""Are the tiles still those that `prepare` read? A look at some of them, before anything starts.

Whatever reads tiles of an index checks each (`Storage.read`); this spares a person the wait for
workers where an archive was overwritten as a whole.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from satray.data.index import TileIndex, versions
from satray.errors import InputError
from satray.storage import Storage

LOOKED_AT = 256
"""Tiles looked at, spread evenly over the index: one HEAD request each, a second in all."""

_AT_ONCE = 32


def check_unchanged(index: TileIndex, uri: str, storage: Storage, budget: float) -> list[str]:
    """Refuse an index of which more tiles have changed, or are gone, than a budget allows.

    Args:
        index: the index.
        uri: its place, for messages.
        storage: where its tiles are.
        budget: `error_budget`.

    Returns:
        a line where some have changed, but no more than that; else nothing.

    Raises:
        InputError: more.
    """
    rows = np.unique(np.linspace(0, len(index) - 1, min(LOOKED_AT, len(index))).astype(np.int64))
    found = unlike(index.table.take(pa.array(rows)), storage)
    if not found:
        return []
    name, why = found[0]
    told = (
        f"{len(found):,} of {len(rows):,} tiles looked at are not those that prepare read, e.g. "
        f"{name}: {why}"
    )
    if len(found) > budget * len(rows):
        raise InputError(f"index={uri}: {told}; prepare again, or restore them (error_budget="
                         f"{budget:g})")  # fmt: skip
    return [f"note: {told}"]


def unlike(table: pa.Table, storage: Storage) -> list[tuple[str, str]]:
    """Id and reason of each tile of a table that is not what its index says, in order.

    Args:
        table: rows of an index.
        storage: where the tiles are.
    """
    uris: Sequence[str] = table.column("uri").to_pylist()
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="look") as pool:
        reasons = pool.map(storage.unlike, uris, versions(table))
        return [
            (name, why)
            for name, why in zip(table.column("tile_id").to_pylist(), reasons, strict=True)
            if why is not None
        ]
