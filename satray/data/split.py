"""Which part of a split each label row goes to: train, val or test. Pure and repeatable.

A split is drawn over all rows of the label table in their order, whether or not an image is there,
so that a published split can be had again from the table alone.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from satray.config.prepare import SplitOptions
from satray.data.labels import LabelTable
from satray.data.parts import PARTS_BY_WORD, Part
from satray.data.stratify import stratified
from satray.data.table import listed, refuse_absent
from satray.errors import InputError


@dataclass(frozen=True)
class Drawn:
    """Rows of each part, in the order drawn."""

    train: NDArray[np.int64]
    """Rows for training."""
    val: NDArray[np.int64]
    """Rows for validation."""
    test: NDArray[np.int64]
    """Rows for test; often none."""

    def parts(self) -> tuple[Part, ...]:
        """The part of each row, rows in order."""
        out = np.empty(len(self.train) + len(self.val) + len(self.test), dtype=object)
        out[self.train], out[self.val], out[self.test] = "train", "val", "test"
        return tuple(out.tolist())


def assign_parts(labels: LabelTable, options: SplitOptions) -> tuple[Part, ...]:
    """The part of each label row, by its column or by a draw, as `split.by` says.

    Under `split.by=auto` nothing that was asked for is passed over: a column that was named must
    be there, and where the column is, nothing may be said of a draw.

    Raises:
        InputError: the column is absent or holds other words; the draw cannot be made; under
            `auto`, the column is there and a draw was described too.
    """
    by_column = options.by == "column"
    if options.by == "auto":
        asked = _asked(options)
        by_column = options.column in labels.columns or "column" in asked
        drawn = [name for name in ("val", "test", "seed", "stratify") if name in asked]
        if drawn and options.column in labels.columns:
            said = ", ".join(f"split.{name}={getattr(options, name)}" for name in drawn)
            raise InputError(
                f"{said}: {labels.name} has the column {options.column!r}, which gives the split; "
                "accepted are split.by=column (take it) or split.by=draw (draw one)"
            )
    if by_column:
        parts = parts_from_column(labels, options)
        if options.group is not None:
            _refuse_straddling(labels, options.group, parts)
        return parts
    return draw_split(labels, options).parts()


def _asked(options: SplitOptions) -> set[str]:
    """Keys that someone set.

    `--print-config` writes out all of them: of a full section, those that are not the default.
    """
    fields, given = SplitOptions.model_fields, options.model_fields_set
    if len(given) < len(fields):
        return set(given)
    return {name for name in given if getattr(options, name) != fields[name].default}


def parts_from_column(labels: LabelTable, options: SplitOptions) -> tuple[Part, ...]:
    """Read the parts that the label table gives."""
    if options.column not in labels.columns:
        found = f"split.column: {labels.name} has no column"
        refuse_absent(options.column, labels.columns, found, "columns beside key and classes")
    cells = labels.columns[options.column]
    unknown = {c for c in cells if c is None or c.lower() not in PARTS_BY_WORD}
    if unknown:
        row = next(i for i, cell in enumerate(cells) if cell in unknown)
        words = sorted("an empty cell" if cell is None else repr(cell) for cell in unknown)
        raise InputError(
            f"split.column: {labels.name}, row {row + 1} ({labels.keys[row]}): column "
            f"{options.column!r} holds {listed(words, 5)}; accepted are {listed(PARTS_BY_WORD)} "
            "(split.by=draw draws a split instead)"
        )
    return tuple(PARTS_BY_WORD[cell.lower()] for cell in cells if cell is not None)


def draw_split(labels: LabelTable, options: SplitOptions) -> Drawn:
    """Draw val and test; the rest is train.

    Plain: the permutation of scikit-learn's `train_test_split(random_state=seed)`; val is its
    first rows (the whole test side where test=0), test the next. Shares are rounded up, as there.
    Stratified, one class a tile: `train_test_split(stratify=...)` itself, test taken off first.
    Stratified, multilabel: iterative, rarest class first (Sechidis et al. 2011).
    Grouped: whole groups, in the order of a permutation, while they bring a part nearer its size.

    Raises:
        InputError: sizes leave nothing to train on, or the draw cannot honour what is asked.
    """
    n_val, n_test = part_sizes(len(labels), options)
    if options.group is not None and options.stratify:
        raise InputError(
            "split.group and split.stratify exclude each other: a scene goes whole to one side; "
            "drop one of them"
        )
    if options.group is not None:
        groups = _groups(labels, options.group)
        return _draw_groups(groups, n_val, n_test, options.seed, options.group)
    if options.stratify:
        val, test = stratified(labels.labels, labels.task, n_val, n_test, options.seed)
        held = np.concatenate([val, test])
        train = np.setdiff1d(np.arange(len(labels), dtype=np.int64), held)
        return Drawn(train, val, test)
    return draw_rows(len(labels), n_val, n_test, options.seed)


def part_sizes(n: int, options: SplitOptions) -> tuple[int, int]:
    """Numbers of rows for val and test, of n; shares below 1 are rounded up.

    Raises:
        InputError: a number above 1 that is not whole; nothing left for train.
    """
    sizes = []
    for name, value in (("val", options.val), ("test", options.test)):
        if value >= 1 and value != int(value):
            raise InputError(
                f"split.{name}={value:g}: a share below 1 or a whole number of tiles is accepted"
            )
        sizes.append(int(value) if value >= 1 else math.ceil(value * n))
    if sum(sizes) >= n:
        raise InputError(
            f"split.val={options.val:g} and split.test={options.test:g} take {sum(sizes)} of {n} "
            "tiles; at least one must be left for train"
        )
    return sizes[0], sizes[1]


def draw_rows(n: int, n_val: int, n_test: int, seed: int) -> Drawn:
    """Cut scikit-learn's permutation of n rows: first val, then test, then train."""
    if n_val + n_test == 0:
        return Drawn(np.random.RandomState(seed).permutation(n), _none(), _none())
    from sklearn.model_selection import train_test_split  # slow to import

    rows = np.arange(n, dtype=np.int64)
    train, held = train_test_split(rows, test_size=n_val + n_test, random_state=seed)
    return Drawn(train, held[:n_val], held[n_val:])


def _groups(labels: LabelTable, column: str) -> NDArray[np.int64]:
    """(N,) number of each row's group, by first appearance."""
    if column not in labels.columns:
        found = f"split.group: {labels.name} has no column"
        refuse_absent(column, labels.columns, found, "columns beside key and classes")
    number: dict[str, int] = {}
    out = np.empty(len(labels), np.int64)
    for row, cell in enumerate(labels.columns[column]):
        if cell is None:
            raise InputError(
                f"split.group: {labels.name}, row {row + 1} ({labels.keys[row]}): column "
                f"{column!r} is empty; every tile needs a group"
            )
        out[row] = number.setdefault(cell, len(number))
    return out


def _draw_groups(
    group_N: NDArray[np.int64], n_val: int, n_test: int, seed: int, column: str
) -> Drawn:
    size_G = np.bincount(group_N)
    order = np.random.RandomState(seed).permutation(len(size_G)).tolist()
    taken: dict[str, list[int]] = {"val": [], "test": []}
    for part, target in (("val", n_val), ("test", n_test)):
        have = 0
        for group in list(order):
            # One group at least is left to train on.
            if len(order) > 1 and abs(have + size_G[group] - target) < abs(have - target):
                taken[part].append(group)
                order.remove(group)
                have += int(size_G[group])
        if target and not taken[part]:
            raise InputError(
                f"split.group={column} gives {len(size_G)} groups of {int(size_G.min())} to "
                f"{int(size_G.max())} tiles; none can make a {part} part of about {target}"
            )

    def rows(groups: list[int]) -> NDArray[np.int64]:
        return np.flatnonzero(np.isin(group_N, groups)).astype(np.int64)

    return Drawn(rows(order), rows(taken["val"]), rows(taken["test"]))


def _refuse_straddling(labels: LabelTable, column: str, parts: tuple[Part, ...]) -> None:
    """Refuse a given split that puts one group on two sides."""
    group_N = _groups(labels, column)
    side: dict[int, Part] = {}
    for row, (group, part) in enumerate(zip(group_N.tolist(), parts, strict=True)):
        if side.setdefault(group, part) != part:
            raise InputError(
                f"split.group: {labels.name} has {column}={labels.columns[column][row]!r} in both "
                f"{side[group]} and {part} by its split column; drop split.group, or say "
                "split.by=draw"
            )


def _none() -> NDArray[np.int64]:
    return np.empty(0, np.int64)
