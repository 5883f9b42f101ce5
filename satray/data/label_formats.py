"""What the formats of label tables yield: names of classes and a 0/1 matrix, before any choice.

`wide` has a 0/1 column a class, `tags` the names of a tile's classes in one cell, `rle` a row a
mask, as the Airbus ship competition. What separates names in a cell is guessed from the whole
column and its title (`label_separator=auto`), and where it can be read in two ways it is refused,
with the key that decides.
"""

import json
import operator
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from satray.config.prepare import POSITIVE, PrepareRecipe
from satray.data.label_table import Column, Table, refuse_absent
from satray.errors import InputError, listed

Format = Literal["wide", "tags", "rle"]

MASK_TITLE = "encodedpixels"
TITLES = (
    *("tags", "tag", "labels", "label", "classes", "class"),
    *("class_name", "classname", "label_name", "category", "class_id", "label_id"),
)
"""Titles of a column of classes, lower case; earlier ones win."""

SEVERAL = frozenset({"tags", "tag", "labels", "classes"})
"""Those whose cells may hold several names, even where none does."""

SEPARATORS = {"comma": ",", "semicolon": ";", "pipe": "|", "blank": " "}
"""Words for `label_separator` beside auto and none; any other text is a separator itself."""

_BITS = frozenset(("0", "1", "0.0", "1.0", "true", "false"))
_LIST = re.compile(r"\w*[\[({].*[\])}]", re.S)
_MIXED = re.compile(r"\s*[,;|/+&]\s*")
_RUNS = re.compile(r"(?:[1-9]\d{0,9}\s+[1-9]\d{0,9}(?:\s+|$))+", re.ASCII)  # start and length


@dataclass(frozen=True)
class Source:
    """A table as the formats read it."""

    table: Table
    keys: tuple[str, ...]
    """N tile names."""
    free: dict[str, Column]
    """Columns that are neither key, split nor group."""
    recipe: PrepareRecipe

    def refused(self, row: int, title: str, found: str) -> InputError:
        """The error that names a cell: row, from 0 here and from 1 in the text, tile and column."""
        cell = f"row {row + 1} ({self.keys[row]}), column {title!r}"
        return InputError(f"labels={self.table.name}: {cell} {found}")

    def refuse_cells(self, title: str, wrong: Sequence[bool] | NDArray[np.bool_], why: str) -> None:
        """Refuse the first of a column's different cells that is wrong."""
        if np.any(wrong):
            column, code = self.free[title], int(np.flatnonzero(wrong)[0])
            row = int(np.flatnonzero(column.codes == code)[0])
            raise self.refused(row, title, f"holds {column.texts[code][:40]!r}; {why}")


@dataclass(frozen=True)
class Found:
    """What a format yields, before classes are chosen."""

    classes: tuple[str, ...]
    labels: NDArray[np.uint8]
    """(M, K) uint8."""
    used: tuple[str, ...]
    """Columns of labels."""
    single: bool = False
    """Whether a tile has one class, by the column's title and content."""
    notes: tuple[str, ...] = ()
    rows: NDArray[np.int64] | None = None
    """(M,) rows of the tiles, where some tile has several."""


def recognise(source: Source) -> Format:
    """The format that the recipe says, or that the columns have.

    Raises:
        InputError: none, or both a column of classes and 0/1 columns.
    """
    recipe, table = source.recipe, source.table
    if recipe.label_format == "folders":
        raise InputError("label_format=folders reads no table; leave labels= out")
    if recipe.label_format != "auto":
        return recipe.label_format
    if any(title.lower() == MASK_TITLE for title in table.columns):
        return "rle"
    chosen = recipe.classes is not None and set(recipe.classes) <= table.columns.keys()
    if chosen or recipe.label_positive is not None:
        return "wide"
    flags = [title for title, column in source.free.items() if flag_kind(column)]
    tags = tags_column(source)
    if flags and tags is not None and tags.lower() in TITLES:
        raise InputError(
            f"labels={table.name} has classes in column {tags!r} and 0/1 columns "
            f"({listed(flags, 3)}); say label_format=tags or label_format=wide"
        )
    if flags or tags is not None:
        return "wide" if flags else "tags"
    raise InputError(
        f"labels={table.name} is no known label table: accepted are 0/1 columns (wide), a column "
        f"of words called tags or label (tags), EncodedPixels (rle); label_format=tags takes the "
        f"numbers of a single column for classes; columns: {listed(table.columns)}"
    )


def refuse_twice(classes: tuple[str, ...]) -> None:
    """Refuse `classes=` that is empty or names a class twice."""
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise InputError(f"classes names {listed(twice)} twice; each class is named once")
    if not classes:
        raise InputError("classes=[] keeps no class; leave the key out to keep all")


def name_matrix(names: Iterable[Iterable[str]]) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """The different names, sorted, and (N, K) uint8: which of them each row has."""
    names = [tuple(row) for row in names]
    classes = tuple(sorted({name for row in names for name in row}))
    position = {name: k for k, name in enumerate(classes)}
    labels_NK = np.zeros((len(names), len(classes)), np.uint8)
    for row, there in enumerate(names):
        labels_NK[row, [position[name] for name in there]] = 1
    return classes, labels_NK


# ---- wide: one 0/1 column a class


def flag_kind(column: Column) -> Literal["", "flags", "nearly"]:
    """Whether a column holds only 0 and 1 (1.0, true and the like too), or nearly.

    Nearly: in at least three quarters of its filled cells, beside few different others.
    """
    filled = ~column.missing
    if column.lists or not column.is_few or not filled.any():
        return ""
    counts, flags = column.counts[filled], np.isin(column.numbers[filled], (0, 1))
    if flags.all():
        return "flags"
    return "nearly" if counts[flags].sum() >= 0.75 * counts.sum() else ""


def read_wide(source: Source) -> Found:
    """Columns of `classes=`; else all of flags, and those that nearly are, which are refused."""
    recipe, name = source.recipe, source.table.name
    classes = recipe.classes
    if classes is None and recipe.label_positive is not None:
        classes = tuple(t for t, column in source.free.items() if column.kind == "numbers")
        if len(classes) > 1:
            raise InputError(
                f"label_positive={recipe.label_positive}: {name} has numbers in "
                f"{listed(classes)}; classes=[...] names the columns that are classes"
            )
    elif classes is None:
        classes = tuple(title for title, column in source.free.items() if flag_kind(column))
    if not classes and recipe.classes is None:
        raise InputError(
            f"label_format=wide: {name} has no column that holds only 0 and 1 "
            f"(classes=[...] names columns); columns: {listed(source.table.columns)}"
        )
    refuse_twice(classes)
    for title in classes:
        there = source.table.columns.get(title)
        if there is None or there.lists:
            refuse_absent(title, source.free, f"classes: {name} has no column", "columns")
    labels_NK = np.stack([_flags(source, title) for title in classes], axis=1)
    return Found(classes, labels_NK, classes)


def _flags(source: Source, title: str) -> NDArray[np.uint8]:
    """One class as (N,) uint8."""
    column = source.table.columns[title]
    numbers = column.numbers
    if source.recipe.label_positive is not None:
        condition = re.fullmatch(POSITIVE, source.recipe.label_positive)
        assert condition is not None  # the recipe has checked it
        over = operator.ge if condition[1] == ">=" else operator.gt
        numbers = np.where(np.isnan(numbers), numbers, over(numbers, float(condition[2])))
    known = np.append(numbers, np.nan)[column.codes]
    bad = np.flatnonzero((known != 0) & (known != 1))
    if bad.size:
        code = column.codes[bad[0]]
        found = "is empty" if code < 0 else f"holds {column.texts[code]!r}"
        raise source.refused(
            int(bad[0]),
            title,
            f"{found}; a class column holds 0 or 1, {bad.size:,} of its {len(known):,} cells do "
            "not (classes=[...] leaves columns out, label_positive='>0' takes numbers above 0 for "
            "1, label_format=tags takes numbers of classes)",
        )
    return known.astype(np.uint8)


# ---- tags: the classes of a tile as names in one cell


def tags_column(source: Source) -> str | None:
    """The column so called, of words before one of class ids; else the only one of words.

    Under `label_format=tags` words may look like numbers.
    """
    forced, free = source.recipe.label_format == "tags", source.free
    worded = [title for title, column in free.items() if column.is_text]
    called = [title for usual in TITLES for title in free if title.lower() == usual]
    ids = [title for title in called if forced or not flag_kind(free[title])]
    for title in (*(title for title in called if title in worded), *ids):
        return title
    rest = list(free) if forced else worded
    return rest[0] if len(rest) == 1 else None


def read_tags(source: Source) -> Found:
    """Class names, sorted (MultiLabelBinarizer's order); an empty cell is a tile without any."""
    title = tags_column(source)
    if title is None:
        raise InputError(
            f"label_format=tags: {source.table.name} has no single column of words beside the key; "
            f"name it tags or label; columns: {listed(source.free)}"
        )
    names, several, note = _names(source, title)
    classes, labels_CK = name_matrix(names)
    if not classes:
        raise InputError(f"labels={source.table.name}: column {title!r} holds no tag")
    if several and {name.lower() for name in classes} <= _BITS:
        raise InputError(
            f"labels={source.table.name}: column {title!r} holds vectors of 0 and 1; accepted: "
            "names of classes, or a column a class (wide)"
        )
    labels_CK = np.vstack([labels_CK, np.zeros((1, len(classes)), np.uint8)])  # of empty cells
    labels_NK = np.ascontiguousarray(labels_CK[source.free[title].codes])
    notes = [] if title.lower() in TITLES else [f"classes are those of column {title!r}"]
    if note:
        notes.append(f"column {title!r}: {note}")
    single = not several and title.lower() not in SEVERAL
    return Found(classes, labels_NK, (title,), single, tuple(notes))


def _names(source: Source, title: str) -> tuple[list[tuple[str, ...]], bool, str]:
    """The names in each different cell of a column, whether cells may hold several, and a note."""
    column, recipe = source.free[title], source.recipe
    source.refuse_cells(title, column.missing, "which is no class; accepted: names, or nothing")
    if column.lists:
        cells = [json.loads(text) for text in column.texts]
        source.refuse_cells(title, [None in c for c in cells], "accepted: a list of class names")
        return [tuple(n for v in c if (n := str(v).strip())) for c in cells], True, ""
    if column.texts and not np.isnan(column.numbers).any():
        bits = [re.fullmatch("0[01]{2,}", text) is not None for text in column.texts]
        source.refuse_cells(title, bits, "accepted: a column a class, or the number of a class")
        source.refuse_cells(
            title,
            (column.numbers % 1 != 0) | (column.numbers < 0),
            "a class's number is whole and not below 0 (label_positive='>0' makes two classes)",
        )
        # a column of floats spells them 3.0
        return [(text.partition(".")[0],) for text in column.texts], False, ""
    if recipe.label_separator not in ("auto", "none"):
        mark = SEPARATORS.get(recipe.label_separator, recipe.label_separator)
        return [_cut(text, mark) for text in column.texts], True, ""
    if recipe.label_separator == "none":
        return [(text,) for text in column.texts], False, ""
    lists = [_LIST.fullmatch(text) is not None for text in column.texts]
    source.refuse_cells(
        title, lists, "accepted: names with one separator between them, or a list of Parquet"
    )
    try:
        guessed, note = _guessed(column.texts, title)
    except InputError as error:
        raise InputError(f"labels={source.table.name}: {error}") from None
    return [_cut(text, guessed) for text in column.texts], guessed is not None, note


# ---- which names a cell holds: cut at a separator, and nowhere else


def _cut(cell: str, mark: str | None) -> tuple[str, ...]:
    if mark is None:
        return (cell,)
    parts = cell.split() if mark == " " else cell.split(mark)
    return tuple(name for part in parts if (name := part.strip()))


def _guessed(cells: Sequence[str], title: str) -> tuple[str | None, str]:
    """The separator of a column, None where cells are whole names; and what to say of it.

    Raises:
        InputError: the column can be read in two ways.
    """
    words = [frozenset(cell.split()) for cell in cells]
    there = [mark for mark in ";|," if any(mark in cell for cell in cells)]
    marks = [mark for mark in there if mark != ","] or there
    long = next((cell for cell in cells if len(cell.split()) > 1), "")
    if marks and (len(marks) > 1 or title.lower() not in SEVERAL):
        named = [word for word, mark in SEPARATORS.items() if mark in marks]
        raise _unclear(title, f"cells hold {' and '.join(marks)}", f"{', '.join(named)} or none")
    mark, note = (marks[0] if marks else None), ""
    if not marks and long and title.lower() in ("tags", "tag"):  # as in the Planet table
        mark = " "
        note = f"cells are cut at blanks ({long!r}); label_separator=none keeps them whole"
    elif not marks and long:
        # fewer words than cells are names that combine; the same in another order are none
        if not len(frozenset().union(*words)) >= len(set(words)) == len(cells):
            raise _unclear(title, f"{long!r} may be one name or several", "blank or none")
        note = f"cells are whole names ({long!r}); label_separator=blank cuts them"
    if mark == ",":
        _refuse_cut_names([_cut(cell, mark) for cell in cells], title)
    names = {name for cell in cells for name in _cut(cell, mark)}
    parts_of = {name: [part for part in _MIXED.split(name) if part] for name in sorted(names)}
    known = {parts[0] for parts in parts_of.values() if len(parts) == 1}
    for name, parts in parts_of.items():
        if len(parts) != 1 and known.issuperset(parts):
            raise _unclear(title, f"{name!r} is no name beside {listed(sorted(known), 3)}", "none")
    return mark, note


def _refuse_cut_names(names: Sequence[tuple[str, ...]], title: str) -> None:
    """Refuse names that a comma has cut: parts that always stand together, the second in small.

    `Beaches, dunes, sands` is the name of one CORINE class.
    """
    alone = Counter(name for cell in names for name in set(cell))
    pairs = Counter(pair for cell in names for pair in set(pairwise(cell)))
    for (one, other), together in pairs.items():
        if alone[one] == alone[other] == together and one[0].isupper() and other[0].islower():
            raise _unclear(title, f"'{one}, {other}' may be one name or several", "comma or none")


def _unclear(title: str, found: str, ways: str) -> InputError:
    return InputError(
        f"column {title!r}: {found}; say label_separator={ways} (accepted: auto, none, "
        f"{', '.join(SEPARATORS)}, or the separator itself)"
    )


# ---- rle: masks as the Airbus ship competition has them, many rows an image


def read_rle(source: Source) -> Found:
    """One row an image, by first appearance; class `ship` where any of its rows has a mask."""
    table = source.table
    title = next((title for title in table.columns if title.lower() == MASK_TITLE), None)
    if title is None:
        raise InputError(
            f"label_format=rle: {table.name} has no column EncodedPixels; columns: "
            f"{listed(table.columns)}"
        )
    masks = table.columns[title]
    wrong = [_RUNS.fullmatch(text) is None for text in masks.texts]
    source.refuse_cells(
        title, wrong, "a mask is pairs of start and length counted from 1, or empty"
    )
    _, first_M, image_N = np.unique(source.keys, return_index=True, return_inverse=True)
    ship_M = np.bincount(image_N, weights=masks.codes >= 0) > 0
    order = np.argsort(first_M)
    labels_M1 = ship_M[order, None].astype(np.uint8)
    return Found(("ship",), labels_M1, (title,), rows=first_M[order])
