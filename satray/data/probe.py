"""One read of a tile for all that prepare wants to know of it: header, validity, statistics.

Plain Python on a list of tiles; `pipeline` runs it in Ray tasks.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from satray.data.decode import TileHeader, decode
from satray.data.georeference import world_at
from satray.data.nodata import refuse_empty
from satray.data.pages import PagesKey
from satray.data.source import read_files
from satray.data.statistics import BandCounts, count_tile, merge
from satray.data.units import Units
from satray.errors import DecodeError, SatrayError
from satray.storage import Storage

Kind = tuple[tuple[str, ...], str]
"""Band names and dtype: tiles of one kind can be trained on together."""

Counted = tuple[Kind, Units]
"""Tiles of one kind that state one unit."""


@dataclass(frozen=True)
class Seen:
    """A tile that was read, or the reason why not."""

    row: int
    """Row of the survey."""
    header: TileHeader | None
    """None where it could not be read."""
    bytes: int
    """Bytes read."""
    stage: str = ""
    """`read` or `decode`, where it failed."""
    error: str = ""
    """The reason, in one line."""
    crc32: int | None = None
    """Of the file's bytes; None where it could not be read."""


@dataclass(frozen=True)
class Probed:
    """What was learnt of some tiles: a value to merge with others, in any order."""

    seen: tuple[Seen, ...] = ()
    """One entry a tile."""
    counts: dict[Counted, tuple[BandCounts, ...]] = field(default_factory=dict)
    """Statistics of the counted tiles of each kind and unit, one entry a band."""

    def __add__(self, other: "Probed") -> "Probed":
        """Merge two disjoint parts."""
        counts = dict(self.counts)
        for kind, bands in other.counts.items():
            counts[kind] = merge([counts[kind], bands]) if kind in counts else bands
        return Probed(self.seen + other.seen, counts)

    def kinds(self) -> Counter[Kind]:
        """Number of tiles of each kind."""
        return Counter(kind_of(s.header) for s in self.seen if s.header is not None)


def kind_of(header: TileHeader) -> Kind:
    """Band names and dtype of a tile."""
    return header.bands, header.dtype


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
    seen: list[Seen] = []
    parts: dict[Counted, list[tuple[BandCounts, ...]]] = {}
    for position, data, mask in read_files(storage, uris, masked, concurrency=concurrency):
        row = rows[position]
        if isinstance(data, Exception):
            seen.append(Seen(row, None, 0, "read", one_line(data)))
            continue
        try:
            world = world_at(worlds[position], storage) if worlds else None
            tile = decode(data, bands=bands, mask=mask, world=world, pages=pages)
            refuse_empty(tile.measured, tile.header.bands)
        except DecodeError as error:
            seen.append(Seen(row, None, len(data), "decode", one_line(error)))
            continue
        seen.append(Seen(row, tile.header, len(data), crc32=zlib.crc32(data)))
        if counted[position]:
            counted_as = (kind_of(tile.header), tile.header.units)
            parts.setdefault(counted_as, []).append(count_tile(tile.pixels, tile.measured))
    return Probed(tuple(seen), {kind: merge(tiles) for kind, tiles in parts.items()})


def total(parts: Iterable[Probed]) -> Probed:
    """Merge parts and put the tiles in the survey's order: the same whatever came first."""
    merged = Probed()
    seen: list[Seen] = []
    for part in parts:
        seen.extend(part.seen)
        merged = merged + Probed((), part.counts)
    return Probed(tuple(sorted(seen, key=lambda s: s.row)), merged.counts)


def one_line(error: BaseException) -> str:
    """The message in one line; the exception's name too where it is not one of ours."""
    text = " ".join(str(error).split())
    return text if isinstance(error, SatrayError) and text else f"{type(error).__name__}: {text}"
