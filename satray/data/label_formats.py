"""What the formats of label tables yield: names of classes and a 0/1 matrix, before any choice.

`wide` has a 0/1 column a class, `tags` the names of a tile's classes in one cell (or a 0/1 vector),
`rle` a row a mask, as the Airbus ship competition. What separates names in a cell is guessed from
the whole column (`label_separator=auto`), and where a column can be read in two ways it is refused,
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

MASK_TITLE = "encodedpixels"
TAG_TITLES = (
    *("tags", "labels", "tag", "label", "classes", "class"),
    *("class_name", "classname", "label_name", "category"),
)
ID_TITLES = ("label", "class", "class_id", "classid", "label_id", "labelid", "category")
FEW = 0.25
"""Largest share of other values in a column that is still taken for one of 0 and 1."""

SEPARATORS = {"comma": ",", "semicolon": ";", "pipe": "|", "blank": " "}
"""Words for `label_separator` beside auto and none; any other text is a separator itself."""

_MIXED = re.compile(r"\s*[,;|/+&\t\n]\s*")
_QUOTED = re.compile(r"""\s*,?\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)')\s*,?\s*""")
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_CALL = re.compile(r"\w+\((.*?)(?:,\s*dtype=[^)]*)?\)", re.S)  # array([...], dtype=object)
_BIT = re.compile(r"[01](?:\.0*)?|true|false", re.I)
_NUMBERS = re.compile(r"(?:[-+.\de]+|true|false)(?:[\s,;|]+(?:[-+.\de]+|true|false))*", re.I)
_SEVERAL = frozenset({"tags", "tag", "labels", "classes"})  # whose cells may hold several names
_WORDS = {"yes": 1.0, "y": 1.0, "no": 0.0, "n": 0.0}
_UNKNOWN = frozenset({"-1", "-1.0", "?", "-", "unknown", "unsure"})  # however many they are
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

    def titled(self, titles: Iterable[str]) -> list[str]:
        """The free columns of some titles, in the titles' order; capitals do not matter."""
        return [title for usual in titles for title in self.free if title.lower() == usual]


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


@dataclass(frozen=True)
class Cells:
    """The different cells of a column, read."""

    names: tuple[tuple[str, ...], ...]
    """The names in each, in the order of the spellings given."""
    lists: bool
    """Whether cells may hold several names: written as lists, or cut at a separator."""
    vector: int = 0
    """Length of the 0/1 vectors that the cells are; 0 where they hold names."""
    note: str = ""
    """How they were read, where that was a guess."""


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


def flag_kind(column: Column) -> Literal["", "flags", "words", "nearly"]:
    """Whether a column holds only 0 and 1 (1.0, true and the like too); only yes and no; or nearly.

    Nearly: with few other values, among them counts, -1 for unknown, and `?`. Few are at most a
    quarter of the filled cells, -1, `?` and the like not counted; where 0 and 1 do not both occur,
    also at most three different ones. Yes and no are 1 and 0.
    """
    filled = np.flatnonzero(~column.missing)
    if column.lists or not column.is_few or not filled.size:
        return ""
    words = [column.texts[cell].lower() for cell in filled]
    numbers, counts = column.numbers[filled], column.counts[filled]
    if np.isin(numbers, (0, 1)).all():
        return "flags"
    if all(word in _WORDS for word in words):
        return "words"
    values = [_WORDS.get(word, number) for word, number in zip(words, numbers, strict=True)]
    flags = {value for value in values if value in (0, 1)}
    rest = [n for n, value in enumerate(values) if value not in (0, 1)]
    odd = sum(counts[n] for n in rest if words[n] not in _UNKNOWN)
    few = odd <= FEW * counts.sum() and (len(flags) == 2 or len(rest) <= 3)
    return "nearly" if flags and few else ""


def read_wide(source: Source) -> Found:
    """Columns of `classes=`; else all of flags, and those that nearly are, which are refused."""
    recipe, name = source.recipe, source.table.name
    classes = recipe.classes
    if classes is None:
        classes = tuple(title for title, column in source.free.items() if flag_kind(column))
        if recipe.label_positive is not None:
            numbers = [title for title, column in source.free.items() if column.kind == "numbers"]
            if not set(numbers) <= set(classes) and len(numbers) > 1:
                raise InputError(
                    f"label_positive={recipe.label_positive}: {name} has numbers in "
                    f"{listed(numbers)}; classes=[...] names the columns that are classes"
                )
            classes = classes or tuple(numbers)
        if not classes:
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
    words = np.array([_WORDS.get(text.lower(), np.nan) for text in column.texts], np.float64)
    numbers = column.numbers
    if np.isnan(words).sum() < np.isnan(numbers).sum():
        numbers = words
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
        ways = "classes=[...] leaves columns out"
        if code >= 0 and not np.isnan(column.numbers[code]):
            ways = f"label_positive='>0' takes numbers above 0 for 1, {ways}"
            if title.lower() in ID_TITLES:
                ways += ", label_format=tags takes numbers of classes"
        raise source.refused(
            int(bad[0]),
            title,
            f"{found}; a class column holds 0 or 1, {bad.size:,} of its {len(known):,} cells do "
            f"not ({ways})",
        )
    return known.astype(np.uint8)


# ---- tags: the classes of a tile as names, or a 0/1 vector, in one cell


def tags_column(source: Source) -> str | None:
    """The column so called, else one of class ids, else the only one of words or lists.

    Under `label_format=tags` words may look like numbers.
    """
    forced, free = source.recipe.label_format == "tags", source.free
    worded = [title for title, column in free.items() if column.is_text]
    named = source.titled(TAG_TITLES)
    if called := [title for title in named if title in worded]:
        return called[0]
    for title in source.titled(ID_TITLES):
        if not np.isin(free[title].numbers[~free[title].missing], (0, 1)).all():
            return title
    if forced and named:
        return named[0]
    rest = list(free) if forced else worded
    return rest[0] if len(rest) == 1 else None


def read_tags(source: Source) -> Found:
    """Class names, sorted (MultiLabelBinarizer's order); an empty cell is a tile without any."""
    title = tags_column(source)
    if title is None:
        raise InputError(
            f"label_format=tags: {source.table.name} has no single column of words beside the key; "
            f"name it {' or '.join(TAG_TITLES[:2])}; columns: {listed(source.free)}"
        )
    column = source.free[title]
    cells = _cells(source, title)
    if cells.vector:
        classes, labels_CK = _vectors(source, title, cells)
    else:
        classes, labels_CK = name_matrix(cells.names)
    if not classes:
        raise InputError(f"labels={source.table.name}: column {title!r} holds no tag")
    labels_CK = np.vstack([labels_CK, np.zeros((1, len(classes)), np.uint8)])  # of empty cells
    notes = [] if title.lower() in TAG_TITLES else [f"classes are those of column {title!r}"]
    if cells.note:
        notes.append(f"column {title!r}: {cells.note}")
    single = not cells.lists and title.lower() not in _SEVERAL
    labels_NK = np.ascontiguousarray(labels_CK[column.codes])
    return Found(classes, labels_NK, (title,), single, tuple(notes))


def _cells(source: Source, title: str) -> Cells:
    """The names in the different cells of a column."""
    column, forced = source.free[title], source.recipe.label_format == "tags"

    def refuse(wrong: NDArray[np.bool_], why: str) -> None:
        if wrong.any():
            code = int(np.flatnonzero(wrong)[0])
            row = int(np.flatnonzero(column.codes == code)[0])
            raise source.refused(row, title, f"holds {column.texts[code]!r}{why}")

    refuse(column.missing, ", which is no class; accepted: names, or nothing")
    if column.lists:
        nulls = [re.search(r"\bnull\b(?=[,\]])", text) is not None for text in column.texts]
        refuse(np.array(nulls), "; a list of class names is accepted")
        return read_lists(column.texts, column.counts.tolist())
    if column.texts and not forced and not np.isnan(column.numbers).any():
        length, bits = len(column.texts[0]), re.compile("[01]{3,}")
        if all(bits.fullmatch(text) and len(text) == length for text in column.texts) and any(
            text[0] == "0" for text in column.texts
        ):  # 010, 100: a place a class
            return Cells(tuple(map(tuple, column.texts)), True, length)
        refuse(
            (column.numbers % 1 != 0) | (column.numbers < 0),
            "; the number of a class is whole and not below 0 (label_format=tags takes any, "
            "label_positive='>0' makes two classes)",
        )
    if (column.numbers % 1 == 0).all():  # a column of floats spells them 3.0
        return Cells(tuple((text.partition(".")[0],) for text in column.texts), lists=False)
    try:
        separator = source.recipe.label_separator
        return read_cells(column.texts, column.counts.tolist(), separator, title)
    except InputError as error:
        raise InputError(f"labels={source.table.name}: {error}") from None


def _vectors(source: Source, title: str, cells: Cells) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """Labels of cells that are 0/1 vectors; `classes=` names their places."""
    named, length = source.recipe.classes, cells.vector
    if named is None or len(named) != length:
        found = "" if named is None else f"; classes has {len(named)}"
        raise InputError(
            f"labels={source.table.name}: column {title!r} holds lists of {length} values 0 or 1; "
            f"classes=[...] names what each stands for, {length} names in order{found}"
        )
    refuse_twice(named)
    bits = {"0": 0, "1": 1, "false": 0, "true": 1}
    vectors = [[bits.get(re.sub(r"\.0*$", "", n).lower(), 2) for n in cell] for cell in cells.names]
    bad = [code for code, v in enumerate(vectors) if len(v) != length or 2 in v]
    wrong = np.flatnonzero(np.isin(source.free[title].codes, [-1, *bad]))
    if wrong.size:
        code = source.free[title].codes[wrong[0]]
        found = f"holds {listed(cells.names[code])}" if code >= 0 else "is empty"
        found += f"; {length} values 0 or 1 are accepted, as in its other cells"
        raise source.refused(int(wrong[0]), title, found)
    return named, np.array(vectors, np.uint8)


# ---- which names a cell holds: cut at a separator, and nowhere else


def read_cells(cells: Sequence[str], counts: Sequence[int], separator: str, title: str) -> Cells:
    """Read the different cells of a column.

    Args:
        cells: different texts, none empty.
        counts: how many rows hold each.
        separator: `auto`, `none`, a word of `SEPARATORS`, or the text that separates names.
        title: how messages name the column.

    Raises:
        InputError: `auto`, and the column can be read in two ways; names that another separator
            cuts into other names.
    """
    if separator != "auto":
        mark = None if separator == "none" else SEPARATORS.get(separator, separator)
        names = tuple(_cut(cell, mark) for cell in cells)
        return Cells(names, mark is not None, _vector_length(names, counts, 2) if mark else 0)
    cells = [called[1] if (called := _CALL.fullmatch(c)) and called[1][:1] in _BRACKETS else c
             for c in cells]  # fmt: skip
    bracketed = [_BRACKETS.get(cell[0]) == cell[-1] and len(cell) > 1 for cell in cells]
    weigh = dict.fromkeys((True, False), 0)
    for is_list, count in zip(bracketed, counts, strict=True):
        weigh[is_list] += count
    if weigh[True] > weigh[False]:
        names = tuple(
            _of_list(c[1:-1]) if b else (c,) for c, b in zip(cells, bracketed, strict=True)
        )
        _refuse_cut_names(names, title, "none, or put the names of lists in quotes")
        return Cells(names, True, _vector_length(names, counts, 1))
    if all(_NUMBERS.fullmatch(cell) for cell in cells):
        names = tuple(tuple(re.split(r"[\s,;|]+", cell)) for cell in cells)
        if length := _vector_length(names, counts, 2):
            return Cells(names, True, length)
    mark, note = _guessed(cells, title)
    names = tuple(_cut(cell, mark) for cell in cells)
    _refuse_mixed(names, cells, mark, title)
    if mark == ",":
        _refuse_cut_names(names, title, "comma or none")
    return Cells(names, mark is not None, _vector_length(names, counts, 2) if mark else 0, note)


def read_lists(cells: Sequence[str], counts: Sequence[int]) -> Cells:
    """Read the different cells of a column of lists, as JSON."""
    names = tuple(
        tuple(name for value in json.loads(cell) if (name := str(value).strip())) for cell in cells
    )
    return Cells(names, True, _vector_length(names, counts, 1))


def _vector_length(names: Sequence[Sequence[str]], counts: Sequence[int], least: int) -> int:
    """The length of 0/1 vectors, where three quarters of the cells are such of one length; or 0."""
    lengths: Counter[int] = Counter()
    for cell, count in zip(names, counts, strict=True):
        if cell and all(_BIT.fullmatch(part) for part in cell):
            lengths[len(cell)] += count
    length, most = lengths.most_common(1)[0] if lengths else (0, 0)
    return length if length >= least and most >= 0.75 * sum(counts) else 0


def _cut(cell: str, mark: str | None) -> tuple[str, ...]:
    if mark is None:
        return (cell,)
    parts = cell.split() if mark == " " else cell.split(mark)
    return tuple(name for part in parts if (name := part.strip()))


def _of_list(inside: str) -> tuple[str, ...]:
    """The items of a list as Python, JSON or NumPy write it, without its brackets."""
    if '"' in inside or "'" in inside:
        found, at = [], 0
        while match := _QUOTED.match(inside, at):
            found.append(re.sub(r"\\(.)", r"\1", match[1] if match[1] is not None else match[2]))
            at = match.end()
        if at == len(inside):
            return tuple(name.strip() for name in found if name.strip())
    numbers = _NUMBERS.fullmatch(inside.strip()) is not None
    parts = re.split(r"[\s,;|]+", inside) if numbers else inside.split(",")
    return tuple(name for part in parts if (name := part.strip().strip("'\"")))


def _guessed(cells: Sequence[str], title: str) -> tuple[str | None, str]:
    """The separator of a column, None where cells are whole names; and what to say of it."""
    there = [mark for mark in ";|" if any(mark in cell for cell in cells)]
    if len(there) > 1:
        raise _unclear(title, "cells hold both ; and |", "semicolon or pipe")
    if there:
        return there[0], ""
    if several := [cell for cell in cells if len(_cut(cell, ",")) > 1]:
        # what is met again in other cells is a name
        uses = Counter(part for cell in cells for part in set(_cut(cell, ",")))
        if 2 * sum(any(uses[part] > 1 for part in _cut(c, ",")) for c in several) >= len(several):
            return ",", ""
        raise _unclear(title, f"{several[0]!r} may be one name or several", "comma or none")
    if not any(re.search(r"\s", cell) for cell in cells):
        return None, ""
    return _blank(cells, title)


def _blank(cells: Sequence[str], title: str) -> tuple[str | None, str]:
    """Whether blanks separate names: few words, in many combinations that hold one another.

    Those of a column called tags, as in the Planet table, do, unless most of its cells are one word
    and no word of the others is met again. Words that change their order, or that stand apart in
    other cells, are no parts of names.
    """
    words = [frozenset(cell.split()) for cell in cells]
    example = next(cell for cell in cells if len(cell.split()) > 1)
    unclear = f"{example!r} may be one name or several"
    if signs := [word for word in frozenset().union(*words) if not re.search(r"\w", word)]:
        raise _unclear(title, unclear, f"{signs[0]!r} or none")
    different, combinations = len(frozenset().union(*words)), len(set(words))
    several = {cell for cell in words if len(cell) > 1}
    nested = sum(any(one < cell or cell < one for one in words) for cell in several)
    uses = Counter(word for cell in set(words) for word in cell)
    alone = all(uses[word] == 1 for cell in several for word in cell)
    if title.lower() in ("tags", "tag"):
        cut = not (2 <= len(several) <= combinations / 2 and alone)
    else:
        cut = combinations >= 2 * different and 2 * nested >= len(several)
    if cut:
        return " ", f"cells are cut at blanks ({example!r}); label_separator=none keeps them whole"
    if different >= combinations and not _change_places(cells):
        return None, f"cells are whole names ({example!r}); label_separator=blank cuts them"
    raise _unclear(title, unclear, "blank or none")


def _change_places(cells: Sequence[str]) -> bool:
    """Whether the words of a cell stand in another order, or not side by side, in another cell."""
    several = {tuple(words) for cell in cells if len(words := cell.split()) > 1}
    return any(
        one != other
        and set(one) <= set(other)
        and f" {' '.join(one)} " not in f" {' '.join(other)} "
        for one in several
        for other in several
    )


def _refuse_mixed(
    names: Sequence[tuple[str, ...]], cells: Sequence[str], mark: str | None, title: str
) -> None:
    """Refuse a name that some other separator cuts into names of the same column."""

    def parts_of(name: str) -> list[str]:
        return [part for part in _MIXED.split(name) if part]

    known = {parts[0] for cell in names for n in cell if len(parts := parts_of(n)) == 1}
    for cell, inside in zip(cells, names, strict=True):
        for name in inside:
            parts = parts_of(name)
            if len(parts) > 1 and known.issuperset(parts):
                after = name.index(parts[0]) + len(parts[0])
                between = name[after : name.index(parts[1], after)].strip()
                raise _unclear(
                    title,
                    f"{cell!r} holds {listed(parts, 3)}, which other cells hold by themselves",
                    f"{between!r} or none" if mark is None else "none, or mend the table",
                )


def _refuse_cut_names(names: Sequence[tuple[str, ...]], title: str, ways: str) -> None:
    """Refuse names that a comma has cut: parts that always stand together, the second in small.

    `Land principally occupied by agriculture, with significant areas of natural vegetation` and
    `Beaches, dunes, sands` are names of CORINE classes.
    """
    alone = Counter(name for cell in names for name in set(cell))
    pairs = Counter(pair for cell in names for pair in set(pairwise(cell)))
    for (one, other), together in pairs.items():
        if alone[one] == alone[other] == together and one[0].isupper() and other[0].islower():
            raise _unclear(title, f"'{one}, {other}' may be one name or several", ways)


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
    if title is None and source.recipe.label_format == "rle" and len(source.free) == 1:
        (title,) = source.free
    if title is None:
        raise InputError(
            f"label_format=rle: {table.name} has no column EncodedPixels; columns: "
            f"{listed(table.columns)}"
        )
    masks = table.columns[title]
    wrong = [code for code, text in enumerate(masks.texts) if _RUNS.fullmatch(text) is None]
    if wrong:
        row = int(np.flatnonzero(np.isin(masks.codes, wrong))[0])
        raise source.refused(
            row,
            title,
            f"holds {masks.texts[masks.codes[row]][:40]!r}; a mask is pairs of start and length "
            "counted from 1, or empty",
        )
    _, first_M, image_N = np.unique(source.keys, return_index=True, return_inverse=True)
    for other in (source.recipe.split.column, source.recipe.split.group):
        column = table.columns.get(other) if other is not None else None
        if column is None:
            continue
        differ = np.flatnonzero(column.codes != column.codes[first_M[image_N]])
        if differ.size:
            row = int(differ[0])
            cells = column.values()
            before = cells[first_M[image_N[row]]]
            raise source.refused(
                row,
                str(other),
                f"holds {cells[row]!r}, an earlier row of this image {before!r}; they must agree",
            )
    ship_M = np.bincount(image_N, weights=masks.codes >= 0) > 0
    order = np.argsort(first_M)
    labels_M1 = ship_M[order, None].astype(np.uint8)
    return Found(("ship",), labels_M1, (title,), rows=first_M[order])
