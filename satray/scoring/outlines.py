"""Where tiles and scenes lie: outlines in longitude and latitude, cut where RFC 7946 wants it.

An outline is followed around in its CRS; where a stretch of it that is straight there is not
straight in longitude and latitude to half a pixel, it is halved. Longitudes are then unrolled along
the way, so that an outline over the antimeridian stays in one piece until it is cut there, and one
around a pole shows by the turn that it makes.

Legend: N outlines, S stretches of them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from satray.data.georeference import lonlat, system_of, wrapped
from satray.scoring.rasters import source_affine

STRETCH = 45.0
"""Degrees that a stretch covers at most before anything is known of it."""
STEEP = 90.0
"""Degrees of longitude beyond which a stretch is halved whatever it looks like."""
SHARE = 0.4
"""Where a stretch is tried and halved: off its middle, where curves may cross their chord."""
FINE = 512
"""Parts of the longest side that a stretch may miss, where they are less than half a pixel."""
AT_POLE = 1e-8
"""Degrees from a pole within which longitude says nothing: a millimetre."""
TOUCHING = 1e-9
"""Degrees over the antimeridian that are rounding."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SceneGround:
    """A scene's name, size and place."""

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
    def grounded(self) -> bool:
        """Whether it has a CRS and an affine; else all coordinates are pixels."""
        return self.crs is not None and self.transform is not None

    @property
    def affine(self) -> Affine:
        """Stored pixel corners to CRS units; to x = column, y = -row where it has none.

        Raises:
            DecodeError: it maps no area.
        """
        return source_affine(self.crs, self.transform)

    def points(self, cols: Floats, rows: Floats) -> tuple[Floats, Floats]:
        """The x and y of places in stored px, as `affine` has them."""
        a, b, c, d, e, f = tuple(self.affine)[:6]
        return a * cols + b * rows + c, d * cols + e * rows + f

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


def outlines(
    crs: str, affines_N6: Floats, rows: Floats, cols: Floats, heights: Floats, widths: Floats
) -> NDArray[Any]:
    """Polygons of N tiles in OGC:CRS84, counter-clockwise; None where there is no ground.

    A tile across the antimeridian becomes a multipolygon cut there; one over a pole reaches up to
    it along the antimeridian. A CRS that does not lead to longitude and latitude gives None, as
    does a tile that is not wholly on the earth.

    Args:
        crs: authority string or WKT, of all.
        affines_N6: pixel corners to CRS units, rasterio's order; one row serves all.
        rows: upper edges, px; fractions are taken as they are.
        cols: left edges, px.
        heights: px.
        widths: px.
    """
    shapes = np.full(len(rows), None, dtype=object)
    affines_N6 = np.broadcast_to(affines_N6, (len(rows), 6))
    area = affines_N6[:, 0] * affines_N6[:, 4] - affines_N6[:, 1] * affines_N6[:, 3]
    boxes_N4 = np.stack([cols, rows, widths, heights], axis=1)
    if system_of(crs) is None:
        return shapes
    steps = np.abs(affines_N6[:, [0, 1, 3, 4]]).max(axis=1) * np.maximum(heights, widths)
    pieces = np.ceil(steps * _degrees_a_unit(crs) / STRETCH)
    fit = np.isfinite(affines_N6).all(axis=1) & (area != 0) & (pieces < 100)
    for count in np.unique(pieces[fit]):
        chosen = np.flatnonzero(fit & (pieces == count))
        tour = _Tour(crs, affines_N6[chosen], boxes_N4[chosen], max(1, int(count)))
        shapes[chosen] = tour.polygons()
    return shapes


def _degrees_a_unit(crs: str) -> float:
    """Degrees of a great circle that a unit of a CRS is, about."""
    system = system_of(crs)
    assert system is not None
    unit = float(system.axis_info[0].unit_conversion_factor)
    return float(np.degrees(unit)) if system.is_geographic else unit / 111_320


class _Tour:
    """N outlines of one CRS, followed around; each edge in `pieces` stretches to begin with."""

    def __init__(self, crs: str, affines_N6: Floats, boxes_N4: Floats, pieces: int) -> None:
        self._crs = crs
        self._affines_N6 = affines_N6
        self._boxes_N4 = boxes_N4
        self._pieces = pieces
        system = system_of(crs)
        assert system is not None
        self._system = system
        # not of rotated poles, whose degrees are others
        degrees = system.is_geographic and not system.is_derived
        self._pole = 90 / _degrees_a_unit(crs) if degrees else np.inf
        # the other way round where pixels are mirrored, so that all go counter-clockwise
        self._turned = np.zeros(len(affines_N6), dtype=bool)

    def polygons(self) -> NDArray[Any]:
        """A polygon or multipolygon each; None of those that are not wholly on the earth."""
        import shapely

        shapes = np.full(len(self._boxes_N4), None, dtype=object)
        good = self._oriented()
        tile_S, lon_S, lat_S = self._points(np.flatnonzero(good))
        if not len(tile_S):
            return shapes
        tile_S, lon_S, lat_S = _unrolled(tile_S, lon_S, lat_S)
        starts = np.flatnonzero(np.diff(tile_S, prepend=-1))
        west = np.minimum.reduceat(lon_S, starts)
        turns = 360 * np.floor((west + 180 + TOUCHING) / 360)
        number_S = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(tile_S)))
        lon_S = np.maximum(lon_S - turns[number_S], -180)
        lon_S = np.where(np.abs(lon_S - 180) <= TOUCHING, 180, lon_S)
        over = np.maximum.reduceat(lon_S, starts) > 180
        found = shapely.polygons(
            shapely.linearrings(np.stack([lon_S, lat_S], axis=1), indices=number_S)
        )
        found[over] = _cut(found[over])
        found = shapely.orient_polygons(found)
        shapes[tile_S[starts]] = found
        return shapes

    def _place(self, tile_S: NDArray[np.int64], t_S: Floats) -> tuple[Floats, Floats]:
        """Coordinates in the CRS; `t_S` counts edges, 0 to 4, from the first pixel's corner."""
        col, row, width, height = self._boxes_N4[tile_S].T
        down, across = np.clip(t_S, 0, 1), np.clip(t_S - 1, 0, 1)
        down, across = down - np.clip(t_S - 2, 0, 1), across - np.clip(t_S - 3, 0, 1)
        turned = self._turned[tile_S]
        down, across = np.where(turned, across, down), np.where(turned, down, across)
        x_px, y_px = col + across * width, row + down * height
        a, b, c, d, e, f = self._affines_N6[tile_S].T
        x, y = a * x_px + b * y_px + c, d * x_px + e * y_px + f
        beyond = np.abs(y) - self._pole
        # the outer half of a global grid's first and last row
        y = np.where(
            (beyond > 0) & (beyond <= np.abs(d) + np.abs(e)), np.clip(y, -self._pole, self._pole), y
        )
        return x, y

    def _oriented(self) -> NDArray[np.bool_]:
        """Which outlines lie on the earth; sets which are mirrored, and what counts as straight."""
        count = len(self._boxes_N4)
        tile = np.arange(count)
        x_N4, y_N4 = (v.reshape(4, count).T for v in self._place(
            np.tile(tile, 4), np.repeat(np.arange(4.0), count)
        ))  # fmt: skip
        on_earth = np.isfinite(lonlat(self._crs, x_N4, y_N4)[0]).all(axis=1)
        a, b, _, d, e, _ = self._affines_N6.T
        if _folds(self._crs):
            back_x, back_y = _there_and_back(self._crs, x_N4, y_N4)
            pixel = np.maximum(np.hypot(a, d), np.hypot(b, e))
            on_earth &= (np.hypot(back_x - x_N4, back_y - y_N4) <= pixel[:, None]).all(axis=1)
        # a pixel's sides at the centre, in space: degrees tell little near poles
        corner, opposite = (self._place(tile, np.full(count, t)) for t in (0.0, 2.0))
        x, y = (corner[0] + opposite[0]) / 2, (corner[1] + opposite[1]) / 2
        centre_N3 = _in_space(*lonlat(self._crs, x, y))
        right_N3 = _in_space(*lonlat(self._crs, x + a, y + d)) - centre_N3
        down_N3 = _in_space(*lonlat(self._crs, x + b, y + e)) - centre_N3
        self._turned = (np.cross(right_N3, down_N3) * centre_N3).sum(axis=1) > 0
        sides_N2 = np.linalg.norm(np.stack([right_N3, down_N3], axis=1), axis=2)
        sides_N2 = np.degrees(sides_N2)
        longest = (sides_N2 * self._boxes_N4[:, 2:]).max(axis=1)
        self._near = np.minimum(sides_N2.min(axis=1) / 2, longest / FINE)
        whole: NDArray[np.bool_] = on_earth & np.isfinite(self._near)
        return whole

    def _points(self, tiles: NDArray[np.int64]) -> tuple[NDArray[np.int64], Floats, Floats]:
        """Tile, longitude and latitude of all points: those of each stretch's ends, in order."""
        count = 4 * self._pieces
        t_V = np.arange(count) / self._pieces
        tile_S, t0 = np.repeat(tiles, count), np.tile(t_V, len(tiles))
        t1 = t0 + 1 / self._pieces
        lon0, lat0 = lonlat(self._crs, *self._place(tile_S, t0))
        lon1, lat1 = (np.roll(v.reshape(-1, count), -1, axis=1).ravel() for v in (lon0, lat0))
        open_S = np.stack([tile_S, t0, t1, lon0, lat0, lon1, lat1])
        closed = [open_S[:, :0]]
        lost = np.zeros(len(self._boxes_N4), dtype=bool)
        side = self._boxes_N4[:, 2:].max(axis=1)
        while open_S.size:
            tile_S, (t0, t1) = open_S[0].astype(np.int64), open_S[1:3]
            t = t0 + SHARE * (t1 - t0)
            lon, lat = lonlat(self._crs, *self._place(tile_S, t))
            lost[tile_S[~(np.isfinite(lon) & np.isfinite(lat))]] = True
            lon0, lat0, lon1, lat1 = _at_poles(*open_S[3:])
            shrink = np.cos(np.radians(lat))
            step, up = wrapped(lon1 - lon0), lat1 - lat0
            aside, above = wrapped(lon - lon0) * shrink, lat - lat0
            chord = np.hypot(step * shrink, up)
            with np.errstate(invalid="ignore", divide="ignore"):
                off = np.abs(step * shrink * above - up * aside) / chord
            off = np.where(chord > 0, off, np.hypot(aside, above))
            bent = (off > self._near[tile_S]) | (np.abs(step) > STEEP)
            bent &= ((t1 - t0) * side[tile_S] > 0.5) & ~lost[tile_S]
            closed.append(open_S[:, ~bent])
            first, second = open_S[:, bent].copy(), open_S[:, bent].copy()
            first[2], first[5], first[6] = t[bent], lon[bent], lat[bent]
            second[1], second[3], second[4] = t[bent], lon[bent], lat[bent]
            open_S = np.concatenate([first, second], axis=1)
        done = np.concatenate(closed, axis=1)
        done = done[:, ~lost[done[0].astype(np.int64)]]
        done = done[:, np.lexsort((done[1], done[0]))]
        ends = np.stack(_at_poles(*done[3:]))
        tile_S = np.repeat(done[0].astype(np.int64), 2)
        return tile_S, ends[[0, 2]].T.ravel(), ends[[1, 3]].T.ravel()


def _at_poles(lon0: Floats, lat0: Floats, lon1: Floats, lat1: Floats) -> tuple[Floats, ...]:
    """Ends of stretches; one at a pole has the other's longitude, that of the way there."""
    first, last = (np.abs(lat) > 90 - AT_POLE for lat in (lat0, lat1))
    return np.where(first & ~last, lon1, lon0), lat0, np.where(last & ~first, lon0, lon1), lat1


def _unrolled(
    tile_S: NDArray[np.int64], lon_S: Floats, lat_S: Floats
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Closed rings without turns in their longitudes; those around a pole go on along it."""
    new = np.diff(tile_S, prepend=-1) > 0
    starts = np.flatnonzero(new)
    # so that turns do not round, or the seam of rings around poles would gape
    lon_S = np.rint(lon_S * 2.0**43) / 2.0**43
    order = np.argsort(np.concatenate([tile_S, tile_S[starts]]), kind="stable")
    tile_S, lon_S, lat_S = (np.concatenate([v, v[starts]])[order] for v in (tile_S, lon_S, lat_S))
    new = np.diff(tile_S, prepend=-1) > 0
    gone = np.diff(lon_S, prepend=lon_S[0])
    step = wrapped(gone)
    pole_S = np.abs(lat_S) > 90 - AT_POLE
    # inside lies to the left: along the north pole westwards, along the south pole eastwards
    leap = pole_S & np.roll(pole_S, 1) & (np.abs(step) > TOUCHING)
    leap |= np.abs(step) > 180 - TOUCHING
    south = np.sign(lat_S)
    step = np.where(leap, -south * (-south * gone % 360), step)
    turns_S = np.where(new, 0, np.rint((step - gone) / 360)).cumsum()
    starts = np.flatnonzero(new)
    number_S = new.cumsum() - 1
    lon_S = lon_S + 360 * (turns_S - turns_S[starts][number_S])
    ends = np.append(starts[1:], len(tile_S)) - 1
    around = np.rint((lon_S[ends] - lon_S[starts]) / 360)
    first, last = starts[around != 0], ends[around != 0]
    pole = 90.0 * np.sign(around[around != 0])
    repeated = ~new & (np.diff(lon_S, prepend=0) == 0) & (np.diff(lat_S, prepend=0) == 0)
    kept = ~repeated
    tile_S = np.concatenate([tile_S[kept], tile_S[first], tile_S[first], tile_S[first]])
    order = np.argsort(tile_S, kind="stable")
    lon_S = np.concatenate([lon_S[kept], lon_S[last], lon_S[first], lon_S[first]])
    lat_S = np.concatenate([lat_S[kept], pole, pole, lat_S[first]])
    return tile_S[order], lon_S[order], lat_S[order]


def _cut(shapes: NDArray[Any]) -> NDArray[Any]:
    """Polygons that begin between -180 and 180 and go on beyond, cut at 180."""
    import shapely

    valid = np.where(shapely.is_valid(shapes), shapes, shapely.buffer(shapes, 0))
    here = shapely.intersection(valid, shapely.box(-180, -90, 180, 90))
    beyond = shapely.intersection(valid, shapely.box(180, -90, 540, 90))
    beyond = shapely.transform(beyond, lambda xy: xy - [360, 0])
    return np.array([_joined(*pair) for pair in zip(here, beyond, strict=True)], dtype=object)


def _joined(here: Any, beyond: Any) -> Any:
    import shapely

    parts = shapely.get_parts(shapely.union(here, beyond))
    # slivers and lines where it only touches
    parts = [part for part in parts if part.geom_type == "Polygon" and part.area > 0]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def _in_space(lon: Floats, lat: Floats) -> Floats:
    """Unit vectors, (..., 3)."""
    lon, lat = np.radians(lon), np.radians(lat)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def _folds(crs: str) -> bool:
    """Whether there are places in a CRS that come back elsewhere: beyond the edge of its world.

    Cylinders go round and round, and transverse ones end far from all that they are used for.
    """
    system = system_of(crs)
    if system is not None and system.is_bound:
        system = system.source_crs
    way = system.coordinate_operation if system is not None and system.is_projected else None
    return way is not None and not any(
        word in way.method_name for word in ("Mercator", "Cylindrical", "Gauss")
    )


def _there_and_back(crs: str, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Places after a way to longitude and latitude, of the CRS's own datum, and back again."""
    import pyproj

    system = system_of(crs)
    assert system is not None
    way = pyproj.Transformer.from_crs(system, system.geodetic_crs, always_xy=True)
    back = way.transform(*way.transform(x, y), direction="INVERSE")
    return np.asarray(back[0]), np.asarray(back[1])
