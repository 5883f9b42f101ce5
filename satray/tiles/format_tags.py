"""Label format `tags`: the classes of a tile as words in one cell, as the Planet data has them."""

import re

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from satray.errors import InputError
from satray.tiles.annotations import where
from satray.tiles.table import MISSING_WORDS, Table, listed

USUAL_NAMES = ("tags", "labels", "tag", "label", "classes", "class")
"""Titles by which a tags column is known, in any case of letters."""

_OTHER_SEPARATORS = re.compile(r"[,;|]")


def tags_column(table: Table, others: frozenset[str], forced: bool) -> str | None:
    """The column of tags: the one so called, else the only other column of words or lists.

    Args:
        table: the label table.
        others: columns with another meaning (key, split, group).
        forced: whether `label_format=tags` was asked for; then words may look like numbers.
    """
    named = [name for usual in USUAL_NAMES for name in table.names if name.lower() == usual]
    for name in named:
        if name not in others and (forced or name in table.lists or table.is_text(name)):
            return name
    rest = [
        name
        for name in table.names
        if name not in others and (name in table.lists or forced or table.is_text(name))
    ]
    return rest[0] if len(rest) == 1 else None


def read_tags(
    table: Table, keys: tuple[str, ...], column: str
) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """Class names, sorted (MultiLabelBinarizer's order), and labels.

    An empty cell is a tile without any class; `nan` and the like, and a null list, are refused.

    Returns:
        K names and (N, K) uint8.

    Raises:
        InputError: a missing value, another separator than spaces, or no tag at all.
    """
    tags = _lists(table, keys, column) if column in table.lists else _words(table, keys, column)
    classes = tuple(sorted({tag for row in tags for tag in row}))
    if not classes:
        raise InputError(f"labels={table.name}: column {column!r} holds no tag")
    position = {name: k for k, name in enumerate(classes)}
    labels_NK = np.zeros((len(tags), len(classes)), np.uint8)
    for row, names in enumerate(tags):
        for name in names:
            labels_NK[row, position[name]] = 1
    return classes, labels_NK


def _words(table: Table, keys: tuple[str, ...], column: str) -> list[list[str]]:
    # Tables repeat few combinations: each is looked at once.
    cells = table.texts[column].combine_chunks().dictionary_encode()
    spellings: list[str] = cells.dictionary.to_pylist()
    codes = pc.fill_null(cells.indices, len(spellings)).to_pylist()
    split = [cell.split() for cell in spellings]
    for code, cell in enumerate(spellings):
        if cell.lower() in MISSING_WORDS or _OTHER_SEPARATORS.search(cell):
            row = codes.index(code)
            raise InputError(
                f"labels={table.name}: {where(row, keys[row], column)} holds {cell[:60]!r}; tags "
                "are words with spaces between them"
            )
    split.append([])
    return [split[code] for code in codes]


def _lists(table: Table, keys: tuple[str, ...], column: str) -> list[list[str]]:
    rows: list[list[str]] = []
    for row, cell in enumerate(table.lists[column].to_pylist()):
        if cell is None or any(tag is None for tag in cell):
            raise InputError(
                f"labels={table.name}: {where(row, keys[row], column)} holds a null; a list of "
                "class names is accepted"
            )
        rows.append(cell)
    return rows


def refuse_unclear(table: Table, others: frozenset[str]) -> InputError:
    """The error for a table in which no column of tags stands out."""
    rest = [name for name in table.names if name not in others]
    return InputError(
        f"label_format=tags: {table.name} has no single column of words beside the key; name it "
        f"{' or '.join(USUAL_NAMES[:2])}; columns: {listed(rest)}"
    )
