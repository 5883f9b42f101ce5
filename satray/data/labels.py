"""A label table, or the folders of an archive -> tile names, classes, a 0/1 matrix and the task."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from satray.config.prepare import PrepareRecipe
from satray.data import format_rle, format_tags
from satray.data.annotations import Annotations
from satray.data.format_folders import read_folders
from satray.data.format_wide import ID_NAMES, class_columns, nearly_flags, read_wide, word_columns
from satray.data.table import Table, listed, read_table
from satray.errors import InputError

Task = Literal["binary", "multilabel", "multiclass"]


@dataclass(frozen=True)
class LabelTable:
    """Labels of the tiles that a table or the folders name."""

    keys: tuple[str, ...]
    """N names of tiles as written: paths or base names, with or without extension."""
    classes: tuple[str, ...]
    """K class names."""
    labels: NDArray[np.uint8]
    """(N, K) uint8, 0 or 1; exactly one 1 a row where `task` is multiclass."""
    task: Task
    """binary has one class; multilabel any number a tile; multiclass one a tile."""
    columns: dict[str, tuple[str | None, ...]]
    """Columns that are neither key nor class (split, group, others), each of N cells."""
    format: str
    """wide, tags, rle or folders."""
    name: str = ""
    """The table's URI or the archive's, for messages."""
    left_out: tuple[str, ...] = ()
    """Keys of tiles whose one class is not among `classes=`: neither labelled nor missed."""
    passed_over: tuple[str, ...] = ()
    """Columns that nothing was taken from, each with what it holds."""
    notes: tuple[str, ...] = ()
    """What was guessed in reading, a line each."""

    def __len__(self) -> int:
        return len(self.keys)


def read_labels(data: bytes, name: str, recipe: PrepareRecipe) -> LabelTable:
    """Read a label table (CSV, TSV, Parquet) in the format that it has or that the recipe forces.

    Recognised are, in this order: a column EncodedPixels (rle); the columns of `classes=`, or
    columns that hold only 0 and 1 (wide); a column called tags or label (tags); columns that hold
    only yes and no (wide); a single column of words beside the key (tags).

    Args:
        data: the file.
        name: its URI, for messages.
        recipe: keys label_format, label_separator, label_positive, key_column, classes, task,
            split.column and split.group.

    Returns:
        One row a tile, in the table's order.

    Raises:
        InputError: the table is none of these, or a key, cell or class is wrong.
    """
    table = read_table(data, name)
    split = recipe.split
    reserved = frozenset(c for c in (split.column, split.group) if c is not None)
    if split.group is not None:
        table.need(split.group, "split.group")
    key = _key_column(table, recipe, reserved)
    keys = _keys(table, key)
    others = reserved | {key}
    label_format = _recognise(table, recipe, others)
    if recipe.label_positive is not None and label_format != "wide":
        raise InputError(
            f"label_positive={recipe.label_positive}: labels={name} is read as {label_format}; "
            "accepted: columns of numbers (label_format=wide, classes=[...] names them)"
        )

    if label_format == "rle":
        column = format_rle.mask_column(table, others, recipe.label_format == "rle")
        if column is None:
            raise format_rle.refuse_unclear(table)
        aligned = {c: tuple(table.values(c)) for c in sorted(reserved) if c in table.texts}
        used = {column}
        found = format_rle.read_rle(table, keys, column, aligned)
    else:
        _refuse_twice(table, key, keys)
        notes: tuple[str, ...] = ()
        single = False
        if label_format == "wide":
            positive = recipe.label_positive
            classes, labels_NK = read_wide(table, keys, recipe.classes, others, positive)
            used = set(classes)
        else:
            forced = recipe.label_format == "tags"
            column = format_tags.tags_column(table, others, forced)
            if column is None:
                raise format_tags.refuse_unclear(table, others)
            tags = format_tags.read_tags(
                table, keys, column, recipe.label_separator, recipe.classes, forced
            )
            classes, labels_NK, single = tags.classes, tags.labels, tags.single
            used = {column}
            if column.lower() not in format_tags.USUAL_NAMES:
                notes += (f"classes are those of column {column!r}",)
            notes += (tags.note,) if tags.note else ()
        columns = {c: tuple(table.values(c)) for c in table.texts if c not in used | {key}}
        found = Annotations(name, keys, classes, labels_NK, columns, single, notes)
    taken = used | {key} | ({split.column} if split.by != "draw" else set())
    over = [f"{c} ({table.kind(c)})" for c in table.names if c not in taken and c != split.group]
    return replace(_with_task(found, label_format, recipe), passed_over=(*over, *table.unread))


def labels_from_folders(keys: Sequence[str], recipe: PrepareRecipe) -> LabelTable:
    """Take the folder that holds each image for its class.

    Args:
        keys: paths of the images below `images=`, in the order that the split is drawn over.
        recipe: keys images, labels, label_format, classes, task, split.column.

    Raises:
        InputError: another format was asked for; folders do not fit.
    """
    if recipe.label_format not in ("auto", "folders"):
        raise InputError(f"label_format={recipe.label_format} needs labels=TABLE; none is given")
    if recipe.key_column is not None:
        raise InputError("key_column names a column of labels=TABLE; none is given")
    found = read_folders(keys, recipe.images, recipe.split.column)
    return _with_task(found, "folders", recipe)


def _key_column(table: Table, recipe: PrepareRecipe, reserved: frozenset[str]) -> str:
    if recipe.key_column is not None:
        table.need(recipe.key_column, "key_column")
        if recipe.key_column in table.lists:
            raise InputError(
                f"key_column={recipe.key_column} of {table.name} holds lists, not names"
            )
        return recipe.key_column
    labels = {*format_tags.USUAL_NAMES, format_rle.USUAL_NAME}
    for column in table.texts:
        if column not in reserved and column.lower() not in labels and table.is_text(column):
            return column
    first = table.names[0]
    if first in table.texts and first not in reserved and first.lower() not in labels:
        cells = table.values(first)
        if len(cells) > 2 and None not in cells and len(set(cells)) == len(cells):
            return first  # tiles that are numbered: each row has a number of its own
    raise InputError(
        f"labels={table.name} has no text column that names the tiles; key_column=... picks one "
        f"of {listed(table.names)}"
    )


def _keys(table: Table, key: str) -> tuple[str, ...]:
    cells = table.values(key)
    for row, cell in enumerate(cells):
        if cell is None:
            raise InputError(
                f"labels={table.name}: row {row + 1}, column {key!r} is empty; it names the tile"
            )
    return tuple(cell for cell in cells if cell is not None)


def _refuse_twice(table: Table, key: str, keys: tuple[str, ...]) -> None:
    first: dict[str, int] = {}
    for row, name in enumerate(keys):
        before = first.setdefault(name, row)
        if before != row:
            texts = [c for c in table.texts if c != key and table.is_text(c)]
            hint = f"; key_column=... picks another column of {listed(texts)}" if texts else ""
            raise InputError(
                f"labels={table.name}: rows {before + 1} and {row + 1} both name {name!r} in "
                f"column {key!r}; one row a tile is accepted{hint}"
            )


def _recognise(
    table: Table, recipe: PrepareRecipe, others: frozenset[str]
) -> Literal["wide", "tags", "rle"]:
    if recipe.label_format == "folders":
        raise InputError("label_format=folders reads no table; leave labels= out")
    if recipe.label_format != "auto":
        return recipe.label_format
    if recipe.label_positive is not None:
        return "wide"
    if format_rle.mask_column(table, others, forced=False) is not None:
        return "rle"
    if recipe.classes and all(name in table.texts for name in recipe.classes):
        return "wide"
    flags = class_columns(table, others)
    nearly = nearly_flags(table, others)
    tags = format_tags.tags_column(table, others, forced=False)
    named = tags is not None and tags.lower() in (*format_tags.USUAL_NAMES, *ID_NAMES)
    words = word_columns(table, others)
    if named and tags not in (*nearly, *words):
        if flags:
            raise InputError(
                f"labels={table.name} has classes in column {tags!r} and 0/1 columns "
                f"({listed(flags, 3)}); say label_format=tags or label_format=wide"
            )
        return "tags"
    if flags or nearly or words:
        return "wide"
    if tags is not None:
        return "tags"
    raise InputError(
        f"labels={table.name} is no known label table: accepted are 0/1 columns (wide), a column "
        f"of words called tags or label (tags), EncodedPixels (rle); label_format=tags takes the "
        f"numbers of a single column for classes; columns: {listed(table.names)}"
    )


def _with_task(found: Annotations, label_format: str, recipe: PrepareRecipe) -> LabelTable:
    """Choose the classes, settle the task, and check that the labels fit it."""
    chosen = found.select(recipe.classes)
    several = len(chosen.classes) > 1
    task: Task
    if recipe.task != "auto":
        task = recipe.task
    elif not several:
        task = "binary"
    else:
        task = "multiclass" if found.single else "multilabel"
    if found.single and recipe.task == "auto" and len(found.classes) == 1 and found.labels.all():
        raise InputError(
            f"{found.name}: all tiles are {found.classes[0]!r}; two classes or more are accepted, "
            "or one and tiles without it"
        )
    notes = found.notes
    alike = Counter(name.casefold() for name in chosen.classes)
    if twins := [name for name in chosen.classes if alike[name.casefold()] > 1]:
        notes += (f"classes that differ in capitals only: {listed(twins)}",)
    if recipe.task == "auto" and several:
        if task == "multiclass" and len(chosen.classes) == 2:
            notes += ("two classes, one a tile (multiclass); classes=[NAME] makes it binary",)
        elif task == "multilabel" and (chosen.labels.sum(axis=1) == 1).all():
            notes += ("each tile has one class; task=multiclass would set them against each other",)

    left_out: tuple[str, ...] = ()
    if task == "binary" and several:
        raise InputError(
            f"task=binary takes one class, {found.name} gives {len(chosen.classes)}: "
            f"{listed(chosen.classes)}; classes=[NAME] picks it"
        )
    if task == "multiclass":
        if not several:
            raise InputError(
                f"task=multiclass takes two classes or more, {found.name} gives "
                f"{listed(chosen.classes)}"
            )
        # A wide table cut by `classes=` says nothing of the columns that it was not asked for.
        none_is_fine = recipe.classes is not None and label_format == "wide"
        _refuse_not_one(found, none_is_fine=none_is_fine, guessed=recipe.task == "auto")
        kept_N: NDArray[np.bool_] = np.any(chosen.labels != 0, axis=1)
        left_out = tuple(k for k, kept in zip(chosen.keys, kept_N, strict=True) if not kept)
        if len(left_out) == len(chosen.keys):
            raise InputError(f"classes: no tile of {found.name} has {listed(chosen.classes)}")
        chosen = chosen.rows(kept_N) if left_out else chosen
    return LabelTable(
        keys=chosen.keys,
        classes=chosen.classes,
        labels=chosen.labels,
        task=task,
        columns=chosen.columns,
        format=label_format,
        name=found.name,
        left_out=left_out,
        notes=notes,
    )


def _refuse_not_one(found: Annotations, *, none_is_fine: bool, guessed: bool) -> None:
    """Refuse rows with several classes, or none, under task=multiclass."""
    counts_N = found.labels.sum(axis=1, dtype=np.int64)
    wrong = np.flatnonzero((counts_N > 1) | ((counts_N == 0) & (not none_is_fine)))
    if wrong.size:
        row = int(wrong[0])
        names = [c for c, on in zip(found.classes, found.labels[row], strict=True) if on]
        raise InputError(
            f"task=multiclass takes one class a tile; row {row + 1} ({found.keys[row]}) of "
            f"{found.name} has {len(names)}: {listed(names) or 'none'} ({wrong.size} such rows)"
            + ("; task=multilabel takes tiles without a class" if guessed else "")
        )
