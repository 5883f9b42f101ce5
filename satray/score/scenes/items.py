"""What is in a STAC Item: its bands and by which names, what it states of them, where they lead.

Items of any version are taken as they are, without pystac, which refuses those that lack fields
that nobody needs here.
"""

import json
import os
import posixpath
from dataclasses import replace
from typing import Any

from satray.data.bands import canonical
from satray.errors import DecodeError
from satray.score.scenes.scene import BandSource, Stated, is_raster
from satray.storage import names

REMOTE = ("s3", "http", "https")
"""Schemes that an absolute reference may have, wherever it is found."""

RASTER_TYPES = ("image/tiff", "image/geotiff", "image/jp2", "image/png", "image/jpeg")
NO_DATA_ROLES = frozenset({"thumbnail", "overview", "metadata"})
BAND_LISTS = ("raster:bands", "bands", "eo:bands")
"""Fields of an asset that list its bands, in the file's order; what the first says goes first."""
KEPT = ("id", "stac_version", "collection", "geometry", "bbox", "properties")
"""What of an Item travels with its scene; assets and links can be many times as long."""
OFFSET_DONE = "earthsearch:boa_offset_applied"
"""Property of Items whose provider has taken the offset off, and may state it nevertheless."""
BASELINE = "s2:processing_baseline"
"""Property of Sentinel-2's Items."""


def items_in(data: bytes) -> tuple[dict[str, Any], ...] | None:
    """The Items of a JSON file: one, or the members of a collection of features.

    None where it is something else (other JSON, a Catalog, features that are no Items).
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    collection = isinstance(document, dict) and document.get("type") == "FeatureCollection"
    features = document.get("features") if collection else [document]
    if not isinstance(features, list) or not features:
        return None
    good = all(
        isinstance(one, dict)
        and one.get("type") == "Feature"
        and isinstance(one.get("stac_version"), str)
        for one in features
    )
    return tuple(features) if good else None


def item_name(item: dict[str, Any]) -> str:
    """An Item's id; raises DecodeError where it has none."""
    name = item.get("id")
    if not isinstance(name, str) or not name.strip():
        raise DecodeError(f"the Item's id is {name!r}; accepted: a text that is not empty")
    return name


def item_bands(
    item: dict[str, Any], base: str
) -> tuple[tuple[BandSource, ...], dict[tuple[str, int], Stated]]:
    """Where an Item's bands lie, and what it states of them.

    A band is there once for each of its names: common names (STAC 1.0 `eo:bands`, 1.1 `bands`), the
    bands' own, and the keys of assets with one band. Where two bands claim a name, a common name
    goes before a band's own, that before a key; then assets that say they are data go before
    others, pictures come last, and then the Item's order decides.

    Said of a band (`raster:bands`, `bands`, `eo:bands`) goes before said of its asset, that before
    said of all in the Item's properties, field by field. A name may have the prefix of the raster
    extension, or none; in the properties it has it.

    Args:
        item: the Item.
        base: absolute path or URI of its file.

    Returns:
        Bands; and what is stated, by file and number of the band.

    Raises:
        DecodeError: no asset is a raster, or one leads where it may not.
    """
    common = {k: v for k, v in _properties(item).items() if str(k).startswith("raster:")}
    claims: list[tuple[int, Any, BandSource]] = []
    stated: dict[tuple[str, int], Stated] = {}
    for key, asset in _rasters(item):
        uri, bands = resolved(asset.get("href"), base), _described(asset)
        for number, said in enumerate(bands, start=1):
            names = (
                _first(said, "eo:common_name", "common_name"),
                _first(said, "name"),
                key if len(bands) == 1 else None,
            )
            claims += [(n, name, BandSource("", uri, number)) for n, name in enumerate(names)]
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


def baseline_note(item: dict[str, Any]) -> str:
    """A note on an Item that states no offset: Sentinel-2's numbers since baseline 04.00, or ''."""
    found = _properties(item).get(BASELINE)
    try:
        late = float(str(found)) >= 4 and not _offset_done(item)
    except ValueError:
        return ""
    said = f"{BASELINE} {found} without an offset: if its numbers are 1000 higher than before 04.00"
    return f"{said}, convert=scale offset=-1000 says so" if late else ""


def trimmed(item: dict[str, Any]) -> dict[str, Any]:
    """What of an Item travels with its scene."""
    return {key: item[key] for key in KEPT if key in item}


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


def _rasters(item: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Keys and assets that are rasters: those that say they are data first, pictures last."""
    assets = item.get("assets")
    if not isinstance(assets, dict):
        raise DecodeError("the Item has no assets")
    found = []
    for key, asset in assets.items():
        if not isinstance(asset, dict):
            continue
        href, kind = asset.get("href"), str(asset.get("type") or "").lower()
        roles = asset.get("roles")
        roles = {str(role) for role in roles} if isinstance(roles, list) else set()
        named = not kind and isinstance(href, str) and is_raster(href)
        if roles & NO_DATA_ROLES or not (named or kind.startswith(RASTER_TYPES)):
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


def _properties(item: dict[str, Any]) -> dict[str, Any]:
    properties = item.get("properties")
    return properties if isinstance(properties, dict) else {}


def _offset_done(item: dict[str, Any]) -> bool:
    return str(_properties(item).get(OFFSET_DONE)).lower() == "true"
