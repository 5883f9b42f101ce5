"""What is known of a scene before anything of it is read: its files, and what its Item states."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from satray.data.raster import MASK
from satray.data.values import Unit, unit_of
from satray.errors import DecodeError
from satray.score.reading import MisfitError
from satray.storage import Entry

RASTER_SUFFIXES = frozenset({"tif", "tiff", "jp2", "png", "jpg", "jpeg"})
"""Extensions, lower case, of files that are taken for scenes."""
UNKNOWN = datetime.min.replace(tzinfo=UTC)
"""Time of change of a scene whose files were not looked up."""


@dataclass(frozen=True)
class BandSource:
    """Where one band of a scene lies."""

    name: str
    """Band name."""
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

    def beside(self, own: Unit | None) -> "Stated":
        """With what the file itself states where this is silent."""
        if own is None:
            return self
        scale = own.scale if self.scale is None else self.scale
        offset = own.offset if self.offset is None else self.offset
        return Stated(self.nodata, scale, offset, self.name or own.name)

    def unit(self, band: str) -> Unit | None:
        """What the numbers mean; None where it states neither scale nor an offset other than 0.

        Raises:
            MisfitError: a scale or offset that is none.
        """
        if self.scale is None and self.offset in (None, 0):
            return None
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
    etag: str = ""
    """`etag_of` its files and of what its Item states of its bands; empty until they are known."""
    size: int = 0
    """Bytes of its files."""
    modified: datetime = UNKNOWN
    """When a file of it was last changed, in UTC."""
    item: dict[str, Any] | None = field(default=None, compare=False)
    """Its STAC Item without assets and links; None where it has none."""
    files: tuple[str, ...] = ()
    """What it consists of: rasters, masks (`.msk`) and world file beside them, as they are now."""
    world: str | None = None
    """The world file among them; None where there is none."""
    stated: Mapping[tuple[str, int], Stated] = field(default_factory=dict, compare=False)
    """What its Item states of bands, by file and the band's number there."""

    def mask_of(self, raster: str) -> str | None:
        """The `.msk` beside one of its rasters; None where there is none."""
        return raster + MASK if raster + MASK in self.files else None


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


def etag_of(files: Iterable[Entry], stated: Mapping[tuple[str, int], Stated]) -> str:
    """What changes when a file of a scene does, or what its Item states of their bands.

    Args:
        files: rasters, masks and world file, in the order of `SceneRef.files`.
        stated: of the scene.
    """
    # a store that gives none still tells size and time
    etags = [file.etag or f"{file.modified.timestamp():.6f}-{file.size:x}" for file in files]
    if stated:
        etags.append(repr(sorted(stated.items(), key=lambda pair: pair[0])))
    if len(etags) == 1:
        return etags[0]
    return hashlib.sha256("\n".join(etags).encode()).hexdigest()


def suffix(key: str) -> str:
    """Lower-case extension of a path, without its dot; empty where it has none."""
    stem, dot, ending = key.rsplit("/", 1)[-1].rpartition(".")
    return ending.lower() if dot and stem else ""


def is_raster(key: str) -> bool:
    """Whether a path ends like a scene's."""
    return suffix(key) in RASTER_SUFFIXES
