"""Bytes of a CSV, TSV or Parquet file -> columns of text, whatever the file's own types.

Everything becomes text with gaps, so that the label formats read CSV and Parquet alike; numbers
are told from words by their spelling, and lists become JSON. Columns of classes repeat few cells,
each of which is looked at once; those of keys repeat none, and stay as they are.
"""

import codecs
import csv
import difflib
import json
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from satray.errors import InputError, listed, one_line

MISSING_WORDS = frozenset({"nan", "na", "n/a", "null", "none", "<na>"})
"""Spellings of an absent value, lower case, beside the empty cell."""

NEARLY = 0.75
"""Share of a column's filled cells from which on it is a column of 0 and 1: others are wrong."""

FEW = 64
"""Most different cells of such a column: one of more is of measurements that often are 0."""

BLOCK = 1 << 16
"""Rows of a column that are objects at a time."""

MOST = 1 << 31
"""Bytes of a CSV that Arrow no longer reads in one block."""

_NO_NAME = re.compile(r"|__index_level_\d+__|Unnamed: \d+(_level_\d+)?")  # pandas' indices


@dataclass(frozen=True)
class Column:
    """The cells of N rows."""

    cells: pa.StringArray
    """The cells, trimmed; null where they are empty."""
    lists: bool = False
    """Whether the cells are lists (Parquet only), as JSON."""

    def __len__(self) -> int:
        return len(self.cells)

    @cached_property
    def codes(self) -> NDArray[np.int32]:
        """(N,) number of each row's cell among the different ones; -1 where it is empty."""
        return np.asarray(self._encoded.indices.fill_null(-1))

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The different cells, by first appearance."""
        return tuple(self._encoded.dictionary.to_pylist())

    @cached_property
    def _encoded(self) -> pa.DictionaryArray:
        return self.cells.dictionary_encode()

    @cached_property
    def numbers(self) -> NDArray[np.float64]:
        """The number that each different cell spells, true and false as 1 and 0; NaN of words."""
        return np.array([_number(text.lower()) for text in self.texts], np.float64)

    @cached_property
    def missing(self) -> NDArray[np.bool_]:
        """Which of the different cells spell an absent value."""
        return np.array([text.lower() in MISSING_WORDS for text in self.texts], bool)

    @cached_property
    def is_flags(self) -> bool:
        """Whether the filled cells are 0 and 1 (1.0, true and the like too), or nearly all are.

        Spelt absences (NA) do not count: of a column of flags they are wrong, however many.
        """
        if len(self.cells[:BLOCK].unique()) > FEW + 1 or len(self.texts) > FEW:
            return False
        filled = self.codes[self.codes >= 0]
        filled = filled[~self.missing[filled]]
        if not filled.size:
            return False
        return bool(np.isin(self.numbers[filled], (0, 1)).mean() >= NEARLY)

    @cached_property
    def kind(self) -> str:
        """What the column holds: empty, lists, words or numbers (flags too)."""
        if self.lists or self.cells.null_count == len(self):
            return "lists" if self.lists else "empty"
        for start in range(0, len(self), BLOCK):
            for text in self.cells[start : start + BLOCK].unique().drop_null().to_pylist():
                if math.isnan(_number(text.lower())) and text.lower() not in MISSING_WORDS:
                    return "words"
        return "numbers"

    @cached_property
    def repeated(self) -> tuple[int, int] | None:
        """The first row whose cell an earlier one has, after that row; None where all differ."""
        order, found = pc.sort_indices(self.cells), list[tuple[int, int]]()
        for start in range(0, len(self), BLOCK):
            rows = order[start : start + BLOCK + 1]
            cells = self.cells.take(rows)
            again = np.flatnonzero(pc.equal(cells[1:], cells[:-1]).fill_null(False))
            found += [(rows[n + 1].as_py(), rows[n].as_py()) for n in again.tolist()]
        return min(found)[::-1] if found else None

    def values(self, rows: NDArray[np.int64]) -> tuple[str | None, ...]:
        """The texts of some rows; None where they are empty."""
        texts = (*self.texts, None)
        return tuple(texts[code] for code in self.codes[rows].tolist())


@dataclass(frozen=True)
class Table:
    """Columns by title."""

    name: str
    """File name or URI, for messages."""
    columns: dict[str, Column]
    """In the file's order."""
    unread: tuple[str, ...] = ()
    """Columns that were left out, as a message names them: no name, or no text in any reading."""

    def need(self, column: str, key: str) -> None:
        """Refuse a column that is not there, in the name of the recipe's `key`."""
        if column not in self.columns:
            refuse_absent(column, self.columns, f"{key}: {self.name} has no column", "columns")


def texts(cells: pa.Array) -> Iterator[str]:
    """The texts of a column without gaps, of which few are objects at a time."""
    for start in range(0, len(cells), BLOCK):
        yield from cells[start : start + BLOCK].to_pylist()


def refuse_absent(name: str, have: Collection[str], found: str, kind: str) -> NoReturn:
    """Raise InputError for a name that is not among those there are, with the nearest.

    Args:
        name: what was asked for.
        have: what there is.
        found: start of the message, to which the name is added.
        kind: what the names are, for the list at the end.
    """
    near = difflib.get_close_matches(name, list(have), n=1, cutoff=0.5)
    hint = f" (nearest: {near[0]!r})" if near else ""
    raise InputError(f"{found} {name!r}{hint}; {kind}: {listed(have)}")


def read_table(data: bytes, name: str) -> Table:
    """Read a label table.

    CSV may be separated by commas, tabs, semicolons or pipes (told by the header), in UTF-8 with
    or without a byte-order mark, with CRLF or CR, quoted cells and blank lines. Columns without a
    name (an index that pandas wrote) are named in `unread`.

    Raises:
        InputError: not such a file, one too large, no rows, a name twice, a row with too many or
            too few cells.
    """
    if data[:4] != b"PAR1" and len(data) >= MOST:
        raise InputError(
            f"labels={name}: {len(data) / 2**30:.1f} GiB of text; accepted: less than "
            f"{MOST >> 30} GiB, or Parquet"
        )
    try:
        table = pq.read_table(pa.BufferReader(data)) if data[:4] == b"PAR1" else _read_csv(data)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        quote = "; is there a stray quote in it?" if b'"' in data else ""
        raise InputError(
            f"labels={name} is no CSV, TSV or Parquet table: {one_line(error)}{quote}"
        ) from error
    cells: dict[str, tuple[pa.Array, bool]] = {}
    unread: list[str] = []
    titles, columns = table.column_names, table.columns[::-1]
    del table  # and each column, once it is text: none is in memory twice
    for title in titles:
        title, found = title.strip(), _as_texts(columns.pop())
        if _NO_NAME.fullmatch(title) or found is None:
            unread.append(title or "(no name)")
        elif title in cells:
            raise InputError(f"labels={name} has two columns named {title!r}; names must differ")
        else:
            cells[title] = found
    # rows without any cell, as spreadsheets leave them, are none
    keep_N = np.any([texts.is_valid() for texts, _ in cells.values()], axis=0)
    if not keep_N.any():
        raise InputError(f"labels={name} has no rows below a header that names columns")
    if not keep_N.all():
        cells = {t: (texts.filter(pa.array(keep_N)), lists) for t, (texts, lists) in cells.items()}
    return Table(name, {title: Column(*found) for title, found in cells.items()}, tuple(unread))


def _number(text: str) -> float:
    if text in ("true", "false"):
        return float(text == "true")
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan


def _as_texts(column: pa.ChunkedArray) -> tuple[pa.Array, bool] | None:
    """Trimmed texts, null where empty, of a column and whether it holds lists; None of no text."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    try:
        if pa.types.is_nested(kind):
            column.cast(pa.list_(pa.string()))  # of what has a text
            texts = [json.dumps(cell, default=str) for cell in column.to_pylist()]
            return pa.array(texts, pa.string()), True
        texts = pc.utf8_trim_whitespace(column.cast(kind).cast(pa.string())).combine_chunks()
    except pa.ArrowException:
        return None  # boxes, pixels, mappings, durations
    empty = pc.equal(texts, "")
    return pc.if_else(empty, None, texts) if pc.any(empty).as_py() else texts, False


def _read_csv(data: bytes) -> pa.Table:
    """Its columns as texts; a line that is no row is an error of Arrow's, which names it.

    Not by pandas, which fills rows that are too short with empty cells.
    """
    start = codecs.getincrementaldecoder("utf-8-sig")().decode(data[: 1 << 16])
    lines = start.lstrip("\r\n").splitlines(keepends=True)
    headers = {mark: next(csv.reader(lines, delimiter=mark), []) for mark in ",\t;|"}
    mark = max(headers, key=lambda each: len(headers[each]))
    return pyarrow.csv.read_csv(
        pa.BufferReader(data),
        # in one block, in order: cells may hold line breaks, and masks are long
        pyarrow.csv.ReadOptions(use_threads=False, block_size=len(data) + 1),
        pyarrow.csv.ParseOptions(delimiter=mark, newlines_in_values=True),
        pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(headers[mark], pa.string()),
            strings_can_be_null=True,
            null_values=[""],
        ),
    )
