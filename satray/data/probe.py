"""One read of a tile for all that prepare wants to know of it: header, validity, statistics.

Plain Python on a list of tiles; what is learnt of them travels as Arrow tables, and merges.
"""

import json
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from satray.data.decode import TileHeader, decode, read_files
from satray.data.georeference import world_at
from satray.data.raster import PagesKey
from satray.data.statistics import BandCounts, count_tile, counts_of, counts_table, merge
from satray.data.values import Units, as_units, refuse_empty
from satray.errors import SatrayError
from satray.storage import Storage

_WORD = pa.dictionary(pa.int32(), pa.string())

TILES = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("stage", _WORD),
        pa.field("error", pa.string()),
        pa.field("crc32", pa.uint32()),
        pa.field("kind", _WORD),
        pa.field("units", _WORD),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("crs", _WORD),
        pa.field("transform", pa.list_(pa.float64(), 6)),
        pa.field("nodata", pa.float64()),
        pa.field("alpha", pa.bool_()),
        pa.field("note", pa.string()),
        pa.field("pages", pa.int32()),
        pa.field("pages_left", pa.list_(pa.string())),
    ]
)
"""A tile that was read, or the reason why not. `row`: of the survey; `stage`, `error`: `read` or
`decode` and why, null where it went well; the rest is null where it did not, but for `bytes`, which
were read. `kind`: `Kind.text`; `units`: its units as JSON; others as in `decode.TileHeader`."""


class Kind(NamedTuple):
    """Tiles of one kind can be trained on together."""

    bands: tuple[str, ...]
    """Band names, in the files' order."""
    dtype: str
    """Stored dtype."""

    @property
    def text(self) -> str:
        """As one word, for a column."""
        return json.dumps(self)

    @staticmethod
    def of(text: str) -> "Kind":
        """Read `text`."""
        bands, dtype = json.loads(text)
        return Kind(tuple(bands), dtype)


@dataclass(frozen=True)
class Probed:
    """What was learnt of some tiles: a value to merge with others, in any order."""

    tiles: pa.Table
    """One row a tile: `TILES`."""
    counts: pa.Table
    """Statistics of the counted tiles, by kind and unit: `statistics.COUNTS`, a `kind` of which is
    the JSON of a tile's `kind` and `units`."""

    def kinds(self) -> Counter[Kind]:
        """Number of tiles of each kind."""
        found = self.tiles.column("kind").value_counts().to_pylist()
        return Counter({Kind.of(one["values"]): one["counts"] for one in found if one["values"]})

    def bands(self) -> dict[tuple[Kind, Units], tuple[BandCounts, ...]]:
        """Statistics by kind and unit, one entry a band."""
        found = {}
        for text, bands in counts_of([self.counts]).items():
            kind, units = json.loads(text)
            found[Kind.of(kind), units_of_text(units)] = bands
        return found


def probe(
    rows: Sequence[int],
    uris: Sequence[str],
    counted: Sequence[bool],
    storage: Storage,
    bands: tuple[str, ...] | None,
    masked: Sequence[bool],
    worlds: Sequence[str | None] = (),
    pages: PagesKey = "bands",
    concurrency: int = 32,
) -> Probed:
    """Read and decode tiles, one request and one decode each; a bad one costs one row.

    Args:
        rows: their rows in the survey.
        uris: where they are.
        counted: whether a tile's pixels go into the statistics (the train part's do).
        storage: reads them.
        bands: the recipe's band names, or None.
        masked: whether a `.msk` lies beside each.
        worlds: where the world file beside each is; empty: nowhere.
        pages: which pages of a TIFF are bands.
        concurrency: requests under way at once.
    """
    seen: list[dict[str, Any]] = []
    parts: dict[str, list[tuple[BandCounts, ...]]] = {}
    for position, data, mask in read_files(storage, uris, masked, concurrency=concurrency):
        row: dict[str, Any] = {"row": rows[position], "bytes": 0}
        seen.append(row)
        if isinstance(data, Exception):
            row |= {"stage": "read", "error": one_line(data)}
            continue
        row["bytes"] = len(data)
        try:
            world = world_at(worlds[position], storage) if worlds else None
            tile = decode(data, bands=bands, mask=mask, world=world, pages=pages)
            refuse_empty(tile.measured, tile.header.bands)
        except Exception as error:  # whatever a file does to GDAL costs this row only
            row |= {"stage": "decode", "error": one_line(error)}
            continue
        header = {name: value for name, value in vars(tile.header).items() if name in TILES.names}
        kind, units = Kind(tile.header.bands, tile.header.dtype).text, json.dumps(header["units"])
        row |= {**header, "crc32": zlib.crc32(data), "kind": kind, "units": units}
        if counted[position]:
            counts = count_tile(tile.pixels, tile.measured)
            parts.setdefault(json.dumps([kind, units]), []).append(counts)
    return Probed(
        pa.Table.from_pylist(seen, schema=TILES),
        counts_table({kind: merge(tiles) for kind, tiles in parts.items()}),
    )


def total(parts: Iterable[Probed]) -> Probed:
    """Merge parts and put the tiles in the survey's order: the same whatever came first."""
    parts = list(parts)
    tiles = pa.concat_tables([TILES.empty_table(), *(part.tiles for part in parts)])
    tiles = tiles.unify_dictionaries().sort_by("row").combine_chunks()
    return Probed(tiles, counts_table(counts_of([part.counts for part in parts])))


def units_of_text(text: str) -> Units:
    """Units of a tile, from the column `units` of `TILES`."""
    return as_units(json.loads(text))


def header_of(row: dict[str, Any]) -> TileHeader | None:
    """The header of a tile, from its row of `TILES`; None where it could not be read."""
    if row["kind"] is None:
        return None
    kind = Kind.of(row["kind"])
    place = row["transform"]
    return TileHeader(
        height=row["height"],
        width=row["width"],
        bands=kind.bands,
        dtype=kind.dtype,
        crs=row["crs"],
        transform=None if place is None else tuple(place),
        nodata=row["nodata"],
        alpha=row["alpha"],
        note=row["note"],
        units=units_of_text(row["units"]),
        pages=row["pages"],
        pages_left=tuple(row["pages_left"]),
    )


def one_line(error: BaseException) -> str:
    """The message in one line; the exception's name too where it is not one of ours."""
    text = " ".join(str(error).split())
    return text if isinstance(error, SatrayError) and text else f"{type(error).__name__}: {text}"
