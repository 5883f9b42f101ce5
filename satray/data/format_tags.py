"""Label format `tags`: the classes of a tile as names, or a 0/1 vector, in one cell."""

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from satray.data.annotations import where
from satray.data.format_wide import ID_NAMES
from satray.data.label_cells import Cells, read_cells, same_bits, vector_length
from satray.data.table import MISSING_WORDS, Table, flag_or_number, listed
from satray.errors import InputError

USUAL_NAMES = (
    *("tags", "labels", "tag", "label", "classes", "class"),
    *("class_name", "classname", "label_name", "category"),
)
"""Titles by which a tags column is known, in any case of letters."""

_SEVERAL = frozenset({"tags", "tag", "labels", "classes"})  # whose cells may hold several names


@dataclass(frozen=True)
class Tags:
    """Labels of a column of names."""

    classes: tuple[str, ...]
    """K names."""
    labels: NDArray[np.uint8]
    """(N, K) uint8."""
    single: bool
    """Whether a tile has one class: one name a cell, by the column's title and content."""
    note: str
    """How cells were read, where that was a guess; else empty."""


def tags_column(table: Table, others: frozenset[str], forced: bool) -> str | None:
    """The column of tags: the one so called, else the only other column of words or lists.

    Args:
        table: the label table.
        others: columns with another meaning (key, split, group).
        forced: whether `label_format=tags` was asked for; then words may look like numbers.
    """
    named = [name for usual in USUAL_NAMES for name in table.names if name.lower() == usual]
    for name in named:
        if name not in others and (name in table.lists or table.is_text(name)):
            return name
    ids = id_column(table, others)
    if ids is not None:
        return ids
    for name in named:
        if name not in others and forced:
            return name
    rest = [
        name
        for name in table.names
        if name not in others and (name in table.lists or forced or table.is_text(name))
    ]
    return rest[0] if len(rest) == 1 else None


def id_column(table: Table, others: frozenset[str]) -> str | None:
    """The column of numbers other than 0 and 1 that is called `label`, `class_id` or alike."""
    for name in (name for usual in ID_NAMES for name in table.texts if name.lower() == usual):
        if name in others or table.is_text(name):
            continue
        numbers = {flag_or_number(cell) for cell in pc.unique(table.texts[name]).to_pylist()}
        if not numbers - {None} <= {0.0, 1.0}:
            return name
    return None


def read_tags(
    table: Table,
    keys: tuple[str, ...],
    column: str,
    separator: str = "auto",
    names: tuple[str, ...] | None = None,
    forced: bool = False,
) -> Tags:
    """Class names, sorted (MultiLabelBinarizer's order), and labels.

    An empty cell is a tile without any class; `nan` and the like, and a null list, are refused.

    Args:
        table: the label table.
        keys: N tile names, for messages.
        column: the column.
        separator: `label_separator`.
        names: `classes`; of 0/1 vectors, the names of their places.
        forced: whether `label_format=tags` was asked for; then any number is a name.

    Raises:
        InputError: a missing value; a column that can be read in two ways; 0/1 vectors without
            names, or of another length; numbers that are no ids; no name at all.
    """
    if column in table.lists:
        cells, codes = _lists(table, keys, column)
    else:
        cells, codes = _texts(table, keys, column, separator, forced)
    if cells.vector:
        classes, labels_CK = _vectors(table, keys, column, cells, codes, names)
    else:
        classes = tuple(sorted({name for cell in cells.names for name in cell}))
        position = {name: k for k, name in enumerate(classes)}
        labels_CK = np.zeros((len(cells.names), len(classes)), np.uint8)
        for code, cell in enumerate(cells.names):
            labels_CK[code, [position[name] for name in cell]] = 1
    if not classes:
        raise InputError(f"labels={table.name}: column {column!r} holds no tag")
    labels_CK = np.vstack([labels_CK, np.zeros((1, len(classes)), np.uint8)])  # of empty cells
    single = not cells.lists and column.lower() not in _SEVERAL
    note = f"column {column!r}: {cells.note}" if cells.note else ""
    return Tags(classes, np.ascontiguousarray(labels_CK[codes]), single, note)


def _texts(
    table: Table, keys: tuple[str, ...], column: str, separator: str, forced: bool
) -> tuple[Cells, NDArray[np.int64]]:
    # Tables repeat few combinations: each is looked at once.
    encoded = table.texts[column].combine_chunks().dictionary_encode()
    spellings: list[str] = encoded.dictionary.to_pylist()
    codes = pc.fill_null(encoded.indices, len(spellings)).to_numpy(zero_copy_only=False)

    def refuse(code: int, found: str) -> InputError:
        row = int(np.flatnonzero(codes == code)[0])
        return InputError(f"labels={table.name}: {where(row, keys[row], column)} {found}")

    for code, cell in enumerate(spellings):
        if cell.lower() in MISSING_WORDS:
            raise refuse(code, f"holds {cell!r}, which is no class; accepted: names, or nothing")
    if not forced and (bits := same_bits(spellings)):  # 010, 100: a place a class
        return Cells(bits, lists=True, vector=len(bits[0])), codes
    numbers = [flag_or_number(cell) for cell in spellings]
    whole = [number is not None and number.is_integer() for number in numbers]
    if all(number is not None for number in numbers) and not forced:
        for code, number in enumerate(numbers):
            if not whole[code] or (number or 0) < 0:
                raise refuse(
                    code,
                    f"holds {spellings[code]}; the number of a class is whole and not below 0 "
                    "(label_format=tags takes any, label_positive='>0' makes two classes)",
                )
    if all(whole):  # a column of floats spells them 3.0
        return Cells(tuple((cell.partition(".")[0],) for cell in spellings), lists=False), codes
    counts = np.bincount(codes, minlength=len(spellings) + 1)[: len(spellings)]
    try:
        return read_cells(spellings, counts.tolist(), separator, column), codes
    except InputError as error:
        raise InputError(f"labels={table.name}: {error}") from None


def _lists(table: Table, keys: tuple[str, ...], column: str) -> tuple[Cells, NDArray[np.int64]]:
    position: dict[tuple[str, ...], int] = {}
    codes = np.zeros(table.rows, np.int64)
    for row, cell in enumerate(table.lists[column].to_pylist()):
        if cell is None or any(tag is None for tag in cell):
            raise InputError(
                f"labels={table.name}: {where(row, keys[row], column)} holds a null; a list of "
                "class names is accepted"
            )
        tags = tuple(tag.strip() for tag in cell if tag.strip())
        codes[row] = position.setdefault(tags, len(position))
    names = tuple(position)
    length = vector_length(names, np.bincount(codes, minlength=len(names)).tolist())
    return Cells(names, lists=True, vector=length), codes


def _vectors(
    table: Table,
    keys: tuple[str, ...],
    column: str,
    cells: Cells,
    codes: NDArray[np.int64],
    names: tuple[str, ...] | None,
) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """The names that were given, and a row of labels for each different cell."""
    length = cells.vector
    if names is None or len(names) != length:
        found = "" if names is None else f"; classes has {len(names)}"
        raise InputError(
            f"labels={table.name}: column {column!r} holds lists of {length} values 0 or 1; "
            f"classes=[...] names what each stands for, {length} names in order{found}"
        )
    labels_CK = np.zeros((len(cells.names), length), np.uint8)
    empty = [("nothing",)] if (codes == len(cells.names)).any() else []
    for code, cell in enumerate([*cells.names, *empty]):
        flags = [flag_or_number(part) for part in cell]
        if len(flags) != length or any(flag not in (0.0, 1.0) for flag in flags):
            row = int(np.flatnonzero(codes == code)[0])
            raise InputError(
                f"labels={table.name}: {where(row, keys[row], column)} holds {listed(cell)}; "
                f"{length} values 0 or 1 are accepted, as in its other cells"
            )
        labels_CK[code] = np.array(flags, np.uint8)
    return names, labels_CK


def refuse_unclear(table: Table, others: frozenset[str]) -> InputError:
    """The error for a table in which no column of tags stands out."""
    rest = [name for name in table.names if name not in others]
    return InputError(
        f"label_format=tags: {table.name} has no single column of words beside the key; name it "
        f"{' or '.join(USUAL_NAMES[:2])}; columns: {listed(rest)}"
    )
