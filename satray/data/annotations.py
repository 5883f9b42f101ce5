"""What each label format yields: keys, classes and a 0/1 matrix, before any choice is made."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from satray.data.table import listed, refuse_absent
from satray.errors import InputError


@dataclass(frozen=True)
class Annotations:
    """Labels as the source has them."""

    name: str
    """File name or URI of the source, for messages."""
    keys: tuple[str, ...]
    """N names of tiles, in the source's order."""
    classes: tuple[str, ...]
    """K class names."""
    labels: NDArray[np.uint8]
    """(N, K) uint8, 0 or 1."""
    columns: dict[str, tuple[str | None, ...]]
    """Other columns by name, each of N cells; None where empty."""
    single: bool = False
    """Whether the source gives one class a tile: folders, or one name a cell."""
    notes: tuple[str, ...] = ()
    """What was guessed in reading, a line each."""

    def select(self, classes: tuple[str, ...] | None) -> "Annotations":
        """Keep some classes, in the order given; all where None.

        Raises:
            InputError: a class is not there, or is named twice.
        """
        if classes is None:
            return self
        refuse_twice(classes)
        for wanted in classes:
            if wanted not in self.classes:
                found = f"classes: {self.name} has no class"
                refuse_absent(wanted, self.classes, found, "classes there")
        take = [self.classes.index(wanted) for wanted in classes]
        labels_NK = np.ascontiguousarray(self.labels[:, take])
        return replace(self, classes=tuple(classes), labels=labels_NK)

    def rows(self, keep_N: NDArray[np.bool_]) -> "Annotations":
        """Keep some rows.

        Args:
            keep_N: (N,) bool.
        """
        at = np.flatnonzero(keep_N).tolist()
        return replace(
            self,
            keys=tuple(self.keys[i] for i in at),
            labels=self.labels[at],
            columns={name: tuple(cells[i] for i in at) for name, cells in self.columns.items()},
        )


def refuse_twice(classes: tuple[str, ...]) -> None:
    """Refuse `classes=` that is empty or names a class twice."""
    twice = [name for name in dict.fromkeys(classes) if classes.count(name) > 1]
    if twice:
        raise InputError(f"classes names {listed(twice)} twice; each class is named once")
    if not classes:
        raise InputError("classes=[] keeps no class; leave the key out to keep all")


def where(row: int, key: str, column: str) -> str:
    """Name a cell for a message: row (from 0 here, from 1 in the text), its tile and column."""
    return f"row {row + 1} ({key}), column {column!r}"
