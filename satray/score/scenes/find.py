"""Which scenes there are: rasters or STAC Items below a prefix, one file, or a Parquet list.

All that is known of a scene before it is opened is in its `SceneRef`. Items of any version are
taken as they are, without pystac, which refuses those that lack fields that nobody needs here.
"""

import contextlib
import hashlib
import json
import math
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from satray.data.bands import canonical
from satray.data.georeference import world_files, world_suffixes
from satray.data.match import suffix_of, with_extensions
from satray.data.raster import MASK
from satray.data.values import Unit, unit_of
from satray.errors import DecodeError, InputError, MisfitError, SatrayError, one_line
from satray.storage import Entry, Storage, absolute, names

ACCEPTED = (
    "accepted: GeoTIFF, JPEG 2000, PNG or JPEG files (by extension), STAC Items (.json), a prefix "
    "of either, or a Parquet list of scene, uri and, for files of one band, band and index"
)
RASTERS = ("tif", "tiff", "gtif", "gtiff", "geotiff", "jp2", "png", "jpg", "jpeg", "jpe")
DOCUMENTS = ("json", "geojson")
UNREAD = ("vrt", "nc", "nc4", "h4", "h5", "hdf", "hdf4", "hdf5", "he5")
"""Extensions of scenes that are not read; each is a failure."""
RASTER_TYPES = ("image/tiff", "image/geotiff", "image/jp2", "image/png", "image/jpeg")
LARGEST = 16 << 20
"""Bytes of the largest JSON file below a prefix that is looked at for Items."""
REMOTE = ("s3", "http", "https")
"""Schemes that an absolute reference may have, wherever it is found."""
BAND_LISTS = ("raster:bands", "bands", "eo:bands")
"""Fields of an asset that list its bands, in the file's order; what the first says goes first."""
KEPT = ("id", "stac_version", "collection", "geometry", "bbox", "properties")
"""What of an Item travels with its scene; assets and links can be many times as long."""

COLUMNS = {"scene": pa.string(), "uri": pa.string(), "band": pa.string(), "index": pa.int64()}
"""Of a list. A row without a band is a scene; else a band, by default its file's first."""


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

    def unit(self, band: str, own: Unit | None) -> Unit | None:
        """What the numbers mean; the file's `own` word counts where the Item is silent.

        Raises:
            MisfitError: a scale or offset that is none.
        """
        scale, offset, name = self.scale, self.offset, self.name
        if own is not None:
            scale = own.scale if scale is None else scale
            offset = own.offset if offset is None else offset
            name = name or own.name
        if scale is None and offset in (None, 0):
            return None
        try:
            return unit_of(band, scale, offset, name)
        except DecodeError as error:
            raise MisfitError(str(error)) from None

    def hidden(self, dtype: str) -> float | None:
        """The nodata as a number; None also of what the dtype lacks, and of NaN, which is no data.

        Raises:
            MisfitError: it is none.
        """
        try:
            value = math.nan if self.nodata is None else float(self.nodata)
        except (TypeError, ValueError, OverflowError):
            raise MisfitError(
                f"states nodata {self.nodata!r}; accepted: a number, nan, inf or -inf"
            ) from None
        if np.dtype(dtype).kind != "f":
            limits = np.iinfo(dtype)
            return value if value.is_integer() and limits.min <= value <= limits.max else None
        return None if math.isnan(value) else value


@dataclass(frozen=True)
class SceneRef:
    """A scene to score: small, and safe to send to other processes."""

    scene: str
    """Its name: path below `scenes=` with extension, `/` kept; a list's `scene`; an Item's id.
    Data, never a path: it may hold `..` or any letter."""
    uri: str
    """The file that is the scene, or its Item; of a list's several files the first."""
    bands: tuple[BandSource, ...] | None
    """Where an Item or a list says that each band lies; one with several names is there once a
    name. None: what `uri` itself says of its bands."""
    etag: str = ""
    """`etag_of` its files, and of where its bands lie and what is stated of them, but not of the
    rest of its Item; empty until they are known."""
    size: int = 0
    """Bytes of its files."""
    modified: datetime = datetime(1, 1, 1, tzinfo=UTC)
    """When a file of it was last changed, in UTC."""
    item: dict[str, Any] | None = field(default=None, compare=False)
    """Its STAC Item without assets and links; None where it has none."""
    files: tuple[str, ...] = ()
    """What it consists of: rasters, masks (`.msk`) and world file beside them, as they are now."""
    world: str | None = None
    """The world file among them; None where there is none."""
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


@dataclass(frozen=True)
class Found:
    """The scenes of a place, each with another name."""

    scenes: tuple[SceneRef, ...]
    """Scenes to score, sorted by name; a list's in its order."""
    failures: tuple[SceneFailure, ...]
    """What should be a scene and is none."""


def find_scenes(
    scenes: str,
    storage: Storage,
    *,
    wanted: Sequence[str] | None = None,
    extensions: tuple[str, ...] | None = None,
    none_yet: bool = False,
) -> Found:
    """Find the scenes of a place.

    In a prefix, an Item beside a raster of its name (`a.json` or `a.tif.json` and `a.tif`) belongs
    to that scene; any other Item is a scene, and the rasters that Items name are theirs.

    Args:
        scenes: prefix, raster, Item or list.
        storage: how it is reached.
        wanted: bands that will be read. A scene that names its bands then consists of those files
            only: fewer are asked for, and a change of another changes nothing.
        extensions: of a prefix's rasters; those of Items are taken whatever they are.
        none_yet: whether there may be none, as before the first scene of a schedule.

    Raises:
        InputError: nothing there that could be a scene, or not to be reached.
    """
    place, entries = absolute(scenes), list[Entry]()
    if suffix_of(place) == "parquet" and storage.exists(place):
        listed = list(_of_list(storage, place))
    else:
        entries = _entries(place, storage, extensions)
        listed = sorted(_of_entries(entries, storage), key=lambda one: (one.scene, one.uri))
    if not listed and not none_yet:
        said = f"{len(entries)} files, none of them a scene" if entries else "nothing"
        raise InputError(f"scenes={scenes}: found {said}; {ACCEPTED}")
    failures = [one for one in listed if isinstance(one, SceneFailure)]
    unique: dict[str, SceneRef] = {}
    for ref in (one for one in listed if isinstance(one, SceneRef)):
        if ref.scene in unique:
            why = f"another scene has this name: {unique[ref.scene].uri}"
            failures.append(SceneFailure(ref.scene, ref.uri, why))
            continue
        # all where one is missing, so that the refusal can name them
        if ref.bands and wanted is not None and {b.name for b in ref.bands} >= set(wanted):
            ref = replace(ref, bands=tuple(b for b in ref.bands if b.name in wanted))
        unique[ref.scene] = ref
    refs, worlds = list(unique.values()), world_files(entries)
    known: dict[str, Entry | SatrayError] = {entry.uri: entry for entry in entries}
    unlisted = sorted({uri for ref in refs for uri in uris_of(ref)} - known.keys())
    known |= _heads([file for uri in unlisted for file in (uri, uri + MASK)], storage)
    every = [_with_files(ref, known, worlds.get(ref.uri)) for ref in refs]
    failures += [one for one in every if isinstance(one, SceneFailure)]
    return Found(tuple(one for one in every if isinstance(one, SceneRef)), tuple(failures))


def uris_of(ref: SceneRef) -> tuple[str, ...]:
    """The rasters of a scene, each once, in order of their bands."""
    if ref.bands is None:
        return (ref.uri,)
    return tuple(dict.fromkeys(band.uri for band in ref.bands))


def etag_of(files: Iterable[Entry], ref: SceneRef) -> str:
    """What changes when a file of a scene does, where its bands lie, or what is stated of them.

    Args:
        files: rasters, masks and world file, in the order of `SceneRef.files`.
        ref: the scene.
    """
    # a store that gives none still tells size and time
    etags = [file.etag or f"{file.modified.timestamp():.6f}-{file.size:x}" for file in files]
    if ref.bands is not None:  # files by number: an address may be signed anew each time
        number = {uri: n for n, uri in enumerate(uris_of(ref))}
        etags.append(repr([(band.name, number[band.uri], band.band) for band in ref.bands]))
    if ref.stated:
        etags.append(repr(sorted(ref.stated.items(), key=lambda pair: pair[0])))
    if len(etags) == 1:
        return etags[0]
    return hashlib.sha256("\n".join(etags).encode()).hexdigest()


def resolved(href: object, base: str) -> str:
    """The absolute path or URI of a reference in an Item or a list.

    What others wrote may lead to its own neighbours and to public addresses, never from a store
    into this machine's disk, and never into GDAL's own file systems (`/vsi...`).

    Args:
        href: relative to the document that holds it, or absolute. Taken literally: a `%20` stays.
        base: absolute path or URI of that document.

    Raises:
        DecodeError: no text, another scheme, above the root of the store, from a store to a disk.
    """
    found = None
    if isinstance(href, str) and href.strip() and href.isprintable():
        scheme = names.scheme(href)
        if scheme in REMOTE:
            found = names.absolute(href) if names.split(href)[1] else None
        elif scheme not in ("", "file"):
            pass
        elif not names.is_remote(base):
            with contextlib.suppress(InputError):  # a file of another host
                path = names.absolute(href if scheme else os.path.join(names.parent(base), href))
                found = None if path.startswith("/vsi") else path
        elif not scheme and not href.startswith("//"):
            root, key = names.split(base)
            folder = "" if href.startswith("/") else posixpath.dirname(key)
            way = posixpath.normpath(posixpath.join(folder, href.lstrip("/")))
            found = None if way.split("/")[0] in (".", "..") else names.join(root, way)
    if found is None:
        accepted = ", ".join(f"{known}://" for known in REMOTE)
        raise DecodeError(
            f"reference {href!r}: accepted: a path within the store that holds it, {accepted}"
        )
    return found


def _entries(place: str, storage: Storage, extensions: tuple[str, ...] | None) -> list[Entry]:
    """What lies below a prefix; or a file, with what belongs to it."""
    ending = suffix_of(place)
    if ending in (*DOCUMENTS, *RASTERS, *UNREAD) and storage.exists(place):
        stem = place.rpartition(".")[0]
        worlds = [f"{stem}.{end}" for low in world_suffixes(ending) for end in (low, low.upper())]
        beside = [place + MASK, *worlds] if ending in RASTERS else []
        found = _heads([place, *beside], storage)
        for one in found.values():  # what cannot be looked at now may be there
            if not isinstance(one, Entry | InputError):
                raise one
        return [one for one in found.values() if isinstance(one, Entry)]
    return list(with_extensions(storage.list(place), extensions))


def _of_list(storage: Storage, place: str) -> Iterator[SceneRef | SceneFailure]:
    """Scenes of a Parquet list, one row a scene or one row a band, in order of their first row."""
    try:
        table = pq.read_table(pa.BufferReader(storage.read(place)))
        there = {"scene", "uri", *table.column_names}
        columns = {n: table.column(n).cast(kind) for n, kind in COLUMNS.items() if n in there}
    except (pa.ArrowException, OSError, KeyError) as error:
        raise InputError(f"scenes={place}: {one_line(error)}; {ACCEPTED}") from error
    by_scene: dict[str, list[dict[str, Any]]] = {}
    for row in pa.table(columns).to_pylist():
        by_scene.setdefault((row["scene"] or "").strip() and row["scene"], []).append(row)
    for scene, rows in by_scene.items():
        bands = [canonical(row.get("band") or "") for row in rows]
        try:
            if not scene:
                raise DecodeError(f"{len(rows)} rows without a scene's name")
            whole = bands == [""] and rows[0].get("index") is None
            if not whole and ("" in bands or len(set(bands)) < len(bands)):
                said = ", ".join(bands) or "without a name"
                raise DecodeError(f"bands {said}; accepted: a row a band, each with its name")
            uris = [resolved(row["uri"], place) for row in rows]
            numbers = [1 if row.get("index") is None else row["index"] for row in rows]
            if min(numbers) < 1:
                raise DecodeError(f"index {min(numbers)}; accepted: 1 and above")
            sources = None if whole else tuple(map(BandSource, bands, uris, numbers))
            yield SceneRef(scene, uris[0], sources)
        except DecodeError as error:
            yield SceneFailure(scene, str(rows[0]["uri"]), str(error))


def _of_entries(entries: Sequence[Entry], storage: Storage) -> Iterator[SceneRef | SceneFailure]:
    """Scenes of a listing: Items, and the rasters that none of them names."""
    rasters = {entry.uri: entry for entry in entries if suffix_of(entry.key) in RASTERS}
    documents = [entry for entry in entries if suffix_of(entry.key) in DOCUMENTS]
    if len(entries) > 1:  # else it is what was asked for
        documents = [entry for entry in documents if entry.size <= LARGEST]
    theirs: set[str] = set()
    beside: dict[str, SceneRef] = {}
    for number, data in storage.read_many([entry.uri for entry in documents]):
        entry = documents[number]
        found = list(_of_document(data, entry))
        stem = entry.uri.rpartition(".")[0]
        endings = ("", *(f".{end}" for low in RASTERS for end in (low, low.upper())))
        partner = next((stem + end for end in endings if stem + end in rasters), None)
        refs = [one for one in found if isinstance(one, SceneRef)]
        if partner and len(refs) == 1 and uris_of(refs[0]) == (partner,):
            key = rasters[partner].key
            beside[partner] = replace(refs[0], scene=key, uri=partner)
        else:
            theirs |= {uri for ref in refs for uri in uris_of(ref)}
            yield from found
    for entry in entries:
        ending = suffix_of(entry.key)
        if ending in UNREAD:
            yield SceneFailure(
                entry.key, entry.uri, f".{ending} is not read; accepted: GeoTIFFs of it"
            )
        elif ending == "json" and entry.size > LARGEST and len(entries) > 1:  # GeoJSON: vectors
            why = f"{entry.size:,} bytes are not looked at for Items; accepted: scenes={entry.uri}"
            yield SceneFailure(entry.key, entry.uri, why)
        elif ending in RASTERS and entry.uri not in theirs:
            yield beside.get(entry.uri) or SceneRef(entry.key, entry.uri, None)


def _of_document(data: bytes | Exception, entry: Entry) -> Iterator[SceneRef | SceneFailure]:
    """Scenes of a JSON file; none where it holds no Items."""
    if isinstance(data, Exception):
        yield SceneFailure(entry.key, entry.uri, one_line(data))
        return
    for item in _items_in(data):
        scene = item.get("id")
        try:
            if not isinstance(scene, str) or not scene.strip():
                raise DecodeError(f"the Item's id is {scene!r}; accepted: a text that is not empty")
            bands, stated = _item_bands(item, entry.uri)
            kept = {key: item[key] for key in KEPT if key in item}
            yield SceneRef(scene, entry.uri, bands, item=kept, stated=stated)
        except DecodeError as error:
            name = scene if isinstance(scene, str) and scene.strip() else entry.key
            yield SceneFailure(name, entry.uri, str(error))


def _items_in(data: bytes) -> list[dict[str, Any]]:
    """The Items of a JSON file, one or the members of a collection; none where it is other JSON."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return []
    collection = isinstance(document, dict) and document.get("type") == "FeatureCollection"
    features = document.get("features") if collection else [document]
    found = []
    for one in features if isinstance(features, list) else ():
        if isinstance(one, dict) and one.get("type") == "Feature" and "stac_version" in one:
            properties = one.get("properties")
            found.append({**one, "properties": properties if isinstance(properties, dict) else {}})
    return found


def _item_bands(
    item: dict[str, Any], base: str
) -> tuple[tuple[BandSource, ...], dict[tuple[str, int], Stated]]:
    """Where an Item's bands lie, and what it states of them, by file and number of the band.

    A band is there once for each of its names: common names (STAC 1.0 `eo:bands`, 1.1 `bands`), the
    bands' own, and the keys of assets with one band. Where two bands claim a name, a common name
    goes before a band's own, that before a key; then assets that say they are data go before
    others, pictures come last, and then the Item's order decides.

    Said of a band (`raster:bands`, `bands`, `eo:bands`) goes before said of its asset, that before
    said of all in the Item's properties, field by field. A name may have the prefix of the raster
    or the file extension, or none; in the properties it has the first.
    """
    common = {k: v for k, v in item["properties"].items() if str(k).startswith("raster:")}
    claims: list[tuple[int, Any, BandSource]] = []
    stated: dict[tuple[str, int], Stated] = {}
    for key, asset in _assets(item):
        uri, bands = resolved(asset.get("href"), base), _described(asset)
        for number, said in enumerate(bands, start=1):
            own = _first(said, "eo:common_name", "common_name"), _first(said, "name")
            called = (*own, key if len(bands) == 1 else None)
            claims += [(n, name, BandSource("", uri, number)) for n, name in enumerate(called)]
            objects = [*said, asset, common]
            nodata, scale, offset, unit = (
                _first(objects, name, f"raster:{name}", f"file:{name}")
                for name in ("nodata", "scale", "offset", "unit")
            )
            one = Stated(nodata, scale, 0 if _offset_done(item) else offset, unit)
            if one != Stated():
                stated.setdefault((uri, number), one)
    found: dict[str, BandSource] = {}
    for _, name, band in sorted(claims, key=lambda claim: claim[0]):
        if isinstance(name, str) and name.strip():
            found.setdefault(canonical(name), replace(band, name=canonical(name)))
    if not found:
        raise DecodeError(
            "the Item has no asset that is a raster; accepted: GeoTIFF, JPEG 2000, PNG or JPEG by "
            "media type or extension"
        )
    return tuple(found.values()), stated


def _assets(item: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Keys and assets that are rasters: those that say they are data first, pictures last."""
    assets = item.get("assets")
    if not isinstance(assets, dict):
        raise DecodeError("the Item has no assets")
    found = []
    for key, asset in assets.items():
        if not isinstance(asset, dict):
            continue
        kind, roles = str(asset.get("type") or "").lower(), asset.get("roles")
        roles = {str(role) for role in roles} if isinstance(roles, list) else set()
        raster = (
            kind.startswith(RASTER_TYPES) if kind else suffix_of(str(asset.get("href"))) in RASTERS
        )
        if roles & {"thumbnail", "overview", "metadata"} or not raster:
            continue
        picture = "visual" in (*roles, key) or kind.startswith(("image/png", "image/jpeg"))
        rank = 2 if picture else 0 if roles & {"data", "reflectance"} else 1
        found.append((rank, str(key), asset))
    return [(key, asset) for _, key, asset in sorted(found, key=lambda one: one[0])]


def _described(asset: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Of each band of an asset what its lists say, one band at least."""
    lists = [asset[name] for name in BAND_LISTS if isinstance(asset.get(name), list)]
    lists = [[band if isinstance(band, dict) else {} for band in bands] for bands in lists]
    count = max([1, *map(len, lists)])
    for bands in lists:
        scaled = _first(bands, "scale", "raster:scale", "offset", "raster:offset") is not None
        missing = {"scale": f"for {len(bands)} of {count} bands only"} if scaled else {}
        bands += [missing] * (count - len(bands))
    return [[bands[n] for bands in lists] for n in range(count)]


def _first(objects: list[dict[str, Any]], *keys: str) -> Any:
    """What the first object says that says anything of some keys; None where none does."""
    said = (one.get(key) for one in objects for key in keys)
    return next((value for value in said if value is not None), None)


def _offset_done(item: dict[str, Any]) -> bool:
    """Whether the provider has taken the offset off, and may state it nevertheless."""
    return str(item["properties"].get("earthsearch:boa_offset_applied")).lower() == "true"


def _with_files(
    ref: SceneRef, known: Mapping[str, Entry | SatrayError], world: Entry | None
) -> SceneRef | SceneFailure:
    """A scene with etag, size and time of all its files."""
    uris, files = uris_of(ref), list[Entry]()
    for uri in (*uris, *(uri + MASK for uri in uris)):
        one = known.get(uri)
        if isinstance(one, Entry):
            files.append(one)
        elif one is not None and (uri in uris or not isinstance(one, InputError)):
            return SceneFailure(ref.scene, ref.uri, one_line(one))  # a mask need not be there
    if uris != (ref.uri,):
        world = None
    files += [world] if world else []
    ref = replace(ref, stated={at: one for at, one in ref.stated.items() if at[0] in uris})
    return replace(
        ref,
        etag=etag_of(files, ref),
        size=sum(file.size for file in files),
        modified=max(file.modified for file in files),
        files=tuple(file.uri for file in files),
        world=world.uri if world else None,
    )


def _heads(uris: Sequence[str], storage: Storage) -> dict[str, Entry | SatrayError]:
    """The entries of files, or why there is none; 32 requests at once."""

    def head(uri: str) -> Entry | SatrayError:
        try:
            return storage.head(uri)
        except SatrayError as error:
            return error

    with ThreadPoolExecutor(32, thread_name_prefix="head") as pool:
        return dict(zip(uris, pool.map(head, uris), strict=True))
