"""Which scenes there are: rasters or STAC Items below a prefix, one file, or a Parquet list."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

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
    trimmed,
)
from satray.scoring.scenes.listed import Listed, read_list
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
        listed, failures = read_list(storage.read(place), place)
        drafts = _of_listed(listed, storage, failures)
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


def _of_listed(
    listed: Sequence[Listed], storage: Storage, failures: list[SceneFailure]
) -> list[_Draft]:
    """Scenes of a list, in its order; of an Item, the Item's, under the list's name."""
    drafts = {one.scene: _Draft(one.scene, one.uri, one.bands) for one in listed}
    items = [one for one in listed if one.bands is None and suffix(one.uri) in ("json", "geojson")]
    for number, data in storage.read_many([one.uri for one in items]):
        one = items[number]
        found = () if isinstance(data, Exception) else items_in(data) or ()
        wrong: list[SceneFailure] = []
        of_item = _of_items(found, one.uri, one.scene, wrong) if len(found) == 1 else []
        if of_item:
            drafts[one.scene] = replace(of_item[0], scene=one.scene)
            continue
        del drafts[one.scene]
        why = one_line(data) if isinstance(data, Exception) else "holds no single STAC Item"
        failures.append(SceneFailure(one.scene, one.uri, wrong[0].error if wrong else why))
    return list(drafts.values())


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
