"""Label format `wide`: one 0/1 column a class."""

import operator
import re

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from satray.config.prepare import POSITIVE
from satray.data.annotations import refuse_twice, where
from satray.data.table import Table, flag_or_number, is_missing, listed, refuse_absent
from satray.errors import InputError

ID_NAMES = ("label", "class", "class_id", "classid", "label_id", "labelid", "category")
"""Titles of columns whose whole numbers may be those of classes."""

FEW = 0.25
"""Largest share of other values in a column that is still taken for one of 0 and 1."""

_WORDS = {"yes": 1.0, "y": 1.0, "no": 0.0, "n": 0.0}
_UNKNOWN = frozenset({"-1", "-1.0", "?", "-", "unknown", "unsure"})  # however many they are


def class_columns(table: Table, others: frozenset[str]) -> tuple[str, ...]:
    """Columns that hold only 0 and 1 (1.0, true and the like too), gaps aside.

    Args:
        table: the label table.
        others: columns with another meaning (key, split, group).
    """
    return tuple(name for name in table.texts if name not in others and _is_flags(table, name))


def word_columns(table: Table, others: frozenset[str]) -> tuple[str, ...]:
    """Columns that hold only yes and no; arguments as of `class_columns`."""
    return tuple(
        name
        for name in table.texts
        if name not in others
        and (cells := [c for c in table.distinct(name) or [] if not is_missing(c)])
        and all(str(cell).lower() in _WORDS for cell in cells)
    )


def nearly_flags(table: Table, others: frozenset[str]) -> tuple[str, ...]:
    """Columns of 0 and 1 with a few other values, among them counts, -1 for unknown, and `?`.

    Few are at most a quarter of the filled cells, -1, `?` and the like not counted; where 0 and 1
    do not both occur, also at most three different ones. Yes and no are 1 and 0.

    Args:
        table: the label table.
        others: columns with another meaning.
    """
    found = []
    for name in table.texts:
        if name in others or table.distinct(name) is None:
            continue
        flags, rest = set(), []
        filled = odd = 0
        for item in pc.value_counts(table.texts[name]).to_pylist():
            cell, count = item["values"], item["counts"]
            if is_missing(cell):
                continue
            filled += count
            flag = _flag(cell)
            if flag in (0.0, 1.0):
                flags.add(flag)
            else:
                odd += count if cell.lower() not in _UNKNOWN else 0
                rest.append(cell)
        if flags and rest and odd <= FEW * filled and (len(flags) == 2 or len(rest) <= 3):
            found.append(name)
    return tuple(found)


def _is_flags(table: Table, column: str) -> bool:
    cells = table.distinct(column)
    if cells is None:
        return False
    numbers = {flag_or_number(cell) for cell in cells if not is_missing(cell)}
    return bool(numbers) and numbers <= {0.0, 1.0}


def read_wide(
    table: Table,
    keys: tuple[str, ...],
    classes: tuple[str, ...] | None,
    others: frozenset[str],
    positive: str | None = None,
) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """Class names and labels.

    Args:
        table: the label table.
        keys: N tile names, for messages.
        classes: columns to take; None takes all that hold only 0 and 1, or yes and no, and those
            that nearly do, whose other values are refused.
        others: columns with another meaning (key, split, group).
        positive: `label_positive`, as `>0`: which numbers mean that a tile has the class; then a
            single column of numbers is taken too.

    Returns:
        K names and (N, K) uint8.

    Raises:
        InputError: no such column; a cell that is empty, or neither 0 nor 1; `positive`, and
            other columns of whole numbers that may be meant.
    """
    if classes is None:
        taken = {
            *class_columns(table, others),
            *nearly_flags(table, others),
            *word_columns(table, others),
        }
        classes = tuple(name for name in table.texts if name in taken)
        numbers = [c for c in table.texts if c not in others and not table.is_text(c)]
        counts = [c for c in numbers if c not in taken and _may_be_counts(table, c)]
        if positive is not None and counts and len(numbers) > 1:
            raise InputError(
                f"label_positive={positive}: {table.name} has {listed([*classes, *counts])}; "
                "classes=[...] names the columns that are classes"
            )
        if positive is not None and not classes and len(numbers) == 1:
            classes = (numbers[0],)
        if not classes:
            raise InputError(
                f"label_format=wide: {table.name} has no column that holds only 0 and 1 "
                f"(classes=[...] names columns); columns: {listed(table.names)}"
            )
    refuse_twice(classes)
    labels_NK = np.zeros((table.rows, len(classes)), np.uint8)
    for k, name in enumerate(classes):
        if name not in table.texts:
            candidates = [column for column in table.texts if column not in others]
            found = f"classes: {table.name} has no column"
            refuse_absent(name, candidates, found, "columns")
        labels_NK[:, k] = _flags(table, name, keys, positive)
    return tuple(classes), labels_NK


def _flags(
    table: Table, column: str, keys: tuple[str, ...], positive: str | None
) -> NDArray[np.uint8]:
    """One class as (N,) uint8, by way of the column's spellings."""
    cells = table.texts[column].combine_chunks().dictionary_encode()
    spellings: list[str] = cells.dictionary.to_pylist()
    words = [_WORDS.get(cell.lower()) for cell in spellings]
    numbers = [flag_or_number(cell) for cell in spellings]
    if words.count(None) < numbers.count(None):
        numbers = words
    if positive is not None:
        numbers = [None if n is None else float(_over(n, positive)) for n in numbers]
    good = np.array([number in (0.0, 1.0) for number in numbers], bool)
    codes = pc.fill_null(cells.indices, len(spellings)).to_numpy(zero_copy_only=False)
    bad = np.flatnonzero(~np.append(good, False)[codes])
    if bad.size:
        row = int(bad[0])
        cell = spellings[codes[row]] if codes[row] < len(spellings) else None
        empty = cell is None or is_missing(cell)
        found = "is empty" if cell is None else f"holds {cell!r}"
        ways = "classes=[...] leaves columns out"
        if not empty and flag_or_number(cell) is not None:
            ways = f"label_positive='>0' takes numbers above 0 for 1, {ways}"
            if column.lower() in ID_NAMES:
                ways += ", label_format=tags takes numbers of classes"
        raise InputError(
            f"labels={table.name}: {where(row, keys[row], column)} {found}; a class column holds "
            f"0 or 1, {bad.size:,} of its {table.rows:,} cells do not ({ways})"
        )
    known = [0.0 if number is None else number for number in numbers]
    flags_N: NDArray[np.uint8] = np.array([*known, 0])[codes].astype(np.uint8)
    return flags_N


def _flag(cell: str) -> float | None:
    """The number that a cell spells, yes and no as 1 and 0."""
    return _WORDS.get(cell.lower(), flag_or_number(cell))


def _may_be_counts(table: Table, column: str) -> bool:
    """Whether a column holds whole numbers, 0 among them."""
    cells = table.distinct(column) or []
    numbers = [flag_or_number(cell) for cell in cells if not is_missing(cell)]
    return 0.0 in numbers and all(n is not None and n.is_integer() for n in numbers)


def _over(number: float, positive: str) -> bool:
    found = re.fullmatch(POSITIVE, positive)
    assert found is not None  # the recipe has checked it
    over = operator.ge if found[1] == ">=" else operator.gt
    return bool(over(number, float(found[2])))
