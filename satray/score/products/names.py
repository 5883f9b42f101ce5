"""Products of scenes: which kinds there are, and their names below `out`: safe, apart, and linked.

Those of a scene are `FOLDER/SCENE.EXT`, one `out` for the runs of a schedule. SCENE is the scene's
id with its extension (`a.tif` and `a.jp2` are two scenes), each part percent-encoded, so that `..`,
spaces and any letter are plain names.
"""

import hashlib
import posixpath
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import quote

NAME_LIMIT = 180
"""Longest encoded part of a path, bytes; file systems end at 255."""

COG = "image/tiff; application=geotiff; profile=cloud-optimized"
PARQUET = "application/vnd.apache.parquet"
GEOJSON = "application/geo+json"


class Kind(NamedTuple):
    """Products of one kind."""

    folder: str
    """Below `out`."""
    extension: str
    """Of its files."""
    media_type: str
    """What they are."""
    title: str
    """What they hold."""


KINDS: Final[Mapping[str, Kind]] = {
    "cam": Kind("cam", "tif", COG, "class activation maps, one band a class"),
    "argmax": Kind("argmax", "tif", COG, "what a maximum pooling used, one band a class"),
    "quicklook": Kind("quicklooks", "png", "image/png", "quick-look with overlay"),
    "tiles": Kind("predictions", "parquet", PARQUET, "scores of tiles"),
    "detections": Kind(
        "detections", "gpkg", "application/geopackage+sqlite3", "detections, in the scene's CRS"
    ),
    "detections_parquet": Kind("detections", "parquet", PARQUET, "detections"),
    "detections_geojson": Kind(
        "detections", "geojson", GEOJSON, "detections, longitude and latitude"
    ),
    "item": Kind("items", "json", GEOJSON, "the scene's Item"),
}


def product_path(kind: str, name: str, tower: str | None = None) -> str:
    """`FOLDER/NAME.EXT` of a scene, `FOLDER/NAME__TOWER.EXT` of one of its towers, or a tile's.

    Args:
        kind: a key of `KINDS`.
        name: id of the scene or tile.
        tower: where each has its own file.
    """
    of = KINDS[kind]
    return f"{of.folder}/{encoded(name)}{f'__{tower}' if tower else ''}.{of.extension}"


def model_path(model_id: str) -> str:
    """`models/MODEL_ID.json`: the Item of a model."""
    return f"models/{model_id}.json"


def collection_path(run_id: str) -> str:
    """`runs/RUNID.collection.json`: the Items of a run."""
    return f"runs/{run_id}.collection.json"


def page_path(run_id: str) -> str:
    """`runs/RUNID.html`: the page of the run."""
    return f"runs/{run_id}.html"


def link_between(source: str, target: str, *, url: bool = False) -> str:
    """The relative link from one product to another.

    Args:
        source: path of the product that holds the link.
        target: path of the product linked to.
        url: True for HTML, where a browser decodes `%` once; False for STAC, whose readers (pystac,
            GDAL) take local paths and object keys as they are.
    """
    way = posixpath.relpath(target, posixpath.dirname(source))
    return quote(way) if url else way


def encoded(name: str) -> str:
    """A scene's or tile's id with its parts made safe, `/` kept."""
    return "/".join(safe_part(part) for part in name.split("/"))


def safe_part(text: str) -> str:
    """Encode any text as one part of a path.

    Letters, digits and `-._~` stay; all else, slashes and what is no Unicode included, is
    percent-encoded, as is a leading dot. What is too long keeps its start, then a digest. Different
    texts have different parts.
    """
    data = text.encode("utf-8", "surrogatepass")
    name = quote(data, safe="")
    if name.startswith("."):  # hidden, `.` or `..`
        name = "%2E" + name[1:]
    elif not name:
        name = "%2E%2E"  # which no text is: only a first dot is encoded
    if len(name) > NAME_LIMIT:
        name = f"{name[: NAME_LIMIT - 17]}-{hashlib.sha256(data).hexdigest()[:16]}"
    return name
