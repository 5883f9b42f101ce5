"""Which names does a label cell hold? Cells are cut at a separator, and nowhere else. Pure.

What separates names is guessed from the whole column (`label_separator=auto`), and where a column
can be read in two ways it is refused, with the key that decides.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from satray.errors import InputError, listed

SEPARATORS = {"comma": ",", "semicolon": ";", "pipe": "|", "blank": " "}
"""Words for `label_separator` beside auto and none; any other text is a separator itself."""

_MIXED = re.compile(r"\s*[,;|/+&\t\n]\s*")
_QUOTED = re.compile(r"""\s*,?\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)')\s*,?\s*""")
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_CALL = re.compile(r"\w+\((.*?)(?:,\s*dtype=[^)]*)?\)", re.S)  # array([...], dtype=object)
_BIT = re.compile(r"[01](?:\.0*)?|true|false", re.I)
_NUMBERS = re.compile(r"(?:[-+.\de]+|true|false)(?:[\s,;|]+(?:[-+.\de]+|true|false))*", re.I)


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
        return Cells(names, mark is not None, _vectors(names, counts, 2) if mark else 0)
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
        return Cells(names, True, _vectors(names, counts, 1))
    if all(_NUMBERS.fullmatch(cell) for cell in cells):
        names = tuple(tuple(re.split(r"[\s,;|]+", cell)) for cell in cells)
        if length := _vectors(names, counts, 2):
            return Cells(names, True, length)
    mark, note = _guessed(cells, title)
    names = tuple(_cut(cell, mark) for cell in cells)
    _refuse_mixed(names, cells, mark, title)
    if mark == ",":
        _refuse_cut_names(names, title, "comma or none")
    return Cells(names, mark is not None, _vectors(names, counts, 2) if mark else 0, note)


def read_lists(cells: Sequence[str], counts: Sequence[int]) -> Cells:
    """Read the different cells of a column of lists, as JSON."""
    names = tuple(
        tuple(name for value in json.loads(cell) if (name := str(value).strip())) for cell in cells
    )
    return Cells(names, True, _vectors(names, counts, 1))


def _vectors(names: Sequence[Sequence[str]], counts: Sequence[int], least: int) -> int:
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
