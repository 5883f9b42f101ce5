"""Write an archive and a scene of the invented coast.

The archive is what a user would bring: a prefix of 4-band GeoTIFFs and a label table; and what
nobody has for real: the box of every ship. The scene comes from a part of the world that no tile
touches. All of it depends on the seed alone.
"""

import csv
import io
import json
from dataclasses import dataclass

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import MemoryFile
from rasterio.warp import transform as reproject

from satray.demo.truth import CLASSES, Box, draw_tiles, scene_window, ship_boxes
from satray.demo.world import BANDS, CRS, PIXEL, Window
from satray.storage import Storage
from satray.storage.uri import join


@dataclass(frozen=True)
class Archive:
    """Where an archive was written, and what is in it."""

    images: str
    """Prefix of the tiles."""
    labels: str
    """Label table (CSV)."""
    boxes: str
    """Ship boxes a tile (JSON)."""
    tiles: int
    """How many tiles."""
    counts: dict[str, int]
    """Tiles of each class."""


def geotiff(pixels_CHW: NDArray[np.uint16], transform: Affine, blocks: int | None = None) -> bytes:
    """Bytes of a deflate GeoTIFF with named bands; tiled in `blocks` px where given."""
    count, height, width = pixels_CHW.shape
    layout = {"tiled": True, "blockxsize": blocks, "blockysize": blocks} if blocks else {}
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            dtype="uint16",
            count=count,
            height=height,
            width=width,
            crs=CRS,
            transform=transform,
            compress="deflate",
            predictor=2,
            photometric="minisblack",
            **layout,
        ) as file:
            file.write(pixels_CHW)
            file.descriptions = BANDS
        return bytes(memory.read())


def write_archive(storage: Storage, uri: str, tiles: int, size: int, seed: int) -> Archive:
    """Write tiles, `labels.csv` (`tile,sea,land,cloud,ship`) and `ships.json` below a prefix."""
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("tile", *CLASSES))
    boxes: dict[str, list[list[float]]] = {}
    counts = dict.fromkeys(CLASSES, 0)
    images = join(uri, "tiles")
    with rasterio.Env():
        for tile in draw_tiles(tiles, size, seed):
            data = geotiff(tile.window.pixels, tile.window.transform)
            storage.write(join(images, f"{tile.name}.tif"), data)
            rows.writerow((tile.name, *map(int, tile.labels)))
            boxes[tile.name] = [[round(edge, 2) for edge in box] for box in tile.boxes]
            for name, there in zip(CLASSES, tile.labels, strict=True):
                counts[name] += there
    archive = Archive(images, join(uri, "labels.csv"), join(uri, "ships.json"), len(boxes), counts)
    storage.write(archive.boxes, json.dumps(boxes, indent=0).encode())
    # The table comes last: an archive that has one is whole.
    storage.write(archive.labels, table.getvalue().encode())
    return archive


def write_scene(storage: Storage, uri: str, size: int, seed: int) -> int:
    """Write `scene.tif` and `scene-ships.geojson` below a prefix; returns the number of ships."""
    window = scene_window(size, seed)
    storage.write(join(uri, "scene.tif"), geotiff(window.pixels, window.transform, blocks=256))
    boxes = ship_boxes(window)
    collection = {"type": "FeatureCollection", "features": [_feature(window, b) for b in boxes]}
    storage.write(join(uri, "scene-ships.geojson"), json.dumps(collection, indent=1).encode())
    return len(boxes)


def read_boxes(storage: Storage, uri: str) -> dict[str, tuple[Box, ...]]:
    """Ship boxes by tile id, as `write_archive` left them."""
    table = json.loads(storage.read(uri))
    return {name: tuple(tuple(box) for box in boxes) for name, boxes in table.items()}


def _feature(window: Window, box: Box) -> dict[str, object]:
    """One ship as GeoJSON wants it: longitude and latitude (OGC:CRS84), counter-clockwise."""
    top, left, bottom, right = box
    corners = [(bottom, left), (bottom, right), (top, right), (top, left), (bottom, left)]
    metres = [window.transform @ (col, row) for row, col in corners]
    lon, lat = reproject(CRS, "OGC:CRS84", [x for x, _ in metres], [y for _, y in metres])
    ring = [[round(x, 7), round(y, 7)] for x, y in zip(lon, lat, strict=True)]
    return {
        "type": "Feature",
        "properties": {
            "class": "ship",
            "box_px": [round(edge, 2) for edge in box],
            "extent_m": [round(PIXEL * (bottom - top), 1), round(PIXEL * (right - left), 1)],
        },
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }
