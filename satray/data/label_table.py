"""Bytes of a CSV, TSV or Parquet file -> columns of text, whatever the file's own types.

Everything becomes text with gaps, so that the label formats read CSV and Parquet alike; numbers
are told from words by their spelling. A column is held as its different cells and the number of the
one that each row has: tables repeat few, and each is looked at once.
"""

import csv
import difflib
import io
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from satray.errors import InputError, listed

MISSING_WORDS = frozenset({"nan", "na", "n/a", "null", "none", "<na>"})
"""Spellings of an absent value, lower case, beside the empty cell."""

_FEW = 64  # a column of flags has few spellings; more different cells than this are something else
_DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "pipe"}
_BEFORE = re.compile(rb"(?:[ \t]*[\r\n])*(?:sep=.\r?\n)?", re.I)  # blank lines, one for Excel
_NO_NAME = re.compile(r"|__index_level_\d+__|Unnamed: \d+(_level_\d+)?")  # pandas' indices


@dataclass(frozen=True)
class Column:
    """The cells of N rows."""

    codes: NDArray[np.int64]
    """(N,) number of each row's cell among the different ones; -1 where it is empty."""
    texts: pd.Index
    """The different cells, trimmed, by first appearance; none of a column of lists."""
    lists: tuple[tuple[str | None, ...], ...] | None = None
    """The different lists of a column of lists (Parquet only)."""

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """How many rows have each different cell."""
        return np.bincount(self.codes + 1, minlength=len(self.texts) + 1)[1:]

    @cached_property
    def numbers(self) -> NDArray[np.float64]:
        """The number that each different cell spells, true and false as 1 and 0; NaN of words."""
        lower = self._lower.replace({"true": "1", "false": "0"})
        return np.asarray(pd.to_numeric(lower, errors="coerce"), np.float64)

    @cached_property
    def missing(self) -> NDArray[np.bool_]:
        """Which of the different cells spell an absent value."""
        return np.asarray(self._lower.isin(MISSING_WORDS), bool)

    @property
    def is_text(self) -> bool:
        """Whether some cell is neither a number, nor a flag, nor missing."""
        # a look at the head spares millions of keys
        head = Column(self.codes[:0], self.texts[:_FEW]) if not self.is_few else self
        return any(bool((np.isnan(c.numbers) & ~c.missing).any()) for c in (head, self))

    @property
    def is_few(self) -> bool:
        """Whether there are as few different cells as flags have."""
        return len(self.texts) <= _FEW

    @property
    def kind(self) -> str:
        """What the column holds, in a word."""
        if self.lists is not None:
            return "lists"
        if not len(self.texts):
            return "empty"
        return "words" if self.is_text else "numbers"

    def values(self) -> tuple[str | None, ...]:
        """The text of each row; None where it is empty."""
        texts = [*self.texts.tolist(), None]
        return tuple(texts[code] for code in self.codes.tolist())

    @cached_property
    def _lower(self) -> "pd.Series[str]":
        return pd.Series(self.texts, dtype="str").str.lower()


@dataclass(frozen=True)
class Table:
    """Columns by title."""

    name: str
    """File name or URI, for messages."""
    columns: dict[str, Column]
    """In the file's order."""
    rows: int
    """Number of rows, blank ones left out."""
    unread: tuple[str, ...] = ()
    """Columns that were left out, as a message names them: no name, or no text in any reading."""

    def need(self, column: str, key: str) -> None:
        """Refuse a column that is not there, in the name of the recipe's `key`."""
        if column not in self.columns:
            refuse_absent(column, self.columns, f"{key}: {self.name} has no column", "columns")


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
    or without a byte-order mark, with CRLF or CR, quoted cells, blank lines and Excel's `sep=`
    before the header. Columns without a name (an index that pandas wrote) are named in `unread`.

    Raises:
        InputError: not such a file, no rows, a name twice, a row with too many or too few cells.
    """
    if not data.strip():
        raise InputError(f"labels={name} is empty; a CSV, TSV or Parquet table is accepted")
    read = _read_parquet if data[:4] == b"PAR1" else _read_csv
    texts: dict[str, pd.Series[str]] = {}
    lists: dict[str, pd.Series[str]] = {}
    unread: list[str] = []
    titles, cells = read(data, name)
    for title, column in zip(titles, cells, strict=True):
        if _NO_NAME.fullmatch(title):
            unread.append(title or "(no name)")
        elif title in texts or title in lists:
            raise InputError(f"labels={name} has two columns named {title!r}; names must differ")
        elif column is None:
            unread.append(title)
        elif column.dtype == object:
            lists[title] = column
        else:
            trimmed = column.str.strip()
            texts[title] = trimmed.where(trimmed != "")
    if not texts and not lists:
        raise InputError(f"labels={name} has no named column")
    # rows without any cell, as spreadsheets leave them, are none
    keep_N = np.any([column.notna() for column in (*texts.values(), *lists.values())], axis=0)
    if not keep_N.any():
        raise InputError(f"labels={name} has a header and no rows")
    columns = {}
    for title in (title for title in titles if title in texts or title in lists):
        column = (texts if title in texts else lists)[title]
        codes, different = pd.factorize(column if keep_N.all() else column[keep_N])
        if title in texts:
            columns[title] = Column(codes, different)
        else:
            columns[title] = Column(codes, pd.Index([], dtype="str"), tuple(different))
    return Table(name, columns, int(keep_N.sum()), tuple(unread))


_Cells = list["pd.Series[str] | None"]
"""A column each: texts, or tuples of texts (dtype object), or None where neither can be had."""


def _read_parquet(data: bytes, name: str) -> tuple[list[str], _Cells]:
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"labels={name} is not a readable Parquet file: {reason}") from error
    cells: _Cells = []
    for column in table.columns:
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        try:
            if any(check(kind) for check in (pa.types.is_list, pa.types.is_large_list,
                                             pa.types.is_fixed_size_list)):  # fmt: skip
                lists = column.cast(pa.list_(pa.string())).to_pylist()
                tuples = [cell if cell is None else tuple(cell) for cell in lists]
                cells.append(pd.Series(tuples, dtype=object))
            else:
                # by Arrow: pandas would make 3.0 of a whole number beside a gap
                cells.append(pd.Series(column.cast(kind).cast(pa.string()), dtype="str"))
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
            cells.append(None)  # boxes, pixels, durations
    return [title.strip() for title in table.column_names], cells


def _read_csv(data: bytes, name: str) -> tuple[list[str], _Cells]:
    text = data.removeprefix(b"\xef\xbb\xbf")
    if before := _BEFORE.match(text):
        text = text[before.end() :]
    if text[:2] in (b"PK", b"\xff\xfe", b"\xfe\xff") or b"\x00" in text[:4096]:
        raise InputError(f"labels={name} is no UTF-8 text; a CSV, TSV or Parquet table is accepted")
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start + len(data) - len(text)) + 1
        raise InputError(f"labels={name} is not UTF-8 text (line {line}); save it as such") from (
            error
        )
    limit = csv.field_size_limit(len(text) + 1)  # masks are long
    try:
        headers = [(next(_rows(text, mark)), mark) for mark in _DELIMITERS]
        header, mark = max(headers, key=lambda found: len(found[0]))
        _refuse_uneven(text, mark, name, len(header), data.count(b"\n", 0, len(data) - len(text)))
        frame = pd.read_csv(
            io.BytesIO(text),
            sep=mark,
            header=0,
            names=range(len(header)),
            index_col=False,
            dtype="str",
            keep_default_na=False,
            na_values=[""],
        )
    except (csv.Error, pd.errors.ParserError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"labels={name} cannot be read ({reason}); is there a stray quote in it? It begins "
            f"{text[:60].decode(errors='replace')!r}"
        ) from error
    finally:
        csv.field_size_limit(limit)
    return [cell.strip() for cell in header], [frame[k] for k in frame]


def _rows(text: bytes, delimiter: str) -> "csv._reader":  # type: ignore[name-defined]
    lines = io.TextIOWrapper(io.BytesIO(text), "utf-8", newline="")
    return csv.reader(lines, delimiter=delimiter)


def _refuse_uneven(text: bytes, delimiter: str, name: str, width: int, skipped: int) -> None:
    """Refuse rows of another length than the header's: pandas fills short ones and cuts others."""
    rows = _rows(text, delimiter)
    start = 0
    for row in rows:
        if len(row) != width and (len(row) > 1 or "".join(row).strip()):
            raise InputError(
                f"labels={name}: line {skipped + start + 1} has {len(row)} cells where the header "
                f"has {width} ({_DELIMITERS[delimiter]}-separated): {delimiter.join(row)[:60]!r}"
            )
        start = rows.line_num
