"""Where tiles and scenes lie: outlines in longitude and latitude, cut where RFC 7946 wants it.

Each edge of an outline is cut into equal parts, as many as it takes for a part to be straight in
longitude and latitude to half a pixel. Longitudes are then unrolled along the way, so that an
outline over the antimeridian stays in one piece until it is cut there; one around a pole shows by
the turn that it makes, and has none. All outlines of a table are arrays, and shapely alone makes
them; the few that are cut are taken one by one.

Legend: N outlines, V points along them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from satray.data.georeference import lonlat, system_of, wrapped
from satray.score.rasters import source_affine

PARTS = (1, 4, 16, 64, 256)
"""Into how many parts edges are cut, one after the other."""
STEEP = 90.0
"""Degrees of longitude beyond which a part is not taken for straight."""
SHARE = 0.4
"""Where a part is tried: off its middle, where curves may cross their chord."""
FINE = 512
"""Parts of a side that an outline may miss, where they are less than half a pixel."""
TOUCHING = 1e-9
"""Degrees over the antimeridian that are rounding."""
CORNERS = ((0, 0), (0, 1), (1, 1), (1, 0), (0, 0))
"""Of a tile, as shares of its width and height."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SceneExtent:
    """Name, size and place of a scene, or of one of its files."""

    scene: str
    """Id of the scene: its path below `scenes=`, or what its list or Item calls it."""
    height: int
    """Rows of the stored raster, px."""
    width: int
    """Columns of the stored raster, px."""
    crs: str | None = None
    """Authority string or WKT; None without georeference."""
    transform: tuple[float, ...] | None = None
    """6 numbers in rasterio's order: stored pixel corners to CRS units."""

    @property
    def georeferenced(self) -> bool:
        """Whether it has a CRS and an affine; else all coordinates are pixels."""
        return self.crs is not None and self.transform is not None

    @property
    def affine(self) -> Affine:
        """Stored pixel corners to CRS units; to x = column, y = -row where it has none.

        Raises:
            DecodeError: it maps no area.
        """
        return source_affine(self.crs, self.transform)

    def lonlat(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Longitude and latitude of places in CRS units; NaN where there are none."""
        if self.crs is None or self.transform is None:
            return np.full(len(x), np.nan), np.full(len(x), np.nan)
        return lonlat(self.crs, x, y)

    def shapes(self, rows: Floats, cols: Floats, heights: Floats, widths: Floats) -> NDArray[Any]:
        """Polygons of N tiles in longitude and latitude, as `outlines`, edges in stored px."""
        if self.crs is None or self.transform is None:
            return np.full(len(rows), None, dtype=object)
        affine_16 = np.array([self.transform[:6]], dtype=np.float64)
        return outlines(self.crs, affine_16, rows, cols, heights, widths)

    def outline(self) -> Any:
        """Polygon of the whole scene, as `shapes`; None without ground."""
        zero = np.zeros(1)
        return self.shapes(zero, zero, zero + self.height, zero + self.width)[0]


def bbox_of(shape: Any) -> list[float]:
    """West, south, east, north of an outline; west > east across the antimeridian (RFC 7946, 5.2).

    Args:
        shape: a polygon, or a multipolygon of which one part ends at 180 and another starts at
            -180 where it goes on.
    """
    import shapely

    boxes_N4 = shapely.bounds(shapely.get_parts(shape))
    west, south, east, north = shape.bounds
    over = boxes_N4[:, 0] == -180
    if (west, east) == (-180, 180) and not (over & (boxes_N4[:, 2] == 180)).any():
        west, east = boxes_N4[~over, 0].min(), boxes_N4[over, 2].max()
    return [float(west), south, float(east), north]


def union_of(boxes: Sequence[Sequence[float]]) -> list[float]:
    """A box around boxes of `bbox_of`: all around the earth where one goes over the antimeridian.

    The world around none.
    """
    if not boxes:
        return [-180.0, -90.0, 180.0, 90.0]
    west, south, east, north = np.array(boxes, dtype=np.float64).T
    over = bool((east < west).any())
    first, last = (-180.0, 180.0) if over else (float(west.min()), float(east.max()))
    return [first, float(south.min()), last, float(north.max())]


def outlines(
    crs: str, affines_N6: Floats, rows: Floats, cols: Floats, heights: Floats, widths: Floats
) -> NDArray[Any]:
    """Polygons of N tiles in OGC:CRS84, counter-clockwise; None where there is no ground.

    A tile across the antimeridian becomes a multipolygon cut there. A CRS that does not lead to
    longitude and latitude gives None, as does a tile that is not wholly on the earth, or holds a
    pole.

    Args:
        crs: authority string or WKT, of all.
        affines_N6: pixel corners to CRS units, rasterio's order; one row serves all.
        rows: upper edges, px; fractions are taken as they are.
        cols: left edges, px.
        heights: px.
        widths: px.
    """
    shapes = np.full(len(rows), None, dtype=object)
    if system_of(crs) is None:
        return shapes
    affines_N6 = np.broadcast_to(affines_N6, (len(rows), 6))
    area = affines_N6[:, 0] * affines_N6[:, 4] - affines_N6[:, 1] * affines_N6[:, 3]
    boxes_N4 = np.stack([cols, rows, widths, heights], axis=1)
    left = np.flatnonzero(np.isfinite(affines_N6).all(axis=1) & (area != 0))
    left = left[_comes_back(crs, affines_N6[left], boxes_N4[left])]
    for parts in PARTS:
        if not len(left):
            break
        lon_NV, lat_NV = _around(crs, affines_N6[left], boxes_N4[left], parts)
        known = (np.isfinite(lon_NV) & np.isfinite(lat_NV)).all(axis=1)
        left, lon_NV, lat_NV = left[known], lon_NV[known], lat_NV[known]
        near, flat = _straight(lon_NV, lat_NV, boxes_N4[left, 2:].max(axis=1))
        done = (near | (parts == PARTS[-1])) & flat
        shapes[left[done]] = _polygons(lon_NV[done, ::2], lat_NV[done, ::2])
        left = left[~done]
    return shapes


def _around(crs: str, affines_N6: Floats, boxes_N4: Floats, parts: int) -> tuple[Floats, Floats]:
    """Longitude and latitude along N outlines: where each part starts, and where it is tried."""
    t = (np.arange(parts)[:, None] + (0, SHARE)).ravel() / parts
    edges = [np.subtract(end, start) * t[:, None] + start for start, end in pairwise(CORNERS)]
    return lonlat(crs, *_placed(affines_N6, boxes_N4, np.concatenate(edges)))


def _placed(affines_N6: Floats, boxes_N4: Floats, shares_V2: Floats) -> tuple[Floats, Floats]:
    """Places in the CRS of points of N tiles, told as shares of their width and height."""
    across_V, down_V = shares_V2.T
    col, row, width, height = (v[:, None] for v in boxes_N4.T)
    a, b, c, d, e, f = (v[:, None] for v in affines_N6.T)
    x_NV, y_NV = col + across_V * width, row + down_V * height
    return a * x_NV + b * y_NV + c, d * x_NV + e * y_NV + f


def _straight(lon_NV: Floats, lat_NV: Floats, side_N: Floats) -> tuple[NDArray[Any], NDArray[Any]]:
    """Whether all parts of an outline go straight to half a pixel of `side_N`; and none leaps."""
    lon, lat = lon_NV[:, ::2], lat_NV[:, ::2]
    tried_lon, tried_lat = lon_NV[:, 1::2], lat_NV[:, 1::2]
    step, up = wrapped(np.roll(lon, -1, axis=1) - lon), np.roll(lat, -1, axis=1) - lat
    shrink = np.cos(np.radians(tried_lat))
    aside, above = wrapped(tried_lon - lon - SHARE * step), tried_lat - lat - SHARE * up
    near_N = np.hypot(step * shrink, up).sum(axis=1) / 4 / np.maximum(FINE, 2 * side_N)
    near_NV = np.hypot(aside * shrink, above) <= near_N[:, None]
    widest_NV = np.maximum(np.abs(step), np.abs(wrapped(tried_lon - lon)))
    return near_NV.all(axis=1), widest_NV.max(axis=1) <= STEEP


def _polygons(lon_NV: Floats, lat_NV: Floats) -> NDArray[Any]:
    """Polygons of closed ways, those over 180 cut there; None of those around a pole."""
    import shapely

    lon_NV = np.unwrap(lon_NV, period=360, axis=1)
    gone_N = lon_NV[:, -1] - lon_NV[:, 0]
    around = np.abs(gone_N + wrapped(-gone_N)) > 180
    turns = 360 * np.floor((lon_NV.min(axis=1) + 180 + TOUCHING) / 360)
    lon_NV = np.maximum(lon_NV - turns[:, None], -180)
    lon_NV = np.where(np.abs(lon_NV - 180) <= TOUCHING, 180, lon_NV)
    rings = shapely.linearrings(np.stack([lon_NV, lat_NV], axis=2))
    shapes = shapely.remove_repeated_points(shapely.polygons(rings))
    over = (lon_NV.max(axis=1) > 180) & ~around
    shapes[over] = [_cut(shape) for shape in shapes[over]]
    shapes[around] = None
    oriented: NDArray[Any] = shapely.orient_polygons(shapes)
    return oriented


def _cut(shape: Any) -> Any:
    """A polygon that begins between -180 and 180 and goes on beyond, cut at 180."""
    import shapely

    shape = shape if shape.is_valid else shapely.buffer(shape, 0)
    here = shapely.clip_by_rect(shape, -180, -90, 180, 90)
    beyond = shapely.clip_by_rect(shape, 180, -90, 540, 90)
    beyond = shapely.transform(beyond, lambda xy: xy - [360, 0])
    # without the slivers and lines where it only touches
    parts = [
        part
        for part in shapely.get_parts(shapely.union(here, beyond))
        if part.geom_type == "Polygon" and part.area > 0
    ]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def _comes_back(crs: str, affines_N6: Floats, boxes_N4: Floats) -> NDArray[np.bool_]:
    """Whether corners come back from longitude and latitude of the CRS's own datum, to a pixel.

    Beyond the edge of its world they do not. Cylinders go round and round, and transverse ones end
    far from all that they are used for.
    """
    import pyproj

    system = system_of(crs)
    assert system is not None
    plain = system.source_crs if system.is_bound else system
    way = plain.coordinate_operation if plain is not None and plain.is_projected else None
    if way is None or any(n in way.method_name for n in ("Mercator", "Cylindrical", "Gauss")):
        return np.ones(len(boxes_N4), dtype=bool)
    x, y = _placed(affines_N6, boxes_N4, np.array(CORNERS[:4], dtype=np.float64))
    there = pyproj.Transformer.from_crs(system, system.geodetic_crs, always_xy=True)
    back_x, back_y = there.transform(*there.transform(x, y), direction="INVERSE")
    a, b, _, d, e, _ = (v[:, None] for v in affines_N6.T)
    pixel = np.maximum(np.hypot(a, d), np.hypot(b, e))
    near: NDArray[np.bool_] = (np.hypot(back_x - x, back_y - y) <= pixel).all(axis=1)
    return near
