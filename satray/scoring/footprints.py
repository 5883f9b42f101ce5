"""Tables' geometry: WKB polygons in longitude and latitude, and GeoParquet's words about them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.scoring.outlines import TOUCHING, outlines

Floats = NDArray[np.float64]
Point = tuple[float, float]
Ring = list[Point]


@dataclass(frozen=True)
class Outline:
    """A tile's place in its source."""

    crs: str
    """The source's CRS: authority string or WKT."""
    transform: tuple[float, ...]
    """The source's affine, 6 numbers in rasterio's order: pixel corners to CRS units."""
    row: int
    """First row of the tile in the source (px)."""
    col: int
    """First column of the tile in the source (px)."""
    height: int
    """Rows (px)."""
    width: int
    """Columns (px)."""


def footprints(places: Sequence[Outline | None]) -> list[bytes | None]:
    """WKB polygons of tiles of any sources, as `outlines`; None where there is no ground."""
    shapes: list[bytes | None] = [None] * len(places)
    by_crs: dict[str, list[int]] = {}
    for i, place in enumerate(places):
        if place is not None:
            by_crs.setdefault(place.crs, []).append(i)
    for crs, members in by_crs.items():
        chosen = [place for i in members if (place := places[i]) is not None]
        affines = np.array([place.transform[:6] for place in chosen], dtype=np.float64)
        numbers = [(place.row, place.col, place.height, place.width) for place in chosen]
        found = outlines(crs, affines, *np.array(numbers, dtype=np.float64).T)
        for i, shape in zip(members, wkb(found), strict=True):
            shapes[i] = shape
    return shapes


def wkb(shapes: NDArray[Any]) -> list[bytes | None]:
    """Little-endian WKB of polygons, None of None."""
    import shapely

    found: list[bytes | None] = shapely.to_wkb(shapes, byte_order=1).tolist()
    return found


def geo_metadata(shapes: Iterable[bytes | None]) -> dict[str, Any] | None:
    """GeoParquet 1.1 `geo` value for a column `geometry`; None where no row has one.

    Without a `crs` key the coordinates are OGC:CRS84, by the specification. As in RFC 7946, a
    bounding box over the antimeridian has its west east of its east.
    """
    import shapely

    parts = shapely.from_wkb(np.array([shape for shape in shapes if shape], dtype=object))
    if not len(parts):
        return None
    kinds = {"MultiPolygon" if kind == 6 else "Polygon" for kind in shapely.get_type_id(parts)}
    column = {
        "encoding": "WKB",
        "geometry_types": sorted(kinds),
        "orientation": "counterclockwise",
        "edges": "planar",
        "bbox": box_around(shapely.bounds(shapely.get_parts(parts))),
    }
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def merge_geo(values: Iterable[bytes | None]) -> bytes | None:
    """One `geo` value for the rows of several tables; None where none of them has ground."""
    columns = [json.loads(value)["columns"]["geometry"] for value in values if value]
    if not columns:
        return None
    kinds = sorted({kind for column in columns for kind in column["geometry_types"]})
    boxes = []
    for west, south, east, north in (column["bbox"] for column in columns):
        whole = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
        boxes += [(low, south, high, north) for low, high in whole]
    column = columns[0] | {"geometry_types": kinds, "bbox": box_around(np.array(boxes))}
    merged = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    return json.dumps(merged).encode()


def box_around(boxes_N4: Floats) -> list[float]:
    """West, south, east, north of boxes between -180 and 180.

    West is more than east where that is the narrower way around (RFC 7946, 5.2).
    """
    order = np.argsort(boxes_N4[:, 0])
    starts = boxes_N4[order, 0]
    ends = np.maximum.accumulate(boxes_N4[order, 2])
    west, east = float(starts[0]), float(ends[-1])
    gaps = starts[1:] - ends[:-1]
    if len(gaps) and gaps.max() > west + 360 - east + TOUCHING:
        widest = int(gaps.argmax())
        west, east = float(starts[widest + 1]), float(ends[widest])
    return [west, float(boxes_N4[:, 1].min()), east, float(boxes_N4[:, 3].max())]
