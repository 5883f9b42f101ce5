"""Which scenes there are: rasters or STAC Items below a prefix, one file, or a Parquet list."""

from collections import Counter
from collections.abc import Iterable, Sequence
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
from satray.scoring.scenes.items import (
    LARGEST,
    item_bands,
    item_name,
    item_stated,
    items_in,
    resolved,
    trimmed,
)
from satray.scoring.scenes.scene import (
    BandSource,
    SceneFailure,
    SceneRef,
    Stated,
    is_raster,
    made_ref,
    suffix,
    uris_of,
)
from satray.storage import Entry, Storage, absolute, name

ACCEPTED = (
    "accepted: GeoTIFF, JPEG 2000, PNG or JPEG files (by extension), STAC Items (.json), a prefix "
    "of either, or a Parquet list of scene, uri and, for files of one band, band and index"
)
VRT = "a VRT may lead anywhere and is not read; accepted: the files that it names, by a list"
HDF = (
    "datasets of HDF and NetCDF files are not read; accepted: a GeoTIFF of them, by gdal_translate"
)
UNREAD = {"vrt": VRT, **dict.fromkeys(("nc", "nc4", "h4", "h5", "hdf", "hdf4", "hdf5", "he5"), HDF)}
"""Extensions of scenes that are not read -> why."""

LIST_COLUMNS = {"scene": False, "uri": False, "band": True, "index": True}
"""Of a list -> whether it may be absent."""
LIST_ACCEPTED = "accepted: scene and uri (texts), and optionally band (a name) and index (from 1)"

_HEADS = 32  # requests at once for files that no listing told of


@dataclass(frozen=True)
class Found:
    """The scenes of a place, each with another name."""

    scenes: tuple[SceneRef, ...]
    """Scenes to score, sorted by name; a list's in its order."""
    failures: tuple[SceneFailure, ...]
    """What should be a scene and is none."""


@dataclass(frozen=True)
class _Draft:
    """A scene whose files have not been looked up."""

    scene: str
    uri: str
    bands: tuple[BandSource, ...] | None
    item: dict[str, Any] | None = None
    stated: dict[tuple[str, int], Stated] | None = None


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
    single = ending in ("parquet", "json", "geojson", *UNREAD) or is_raster(place)
    if single and storage.exists(place):
        return _of_file(place, ending, storage, wanted, none_yet)
    entries = with_extensions(storage.list(place), extensions)
    drafts, failures = _of_entries(entries, storage)
    if not drafts and not failures and not none_yet:
        found = f"{len(entries)} files, none of them a scene" if entries else "nothing"
        raise InputError(f"scenes={scenes}: found {found}; {ACCEPTED}")
    drafts.sort(key=lambda draft: (draft.scene, draft.uri))
    failures.sort(key=lambda failure: (failure.scene, failure.uri))
    known = {entry.uri: entry for entry in entries}
    return _looked_up(drafts, failures, known, storage, wanted, world_files(entries))


def _of_file(
    place: str, ending: str, storage: Storage, wanted: Sequence[str] | None, none_yet: bool
) -> Found:
    failures: list[SceneFailure] = []
    worlds: dict[str, Entry] = {}
    if ending in UNREAD:
        raise InputError(f"scenes={place}: {UNREAD[ending]}")
    if ending == "parquet":
        drafts, failures = _of_list(storage, place)
        if not drafts and not failures and not none_yet:
            raise InputError(f"scenes={place}: the list has no rows; {ACCEPTED}")
    elif is_raster(place):
        drafts = [_Draft(name(place), place, None)]
        worlds = _world_of(place, ending, storage)
    else:
        items = items_in(storage.read(place))
        if items is None:
            raise InputError(f"scenes={place}: no STAC Item; {ACCEPTED}")
        drafts = _of_items(items, place, name(place), failures)
    return _looked_up(drafts, failures, {}, storage, wanted, worlds)


def _world_of(place: str, ending: str, storage: Storage) -> dict[str, Entry]:
    """The world file beside a raster that no listing told of."""
    stem = place.rpartition(".")[0]
    try:
        for suffix in world_suffixes(ending):
            for beside in (f"{stem}.{suffix}", f"{stem}.{suffix.upper()}"):
                if storage.exists(beside):
                    return {place: storage.head(beside)}
    except SatrayError:  # a store that tells of nothing but the raster
        pass
    return {}


def _of_list(storage: Storage, place: str) -> tuple[list[_Draft], list[SceneFailure]]:
    """Scenes of a Parquet list, one row a scene or one row a band, in order of their first row.

    Of an Item, the Item's, under the list's name.

    Raises:
        InputError: no Parquet, or a column missing or of another type.
    """
    try:
        table = pq.read_table(pa.BufferReader(storage.read(place)))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"scenes={place}: no Parquet file ({one_line(error)})") from error
    by_scene: dict[str, list[dict[str, Any]]] = {}
    nameless = 0
    for row in table.select(_list_columns(table.schema, place)).to_pylist():
        if row["scene"] is None or not row["scene"].strip():
            nameless += 1
        else:
            by_scene.setdefault(row["scene"], []).append(row)
    drafts: dict[str, _Draft] = {}
    failures = []
    if nameless:
        failures.append(SceneFailure("", place, f"{nameless} rows without a scene's name"))
    for scene, rows in by_scene.items():
        try:
            drafts[scene] = _of_rows(scene, rows, place)
        except DecodeError as error:
            failures.append(SceneFailure(scene, str(rows[0]["uri"]), str(error)))
    of_items = [
        one
        for one in drafts.values()
        if one.bands is None and suffix(one.uri) in ("json", "geojson")
    ]
    for number, data in storage.read_many([one.uri for one in of_items]):
        one = of_items[number]
        found = () if isinstance(data, Exception) else items_in(data) or ()
        wrong: list[SceneFailure] = []
        of_item = _of_items(found, one.uri, one.scene, wrong) if len(found) == 1 else []
        if of_item:
            drafts[one.scene] = replace(of_item[0], scene=one.scene)
            continue
        del drafts[one.scene]
        why = one_line(data) if isinstance(data, Exception) else "holds no single STAC Item"
        failures.append(SceneFailure(one.scene, one.uri, wrong[0].error if wrong else why))
    return list(drafts.values()), failures


def _list_columns(schema: pa.Schema, place: str) -> list[str]:
    """Those of a list that are read; `band` and `index` may be absent, or null throughout."""
    columns = [column for column in LIST_COLUMNS if column in schema.names]
    for column, optional in LIST_COLUMNS.items():
        if column not in columns and not optional:
            found = ", ".join(schema.names)
            raise InputError(f"scenes={place}: no column {column} among {found}; {LIST_ACCEPTED}")
    for column in columns:
        kind = schema.field(column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        fits = pa.types.is_integer(kind) if column == "index" else text
        if not fits and not (LIST_COLUMNS[column] and pa.types.is_null(kind)):
            raise InputError(f"scenes={place}: column {column} is {kind}; {LIST_ACCEPTED}")
    return columns


def _of_rows(scene: str, rows: list[dict[str, Any]], base: str) -> _Draft:
    """A scene of a list."""
    uris = [resolved(row["uri"], base) for row in rows]
    named = [(row.get("band"), row.get("index")) for row in rows]
    if named == [(None, None)]:
        return _Draft(scene, uris[0], None)
    bands = []
    for uri, (band, index) in zip(uris, named, strict=True):
        if band is None and index is None:
            raise DecodeError(
                f"{len(rows)} rows, one without band and index; accepted: one row for a file with "
                "its own bands, or a row a band"
            )
        if index is not None and index < 1:
            raise DecodeError(f"index {index}; accepted: 1 and above")
        bands.append(BandSource(None if band is None else canonical(band), uri, index or 1))
    counts = Counter(band.name for band in bands if band.name is not None)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise DecodeError(f"band {twice[0]} has several rows; accepted: one row a band")
    return _Draft(scene, uris[0], tuple(bands))


def _of_entries(
    entries: Sequence[Entry], storage: Storage
) -> tuple[list[_Draft], list[SceneFailure]]:
    rasters = {entry.uri: entry for entry in entries if is_raster(entry.key)}
    failures = [
        SceneFailure(e.key, e.uri, UNREAD[suffix(e.key)])
        for e in entries
        if suffix(e.key) in UNREAD
    ]
    documents = [e for e in entries if suffix(e.key) in ("json", "geojson") and e.size <= LARGEST]
    of_items: list[_Draft] = []
    beside: dict[str, _Draft] = {}
    for number, data in storage.read_many([entry.uri for entry in documents]):
        entry = documents[number]
        if isinstance(data, Exception):
            failures.append(SceneFailure(entry.key, entry.uri, one_line(data)))
            continue
        items = items_in(data)
        if items is None:
            continue
        wrong: list[SceneFailure] = []
        drafts = _of_items(items, entry.uri, entry.key, wrong)
        partner = _partner(entry, rasters)
        files = {uri for draft in drafts for uri in uris_of(draft.uri, draft.bands)}
        if partner and len(items) == 1 and files <= {partner}:
            stated = drafts[0].stated if drafts else None
            key = rasters[partner].key
            beside[partner] = _Draft(key, partner, None, trimmed(items[0]), stated)
            continue
        of_items += drafts
        failures += wrong
    theirs = {uri for draft in of_items for uri in uris_of(draft.uri, draft.bands)}
    plain = [
        beside.get(uri) or _Draft(entry.key, uri, None)
        for uri, entry in rasters.items()
        if uri not in theirs
    ]
    return plain + of_items, failures


def _partner(entry: Entry, rasters: dict[str, Entry]) -> str | None:
    """The raster that a JSON file lies beside by its name."""
    stem = entry.uri.rpartition(".")[0]
    if stem in rasters:
        return stem
    for ending in ("tif", "tiff", "jp2", "png", "jpg", "jpeg", "TIF", "TIFF"):
        if f"{stem}.{ending}" in rasters:
            return f"{stem}.{ending}"
    return None


def _of_items(
    items: Iterable[dict[str, Any]], uri: str, key: str, failures: list[SceneFailure]
) -> list[_Draft]:
    drafts = []
    for item in items:
        scene = key
        try:
            scene = item_name(item)
            bands, stated = item_bands(item, uri), item_stated(item, uri)
            drafts.append(_Draft(scene, uri, bands, trimmed(item), stated))
        except DecodeError as error:
            failures.append(SceneFailure(scene, uri, str(error)))
    return drafts


def _looked_up(
    drafts: Sequence[_Draft],
    failures: Sequence[SceneFailure],
    known: dict[str, Entry],
    storage: Storage,
    wanted: Sequence[str] | None,
    worlds: dict[str, Entry],
) -> Found:
    """Scenes of drafts, with etag, size and time of all their files."""
    unique: dict[str, _Draft] = {}
    failed = list(failures)
    for draft in drafts:
        first = unique.setdefault(draft.scene, draft)
        if first is not draft:
            why = f"another scene has this name: {first.uri}"
            failed.append(SceneFailure(draft.scene, draft.uri, why))
    chosen = [(draft, _only(draft.bands, wanted)) for draft in unique.values()]
    needed = {uri for draft, bands in chosen for uri in uris_of(draft.uri, bands)}
    unlisted = sorted(needed - known.keys())
    entries = _heads([*unlisted, *(uri + MASK for uri in unlisted)], storage)
    scenes = []
    for draft, bands in chosen:
        files = uris_of(draft.uri, bands)
        masks = [known.get(uri + MASK) or entries.get(uri + MASK) for uri in files]
        masked = tuple(uri for uri, mask in zip(files, masks, strict=True) if mask is not None)
        parts = [known.get(uri) or entries[uri] for uri in files]
        parts += [mask for mask in masks if mask is not None]
        errors = [part for part in parts if isinstance(part, str)]
        if errors:
            failed.append(SceneFailure(draft.scene, draft.uri, errors[0]))
            continue
        there = [part for part in parts if isinstance(part, Entry)]
        world = worlds.get(draft.uri) if bands is None else None
        beside = (masked, world, draft.stated)
        ref = made_ref(draft.scene, draft.uri, bands, there, draft.item, *beside)
        scenes.append(ref)
    return Found(tuple(scenes), tuple(failed))


def _only(
    bands: tuple[BandSource, ...] | None, wanted: Sequence[str] | None
) -> tuple[BandSource, ...] | None:
    """The bands that are wanted; all where one is missing, so that the refusal can name them."""
    if bands is None or wanted is None or not set(wanted) <= {band.name for band in bands}:
        return bands
    return tuple(band for band in bands if band.name in wanted)


def _heads(uris: Sequence[str], storage: Storage) -> dict[str, Entry | str | None]:
    """The entries of files, or why there is none; None for masks that are not there for us."""

    def head(uri: str) -> Entry | str | None:
        try:
            return storage.head(uri)
        except SatrayError as error:
            if isinstance(error, InputError) and uri.endswith(MASK):
                return None
            return one_line(error)

    with ThreadPoolExecutor(_HEADS, thread_name_prefix="head") as pool:
        return dict(zip(uris, pool.map(head, uris), strict=True))
