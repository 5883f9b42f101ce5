"""Outlines of many tiles of one scene at once: WKB polygons in longitude and latitude.

A quarter of a million tiles are one call of PROJ; tiles whose edges are not straight on the ground
to half a pixel, or that cross the antimeridian, go the long way of `footprints`.
"""

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from satray.scoring.footprints import Outline, footprints
from satray.scoring.products.ground import SceneGround

Floats = NDArray[np.float64]

ACROSS = (0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0, 0.5)
"""Where the eight points of an outline lie, in tile widths from its left edge: anticlockwise from
the upper left corner, corners and middles of edges by turns."""
DOWN = (0.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0)
"""The same, in tile heights from its upper edge."""

_POLYGON = np.dtype(
    [("order", "u1"), ("kind", "<u4"), ("rings", "<u4"), ("count", "<u4"), ("xy", "<f8", (5, 2))]
)


def tile_shapes(
    ground: SceneGround, rows: Floats, cols: Floats, heights: Floats, widths: Floats
) -> list[bytes | None]:
    """WKB of N tiles, counter-clockwise; None where there is no ground.

    Args:
        ground: the scene's.
        rows: upper edges, stored px.
        cols: left edges, stored px.
        heights: stored px.
        widths: stored px.
    """
    if not ground.grounded or not len(rows):
        return [None] * len(rows)
    x_N8 = cols[:, None] + widths[:, None] * np.array(ACROSS)
    y_N8 = rows[:, None] + heights[:, None] * np.array(DOWN)
    lon, lat = ground.lonlat(*ground.points(x_N8.ravel(), y_N8.ravel()))
    lon_N8, lat_N8 = lon.reshape(-1, 8), lat.reshape(-1, 8)
    plain_N = _straight(lon_N8, lat_N8, heights, widths)
    corners_N42 = np.stack([lon_N8[:, ::2], lat_N8[:, ::2]], axis=2)
    shapes: list[bytes | None] = list(_polygons(corners_N42))
    for n in np.flatnonzero(~plain_N):
        shapes[n] = _alone(ground, rows[n], cols[n], heights[n], widths[n])
    return shapes


def _straight(lon_N8: Floats, lat_N8: Floats, heights: Floats, widths: Floats) -> NDArray[np.bool_]:
    """Which outlines are four straight edges on one side of the antimeridian."""
    x0, xm, x1 = lon_N8[:, ::2], lon_N8[:, 1::2], np.roll(lon_N8[:, ::2], -1, axis=1)
    y0, ym, y1 = lat_N8[:, ::2], lat_N8[:, 1::2], np.roll(lat_N8[:, ::2], -1, axis=1)
    length = np.hypot(x1 - x0, y1 - y0)
    pixels_N4 = np.stack([heights, widths, heights, widths], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        away = np.abs((x1 - x0) * (ym - y0) - (y1 - y0) * (xm - x0)) / length
        # NaN compares false: tiles off the map go the long way too
        good = (length > 0) & (away <= length / pixels_N4 / 2)
        level = (np.ptp(lon_N8, axis=1) < 180) & (np.abs(lat_N8).max(axis=1) < 89)
    chosen: NDArray[np.bool_] = good.all(axis=1) & level
    return chosen


def _polygons(corners_N42: Floats) -> list[bytes]:
    x, y = corners_N42[..., 0], corners_N42[..., 1]
    area = (x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y).sum(axis=1)
    turned = np.where((area < 0)[:, None, None], corners_N42[:, ::-1], corners_N42)
    flat = np.zeros(len(turned), dtype=_POLYGON)
    flat["order"], flat["kind"], flat["rings"], flat["count"] = 1, 3, 1, 5
    flat["xy"][:, :4], flat["xy"][:, 4] = turned, turned[:, 0]
    data, size = flat.tobytes(), _POLYGON.itemsize
    return [data[at : at + size] for at in range(0, len(data), size)]


def _alone(
    ground: SceneGround, row: float, col: float, height: float, width: float
) -> bytes | None:
    tall, wide = max(1, round(height)), max(1, round(width))
    affine = (
        ground.affine @ Affine.translation(col, row) @ Affine.scale(width / wide, height / tall)
    )
    assert ground.crs is not None
    return footprints([Outline(ground.crs, tuple(affine)[:6], 0, 0, tall, wide)])[0]
