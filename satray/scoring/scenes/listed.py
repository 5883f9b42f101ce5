"""A Parquet list of scenes: one row a scene, or one row a band of a scene."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from satray.data.bands import canonical
from satray.errors import DecodeError, InputError
from satray.scoring.scenes.hrefs import resolved
from satray.scoring.scenes.scene import BandSource, SceneFailure

COLUMNS = "scene and uri (texts), and optionally band (a name) and index (from 1)"


@dataclass(frozen=True)
class Listed:
    """What a list says of one scene."""

    scene: str
    """Its name."""
    uri: str
    """Its first file."""
    bands: tuple[BandSource, ...] | None
    """Where its bands lie; None: one file with its own."""


def read_list(data: bytes, name: str) -> tuple[list[Listed], list[SceneFailure]]:
    """Read a list, its scenes in order of their first row.

    Args:
        data: the Parquet file.
        name: its path or URI, for messages and for relative references.

    Raises:
        InputError: no Parquet, or a column missing or of another type.
    """
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"scenes={name}: no Parquet file ({_first_line(error)})") from error
    _check(table.schema, name)
    by_scene: dict[str, list[dict[str, Any]]] = {}
    nameless = 0
    for row in table.select([n for n in table.column_names if n in _TYPES]).to_pylist():
        scene = row["scene"]
        if scene is None or not scene.strip():
            nameless += 1
            continue
        by_scene.setdefault(scene, []).append(row)
    scenes, failures = [], []
    if nameless:
        failures.append(SceneFailure("", name, f"{nameless} rows without a scene's name"))
    for scene, rows in by_scene.items():
        try:
            scenes.append(_listed(scene, rows, name))
        except DecodeError as error:
            failures.append(SceneFailure(scene, str(rows[0]["uri"]), str(error)))
    return scenes, failures


def _listed(scene: str, rows: list[dict[str, Any]], base: str) -> Listed:
    uris = [resolved(row["uri"], base) for row in rows]
    named = [row.get("band") for row in rows]
    places = [row.get("index") for row in rows]
    if len(rows) == 1 and named[0] is None and places[0] is None:
        return Listed(scene, uris[0], None)
    bands = []
    for uri, band, index in zip(uris, named, places, strict=True):
        if band is None and index is None:
            raise DecodeError(
                f"{len(rows)} rows, one without band and index; accepted: one row for a file with "
                "its own bands, or a row a band"
            )
        if index is not None and index < 1:
            raise DecodeError(f"index {index}; accepted: 1 and above")
        bands.append(BandSource(None if band is None else canonical(band), uri, index or 1))
    names = [band.name for band in bands if band.name is not None]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DecodeError(f"band {twice[0]} has several rows; accepted: one row a band")
    return Listed(scene, uris[0], tuple(bands))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_null_or(check: Any) -> Any:
    return lambda kind: pa.types.is_null(kind) or check(kind)


_TYPES = {
    "scene": _is_text,
    "uri": _is_text,
    "band": _is_null_or(_is_text),
    "index": _is_null_or(pa.types.is_integer),
}


def _check(schema: pa.Schema, name: str) -> None:
    for column, fits in _TYPES.items():
        if column not in schema.names:
            if column in ("band", "index"):
                continue
            raise InputError(
                f"scenes={name}: no column {column} among {', '.join(schema.names)}; accepted: "
                f"{COLUMNS}"
            )
        if not fits(schema.field(column).type):
            raise InputError(
                f"scenes={name}: column {column} is {schema.field(column).type}; accepted: "
                f"{COLUMNS}"
            )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
