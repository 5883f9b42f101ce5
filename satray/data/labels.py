"""A label table, or the folders of an archive -> tile names, classes, a 0/1 matrix and the task."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from satray.config.prepare import PrepareRecipe
from satray.data.label_formats import (
    MASK_TITLE,
    TITLES,
    Source,
    name_matrix,
    read_rle,
    read_tags,
    read_wide,
    recognise,
    refuse_twice,
)
from satray.data.label_table import Table, read_table, refuse_absent
from satray.errors import InputError, listed

Task = Literal["binary", "multilabel", "multiclass"]

Part = Literal["train", "val", "test"]

PARTS_BY_WORD: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""Word in a split column or folder name, lower case -> part."""


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
    """Columns split.column and split.group where they are there, each of N cells."""
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
    reserved = {split.column, split.group}
    key = _key_column(table, recipe, reserved)
    keys = tuple(str(cell) for cell in table.columns[key].values())
    free = {t: c for t, c in table.columns.items() if t not in reserved and t != key}
    source = Source(table, keys, free, recipe)
    label_format = recognise(source)
    if recipe.label_positive is not None and label_format != "wide":
        raise InputError(
            f"label_positive={recipe.label_positive}: labels={name} is read as {label_format}; "
            "accepted: columns of numbers (label_format=wide, classes=[...] names them)"
        )
    if label_format != "rle":
        _refuse_doubled(table, key, keys)
    found = {"wide": read_wide, "tags": read_tags, "rle": read_rle}[label_format](source)
    rows = np.arange(len(keys)) if found.rows is None else found.rows
    columns = {t: c.values() for t, c in table.columns.items() if t in reserved and not c.lists}
    taken = {*found.used, key, split.group, split.column if split.by in ("auto", "column") else ""}
    over = [f"{t} ({c.kind})" for t, c in table.columns.items() if t not in taken]
    return _settled(
        LabelTable(
            keys=tuple(keys[row] for row in rows.tolist()),
            classes=found.classes,
            labels=found.labels,
            task="multilabel",
            columns={t: tuple(cells[row] for row in rows.tolist()) for t, cells in columns.items()},
            format=label_format,
            name=name,
            passed_over=(*over, *table.unread),
            notes=found.notes,
        ),
        found.single,
        recipe,
    )


def labels_from_folders(keys: Sequence[str], recipe: PrepareRecipe) -> LabelTable:
    """Take the folder that holds each image for its class, in a folder a part (train, val) or none.

    Args:
        keys: paths of the images below `images=`, in the order that the split is drawn over.
        recipe: keys images, labels, label_format, classes, task, split.column (under which the
            parts are kept).

    Raises:
        InputError: another format was asked for; an image outside folders; fewer than two folders.
    """
    if recipe.label_format not in ("auto", "folders"):
        raise InputError(f"label_format={recipe.label_format} needs labels=TABLE; none is given")
    if recipe.key_column is not None:
        raise InputError("key_column names a column of labels=TABLE; none is given")
    paths = [key.split("/") for key in keys]
    parted = bool(paths) and all(
        len(path) > 2 and path[0].lower() in PARTS_BY_WORD for path in paths
    )
    depth = int(parted)
    for key, path in zip(keys, paths, strict=True):
        if len(path) < depth + 2:
            raise InputError(
                f"label_format=folders: {key} lies in no folder of {recipe.images}; one folder a "
                "class is accepted, or labels=TABLE"
            )
    classes, labels_NK = name_matrix([(path[depth],) for path in paths])
    if len(classes) < 2:
        found = f"only {classes[0]}" if classes else "no folder with images"
        raise InputError(
            f"label_format=folders: {recipe.images} has {found}; two folders or more are accepted, "
            "one a class, or labels=TABLE"
        )
    columns = {recipe.split.column: tuple(path[0] for path in paths)} if parted else {}
    found_so = LabelTable(
        tuple(keys), classes, labels_NK, "multilabel", dict(columns), "folders", recipe.images
    )
    return _settled(found_so, True, recipe)


def _key_column(table: Table, recipe: PrepareRecipe, reserved: set[str | None]) -> str:
    wanted = recipe.key_column
    if wanted is not None:
        table.need(wanted, "key_column")
        if table.columns[wanted].lists:
            raise InputError(f"key_column={wanted} of {table.name} holds lists, not names")
    else:
        titles = (*TITLES, MASK_TITLE)
        may = [t for t in table.columns if t not in reserved and t.lower() not in titles]
        worded = [t for t in may if table.columns[t].is_text and not table.columns[t].lists]
        first = next(iter(table.columns))
        # tiles that are numbered: each row has a number of its own
        numbered = first in may and len(table.columns[first].texts) == table.rows > 2
        if not worded and not numbered:
            raise InputError(
                f"labels={table.name} has no text column that names the tiles; key_column=... "
                f"picks one of {listed(table.columns)}"
            )
        wanted = worded[0] if worded else first
    empty = np.flatnonzero(table.columns[wanted].codes < 0)
    if empty.size:
        raise InputError(
            f"labels={table.name}: row {empty[0] + 1}, column {wanted!r} is empty; it names the "
            "tile"
        )
    return wanted


def _refuse_doubled(table: Table, key: str, keys: tuple[str, ...]) -> None:
    codes = table.columns[key].codes
    _, first = np.unique(codes, return_index=True)
    if len(first) == len(codes):
        return
    row = int(np.flatnonzero(first[codes] != np.arange(len(codes)))[0])
    texts = [t for t, c in table.columns.items() if t != key and c.is_text and not c.lists]
    hint = f"; key_column=... picks another column of {listed(texts)}" if texts else ""
    raise InputError(
        f"labels={table.name}: rows {first[codes[row]] + 1} and {row + 1} both name {keys[row]!r} "
        f"in column {key!r}; one row a tile is accepted{hint}"
    )


def _settled(found: LabelTable, single: bool, recipe: PrepareRecipe) -> LabelTable:
    """Choose the classes, settle the task, and check that the labels fit it."""
    classes = recipe.classes if recipe.classes is not None else found.classes
    refuse_twice(classes)
    for wanted in classes:
        if wanted not in found.classes:
            said = f"classes: {found.name} has no class"
            refuse_absent(wanted, found.classes, said, "classes there")
    if single and recipe.task == "auto" and len(found.classes) == 1 and found.labels.all():
        raise InputError(
            f"{found.name}: all tiles are {found.classes[0]!r}; two classes or more are accepted, "
            "or one and tiles without it"
        )
    take = [found.classes.index(name) for name in classes]
    labels_NK = np.ascontiguousarray(found.labels[:, take])
    several = len(classes) > 1
    guess: Task = "binary" if not several else "multiclass" if single else "multilabel"
    task = guess if recipe.task == "auto" else recipe.task
    notes = found.notes
    if recipe.task == "auto" and task == "multiclass" and len(classes) == 2:
        notes += ("two classes, one a tile (multiclass); classes=[NAME] makes it binary",)
    chosen = replace(found, classes=classes, labels=labels_NK, task=task, notes=notes)
    if task == "binary" and several:
        raise InputError(
            f"task=binary takes one class, {found.name} gives {len(classes)}: {listed(classes)}; "
            "classes=[NAME] picks it"
        )
    if task != "multiclass":
        return chosen
    if not several:
        raise InputError(
            f"task=multiclass takes two classes or more, {found.name} gives {listed(classes)}"
        )
    _refuse_not_one(found, recipe)
    kept_N = labels_NK.any(axis=1)
    if kept_N.all():
        return chosen
    if not kept_N.any():
        raise InputError(f"classes: no tile of {found.name} has {listed(classes)}")
    rows = np.flatnonzero(kept_N)
    return replace(
        chosen,
        keys=tuple(found.keys[row] for row in rows),
        labels=labels_NK[rows],
        columns={
            title: tuple(cells[row] for row in rows) for title, cells in found.columns.items()
        },
        left_out=tuple(found.keys[row] for row in np.flatnonzero(~kept_N)),
    )


def _refuse_not_one(found: LabelTable, recipe: PrepareRecipe) -> None:
    """Refuse rows with several classes, or none, under task=multiclass."""
    counts_N = found.labels.sum(axis=1, dtype=np.int64)
    # A wide table cut by `classes=` says nothing of the columns that it was not asked for.
    fewest = int(recipe.classes is None or found.format != "wide")
    wrong = np.flatnonzero((counts_N > 1) | (counts_N < fewest))
    if wrong.size:
        row = int(wrong[0])
        names = [c for c, on in zip(found.classes, found.labels[row], strict=True) if on]
        raise InputError(
            f"task=multiclass takes one class a tile; row {row + 1} ({found.keys[row]}) of "
            f"{found.name} has {len(names)}: {listed(names) or 'none'} ({wrong.size} such rows)"
            + ("; task=multilabel takes tiles without a class" if recipe.task == "auto" else "")
        )
