"""Which names does a label cell hold? Cells are cut at a separator, and nowhere else. Pure.

What separates names is guessed from the whole column (`label_separator=auto`), and where a column
can be read in two ways it is refused, with the key that decides.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from satray.errors import InputError
from satray.tiles.table import flag_or_number, listed

SEPARATORS = {"comma": ",", "semicolon": ";", "pipe": "|", "blank": " "}
"""Words for `label_separator` beside auto and none; any other text is a separator itself."""

_MIXED = re.compile(r"\s*[,;|/+&\t\n]\s*")
_QUOTED = re.compile(r"""\s*,?\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)')\s*,?\s*""")
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
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
    bracketed = [_BRACKETS.get(cell[0]) == cell[-1] and len(cell) > 1 for cell in cells]
    if separator == "auto" and sum(
        n for n, is_list in zip(counts, bracketed, strict=True) if is_list
    ) > sum(n for n, is_list in zip(counts, bracketed, strict=True) if not is_list):
        names = tuple(
            _of_list(c[1:-1]) if b else (c,) for c, b in zip(cells, bracketed, strict=True)
        )
        return Cells(names, lists=True, vector=vector_length(names, counts))
    if separator == "auto" and cells and all(_NUMBERS.fullmatch(cell) for cell in cells):
        names = tuple(tuple(re.split(r"[\s,;|]+", cell)) for cell in cells)
        length = vector_length(names, counts)
        if length > 1:
            return Cells(names, lists=True, vector=length)
    mark, note = (
        _guessed(cells, title)
        if separator == "auto"
        else (None if separator == "none" else SEPARATORS.get(separator, separator), "")
    )
    names = tuple(_cut(cell, mark) for cell in cells)
    if separator == "auto":
        _refuse_mixed(names, cells, mark, title)
    length = vector_length(names, counts) if mark is not None else 0
    return Cells(names, lists=mark is not None, vector=length if length > 1 else 0, note=note)


def vector_length(names: Sequence[Sequence[str]], counts: Sequence[int]) -> int:
    """The length of 0/1 vectors, where three quarters of the cells are such of one length; or 0."""
    lengths: Counter[int] = Counter()
    for cell, count in zip(names, counts, strict=True):
        if cell and all(flag_or_number(part) in (0.0, 1.0) for part in cell):
            lengths[len(cell)] += count
    length, most = lengths.most_common(1)[0] if lengths else (0, 0)
    return length if most >= 0.75 * sum(counts) else 0


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
    there = [mark for mark in ";|," if any(mark in cell for cell in cells)]
    if ";" in there and "|" in there:
        raise _unclear(title, "cells hold both ; and |", "semicolon or pipe")
    if there and there[0] != ",":
        return there[0], ""
    if there:
        parts = Counter(part for cell in cells for part in set(_cut(cell, ",")))
        several = [cell for cell in cells if len(_cut(cell, ",")) > 1]
        again = sum(any(parts[part] > 1 for part in _cut(cell, ",")) for cell in several)
        if 2 * again >= len(several):
            return ",", ""
        raise _unclear(
            title, f"{several[0]!r} may be one name or several" if several else "", "comma or none"
        )
    if not any(re.search(r"\s", cell) for cell in cells):
        return None, ""
    return _blank(cells, title)


def _blank(cells: Sequence[str], title: str) -> tuple[str | None, str]:
    """Whether blanks separate names: few words, in many combinations that hold one another.

    Those of a column called tags, as in the Planet table, always do.
    """
    words = [frozenset(cell.split()) for cell in cells]
    different, combinations = len(frozenset().union(*words)), len(set(words))
    several = {cell for cell in words if len(cell) > 1}
    nested = sum(any(one < cell or cell < one for one in words) for cell in several)
    combined = 2 * nested >= len(several)
    example = next(cell for cell in cells if len(cell.split()) > 1)
    cut = f"cells are cut at blanks ({example!r}); label_separator=none keeps them whole"
    whole = f"cells are whole names ({example!r}); label_separator=blank cuts them into words"
    if title.lower() in ("tags", "tag") or (combinations >= 2 * different and combined):
        return " ", cut
    if different >= combinations:
        return None, whole
    raise _unclear(title, f"{example!r} may be one name or several", "blank or none")


def _refuse_mixed(
    names: Sequence[tuple[str, ...]], cells: Sequence[str], mark: str | None, title: str
) -> None:
    """Refuse a name that some other separator cuts into names of the same column."""
    known = {name for cell in names for name in cell}
    for cell, inside in zip(cells, names, strict=True):
        for name in inside:
            parts = _MIXED.split(name)
            if len(parts) > 1 and all(part in known for part in parts):
                between = name[len(parts[0]) : name.index(parts[1], len(parts[0]))].strip()
                raise _unclear(
                    title,
                    f"{cell!r} holds {listed(parts, 3)}, which other cells hold by themselves",
                    f"{between!r} or none" if mark is None else "none, or mend the table",
                )


def _unclear(title: str, found: str, ways: str) -> InputError:
    return InputError(
        f"column {title!r}: {found}; say label_separator={ways} (accepted: auto, none, "
        f"{', '.join(SEPARATORS)}, or the separator itself)"
    )
