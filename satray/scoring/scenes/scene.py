"""What is known of a scene before anything of it is read."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from satray.scoring.scenes.stated import Stated
from satray.storage import Entry

RASTER_SUFFIXES = frozenset({"tif", "tiff", "jp2", "png", "jpg", "jpeg"})
"""Extensions, lower case, of files that are taken for scenes."""


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


def _etag(entry: Entry) -> str:
    """A store that gives none still tells size and time."""
    return entry.etag or f"{entry.modified.timestamp():.6f}-{entry.size:x}"


def _combined(etags: tuple[str, ...]) -> str:
    if len(etags) == 1:
        return etags[0]
    return hashlib.sha256("\n".join(etags).encode()).hexdigest()
