"""What is known of a scene before anything of it is read: its files, and what its Item states."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np

from satray.data.values import Unit, unit_of
from satray.errors import DecodeError
from satray.scoring.reading import MisfitError
from satray.storage import Entry

RASTER_SUFFIXES = frozenset({"tif", "tiff", "jp2", "png", "jpg", "jpeg"})
"""Extensions, lower case, of files that are taken for scenes."""
OFFSET_DONE = "earthsearch:boa_offset_applied"
"""Property of Items whose provider has taken the offset off, and may state it nevertheless."""
BASELINE = "s2:processing_baseline"
"""Property of Sentinel-2's Items."""


@dataclass(frozen=True)
class BandSource:
    """Where one band of a scene lies."""

    name: str | None
    """Band name; None: what the file says."""
    uri: str
    """The raster: absolute path or URI."""
    band: int = 1
    """Its band, counted from 1."""


@dataclass(frozen=True)
class Stated:
    """What an Item states of a band's stored numbers, as it stands there; None: nothing."""

    nodata: Any = None
    """The value that is no measurement."""
    scale: Any = None
    """value = stored * scale + offset."""
    offset: Any = None
    """See scale."""
    name: Any = None
    """Of the value's unit."""
    note: str = ""
    """What a reader must know."""
    done: bool = field(default=False, repr=False)
    """Whether an offset is in the numbers already."""

    def beside(self, own: Unit | None) -> "Stated":
        """With what the file itself states where this is silent."""
        if own is None:
            return self
        offset, note = self.offset, self.note
        if offset is None and own.offset:
            offset, note = (0.0, _aside(own.offset)) if self.done else (own.offset, "")
        scale = own.scale if self.scale is None else self.scale
        return replace(self, scale=scale, offset=offset, name=self.name or own.name, note=note)

    def unit(self, band: str) -> Unit | None:
        """What the numbers mean; None where it states neither scale nor offset.

        Raises:
            MisfitError: a scale or offset that is none.
        """
        try:
            return unit_of(band, self.scale, self.offset, self.name)
        except DecodeError as error:
            raise MisfitError(str(error)) from None

    def hidden(self, dtype: str) -> float | None:
        """The nodata; None where it states none, or one that the dtype cannot hold.

        Raises:
            MisfitError: no number.
        """
        if self.nodata is None:
            return None
        try:
            value = float(self.nodata)
        except (TypeError, ValueError, OverflowError):
            raise MisfitError(
                f"states nodata {self.nodata!r}; accepted: a number, nan, inf or -inf"
            ) from None
        if np.dtype(dtype).kind == "f":
            return value
        limits = np.iinfo(dtype)
        return value if value.is_integer() and limits.min <= value <= limits.max else None


@dataclass(frozen=True)
class SceneRef:
    """A scene to score: small, and safe to send to other processes."""

    scene: str
    """Its name: path below `scenes=` with extension, `/` kept; a list's `scene`; an Item's id.
    Data, never a path: it may hold `..` or any letter."""
    uri: str
    """The file that is the scene, or its Item; of a list's several files the first."""
    bands: tuple[BandSource, ...] | None
    """Where each band lies; a band with several names is there once a name. None: in `uri`."""
    etag: str
    """Changes when a file of it does, or what its Item states of its bands."""
    size: int
    """Bytes of its files."""
    modified: datetime
    """When a file of it was last changed, in UTC."""
    item: dict[str, Any] | None = field(default=None, compare=False)
    """Its STAC Item without assets and links; None where it has none."""
    masked: tuple[str, ...] = ()
    """Those of its rasters that have a `.msk` beside them."""
    world: str | None = None
    """The world file beside `uri`; None where none was listed."""
    stated: Mapping[tuple[str, int], Stated] = field(default_factory=dict, compare=False)
    """What its Item states of bands, by file and the band's number there."""


@dataclass(frozen=True)
class SceneFailure:
    """A scene that never came to be read, as a row for the failures table."""

    scene: str
    """Its name, as far as it has one."""
    uri: str
    """Where it was looked for."""
    error: str
    """One line."""


def uris_of(ref_uri: str, bands: Iterable[BandSource] | None) -> tuple[str, ...]:
    """The rasters of a scene, each once, in order of their bands."""
    if bands is None:
        return (ref_uri,)
    return tuple(dict.fromkeys(band.uri for band in bands))


def made_ref(
    scene: str,
    uri: str,
    bands: tuple[BandSource, ...] | None,
    parts: Iterable[Entry],
    item: dict[str, Any] | None = None,
    masked: tuple[str, ...] = (),
    world: Entry | None = None,
    stated: Mapping[tuple[str, int], Stated] | None = None,
) -> SceneRef:
    """A scene of these files, one at least, their masks among them, and the world file beside.

    Of what is stated, it keeps what is of its files.
    """
    parts, files = (*parts, *([world] if world else [])), uris_of(uri, bands)
    stated = {at: one for at, one in (stated or {}).items() if at[0] in files}
    etags = [_etag(part) for part in parts]
    if stated:
        etags.append(repr(sorted(stated.items(), key=lambda pair: pair[0])))
    return SceneRef(
        scene,
        uri,
        bands,
        _combined(tuple(etags)),
        sum(part.size for part in parts),
        max(part.modified for part in parts),
        item,
        masked,
        world.uri if world else None,
        stated,
    )


def suffix(key: str) -> str:
    """Lower-case extension of a path, without its dot; empty where it has none."""
    stem, dot, ending = key.rsplit("/", 1)[-1].rpartition(".")
    return ending.lower() if dot and stem else ""


def is_raster(key: str) -> bool:
    """Whether a path ends like a scene's."""
    return suffix(key) in RASTER_SUFFIXES


def stated_in(sources: Sequence[dict[str, Any]], *, done: bool) -> Stated:
    """Of each field what the first of some objects says that says it."""

    def get(key: str) -> Any:
        names = (key, f"raster:{key}", f"file:{key}")
        return next((o[n] for o in sources for n in names if o.get(n) is not None), None)

    scale, offset = get("scale"), get("offset")
    note = ""
    if done and offset not in (None, 0):
        offset, note = 0.0, _aside(offset)
    return Stated(get("nodata"), scale, offset, get("unit"), note, done)


def scaled(sources: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The objects that say a scale or an offset."""
    names = ("scale", "raster:scale", "offset", "raster:offset")
    return [some for some in sources if any(some.get(name) is not None for name in names)]


def baseline_note(properties: dict[str, Any]) -> str:
    """A note on Sentinel-2's numbers, 1000 higher since baseline 04.00; empty for others."""
    found = properties.get(BASELINE)
    try:
        late = float(str(found)) >= 4
    except ValueError:
        return ""
    told = f"{BASELINE} {found} without an offset: if its numbers are 1000 higher than before 04.00"
    return f"{told}, convert=scale offset=-1000 says so" if late else ""


def _aside(offset: Any) -> str:
    return f"offset {offset} left aside: {OFFSET_DONE} says that it is in the numbers already"


def _etag(entry: Entry) -> str:
    """A store that gives none still tells size and time."""
    return entry.etag or f"{entry.modified.timestamp():.6f}-{entry.size:x}"


def _combined(etags: tuple[str, ...]) -> str:
    if len(etags) == 1:
        return etags[0]
    return hashlib.sha256("\n".join(etags).encode()).hexdigest()
