"""Label format `rle`: masks as the Airbus ship competition has them, many rows an image."""

import numpy as np
from numpy.typing import NDArray

from satray.data.annotations import Annotations, where
from satray.data.rle import RUNS
from satray.data.table import Table, listed
from satray.errors import InputError

CLASS = "ship"
"""The one class; a tile with any mask has it."""

USUAL_NAME = "encodedpixels"


def mask_column(table: Table, others: frozenset[str], forced: bool) -> str | None:
    """The column of masks: the one called EncodedPixels; if forced, also the only other one."""
    for name in table.texts:
        if name.lower() == USUAL_NAME:
            return name
    rest = [name for name in table.texts if name not in others]
    return rest[0] if forced and len(rest) == 1 else None


def read_rle(
    table: Table, keys: tuple[str, ...], column: str, aligned: dict[str, tuple[str | None, ...]]
) -> Annotations:
    """One row an image, by first appearance; class `ship` where any of its rows has a mask.

    Args:
        table: the label table, a row a mask.
        keys: a tile name a row.
        column: the column of masks.
        aligned: other columns, a cell a row; the rows of one image must agree in them.

    Raises:
        InputError: a mask that is not run-length; rows of one image that differ elsewhere.
    """
    position: dict[str, int] = {}
    ship: list[int] = []
    first: list[int] = []
    for row, (key, cell) in enumerate(zip(keys, table.values(column), strict=True)):
        if cell is not None and RUNS.fullmatch(cell) is None:
            raise InputError(
                f"labels={table.name}: {where(row, key, column)} holds {cell[:40]!r}; a mask is "
                "pairs of start and length counted from 1, or empty"
            )
        at = position.setdefault(key, len(ship))
        if at == len(ship):
            ship.append(0)
            first.append(row)
        ship[at] |= cell is not None
    for name, cells in aligned.items():
        for row, key in enumerate(keys):
            before = cells[first[position[key]]]
            if cells[row] != before:
                raise InputError(
                    f"labels={table.name}: {where(row, key, name)} holds {cells[row]!r}, an "
                    f"earlier row of this image {before!r}; they must agree"
                )
    columns = {name: tuple(cells[row] for row in first) for name, cells in aligned.items()}
    labels_N1: NDArray[np.uint8] = np.array(ship, np.uint8).reshape(-1, 1)
    return Annotations(table.name, tuple(position), (CLASS,), labels_N1, columns)


def refuse_unclear(table: Table) -> InputError:
    """The error for a table without a column of masks."""
    return InputError(
        f"label_format=rle: {table.name} has no column EncodedPixels; columns: "
        f"{listed(table.names)}"
    )
