"""Outlines of tiles on the ground: WKB polygons in longitude and latitude, with GeoParquet key.

A tile's outline is transformed with its edges cut into `SEGMENTS` pieces; an edge that is straight
in longitude and latitude to half a pixel keeps its two corners only, so that small tiles cost five
points and large ones stay true.
"""

import itertools
import json
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

SEGMENTS = 16
"""Pieces an edge is cut into before it is transformed."""

LONGITUDE_LATITUDE = "OGC:CRS84"

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

    def ring(self) -> Ring:
        """The closed outline in the source's CRS, `4 * SEGMENTS + 1` points."""
        a, b, c, d, e, f = self.transform
        corners = [(0, 0), (0, self.height), (self.width, self.height), (self.width, 0), (0, 0)]
        points: Ring = []
        for (x0, y0), (x1, y1) in itertools.pairwise(corners):
            for i in range(SEGMENTS):
                x = self.col + x0 + (x1 - x0) * i / SEGMENTS
                y = self.row + y0 + (y1 - y0) * i / SEGMENTS
                points.append((a * x + b * y + c, d * x + e * y + f))
        return [*points, points[0]]


def footprints(outlines: Sequence[Outline | None]) -> list[bytes | None]:
    """WKB polygons in OGC:CRS84, counter-clockwise; None where there is no ground.

    A tile across the antimeridian becomes a multipolygon cut there. A CRS that does not lead to
    longitude and latitude (an engineering CRS, a text that is none) gives None.
    """
    shapes: list[bytes | None] = [None] * len(outlines)
    by_crs: dict[str, list[int]] = {}
    for i, outline in enumerate(outlines):
        if outline is not None:
            by_crs.setdefault(outline.crs, []).append(i)
    for crs, members in by_crs.items():
        chosen = [outline for i in members if (outline := outlines[i]) is not None]
        for i, shape in zip(members, _transformed(crs, chosen), strict=True):
            shapes[i] = shape
    return shapes


def geo_metadata(shapes: Iterable[bytes | None]) -> dict[str, Any] | None:
    """GeoParquet 1.1 `geo` value for a column `geometry`; None where no row has one.

    Without a `crs` key the coordinates are OGC:CRS84, by the specification.
    """
    kinds: set[str] = set()
    xs: list[float] = []
    ys: list[float] = []
    for shape in shapes:
        if shape is None:
            continue
        rings = read_wkb(shape)
        kinds.add("Polygon" if len(rings) == 1 else "MultiPolygon")
        for ring in rings:
            xs += [x for x, _ in ring]
            ys += [y for _, y in ring]
    if not kinds:
        return None
    column = {
        "encoding": "WKB",
        "geometry_types": sorted(kinds),
        "orientation": "counterclockwise",
        "edges": "planar",
        "bbox": [min(xs), min(ys), max(xs), max(ys)],
    }
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def merge_geo(values: Iterable[bytes | None]) -> bytes | None:
    """One `geo` value for the rows of several tables; None where none of them has ground."""
    columns = [json.loads(value)["columns"]["geometry"] for value in values if value]
    if not columns:
        return None
    boxes = [column["bbox"] for column in columns]
    kinds = sorted({kind for column in columns for kind in column["geometry_types"]})
    low = [min(box[i] for box in boxes) for i in (0, 1)]
    high = [max(box[i] for box in boxes) for i in (2, 3)]
    column = columns[0] | {"geometry_types": kinds, "bbox": low + high}
    whole = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    return json.dumps(whole).encode()


def read_wkb(shape: bytes) -> list[Ring]:
    """The outer rings of a WKB polygon or multipolygon that this module wrote."""
    kind = struct.unpack_from("<xI", shape)[0]
    if kind == 3:
        return [_read_ring(shape, 0)[0]]
    rings, at = [], 9
    for _ in range(struct.unpack_from("<I", shape, 5)[0]):
        ring, at = _read_ring(shape, at)
        rings.append(ring)
    return rings


def _transformed(crs: str, outlines: Sequence[Outline]) -> list[bytes | None]:
    """WKB of outlines that share a CRS; one that cannot be transformed does not take the others."""
    # here, so that tables without ground need no GDAL
    from rasterio.warp import transform_geom

    def wkb(some: Sequence[Outline]) -> list[bytes | None]:
        rings = [{"type": "Polygon", "coordinates": [outline.ring()]} for outline in some]
        moved = transform_geom(crs, LONGITUDE_LATITUDE, rings)
        return [_shape(geometry, one) for geometry, one in zip(moved, some, strict=True)]

    try:
        return wkb(outlines)
    except Exception:  # GDAL's errors (rasterio._err) share no public base
        if len(outlines) == 1:
            return [None]
    return [shape for outline in outlines for shape in _transformed(crs, [outline])]


def _shape(geometry: dict[str, Any], outline: Outline) -> bytes | None:
    if geometry["type"] == "Polygon":
        ring = [(float(x), float(y)) for x, y, *_ in geometry["coordinates"][0]]
        if not _finite(ring):
            return None
        return _polygon(_counterclockwise(_thinned(ring, outline)))
    rings = [[(float(x), float(y)) for x, y, *_ in part[0]] for part in geometry["coordinates"]]
    if not rings or not all(_finite(ring) for ring in rings):
        return None
    parts = [_polygon(_counterclockwise(ring)) for ring in rings]
    return struct.pack("<BII", 1, 6, len(parts)) + b"".join(parts)


def _thinned(ring: Ring, outline: Outline) -> Ring:
    """Drop the inner points of each edge that is straight to half a pixel."""
    if len(ring) != 4 * SEGMENTS + 1:
        return ring
    kept: Ring = []
    for edge in range(4):
        points = ring[edge * SEGMENTS : (edge + 1) * SEGMENTS + 1]
        (x0, y0), (x1, y1) = points[0], points[-1]
        length = math.hypot(x1 - x0, y1 - y0)
        pixel = length / (outline.height if edge % 2 == 0 else outline.width)
        straight = length > 0 and all(
            abs((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)) / length <= pixel / 2
            for x, y in points[1:-1]
        )
        kept += points[:1] if straight else points[:-1]
    return [*kept, kept[0]]


def _counterclockwise(ring: Ring) -> Ring:
    area = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in itertools.pairwise(ring))
    return ring if area >= 0 else ring[::-1]


def _finite(ring: Ring) -> bool:
    return bool(ring) and all(math.isfinite(x) and math.isfinite(y) for x, y in ring)


def _polygon(ring: Ring) -> bytes:
    flat = [number for point in ring for number in point]
    return struct.pack(f"<BIII{len(flat)}d", 1, 3, 1, len(ring), *flat)


def _read_ring(shape: bytes, at: int) -> tuple[Ring, int]:
    count = struct.unpack_from("<I", shape, at + 9)[0]
    flat = struct.unpack_from(f"<{2 * count}d", shape, at + 13)
    return list(zip(flat[::2], flat[1::2], strict=True)), at + 13 + 16 * count
