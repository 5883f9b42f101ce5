"""A Parquet file of features: what a block of tiles gave, with a row a tile and view.

Letters: N tiles of a block, V views, D numbers of a tower, K classes, M rows.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

LABELS, VALID = "labels", "valid"
_ABOUT = b"satray"
_KEYS = ("row", "view", VALID, "error", LABELS)


def to_parquet(
    rows_N: NDArray[np.int64],
    labels_NK: NDArray[np.uint8],
    errors: Sequence[str | None],
    features: Mapping[str, NDArray[np.float32]],
    about: Mapping[str, Any] | None = None,
) -> bytes:
    """A block of tiles as the file that `FeatureTable` reads.

    Args:
        rows_N: rows of the split.
        labels_NK: 0 or 1.
        errors: why a tile could not be read; None where it could. It has one row, of zeros.
        features: column -> float32 (N, V, D).
        about: how it was computed, kept beside the columns.
    """
    views = next(iter(features.values())).shape[1]
    at_N = np.array([error is None for error in errors])
    # every view of what could be read, the first one of what could not
    tile_M, view_M = np.nonzero(at_N[:, None] | (np.arange(views) == 0))
    table = {
        "row": pa.array(rows_N[tile_M]),
        "view": pa.array(view_M.astype(np.int32)),
        VALID: pa.array(at_N[tile_M]),
        "error": pa.array(errors, pa.string()).take(pa.array(tile_M)),
        LABELS: _fixed(labels_NK[tile_M]),
    }
    table |= {
        name: _fixed(np.where(at_N[:, None, None], values, np.float32(0))[tile_M, view_M])
        for name, values in features.items()
    }
    sink = io.BytesIO()
    note = {_ABOUT: json.dumps(dict(about or {})).encode()}
    whole = pa.table(table).replace_schema_metadata(note)
    pq.write_table(whole, sink, compression="none", use_dictionary=False)
    return sink.getvalue()


def _fixed(values_MD: NDArray[Any]) -> pa.Array:
    flat = np.ascontiguousarray(values_MD).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), values_MD.shape[1])


def unreadable(data: bytes) -> dict[int, str]:
    """Rows of a file that could not be read, and why."""
    table = pq.read_table(io.BytesIO(data), columns=["row", "error"])
    pairs = zip(table.column("row").to_pylist(), table.column("error").to_pylist(), strict=True)
    return {row: error for row, error in pairs if error is not None}


def about(data: bytes) -> dict[str, Any]:
    """How a file was computed."""
    kept = pq.read_schema(io.BytesIO(data)).metadata or {}
    found: dict[str, Any] = json.loads(kept.get(_ABOUT, b"{}"))
    return found


def widths_of(data: bytes) -> dict[str, int]:
    """Columns of features in a file, and D of each."""
    schema = pq.read_schema(io.BytesIO(data))
    return {field.name: field.type.list_size for field in schema if field.name not in _KEYS}
