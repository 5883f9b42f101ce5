"""Label format `wide`: one 0/1 column a class."""

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from satray.errors import InputError
from satray.tiles.annotations import refuse_twice, where
from satray.tiles.table import Table, flag_or_number, is_missing, listed, refuse_absent


def class_columns(table: Table, others: frozenset[str]) -> tuple[str, ...]:
    """Columns that hold only 0 and 1 (1.0, true and the like too), gaps aside.

    Args:
        table: the label table.
        others: columns with another meaning (key, split, group).
    """
    return tuple(name for name in table.texts if name not in others and _is_flags(table, name))


def _is_flags(table: Table, column: str) -> bool:
    cells = table.distinct(column)
    if cells is None:
        return False
    numbers = {flag_or_number(cell) for cell in cells if not is_missing(cell)}
    return bool(numbers) and numbers <= {0.0, 1.0}


def read_wide(
    table: Table, keys: tuple[str, ...], classes: tuple[str, ...] | None, others: frozenset[str]
) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """Class names and labels.

    Args:
        table: the label table.
        keys: N tile names, for messages.
        classes: columns to take; None takes all that hold only 0 and 1.
        others: columns with another meaning (key, split, group).

    Returns:
        K names and (N, K) uint8.

    Raises:
        InputError: no such column; a cell that is empty, or neither 0 nor 1.
    """
    if classes is None:
        classes = class_columns(table, others)
        if not classes:
            raise InputError(
                f"label_format=wide: {table.name} has no column that holds only 0 and 1; "
                f"columns: {listed(table.names)}"
            )
    refuse_twice(classes)
    labels_NK = np.zeros((table.rows, len(classes)), np.uint8)
    for k, name in enumerate(classes):
        if name not in table.texts:
            candidates = [column for column in table.texts if column not in others]
            found = f"classes: {table.name} has no column"
            refuse_absent(name, candidates, found, "columns")
        labels_NK[:, k] = _flags(table, name, keys)
    return tuple(classes), labels_NK


def _flags(table: Table, column: str, keys: tuple[str, ...]) -> NDArray[np.uint8]:
    """One class as (N,) uint8, by way of the column's few spellings."""
    cells = table.texts[column].combine_chunks().dictionary_encode()
    spellings = cells.dictionary.to_pylist()
    numbers = np.array(
        [2.0 if (n := flag_or_number(cell)) is None else n for cell in spellings], np.float64
    )
    good = (numbers == 0) | (numbers == 1)
    codes = pc.fill_null(cells.indices, len(spellings)).to_numpy(zero_copy_only=False)
    bad = np.flatnonzero(~np.append(good, False)[codes])
    if bad.size:
        row = int(bad[0])
        cell = spellings[codes[row]] if codes[row] < len(spellings) else None
        found = "is empty" if cell is None else f"holds {cell!r}"
        raise InputError(
            f"labels={table.name}: {where(row, keys[row], column)} {found}; a class column holds "
            "0 or 1 (classes=[...] leaves columns out)"
        )
    flags_N: NDArray[np.uint8] = np.append(numbers, 0)[codes].astype(np.uint8)
    return flags_N
