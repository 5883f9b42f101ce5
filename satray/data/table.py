"""Bytes of a CSV, TSV or Parquet file -> columns of text, whatever the file's own types.

Everything becomes text with nulls, so that the label formats read CSV and Parquet alike; numbers
are told from words by their spelling.
"""

import csv
import difflib
import io
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from satray.errors import InputError

MISSING_WORDS = frozenset({"nan", "na", "n/a", "null", "none", "<na>"})
"""Spellings of an absent value, lower case, beside the empty cell."""

_DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "pipe"}
_EXCEL = re.compile(rb"sep=.\r?\n", re.I)  # a first line for Excel alone
_NO_NAME = re.compile(r"|__index_level_\d+__|Unnamed: \d+(_level_\d+)?")  # pandas' indices
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
_FEW = 64  # a column of flags has few spellings; more distinct values than this are something else


@dataclass(frozen=True)
class Table:
    """Columns of text."""

    name: str
    """File name or URI, for messages."""
    texts: dict[str, pa.ChunkedArray]
    """Column name -> string array, trimmed; null where the cell is empty."""
    lists: dict[str, pa.ChunkedArray]
    """Column name -> list<string> array (Parquet only)."""
    rows: int
    """Number of rows, blank ones left out."""
    unread: tuple[str, ...] = ()
    """Columns that were left out, as a message names them: no name, or no text in any reading."""

    @property
    def names(self) -> tuple[str, ...]:
        """All column names: text first, then lists."""
        return (*self.texts, *self.lists)

    def need(self, column: str, key: str) -> None:
        """Refuse a column that is not there, in the name of the recipe's `key`."""
        if column not in self.names:
            refuse_absent(column, self.names, f"{key}: {self.name} has no column", "columns")

    def values(self, column: str) -> list[str | None]:
        """The cells of a text column."""
        cells: list[str | None] = self.texts[column].to_pylist()
        return cells

    def distinct(self, column: str, at_most: int = _FEW) -> list[str | None] | None:
        """The different cells of a text column; None if there are more than `at_most`."""
        # A look at the head spares a hash table of a million keys.
        if len(pc.unique(self.texts[column].slice(0, 4 * at_most))) > at_most:
            return None
        found = pc.unique(self.texts[column])
        return found.to_pylist() if len(found) <= at_most else None

    def is_text(self, column: str) -> bool:
        """Whether a column holds words: some cell is neither a number, nor a flag, nor missing."""
        if column in self.lists:
            return False
        few = self.distinct(column)
        if few is not None:
            return any(flag_or_number(cell) is None for cell in few if not is_missing(cell))
        try:
            pc.cast(self.texts[column], pa.float64())
        except pa.ArrowInvalid:
            # Slow, and only for columns that mix numbers with something else.
            cells = pc.unique(self.texts[column]).to_pylist()
            return any(flag_or_number(cell) is None for cell in cells if not is_missing(cell))
        return False

    def kind(self, column: str) -> str:
        """What a column holds, in a word."""
        if column in self.lists:
            return "lists"
        if self.texts[column].null_count == self.rows:
            return "empty"
        return "words" if self.is_text(column) else "numbers"


def is_missing(cell: str | None) -> bool:
    """Whether a cell is empty or spells an absent value."""
    return cell is None or cell.lower() in MISSING_WORDS


def flag_or_number(cell: str | None) -> float | None:
    """The number that a cell spells, true and false as 1 and 0; None for words and NaN."""
    if cell is None:
        return None
    word = cell.lower()
    if word in ("true", "false"):
        return float(word == "true")
    try:
        number = float(cell)
    except ValueError:
        return None
    return None if math.isnan(number) else number


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


def listed(names: Collection[str], most: int = 20) -> str:
    """Names for a message, the first `most` of them."""
    shown = ", ".join(list(names)[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def read_table(data: bytes, name: str) -> Table:
    """Read a label table.

    CSV may be separated by commas, tabs, semicolons or pipes (told by the header), in UTF-8 with
    or without a byte-order mark or in UTF-16 with one, with CRLF or CR, quoted cells, blank lines
    and Excel's `sep=` before the header.
    Columns without a name (an index that pandas wrote) are left out, and named in `unread`.

    Raises:
        InputError: not such a file, no rows, a name twice, a row with too many or too few cells.
    """
    if not data.strip():
        raise InputError(f"labels={name} is empty; a CSV, TSV or Parquet table is accepted")
    table = _read_parquet(data, name) if data[:4] == b"PAR1" else _read_csv(data, name)
    texts: dict[str, pa.ChunkedArray] = {}
    lists: dict[str, pa.ChunkedArray] = {}
    unread: list[str] = []
    for column_name, column in zip(table.column_names, table.columns, strict=True):
        title = column_name.strip()
        if _NO_NAME.fullmatch(title):
            unread.append(title or "(no name)")
            continue
        if title in texts or title in lists:
            raise InputError(f"labels={name} has two columns named {title!r}; names must differ")
        try:
            if any(check(column.type) for check in _LISTS):
                lists[title] = column.cast(pa.list_(pa.string()))
            elif pa.types.is_nested(column.type):
                unread.append(title)
            else:
                trimmed = pc.utf8_trim_whitespace(_as_text(column))
                empty = pc.equal(trimmed, "")
                texts[title] = pc.if_else(empty, pa.scalar(None, pa.string()), trimmed)
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
            unread.append(title)  # no text in any reading: boxes, pixels, durations
    return _without_blank_rows(Table(name, texts, lists, table.num_rows, tuple(unread)))


def _without_blank_rows(table: Table) -> Table:
    """Drop rows without any cell, as spreadsheets leave them; refuse a table without rows."""
    keep = None
    for column in (*table.texts.values(), *table.lists.values()):
        valid = column.is_valid()
        keep = valid if keep is None else pc.or_(keep, valid)
    if keep is None:
        raise InputError(f"labels={table.name} has no named column")
    rows = pc.sum(keep).as_py() or 0
    if rows == 0:
        raise InputError(f"labels={table.name} has a header and no rows")
    if rows == table.rows:
        return table
    return Table(
        table.name,
        {key: column.filter(keep) for key, column in table.texts.items()},
        {key: column.filter(keep) for key, column in table.lists.items()},
        rows,
        table.unread,
    )


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.string())


def _read_parquet(data: bytes, name: str) -> pa.Table:
    try:
        return pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"labels={name} is not a readable Parquet file: {reason}") from error


def _read_csv(data: bytes, name: str) -> pa.Table:
    data = _as_utf8(data, name).lstrip()
    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")
    if excel := _EXCEL.match(data):
        data = data[excel.end() :]
    header, delimiter = _header(data, name)
    wrong: list[Any] = []

    def on_invalid_row(row: Any) -> str:
        if not row.text.strip():
            return "skip"  # a line of spaces
        wrong.append(row)
        return "error"

    try:
        return pacsv.read_csv(
            pa.BufferReader(data),
            # One block: a long mask may not straddle two, and row numbers need one thread.
            read_options=pacsv.ReadOptions(block_size=len(data) + 1, use_threads=False),
            parse_options=pacsv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=on_invalid_row
            ),
            convert_options=pacsv.ConvertOptions(
                column_types={column: pa.string() for column in header},
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid as error:
        if wrong:
            row = wrong[0]
            reason = (
                f"row {row.number} has {row.actual_columns} cells where the header has "
                f"{row.expected_columns} ({_DELIMITERS[delimiter]}-separated): {row.text[:60]!r}"
            )
        else:
            reason = str(error).splitlines()[0]
        raise InputError(f"labels={name}: {reason}") from error


def _as_utf8(data: bytes, name: str) -> bytes:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            data = data.decode("utf-16").encode()
        except UnicodeDecodeError as error:
            raise InputError(
                f"labels={name} is damaged or cut short: it begins as UTF-16, and byte "
                f"{error.start} is not ({error.reason})"
            ) from error
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\x00" in data[:4096] or data[:2] == b"PK":
        raise InputError(f"labels={name} is not text; a CSV, TSV or Parquet table is accepted")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"labels={name} is not UTF-8 text (line {line}); save it as such") from (
            error
        )
    return data


def _header(data: bytes, name: str) -> tuple[Sequence[str], str]:
    """The header's cells and the delimiter: the candidate that cuts it into most cells."""
    head = data[:1_000_000].decode("utf-8", errors="ignore")
    best: tuple[list[str], str] = ([], ",")
    for delimiter in _DELIMITERS:
        try:
            cells = next(csv.reader(io.StringIO(head), delimiter=delimiter), [])
        except csv.Error as error:
            raise InputError(
                f"labels={name}: the header cannot be read ({error}); is there a stray quote in "
                f"it? It begins {head[:60]!r}"
            ) from error
        if len(cells) > len(best[0]):
            best = (cells, delimiter)
    titles = [cell.strip() for cell in best[0]]
    for title in titles:
        if title and titles.count(title) > 1:
            raise InputError(f"labels={name} has two columns named {title!r}; names must differ")
    return best
