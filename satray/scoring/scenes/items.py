"""STAC Items: which of their assets are bands, by which names, and where they lead. Pure."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from satray.data.bands import canonical
from satray.errors import DecodeError
from satray.scoring.scenes.scene import (
    OFFSET_DONE,
    BandSource,
    Stated,
    baseline_note,
    is_raster,
    scaled,
    stated_in,
)
from satray.storage import names

REMOTE = ("s3", "http", "https")
"""Schemes that an absolute reference may have, wherever it is found."""

LARGEST = 16 << 20
"""Bytes of the largest JSON file that is taken for an Item."""

RASTER_TYPES = ("image/tiff", "image/geotiff", "image/jp2", "image/png", "image/jpeg")
NO_DATA_ROLES = frozenset({"thumbnail", "overview", "metadata"})
BAND_LISTS = ("raster:bands", "bands", "eo:bands")
"""Fields of an asset that list its bands, in the file's order."""
KEPT = ("id", "stac_version", "collection", "geometry", "bbox", "properties")
"""What of an Item travels with its scene; assets and links can be many times as long."""


@dataclass(frozen=True)
class _Raster:
    """One asset that is a raster."""

    key: str
    uri: str
    bands: tuple[dict[str, Any], ...]
    rank: int
    """0 says it is data, 2 says it is for looking at."""
    asset: dict[str, Any]


def items_in(data: bytes) -> tuple[dict[str, Any], ...] | None:
    """The Items of a JSON file: one, or the members of a collection of features.

    None where it is something else (other JSON, a Catalog, features that are no Items).
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    features = [document]
    if document.get("type") == "FeatureCollection":
        features = document.get("features") or []
    if not isinstance(features, list) or not features:
        return None
    return tuple(features) if all(_is_item(feature) for feature in features) else None


def item_name(item: dict[str, Any]) -> str:
    """An Item's id; raises DecodeError where it has none."""
    name = item.get("id")
    if not isinstance(name, str) or not name.strip():
        raise DecodeError(f"the Item's id is {name!r}; accepted: a text that is not empty")
    return name


def item_bands(item: dict[str, Any], base: str) -> tuple[BandSource, ...]:
    """Where an Item's bands lie, once for each name that a band has.

    Names are the common names (STAC 1.0 `eo:bands`, 1.1 `bands`), the bands' own, and the keys of
    assets with one band. Where two bands claim a name, assets that say they are data go before
    others, pictures come last, and then the Item's order decides; a common name goes before a
    band's own, that before a key.

    Args:
        item: the Item.
        base: absolute path or URI of its file.

    Raises:
        DecodeError: no asset is a raster, or one leads where it may not.
    """
    rasters = sorted(_rasters(item, base), key=lambda raster: raster.rank)
    found: dict[str, BandSource] = {}
    for kind in ("common", "own", "key"):
        for raster in rasters:
            for name, band in _claims(raster, kind):
                found.setdefault(name, BandSource(name, raster.uri, band))
    if not found:
        raise DecodeError(
            "the Item has no asset that is a raster; accepted: GeoTIFF, JPEG 2000, PNG or JPEG by "
            "media type or extension"
        )
    return tuple(found.values())


def item_stated(item: dict[str, Any], base: str) -> dict[tuple[str, int], Stated]:
    """What an Item states of its bands' numbers, by file and number of the band.

    Said of a band (`raster:bands`, `bands`, `eo:bands`) goes before said of its asset, that before
    said of all in the Item's properties, field by field. A name may have the prefix of the raster
    extension, or none; in the properties it has it.

    Args:
        item: the Item.
        base: absolute path or URI of its file.

    Raises:
        DecodeError: as `item_bands`.
    """
    properties = item.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    common = {k: v for k, v in properties.items() if str(k).startswith("raster:")}
    done = str(properties.get(OFFSET_DONE)).lower() == "true"
    late = "" if done else baseline_note(properties)
    found: dict[tuple[str, int], Stated] = {}
    for raster in sorted(_rasters(item, base), key=lambda raster: raster.rank):
        lists = [raster.asset.get(name) for name in BAND_LISTS]
        some = [[b if isinstance(b, dict) else {} for b in x] for x in lists if isinstance(x, list)]
        count = max(map(len, some), default=1)
        for place in range(count):
            of_band = [bands[place] for bands in some if place < len(bands)]
            one = stated_in([*of_band, raster.asset, common], done=done)
            if one.offset is None and raster.rank < 2:
                one = replace(one, note=late)
            if one.scale is one.offset is None:
                short = [len(bands) for bands in some if place >= len(bands) and scaled(bands)]
                if short:
                    one = replace(one, scale=f"for {short[0]} of {count} bands only")
            if one != Stated():
                found.setdefault((raster.uri, place + 1), one)
    return found


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
    if not isinstance(href, str) or not href.strip() or not href.isprintable():
        raise DecodeError(f"reference {href!r}: accepted: a path or URI")
    scheme = names.scheme(href)
    if scheme in REMOTE:
        if not names.split(href)[1]:
            raise DecodeError(f"reference {href}: names no object")
        return names.absolute(href)
    if scheme not in ("", "file"):
        accepted = ", ".join(f"{known}://" for known in REMOTE)
        raise DecodeError(f"reference {href}: accepted: relative paths, {accepted}")
    if not names.is_remote(base):
        path = names.absolute(href if scheme else os.path.join(names.parent(base), href))
        if path.startswith("/vsi"):
            raise DecodeError(f"reference {href}: not a path of this disk")
        return path
    if scheme or href.startswith("//"):
        raise DecodeError(f"reference {href}: leads out of the store that holds it")
    root, key = names.split(base)
    folder = [] if href.startswith("/") else key.split("/")[:-1]
    for part in href.split("/"):
        if part == ".." and not folder:
            raise DecodeError(f"reference {href}: leads above the root of its store")
        if part == "..":
            folder.pop()
        elif part not in ("", "."):
            folder.append(part)
    if not folder:
        raise DecodeError(f"reference {href}: names no object")
    return names.join(root, *folder)


def _is_item(document: object) -> bool:
    return (
        isinstance(document, dict)
        and document.get("type") == "Feature"
        and isinstance(document.get("stac_version"), str)
    )


def _rasters(item: dict[str, Any], base: str) -> Iterator[_Raster]:
    assets = item.get("assets")
    if not isinstance(assets, dict):
        raise DecodeError("the Item has no assets")
    for key, asset in assets.items():
        if not isinstance(asset, dict):
            continue
        href, kind = asset.get("href"), str(asset.get("type") or "").lower()
        roles = asset.get("roles")
        roles = {str(role) for role in roles} if isinstance(roles, list) else set()
        named = kind.startswith(RASTER_TYPES)
        if not named and (kind or not isinstance(href, str) or not is_raster(href)):
            continue
        if roles & NO_DATA_ROLES:
            continue
        rank = 0 if roles & {"data", "reflectance"} else 1
        if "visual" in (*roles, key) or kind.startswith(("image/png", "image/jpeg")):
            rank = 2
        bands = asset.get("bands") or asset.get("eo:bands")
        bands = bands if isinstance(bands, list) else []
        described = tuple(band if isinstance(band, dict) else {} for band in bands) or ({},)
        yield _Raster(str(key), resolved(href, base), described, rank, asset)


def _claims(raster: _Raster, kind: str) -> Iterator[tuple[str, int]]:
    """Names of a raster's bands of a kind: `common`, `own` or `key`; and their numbers."""
    for number, band in enumerate(raster.bands, start=1):
        name = {
            "common": band.get("eo:common_name") or band.get("common_name"),
            "own": band.get("name"),
            "key": raster.key if len(raster.bands) == 1 else None,
        }[kind]
        if isinstance(name, str) and name.strip():
            yield canonical(name), number
