"""Tiles that could not be read, kept beside the run's state until they become a product.

Each worker writes those of a pseudo-epoch before its checkpoint: a driver that is killed, even
after the last one, loses none of them. No torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from satray.storage import Storage, join

FOLDER = "unreadable"
"""Below the run's state."""

Lost = dict[tuple[str, int], str]
"""Split and row -> reason."""


def keep(
    storage: Storage,
    state: str,
    pseudo_epoch: int,
    rank: int,
    errors: Mapping[str, Mapping[int, str]],
) -> None:
    """Write what a worker could not read; nothing where there is nothing.

    Args:
        storage: how URIs are reached.
        state: folder of the run's state.
        pseudo_epoch: in which it was met, 0 for the first.
        rank: of the worker.
        errors: split -> row of the split -> reason.
    """
    if any(errors.values()):
        name = f"pseudo-epoch-{pseudo_epoch:06d}-{rank:04d}.json"
        storage.write(join(state, FOLDER, name), json.dumps(errors).encode())


def kept(storage: Storage, state: str) -> Lost:
    """All that was kept, of all attempts."""
    found: Lost = {}
    for entry in storage.list(join(state, FOLDER)):
        for split, rows in json.loads(storage.read(entry.uri)).items():
            found.update({(split, int(row)): reason for row, reason in rows.items()})
    return found
