"""Outlines on the ground: true in area and place in every CRS, cut as RFC 7946 wants them."""

import functools

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from satray.score.outlines import bbox_of, outlines, union_of
from satray.score.predictions import Layout, Numbers, TileFacts, predictions

WGS84 = pyproj.Geod(ellps="WGS84")
EDGE = 20037508.342789244  # of Web Mercator's world, m
GEOS = "+proj=geos +h=35785831 +lon_0=160 +sweep=y +datum=WGS84"
ROTATED = "+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=39.25 +lon_0=180 +R=6378137 +no_defs"
SINUSOIDAL = "+proj=sinu +R=6371007.181"
ENGINEERING = 'LOCAL_CS["x",UNIT["m",1]]'

# CRS, longitude and latitude of the centre, px in the CRS's units, px a side
PLACES = [
    ("EPSG:3413", 180, 72, 10, 256), ("EPSG:3413", 170, 72, 10, 256),
    ("EPSG:3995", -179.999, 80, 10, 256), ("EPSG:32661", 180, 86, 10, 64),
    ("EPSG:3031", 180, -76, 10, 64), ("EPSG:3031", 179.99, -76.2, 10, 64),
    ("EPSG:6931", 180, 75, 25, 400), ("EPSG:3571", 180, 70, 100, 512),
    ("EPSG:5936", 180, 80, 100, 300), ("EPSG:3832", 180, 10, 10, 256),
    ("EPSG:3857", 180, 60, 20, 256), ("EPSG:3857", -75, -33, 5, 512),
    ("EPSG:3395", 180, -30, 100, 512), ("EPSG:6933", 180, 45, 1000, 256),
    ("EPSG:4087", 180, 20, 1000, 256), ("EPSG:32601", -180, 5, 10, 256),
    ("EPSG:32660", 180, -5, 10, 10980), ("EPSG:32631", 2.3, 48.8, 10, 10980),
    ("EPSG:3460", 180, -17, 10, 256), ("EPSG:2193", 178.9, -38, 10, 256),
    ("EPSG:28432", 180, 66, 100, 300), ("EPSG:27700", -2, 54, 10, 256),
    ("EPSG:2154", 3, 46, 10, 256), ("EPSG:5514", 15, 50, 10, 256),
    ("EPSG:2053", 28, -29, 10, 256), ("EPSG:2227", -120, 37, 30, 256),
    ("EPSG:4326", 180, 10, 1e-4, 256), ("EPSG:4807", 2, 48, 1e-4, 256),
    ("ESRI:102025", 180, 66, 100, 300), ("ESRI:54009", 100, 30, 1000, 300),
    ("EPSG:32633+5773", 15, 45, 10, 256), (SINUSOIDAL, 100, 30, 463.3, 256),
    (GEOS, 180, 10, 1000, 300), (ROTATED, 180, 30, 0.01, 300),
]  # fmt: skip


@functools.cache
def to_degrees(crs: str) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)


def affine_at(crs: str, lon: float, lat: float, px: float, side: int, turn: float = 0) -> Affine:
    x, y = to_degrees(crs).transform(lon, lat, direction="INVERSE")
    half = px * side / 2
    return Affine.translation(x, y) @ Affine.rotation(turn) @ Affine(px, 0, -half, 0, -px, half)


def outline(crs: str, affine: Affine, height: int, width: int | None = None) -> shapely.Geometry:
    numbers = (np.array([float(v)]) for v in (0, 0, height, width or height))
    return outlines(crs, np.array([affine[:6]]), *numbers)[0]


def on_the_ground(shape: shapely.Geometry) -> float:
    """Geodesic area, m^2."""
    dense = shapely.segmentize(shape, max(1e-4, shape.length / 500))
    return abs(WGS84.geometry_area_perimeter(shapely.orient_polygons(dense))[0])


def true_area(crs: str, affine: Affine, side: int) -> float:
    """Geodesic area within edges that are followed point by point in the CRS, m^2."""
    t = np.linspace(0, side, 400, endpoint=False)
    col = np.concatenate([0 * t, t, 0 * t + side, side - t])
    row = np.concatenate([t, 0 * t + side, side - t, 0 * t])
    x, y = affine @ (col, row)
    return abs(WGS84.polygon_area_perimeter(*to_degrees(crs).transform(x, y))[0])


@pytest.mark.parametrize(("crs", "lon", "lat", "px", "side"), PLACES)
def test_area_and_place_in_every_crs(crs, lon, lat, px, side) -> None:
    for turn, mirrored in ((0, False), (33, False), (33, True)):
        affine = affine_at(crs, lon, lat, px, side, turn)
        if mirrored:
            affine = affine @ Affine(1, 0, 0, 0, -1, side)
        shape = outline(crs, affine, side)
        assert shape.is_valid
        assert on_the_ground(shape) == pytest.approx(true_area(crs, affine, side), rel=2e-3)
        parts = shapely.get_parts(shape)
        assert all(part.exterior.is_ccw for part in parts)
        bounds = shapely.bounds(parts)
        assert (bounds[:, 2] - bounds[:, 0]).max() < 20
        assert np.abs(bounds[:, [0, 2]]).max() <= 180
        over = abs(lon) > 179.98
        assert shape.geom_type == ("MultiPolygon" if over else "Polygon")
        west, _, east, _ = bbox_of(shape)
        assert (west > east) == over
        # half a pixel of its centre
        inside = shapely.Point(lon if abs(lon) < 180 else 180, lat)
        assert shape.distance(inside) < 1e-9


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["EPSG:3413", "EPSG:3031", "EPSG:6931", "EPSG:3571", "EPSG:32661"]),
    st.floats(0, 4), st.integers(8, 300), st.floats(0, 1.2), st.floats(0, 360), st.floats(0, 360),
    st.booleans(),
)  # fmt: skip
def test_tiles_at_poles_are_true_and_over_them_none(
    crs, size, side, away, way, turn, mirrored
) -> None:
    px, pole = 10**size, -90 if crs == "EPSG:3031" else 90
    px = min(px, 2e6 / side)
    centre = affine_at(crs, 0, pole, px, side)
    out = away * px * side / 2
    affine = Affine.translation(
        out * np.cos(np.radians(way)), out * np.sin(np.radians(way))
    ) @ Affine.rotation(turn, centre @ (side / 2, side / 2)) @ centre  # fmt: skip
    if mirrored:
        affine = affine @ Affine(1, 0, 0, 0, -1, side)
    shape = outline(crs, affine, side)
    x, y = ~affine @ (centre @ (side / 2, side / 2))
    near = 0.01 * side  # where an edge passes the pole so closely, either is right
    if near < x < side - near and near < y < side - near:
        assert shape is None
    elif not (-near <= x <= side + near and -near <= y <= side + near) or shape is not None:
        assert shape.is_valid
        assert on_the_ground(shape) == pytest.approx(true_area(crs, affine, side), rel=0.012)


@pytest.mark.parametrize(
    ("crs", "affine", "shape", "bounds", "parts"),
    [
        ("EPSG:4326", Affine(1, 0, -180, 0, -1, 90), (180, 360), (-180, -90, 180, 90), 1),
        ("EPSG:4326", Affine(1, 0, 0, 0, -1, 90), (180, 360), (-180, -90, 180, 90), 1),
        ("EPSG:4087", Affine(EDGE / 128, 0, -EDGE, 0, -EDGE / 128, EDGE / 2), (128, 256),
         (-180, -90, 180, 90), 1),
        ("EPSG:3857", Affine(EDGE / 128, 0, -EDGE, 0, -EDGE / 128, EDGE), (256, 256),
         (-180, -85.0511288, 180, 85.0511288), 1),
        ("EPSG:3857", Affine(10, 0, EDGE - 2560, 0, -10, 0), (256, 256),
         (179.977, -0.023, 180, 0), 1),
        ("EPSG:3857", Affine(10, 0, EDGE, 0, -10, 0), (256, 256), (-180, -0.023, -179.977, 0), 1),
        ("EPSG:3857", Affine(10, 0, EDGE - 1280, 0, -10, 0), (256, 256), (-180, -0.023, 180, 0), 2),
        ("EPSG:4326", Affine(0.01, 0, 190, 0, -0.01, 10), (100, 100), (-170, 9, -169, 10), 1),
        ("EPSG:4326", Affine(0.01, 0, 179.5, 0, -0.01, 10), (100, 100), (-180, 9, 180, 10), 2),
        ("EPSG:4326", Affine(0.01, 0, -180.5, 0, -0.01, 10), (100, 100), (-180, 9, 180, 10), 2),
        ("EPSG:4326", Affine(0.01, 0, 179, 0, -0.01, 10), (100, 100), (179, 9, 180, 10), 1),
    ],
)  # fmt: skip
def test_at_the_edges_of_the_world(crs, affine, shape, bounds, parts) -> None:
    found = outline(crs, affine, *shape)
    assert found.is_valid
    assert found.bounds == pytest.approx(bounds, abs=1e-3)
    assert len(shapely.get_parts(found)) == parts


@settings(max_examples=40, deadline=None)
@given(st.floats(-900, 900), st.floats(-45, 60), st.floats(0.1, 40), st.integers(-2, 2))
def test_turns_of_the_globe_change_nothing(lon, lat, wide, turns) -> None:
    here, there = (
        outline("EPSG:4326", Affine(wide / 64, 0, x, 0, -wide / 64, lat), 64)
        for x in (lon, lon + 360 * turns)
    )
    assert shapely.symmetric_difference(here, there).area < 1e-6
    assert here.area == pytest.approx(wide * wide)
    assert -180 <= here.bounds[0] <= here.bounds[2] <= 180


def test_small_tiles_are_four_true_corners_and_large_ones_bend() -> None:
    affine = Affine(10, 0, 448000, 0, -10, 5411000)
    way = to_degrees("EPSG:32631")
    small, *others = outlines(
        "EPSG:32631",
        np.array([affine[:6]]),
        *np.array([[100.25], [50], [64], [32]]).repeat(5000, axis=1),
    )
    assert all(other.equals(small) for other in others)
    ring = np.array(small.exterior.coords)
    corners = [(50, 100.25), (82, 100.25), (82, 164.25), (50, 164.25)]
    expected = {tuple(np.round(way.transform(*(affine @ c)), 9)) for c in corners}
    assert len(ring) == 5
    assert {tuple(p) for p in np.round(ring, 9)} == expected
    large = outline("EPSG:32631", affine, 10980)
    middle = shapely.Point(way.transform(*(affine @ (5490, 0))))
    assert large.exterior.distance(middle) < 5e-5  # half a pixel
    chord = shapely.LineString([way.transform(*(affine @ (c, 0))) for c in (0, 10980)])
    assert chord.distance(middle) > 1e-3


def test_no_way_to_the_ground_is_null_and_takes_nobody_with_it() -> None:
    utm = (10.0, 0.0, 448000.0, 0.0, -10.0, 5411000.0)
    edge_of_its_world = (463.3, 0.0, -20010000.0, 0.0, -463.3, 5559752.6)
    bad = [
        (ENGINEERING, utm), ("EPSG:4978", utm), ("no such CRS", utm), ("EPSG:4326", utm),
        ("ESRI:54050", utm),
        ("EPSG:32631", (10.0, 0.0, 1e12, 0.0, -10.0, 5e6)), (SINUSOIDAL, edge_of_its_world),
        ("EPSG:32631", (0.0, 0.0, 1.0, 0.0, 0.0, 1.0)), ("EPSG:32631", (float("nan"),) * 6),
        (GEOS, (100000.0, 0.0, -5.5e6, 0.0, -100000.0, 5.5e6)),
        ("EPSG:3031", (25000.0, 0.0, -1e6, 0.0, -25000.0, 1e6)),
    ]  # fmt: skip
    given = [("EPSG:32631", utm), *bad, ("EPSG:4326", (0.1, 0.0, 7.0, 0.0, -0.1, 50.0))]
    tiles = [TileFacts("bare", "bare", height=110, width=110)] + [
        TileFacts(crs, crs, height=110, width=110, crs=crs, transform=affine)
        for crs, affine in given
    ]
    nothing = np.empty((len(tiles), 0), np.float32)
    layout = Layout((), ("rgb",), "m", "r")
    table = predictions(layout, tiles, Numbers(nothing, nothing, nothing.astype(np.uint8)))
    shapes = table.column("geometry").to_pylist()
    assert [shape is not None for shape in shapes] == [False, True, *[False] * len(bad), True]


def test_boxes_go_east_over_the_antimeridian() -> None:
    for west, step, bbox in (
        (176, 0.1, (176, -3.4, -177.6, 3)),
        (-186, 0.1, (174, -3.4, -179.6, 3)),
        (173.6, 0.1, (173.6, -3.4, 180, 3)),
        (-180, 360 / 64, (-180, -3.4, 180, 3)),
        (-30, 0.1, (-30, -3.4, -23.6, 3)),
    ):
        shape = outline("EPSG:4326", Affine(step, 0, west, 0, -0.1, 3), 64)
        assert bbox_of(shape) == pytest.approx(bbox)


def test_the_union_of_boxes_is_around_them() -> None:
    for boxes, around in (
        ([(2, 1, 3, 4), (5, 0, 6, 2)], (2, 0, 6, 4)),
        ([(170, 0, 180, 1), (-180, 0, -175, 1)], (-180, 0, 180, 1)),
        ([(179, 0, -179, 1), (3, -5, 4, 1)], (-180, -5, 180, 1)),
        ([], (-180, -90, 180, 90)),
    ):
        assert union_of(boxes) == list(around)
