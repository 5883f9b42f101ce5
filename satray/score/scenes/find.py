"""Which scenes there are: rasters or STAC Items below a prefix, one file, or a Parquet list."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from satray.data.bands import canonical
from satray.data.georeference import world_files, world_suffixes
from satray.data.match import with_extensions
from satray.data.raster import MASK
from satray.errors import DecodeError, InputError, SatrayError, one_line
from satray.score.scenes.items import (
    item_bands,
    item_name,
    items_in,
    resolved,
    trimmed,
)
from satray.score.scenes.scene import (
    RASTER_SUFFIXES,
    BandSource,
    SceneFailure,
    SceneRef,
    etag_of,
    is_raster,
    suffix,
    uris_of,
)
from satray.storage import Entry, Storage, absolute

ACCEPTED = (
    "accepted: GeoTIFF, JPEG 2000, PNG or JPEG files (by extension), STAC Items (.json), a prefix "
    "of either, or a Parquet list of scene, uri and, for files of one band, band and index"
)
UNREAD = frozenset(("vrt", "nc", "nc4", "h4", "h5", "hdf", "hdf4", "hdf5", "he5"))
"""Extensions of scenes that are not read."""
LARGEST = 16 << 20
"""Bytes of the largest JSON file below a prefix that is taken for an Item."""

_LIST = {"scene": pa.string(), "uri": pa.string(), "band": pa.string(), "index": pa.int64()}
_HEADS = 32  # requests at once for files that no listing told of


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
    place = absolute(scenes)
    ending = suffix(place)
    failures: list[SceneFailure] = []
    entries: list[Entry] = []
    if ending == "parquet" and storage.exists(place):
        refs = _of_list(storage, place, failures)
    else:
        if ending in ("json", "geojson", *UNREAD, *RASTER_SUFFIXES) and storage.exists(place):
            stem = place.rpartition(".")[0]
            worlds = [end for low in world_suffixes(ending) for end in (low, low.upper())]
            beside = [f"{stem}.{end}" for end in worlds] if is_raster(place) else []
            for found in _heads([place, place + MASK, *beside], storage).values():
                if isinstance(found, Entry):
                    entries.append(found)
                elif not isinstance(found, InputError):
                    raise found
        else:
            entries = with_extensions(storage.list(place), extensions)
            entries = [e for e in entries if not _is_document(e.key) or e.size <= LARGEST]
        refs = _of_entries(entries, storage, failures)
        refs.sort(key=lambda ref: (ref.scene, ref.uri))
        failures.sort(key=lambda failure: (failure.scene, failure.uri))
    if not refs and not failures and not none_yet:
        said = f"{len(entries)} files, none of them a scene" if entries else "nothing"
        raise InputError(f"scenes={scenes}: found {said}; {ACCEPTED}")
    return _looked_up(refs, failures, entries, storage, wanted)


def _of_list(storage: Storage, place: str, failures: list[SceneFailure]) -> list[SceneRef]:
    """Scenes of a Parquet list, one row a scene or one row a band, in order of their first row.

    Raises:
        InputError: no Parquet, or a column missing or of another type.
    """
    try:
        table = pq.read_table(pa.BufferReader(storage.read(place)))
        columns = {
            name: table.column(name).cast(kind)
            for name, kind in _LIST.items()
            if name in ("scene", "uri", *table.column_names)
        }
    except (pa.ArrowException, OSError, KeyError) as error:
        raise InputError(f"scenes={place}: {one_line(error)}; {ACCEPTED}") from error
    by_scene: dict[str, list[dict[str, Any]]] = {}
    for row in pa.table(columns).to_pylist():
        named = row["scene"] is not None and row["scene"].strip()
        by_scene.setdefault(row["scene"] if named else "", []).append(row)
    refs: dict[str, SceneRef] = {}
    for scene, rows in by_scene.items():
        try:
            if not scene:
                raise DecodeError(f"{len(rows)} rows without a scene's name")
            refs[scene] = _of_rows(scene, rows, place)
        except DecodeError as error:
            failures.append(SceneFailure(scene, str(rows[0]["uri"]), str(error)))
    return list(refs.values())


def _of_rows(scene: str, rows: list[dict[str, Any]], base: str) -> SceneRef:
    """A scene of a list."""
    uris = [resolved(row["uri"], base) for row in rows]
    said = [(row.get("band"), row.get("index")) for row in rows]
    if said == [(None, None)]:
        return SceneRef(scene, uris[0], None)
    names = [canonical(band or "") for band, _ in said]
    if "" in names or len(set(names)) < len(names):
        raise DecodeError(f"bands {', '.join(names)}; accepted: a row a band, each with its name")
    numbers = [1 if index is None else index for _, index in said]
    if min(numbers) < 1:
        raise DecodeError(f"index {min(numbers)}; accepted: 1 and above")
    return SceneRef(scene, uris[0], tuple(map(BandSource, names, uris, numbers)))


def _of_entries(
    entries: Sequence[Entry], storage: Storage, failures: list[SceneFailure]
) -> list[SceneRef]:
    rasters = {entry.uri: entry for entry in entries if is_raster(entry.key)}
    failures += [
        SceneFailure(e.key, e.uri, f".{suffix(e.key)} is not read; accepted: GeoTIFFs of it")
        for e in entries
        if suffix(e.key) in UNREAD
    ]
    documents = [entry for entry in entries if _is_document(entry.key)]
    of_items: list[SceneRef] = []
    beside: dict[str, SceneRef] = {}
    for number, data in storage.read_many([entry.uri for entry in documents]):
        entry = documents[number]
        wrong: list[SceneFailure] = []
        refs = _of_document(data, entry.uri, entry.key, wrong)
        partner = _partner(entry, rasters)
        files = {uri for ref in refs for uri in uris_of(ref.uri, ref.bands)}
        if partner and len(refs) == 1 and files == {partner}:
            key = rasters[partner].key
            beside[partner] = replace(refs[0], scene=key, uri=partner, bands=None)
            continue
        of_items += refs
        failures += wrong
    theirs = {uri for ref in of_items for uri in uris_of(ref.uri, ref.bands)}
    plain = [
        beside.get(uri) or SceneRef(entry.key, uri, None)
        for uri, entry in rasters.items()
        if uri not in theirs
    ]
    return plain + of_items


def _partner(entry: Entry, rasters: dict[str, Entry]) -> str | None:
    """The raster that a JSON file lies beside by its name."""
    stem = entry.uri.rpartition(".")[0]
    endings = ("", *(f".{end}" for low in RASTER_SUFFIXES for end in (low, low.upper())))
    return next((stem + end for end in endings if stem + end in rasters), None)


def _of_document(
    data: bytes | Exception, uri: str, key: str, failures: list[SceneFailure]
) -> list[SceneRef]:
    """Scenes of a JSON file; none where it holds no Items."""
    if isinstance(data, Exception):
        failures.append(SceneFailure(key, uri, one_line(data)))
        return []
    refs = []
    for item in items_in(data) or ():
        scene = key
        try:
            scene = item_name(item)
            bands, stated = item_bands(item, uri)
            refs.append(SceneRef(scene, uri, bands, item=trimmed(item), stated=stated))
        except DecodeError as error:
            failures.append(SceneFailure(scene, uri, str(error)))
    return refs


def _looked_up(
    refs: Sequence[SceneRef],
    failures: list[SceneFailure],
    entries: Sequence[Entry],
    storage: Storage,
    wanted: Sequence[str] | None,
) -> Found:
    """Scenes, with etag, size and time of all their files."""
    unique: dict[str, SceneRef] = {}
    for ref in refs:
        first = unique.setdefault(ref.scene, ref)
        if first is not ref:
            why = f"another scene has this name: {first.uri}"
            failures.append(SceneFailure(ref.scene, ref.uri, why))
    chosen = [replace(ref, bands=_only(ref.bands, wanted)) for ref in unique.values()]
    known: dict[str, Entry | SatrayError] = {entry.uri: entry for entry in entries}
    needed = {uri for ref in chosen for uri in uris_of(ref.uri, ref.bands)}
    unlisted = sorted(needed - known.keys())
    known |= _heads([file for uri in unlisted for file in (uri, uri + MASK)], storage)
    worlds = world_files(entries)
    scenes = []
    for ref in chosen:
        uris = uris_of(ref.uri, ref.bands)
        masks = [uri + MASK for uri in uris]
        parts = [known[uri] for uri in (*uris, *masks) if uri in known]
        files = [part for part in parts if isinstance(part, Entry)]
        # a mask that is not there for us is none
        errors = [p for p in parts[: len(uris)] if isinstance(p, SatrayError)]
        errors += [p for p in parts if isinstance(p, SatrayError) and not isinstance(p, InputError)]
        if errors:
            failures.append(SceneFailure(ref.scene, ref.uri, one_line(errors[0])))
            continue
        world = worlds.get(ref.uri) if ref.bands is None else None
        files += [world] if world else []
        stated = {at: one for at, one in ref.stated.items() if at[0] in uris}
        scenes.append(
            replace(
                ref,
                etag=etag_of(files, stated),
                size=sum(file.size for file in files),
                modified=max(file.modified for file in files),
                files=tuple(file.uri for file in files),
                world=world.uri if world else None,
                stated=stated,
            )
        )
    return Found(tuple(scenes), tuple(failures))


def _only(
    bands: tuple[BandSource, ...] | None, wanted: Sequence[str] | None
) -> tuple[BandSource, ...] | None:
    """The bands that are wanted; all where one is missing, so that the refusal can name them."""
    if bands is None or wanted is None or not set(wanted) <= {band.name for band in bands}:
        return bands
    return tuple(band for band in bands if band.name in wanted)


def _is_document(key: str) -> bool:
    return suffix(key) in ("json", "geojson")


def _heads(uris: Sequence[str], storage: Storage) -> dict[str, Entry | SatrayError]:
    """The entries of files, or why there is none."""

    def head(uri: str) -> Entry | SatrayError:
        try:
            return storage.head(uri)
        except SatrayError as error:
            return error

    with ThreadPoolExecutor(_HEADS, thread_name_prefix="head") as pool:
        return dict(zip(uris, pool.map(head, uris), strict=True))
