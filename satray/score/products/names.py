"""Names of products below `out`: safe, apart, and linked.

Those of a scene are `KIND/SCENE.EXT`, one out for the runs of a schedule. SCENE is the scene's id
with its extension (`a.tif` and `a.jp2` are two scenes), each part percent-encoded, so that `..`,
spaces and any letter are plain names.
"""

import hashlib
import posixpath
from urllib.parse import quote

NAME_LIMIT = 180
"""Longest encoded part of a path, bytes; file systems end at 255."""


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


def encoded(name: str) -> str:
    """A scene's or tile's id with its parts made safe, `/` kept."""
    return "/".join(safe_part(part) for part in name.split("/"))


def cam_path(tile_id: str, tower: str) -> str:
    """`cam/TILE_ID__TOWER.tif`: a tile's map."""
    return f"cam/{encoded(tile_id)}__{tower}.tif"


def cam_name(scene: str, tower: str | None = None, kind: str = "dense") -> str:
    """`cam/SCENE.tif`, or `cam/SCENE__TOWER.tif` of several towers; argmax maps in `argmax/`."""
    folder = "argmax" if kind == "argmax" else "cam"
    return f"{folder}/{encoded(scene)}{f'__{tower}' if tower else ''}.tif"


def predictions_name(scene: str) -> str:
    """`predictions/SCENE.parquet`: a row a tile."""
    return f"predictions/{encoded(scene)}.parquet"


def item_name(scene: str) -> str:
    """`items/SCENE.json`."""
    return f"items/{encoded(scene)}.json"


def quicklook_name(scene: str) -> str:
    """`quicklooks/SCENE.png`."""
    return f"quicklooks/{encoded(scene)}.png"


def detections_name(scene: str, extension: str) -> str:
    """`detections/SCENE.EXT`: gpkg, parquet or geojson."""
    return f"detections/{encoded(scene)}.{extension}"


def model_name(model_id: str) -> str:
    """`models/MODEL_ID.json`: the Item of a model."""
    return f"models/{model_id}.json"


def collection_name(run_id: str) -> str:
    """`runs/RUNID.collection.json`: the Items of a run."""
    return f"runs/{run_id}.collection.json"


def page_name(run_id: str) -> str:
    """`runs/RUNID.html`: the page of the run."""
    return f"runs/{run_id}.html"


def link_between(source: str, target: str, *, url: bool) -> str:
    """The relative link from one product to another.

    Args:
        source: path of the product that holds the link.
        target: path of the product linked to.
        url: True for HTML, where a browser decodes `%` once; False for STAC, whose readers (pystac,
            GDAL) take local paths and object keys as they are.
    """
    way = posixpath.relpath(target, posixpath.dirname(source))
    return quote(way) if url else way
