"""Names of a scene's products below `out`: `KIND/SCENE.EXT`, one out for the runs of a schedule.

SCENE is the scene's id with its extension (`a.tif` and `a.jp2` are two scenes), each part
percent-encoded as `rasters.cam_path` does, so that `..`, spaces and any letter are plain names.
"""

import posixpath
from urllib.parse import quote

from satray.score.safe import safe_part


def encoded(scene: str) -> str:
    """SCENE: its parts made safe, `/` kept."""
    return "/".join(safe_part(part) for part in scene.split("/"))


def cam_name(scene: str, tower: str | None = None, kind: str = "dense") -> str:
    """`cam/SCENE.tif`; `cam/SCENE__TOWER.tif` where the bundle has several towers.

    Argmax maps lie in a folder of their own, `argmax/`.
    """
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
