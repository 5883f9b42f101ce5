"""A label table, or the folders of an archive -> tile names, classes, a 0/1 matrix and the task.

`wide` has a 0/1 column a class, `tags` the names of a tile's classes in one cell, `rle` a row a
mask, as the Airbus ship competition. What separates names in a cell is guessed from the whole
column and its title (`label_separator=auto`), and where it can be read in two ways it is refused,
with the key that decides.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from satray.config.prepare import POSITIVE, PrepareRecipe, Task
from satray.data.label_table import Column, Table, read_table, refuse_absent, texts
from satray.errors import InputError, listed

PARTS_BY_WORD = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""Word in a split column or folder name, lower case -> part."""

MASKS = "EncodedPixels"
"""Title of a column of masks."""

TITLES = (
    *("tags", "tag", "labels", "label", "classes", "class"),
    *("class_name", "classname", "label_name", "category", "class_id", "label_id"),
)
"""Titles of a column of classes, lower case; earlier ones win."""

SEVERAL = frozenset({"tags", "tag", "labels", "classes"})
"""Those whose cells may hold several names, even where none does."""

SEPARATORS = {"comma": ",", "semicolon": ";", "pipe": "|", "blank": " "}
"""Words for `label_separator` beside auto and none; any other text is a separator itself."""

_CLASS_NUMBER = re.compile(r"(?!0[01]{2,}$)\d+(\.0*)?|true|false", re.I | re.ASCII)  # no flags 011
_MIXED = re.compile(r"\s*[,;|/+&]\s*")
_RUNS = re.compile(r"([1-9]\d*\s+[1-9]\d*(\s+|$))+", re.ASCII)  # start and length


@dataclass(frozen=True)
class LabelTable:
    """Labels of the tiles that a table or the folders name."""

    keys: pa.StringArray
    """N names of tiles as written: paths or base names, with or without extension."""
    classes: tuple[str, ...]
    """K class names."""
    labels: NDArray[np.uint8]
    """(N, K) uint8, 0 or 1; exactly one 1 a row where `task` is multiclass."""
    task: Task
    """binary has one class; multilabel any number a tile; multiclass one a tile."""
    columns: dict[str, tuple[str | None, ...]]
    """Columns split.column and split.group where they are there, each of N cells."""
    format: str
    """wide, tags, rle or folders."""
    name: str = ""
    """The table's URI or the archive's, for messages."""
    left_out: tuple[str, ...] = ()
    """Keys of tiles whose one class is not among `classes=`: neither labelled nor missed."""
    passed_over: tuple[str, ...] = ()
    """Columns that nothing was taken from."""
    notes: tuple[str, ...] = ()
    """What was guessed in reading, a line each."""

    def __len__(self) -> int:
        return len(self.keys)


def read_labels(data: bytes, name: str, recipe: PrepareRecipe) -> LabelTable:
    """Read a label table (CSV, TSV, Parquet) in the format that it has or that the recipe forces.

    Recognised are, in this order: a column EncodedPixels (rle); the columns of `classes=`, or
    columns that hold only 0 and 1 (wide); a column called tags or label, or a single column of
    words beside the key (tags).

    Args:
        data: the file.
        name: its URI, for messages.
        recipe: keys label_format, label_separator, label_positive, key_column, classes, task,
            split.by, split.column and split.group.

    Returns:
        One row a tile, in the table's order.

    Raises:
        InputError: the table is none of these, or a key, cell or class is wrong.
    """
    table, split = read_table(data, name), recipe.split
    if split.group is not None:
        table.need(split.group, "split.group")
    key = _key_column(table, recipe)
    keys, reserved = table.columns[key], {key, split.column, split.group}
    source = _Source(name, keys, {t: c for t, c in table.columns.items() if t not in reserved})
    label_format = _recognised(source, recipe)
    if recipe.label_positive is not None and label_format != "wide":
        raise InputError(
            f"label_positive={recipe.label_positive}: labels={name} is read as {label_format}, not "
            "as columns of numbers; label_format=wide reads it so"
        )
    found = {"wide": _read_wide, "tags": _read_tags, "rle": _read_rle}[label_format](source, recipe)
    tiles, firsts = keys.cells, np.arange(len(keys))  # row of each tile, rising
    drawn = "" if split.by in ("auto", "column") else split.column
    if label_format == "rle":
        _, firsts = np.unique(keys.codes, return_index=True)
        for title, column in table.columns.items():
            if title in (split.column, split.group) and title != drawn:
                _refuse_several(title, column, firsts, source)
        tiles = tiles.take(pa.array(firsts))
    elif keys.repeated is not None:
        first, row = keys.repeated
        raise InputError(
            f"labels={name}: rows {first + 1} and {row + 1} both name {source.key_of(row)!r} in "
            f"column {key!r}; accepted: one row a tile (key_column=... picks another of "
            f"{listed(table.columns)})"
        )
    columns = {
        title: column.values(firsts)
        for title, column in table.columns.items()
        if title in (split.column, split.group) and not column.lists
    }
    taken = {*found.used, *reserved} - {drawn}
    read = LabelTable(
        keys=tiles,
        classes=found.classes,
        labels=found.labels,
        task="multilabel",
        columns=columns,
        format=label_format,
        name=name,
        passed_over=(*(title for title in table.columns if title not in taken), *table.unread),
        notes=found.notes,
    )
    return _settled(read, found.single, recipe)


def labels_from_folders(keys: pa.StringArray, recipe: PrepareRecipe) -> LabelTable:
    """Take the folder that holds each image for its class, in a folder a part (train, val) or none.

    Args:
        keys: paths of the images below `images=`, in the order that the split is drawn over.
        recipe: keys images, labels, label_format, classes, task, split.column (under which the
            parts are kept).

    Raises:
        InputError: another format was asked for; an image outside folders; fewer than two folders.
    """
    if recipe.label_format not in ("auto", "folders") or recipe.key_column is not None:
        raise InputError("label_format and key_column are of a table, labels=TABLE; none is given")

    def paths() -> Iterator[list[str]]:
        return (key.split("/") for key in texts(keys))

    parted = all(len(path) > 2 and path[0].lower() in PARTS_BY_WORD for path in paths())
    outside = next((path for path in paths() if len(path) < 2 + parted), None)
    if outside:
        raise InputError(
            f"label_format=folders: {'/'.join(outside)} lies in no folder of {recipe.images}; "
            "accepted: one folder a class, or labels=TABLE"
        )
    number: dict[str, int] = {}
    folders = (number.setdefault(path[int(parted)], len(number)) for path in paths())
    folder_N = np.fromiter(folders, np.int64, len(keys))
    classes, labels_CK = _name_matrix([(name,) for name in number])
    if len(classes) < 2:
        raise InputError(
            f"label_format=folders: {recipe.images} has {listed(classes) or 'none'} of the two "
            "folders or more that are accepted, one a class; or say labels=TABLE"
        )
    columns = {}
    if parted:
        columns[recipe.split.column] = tuple(sys.intern(path[0]) for path in paths())
    labels_NK = labels_CK[folder_N]
    read = LabelTable(keys, classes, labels_NK, "multilabel", {**columns}, "folders", recipe.images)
    return _settled(read, True, recipe)


@dataclass(frozen=True)
class _Source:
    """A table as the formats read it."""

    name: str
    """Its URI, for messages."""
    keys: Column
    """Names of the tiles."""
    free: dict[str, Column]
    """Columns that are neither key, split nor group."""

    def key_of(self, row: int) -> str:
        """The name of a row's tile."""
        return str(self.keys.cells[row])

    def refuse(
        self, wrong: Sequence[bool] | NDArray[np.bool_], title: str, why: str, empty: bool = False
    ) -> None:
        """Refuse a column some of whose different texts, or empty cells, are wrong."""
        column = self.free[title]
        rows = np.flatnonzero(np.append(wrong, empty).astype(bool)[column.codes]).tolist()
        if rows:
            code = column.codes[rows[0]]
            found = "is empty" if code < 0 else f"holds {column.texts[code][:40]!r}"
            raise InputError(
                f"labels={self.name}: row {rows[0] + 1} ({self.key_of(rows[0])}), column "
                f"{title!r} {found} ({len(rows):,} such rows); {why}"
            )


class _Found(NamedTuple):
    """What a format yields, before classes are chosen."""

    classes: tuple[str, ...]
    labels: NDArray[np.uint8]
    used: tuple[str, ...]
    """Columns of labels."""
    single: bool = False
    """Whether a tile has one class, by the column's title and content."""
    notes: tuple[str, ...] = ()


def _key_column(table: Table, recipe: PrepareRecipe) -> str:
    """Title of the column that names the tiles: the recipe's, the first of words, or numbers."""
    wanted = recipe.key_column
    if wanted is None:
        no_key = {recipe.split.column, recipe.split.group, MASKS}
        may = [t for t in table.columns if t not in no_key and t.lower() not in TITLES]
        worded = [title for title in may if table.columns[title].kind == "words"]
        first = next(iter(table.columns))
        cells = table.columns[first]
        # tiles that are numbered: each row has a number of its own
        if not worded and first in may and len(cells) > 2 and cells.repeated is None:
            worded = [first] if cells.cells.null_count == 0 else []
        if not worded:
            raise InputError(
                f"labels={table.name} has no text column that names the tiles; key_column=... "
                f"picks one of {listed(table.columns)}"
            )
        wanted = worded[0]
    table.need(wanted, "key_column")
    empty = np.flatnonzero(table.columns[wanted].cells.is_null()).tolist()
    if empty:
        raise InputError(
            f"labels={table.name}: row {empty[0] + 1}, column {wanted!r}, which names the tile, is "
            "empty"
        )
    return wanted


def _recognised(source: _Source, recipe: PrepareRecipe) -> Literal["wide", "tags", "rle"]:
    """The format that the recipe says, or that the columns have."""
    free, name = source.free, source.name
    if recipe.label_format == "folders":
        raise InputError("label_format=folders reads no table; leave labels= out")
    if recipe.label_format != "auto":
        return recipe.label_format
    if MASKS in free:
        return "rle"
    if recipe.label_positive is not None or (recipe.classes and set(recipe.classes) <= free.keys()):
        return "wide"
    flags = [title for title, column in free.items() if column.is_flags]
    tags = _tags_column(free)
    if flags and tags is not None and tags.lower() in TITLES:
        raise InputError(
            f"labels={name} has classes in column {tags!r} and 0/1 columns ({listed(flags, 3)}); "
            "say label_format=tags or label_format=wide"
        )
    if flags or tags is not None:
        return "wide" if flags else "tags"
    raise InputError(
        f"labels={name}: accepted are 0/1 columns (wide), a column of words called tags or label "
        "(tags, with label_format=tags numbers too), EncodedPixels (rle); columns: "
        f"{listed(free) or 'none beside the key'}"
    )


# ---- wide: one 0/1 column a class


def _read_wide(source: _Source, recipe: PrepareRecipe) -> _Found:
    """Columns of `classes=`; else all of flags, and those that nearly are, which are refused.

    Under `label_positive` the one column of numbers, which then are compared with its bound.
    """
    free, name, positive = source.free, source.name, recipe.label_positive
    classes = recipe.classes or tuple(
        title
        for title, column in free.items()
        if (column.is_flags if positive is None else column.kind == "numbers")
    )
    if positive is not None and recipe.classes is None and len(classes) > 1:
        raise InputError(
            f"label_positive={positive}: {name} has numbers in {listed(classes)}; "
            "classes=[...] names the columns that are classes"
        )
    if not classes:
        raise InputError(
            f"label_format=wide: {name} has no column that holds only 0 and 1 "
            f"(classes=[...] names columns); columns: {listed(free)}"
        )
    condition = re.fullmatch(POSITIVE, positive) if positive is not None else None
    labels = []
    for title in classes:
        if title not in free or free[title].lists:
            refuse_absent(title, free, f"classes: {name} has no column", "columns")
        numbers = free[title].numbers
        if condition is not None:
            bound = float(condition[2])
            over = numbers >= bound if condition[1] == ">=" else numbers > bound
            numbers = np.where(np.isnan(numbers), numbers, over)
        source.refuse(
            ~np.isin(numbers, (0, 1)),
            title,
            "accepted: 0 or 1 (label_positive='>0' takes numbers above 0 for 1, label_format=tags "
            "numbers of classes, classes=[...] leaves columns out)",
            empty=True,
        )
        labels.append(numbers[free[title].codes] == 1)
    return _Found(classes, np.stack(labels, axis=1).astype(np.uint8), classes)


# ---- tags: the classes of a tile as names in one cell


def _tags_column(free: dict[str, Column], forced: bool = False) -> str | None:
    """The column so called, of words before one of class ids; else the only one of words.

    Under `label_format=tags` (`forced`) words may look like numbers.
    """
    worded = [title for title, column in free.items() if column.kind in ("words", "lists")]
    called = [title for usual in TITLES for title in free if title.lower() == usual]
    ids = [title for title in called if forced or not free[title].is_flags]
    for title in (*(title for title in called if title in worded), *ids):
        return title
    rest = list(free) if forced else worded
    return rest[0] if len(rest) == 1 else None


def _read_tags(source: _Source, recipe: PrepareRecipe) -> _Found:
    """Class names, sorted (MultiLabelBinarizer's order); an empty cell is a tile without any."""
    title, name = _tags_column(source.free, recipe.label_format == "tags"), source.name
    if title is None:
        raise InputError(
            f"label_format=tags: {name} has no single column of words beside the key; "
            f"name it tags or label; columns: {listed(source.free)}"
        )
    names, several, note = _names(source, title, recipe.label_separator)
    classes, labels_CK = _name_matrix([*names, ()])  # the last is of empty cells
    if not classes:
        raise InputError(f"labels={name}: column {title!r} holds no tag")
    if several and {name.lower() for name in classes} <= {"0", "1", "0.0", "1.0", "true", "false"}:
        raise InputError(
            f"labels={name}: column {title!r} holds vectors of 0 and 1; accepted: names, or a "
            "column a class"
        )
    notes = (f"classes are those of column {title!r}{note and f', {note}'}",)
    single = not several and title.lower() not in SEVERAL
    return _Found(classes, labels_CK[source.free[title].codes], (title,), single, notes)


def _names(source: _Source, title: str, separator: str) -> tuple[list[tuple[str, ...]], bool, str]:
    """The names in each different cell of a column, whether cells may hold several, and a note."""
    column, no_class = source.free[title], "which is no class; accepted: names, or nothing"
    source.refuse(column.missing, title, no_class)
    if column.lists:
        cells = [json.loads(text) for text in column.texts]
        source.refuse([None in cell for cell in cells], title, no_class)
        return [tuple(n for v in c if (n := str(v).strip())) for c in cells], True, ""
    if column.texts and not np.isnan(column.numbers).any():
        source.refuse(
            [_CLASS_NUMBER.fullmatch(text) is None for text in column.texts],
            title,
            "accepted: names, whole numbers from 0, or a column a class (label_positive='>0' makes "
            "two classes of other numbers)",
        )
        # a column of floats spells them 3.0
        return [(re.sub(r"\.0+$", "", text),) for text in column.texts], False, ""
    mark, note = "" if separator == "none" else SEPARATORS.get(separator, separator), ""
    if separator == "auto":
        lists = [text[0] + text[-1] in ("[]", "()", "{}") for text in column.texts]
        what = "accepted: names with one separator between them, or a list of Parquet"
        source.refuse(lists, title, what)
        mark, note = _guessed(column.texts, title, source.name)
    return [_cut(text, mark) for text in column.texts], bool(mark), note


def _cut(cell: str, mark: str) -> tuple[str, ...]:
    """The names of a cell, cut at a mark and nowhere else; the whole one where there is none."""
    parts = (cell.split() if mark == " " else cell.split(mark)) if mark else [cell]
    return tuple(name for part in parts if (name := part.strip()))


def _guessed(cells: Sequence[str], title: str, table: str) -> tuple[str, str]:
    """The mark between names in a column's cells, empty where cells are whole names; and a note.

    Raises:
        InputError: the column can be read in two ways.
    """

    def unclear(found: str, ways: str) -> InputError:
        return InputError(
            f"labels={table}: column {title!r}: {found}; say label_separator={ways} (accepted: "
            f"auto, none, {', '.join(SEPARATORS)}, or the separator itself)"
        )

    there = [mark for mark in ";|," if any(mark in cell for cell in cells)]
    marks = [mark for mark in there if mark != ","] or there
    if len(marks) > 1 or (marks and title.lower() not in SEVERAL):
        named = [word for word, mark in SEPARATORS.items() if mark in marks]
        raise unclear(f"cells hold {' and '.join(marks)}", f"{', '.join(named)} or none")
    mark, note = (marks[0] if marks else ""), ""
    long = next((cell for cell in cells if len(cell.split()) > 1), "")
    if not mark and long and title.lower() in ("tags", "tag"):  # as in the Planet table
        mark = " "
        note = f"cells are cut at blanks ({long!r}); label_separator=none keeps them whole"
    elif not mark and long:
        # fewer words than cells are names that combine; the same in another order are none
        words = [frozenset(cell.split()) for cell in cells]
        if not len(frozenset().union(*words)) >= len(set(words)) == len(cells):
            raise unclear(f"{long!r} may be one name or several", "blank or none")
        note = f"cells are whole names ({long!r}); label_separator=blank cuts them"
    names = {name for cell in cells for name in _cut(cell, mark)}
    small = sorted(name for name in names if name[0].islower())
    if mark == "," and small and any(name[0].isupper() for name in names):
        # `Beaches, dunes, sands` is the name of one CORINE class
        raise unclear(f"{small[0]!r} may be a name or the end of one", "comma or none")
    known = {name for name in names if not _MIXED.search(name)}
    for name in sorted(names - known):
        if known.issuperset(filter(None, _MIXED.split(name))):  # cells with different separators
            raise unclear(f"{name!r} is no name beside {listed(sorted(known), 3)}", "none")
    return mark, note


def _name_matrix(
    names: Sequence[Iterable[str]],
) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """The different names, sorted, and (N, K) uint8: which of them each row has."""
    classes = tuple(sorted({name for row in names for name in row}))
    position = {name: k for k, name in enumerate(classes)}
    labels_NK = np.zeros((len(names), len(classes)), np.uint8)
    for row, there in enumerate(names):
        labels_NK[row, [position[name] for name in there]] = 1
    return classes, labels_NK


# ---- rle: masks as the Airbus ship competition has them, many rows an image


def _read_rle(source: _Source, recipe: PrepareRecipe) -> _Found:
    """One row an image, by first appearance; class `ship` where any of its rows has a mask."""
    if MASKS not in source.free:
        said = f"label_format={recipe.label_format}: {source.name} has no column"
        refuse_absent(MASKS, source.free, said, "columns")
    masks = source.free[MASKS]
    wrong = [_RUNS.fullmatch(text) is None for text in masks.texts]
    source.refuse(
        wrong, MASKS, "a mask is pairs of start and length, counted from 1; without a ship, empty"
    )
    ship_M = np.bincount(source.keys.codes, weights=masks.codes >= 0) > 0
    return _Found(("ship",), ship_M[:, None].astype(np.uint8), (MASKS,))


def _refuse_several(title: str, column: Column, firsts: NDArray[np.int64], source: _Source) -> None:
    """Refuse a column that says of one tile, whose first row is told, different things."""
    first_M = firsts[source.keys.codes]
    rows = np.flatnonzero((column.codes >= 0) & (column.codes != column.codes[first_M])).tolist()
    if rows:
        row, first = rows[0], int(first_M[rows[0]])
        cells = [column.cells[n].as_py() for n in (first, row)]
        raise InputError(
            f"labels={source.name}: rows {first + 1} and {row + 1} ({source.key_of(row)}), column "
            f"{title!r}: {cells[0]!r} and {cells[1]!r} ({len(rows):,} such rows); accepted: one "
            "value a tile"
        )


# ---- classes and task


def _settled(found: LabelTable, single: bool, recipe: PrepareRecipe) -> LabelTable:
    """Choose the classes, settle the task, and check that the labels fit it."""
    name, classes = found.name, recipe.classes or found.classes
    if len(set(classes)) < len(classes):
        raise InputError(f"classes names a class twice: {listed(classes)}")
    for wanted in classes:
        if wanted not in found.classes:
            said = f"classes: {name} has no class"
            refuse_absent(wanted, found.classes, said, "classes there")
    if single and recipe.task == "auto" and len(found.classes) == 1 and found.labels.all():
        raise InputError(f"{name}: all tiles are {found.classes[0]!r}; accepted: two classes")
    labels_NK = np.ascontiguousarray(found.labels[:, [found.classes.index(c) for c in classes]])
    task: Task = "multiclass" if single else "multilabel"
    if recipe.task != "auto":
        task = recipe.task
    elif len(classes) == 1:
        task = "binary"
    notes = found.notes
    if recipe.task == "auto" and task == "multiclass" and len(classes) == 2:
        notes += ("two classes, one a tile (multiclass); classes=[NAME] makes it binary",)
    takes = {"binary": "one class", "multiclass": "two classes or more"}.get(task)
    if takes is not None and (task == "binary") != (len(classes) == 1):
        raise InputError(
            f"task={task} takes {takes}, {name} gives {listed(classes)}; classes=[...] picks"
        )
    chosen = replace(found, classes=classes, labels=labels_NK, task=task, notes=notes)
    if task != "multiclass":
        return chosen
    counts_N = found.labels.sum(axis=1, dtype=np.int64)
    # a wide table cut by `classes=` says nothing of the columns that it was not asked for
    fewest = int(not recipe.classes or found.format != "wide")
    wrong = np.flatnonzero((counts_N > 1) | (counts_N < fewest)).tolist()
    if wrong:
        row = wrong[0]
        there = [c for c, on in zip(found.classes, found.labels[row], strict=True) if on]
        raise InputError(
            f"task=multiclass takes one class a tile; row {row + 1} ({found.keys[row]}) of {name} "
            f"has {len(there)}: {listed(there) or 'none'} ({len(wrong)} such rows)"
            + ("; task=multilabel takes tiles without a class" if recipe.task == "auto" else "")
        )
    kept_N = labels_NK.any(axis=1)
    if not kept_N.any():
        raise InputError(f"classes: no tile of {name} has {listed(classes)}")
    rows = np.flatnonzero(kept_N).tolist()
    return replace(
        chosen,
        keys=found.keys.filter(pa.array(kept_N)),
        labels=labels_NK[kept_N],
        columns={t: tuple(cells[row] for row in rows) for t, cells in found.columns.items()},
        left_out=tuple(found.keys.filter(pa.array(~kept_N)).to_pylist()),
    )
