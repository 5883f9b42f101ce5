"""Where rasters lie: by affine, control points or world file; a CRS stays what the file says."""

import re
from datetime import UTC, datetime

import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.io import MemoryFile

from satray.data.decode import TileHeader, decode
from satray.data.georeference import World, crs_name, lonlat, pixel_size, world_files
from satray.errors import InputError
from satray.storage import Entry

UTM = Affine(10, 0, 500000, 0, -10, 5300000)
TURNED = UTM @ Affine.rotation(30)
PIXELS = np.full((3, 64, 48), 7, np.uint8)


def tiff(driver: str = "GTiff", **more) -> bytes:
    gcps, rpcs = more.pop("gcps", None), more.pop("rpcs", None)
    shape = {"count": 3, "height": 64, "width": 48, "dtype": "uint8"}
    with MemoryFile() as memory:
        with memory.open(driver=driver, **shape, **more) as target:
            target.write(PIXELS)
            if gcps:
                target.gcps = (gcps, more.get("crs", CRS.from_epsg(32633)))
            if rpcs:
                target.update_tags(ns="RPC", **rpcs)
        return bytes(memory.getbuffer())


def world(affine: Affine = UTM) -> World:
    numbers = (affine.a, affine.d, affine.b, affine.e, *(affine @ (0.5, 0.5)))
    return lambda: b"\xef\xbb\xbf" + "\n".join(f"{n!r}" for n in numbers).encode()


def text(data: bytes) -> World:
    return lambda: data


def gone() -> bytes:
    raise InputError("s3://b/a.tfw: not there")


def points(affine: Affine, move: float = 0, places=((0, 0), (0, 64), (48, 0), (48, 64), (20, 9))):
    found = [GroundControlPoint(row, col, *(affine @ (col, row))) for col, row in places]
    x, y = affine @ (places[-1][0] + move, places[-1][1])
    return [*found[:-1], GroundControlPoint(places[-1][1], places[-1][0], x, y)]


def header(data: bytes, beside: World | None = None) -> TileHeader:
    return decode(data, world=beside).header


RPC_KEYS = "LINE_OFF SAMP_OFF LAT_OFF LONG_OFF HEIGHT_OFF LINE_SCALE SAMP_SCALE LAT_SCALE"
RPCS = dict.fromkeys(f"{RPC_KEYS} LONG_SCALE HEIGHT_SCALE".split(), "1") | {
    f"{name}_COEFF": " ".join(["1"] * 20)
    for name in ("LINE_NUM", "LINE_DEN", "SAMP_NUM", "SAMP_DEN")
}
ON_A_LINE = points(UTM, 0, ((0, 0), (10, 10), (20, 20)))
UTM33 = "EPSG:32633"
NO_TRANSFORM = "a CRS without a transform: pixel coordinates"
PLACES = {  # the file, what lies beside it, its CRS, its affine, what is said of it
    "nothing": (tiff(), None, None, None, "^$"),
    "everything": (tiff(crs=UTM33, transform=UTM), world(TURNED), UTM33, UTM, "^$"),
    "a CRS alone": (tiff(crs=UTM33), None, None, None, f"^{NO_TRANSFORM}$"),
    "flipped": (tiff(crs=UTM33, transform=Affine.scale(1, -1)), None, None, None, NO_TRANSFORM),
    "an affine alone": (
        tiff(transform=UTM), None, None, UTM,
        "^an affine without a CRS: no longitude and latitude$",
    ),
    "points": (
        tiff(gcps=points(UTM, 0.3)), world(UTM @ Affine.scale(7)), UTM33, UTM,
        r"^placed by control points$",
    ),
    "turned points": (
        tiff(gcps=points(TURNED @ Affine.scale(1, 3), 0.3)), None, UTM33,
        TURNED @ Affine.scale(1, 3), "^placed by control points",
    ),
    "points off": (
        tiff(gcps=points(UTM, 3)), None, None, None,
        "^control points that no affine meets: pixel coordinates$",
    ),
    "points off, placed": (tiff(gcps=points(UTM, 3)), world(), None, UTM, "^placed by a world"),
    "points on a line": (tiff(gcps=ON_A_LINE), None, None, None, "^control points that no affine"),
    "a world file": (
        tiff(crs=UTM33), world(), UTM33, UTM, "^placed by a world file$",
    ),
    "without a CRS": (
        tiff("PNG"), world(TURNED), None, TURNED,
        "^placed by a world file without a CRS: no longitude and latitude$",
    ),
    "five numbers": (
        tiff(crs=UTM33), text(b"10 0 0 -10 500005"), None, None,
        "^a world file that is none: pixel coordinates$",
    ),
    "no area": (tiff(crs=UTM33), text(b"0 0 0 0 5 5"), None, None, "^a world file without area"),
    "gone": (
        tiff(crs=UTM33), gone, None, None,
        "^a world file out of reach: pixel coordinates$",
    ),
    "RPC": (tiff(rpcs=RPCS), None, None, None, "RPC"),
}  # fmt: skip


@pytest.mark.parametrize("case", PLACES)
def test_places(case) -> None:
    data, beside, crs, affine, said = PLACES[case]
    found = header(data, beside)
    assert found.crs == crs
    assert (found.transform is None) == (affine is None)
    for corner in ((0, 0), (48, 64), (48, 0)) if affine else ():
        miss = ~affine @ (Affine(*found.transform) @ corner)
        within = 0.5 if "points" in case else 1e-6
        assert np.hypot(miss[0] - corner[0], miss[1] - corner[1]) < within
    assert re.search(said, found.note)


def test_world_files_are_found_by_name() -> None:
    def entry(key: str, size: int = 80) -> Entry:
        return Entry(f"/b/{key}", key, size, None, datetime(2026, 1, 1, tzinfo=UTC))

    pairs = {
        "a.tif": "a.tfw", "b.TIF": "b.TFW", "c.tiff": "c.tfw", "d.jpg": "d.jgw", "e.png": "e.wld",
        "f.jpeg": "f.jpegw", "g.jp2": "g.j2w", "x/k.tif": "x/k.tifw",
    }  # fmt: skip
    found = world_files(list(map(entry, [*pairs, *pairs.values(), "h.tif", "x/h.tfw", "i.tif"])))
    assert {uri: one.key for uri, one in found.items()} == {f"/b/{k}": v for k, v in pairs.items()}
    assert not world_files([entry("a.tif"), entry("a.tfw", 10**6)])


@pytest.mark.parametrize(
    "crs",
    [
        "+proj=utm +zone=51 +ellps=bessel +units=m +no_defs",
        "+proj=sinu +R=6371007.181",
        "+proj=longlat +ellps=bessel +no_defs",
        "EPSG:32633+5773",
        'LOCAL_CS["site",UNIT["metre",1]]',
    ],
)
def test_a_crs_stays_what_it_is(crs) -> None:
    """A code where it is the definition, else WKT."""
    for code in ("EPSG:32633", "EPSG:4326", "ESRI:102025", "EPSG:4807"):
        assert crs_name(CRS.from_user_input(code).to_wkt(version="WKT2_2019")) == code
    name = header(tiff(crs=crs, transform=UTM)).crs
    assert "[" in name  # WKT
    assert header(tiff(crs=name, transform=UTM)).crs == name == crs_name(name)
    own = CRS.from_user_input(crs)
    if own.is_projected or own.is_geographic:
        x, y = np.array([1e5, 5.2e5]), np.array([1e6, 4.1e6])
        if own.is_geographic:
            x, y = np.array([10.0, -75]), np.array([50.0, -12])
        way = pyproj.Transformer.from_crs(own.to_wkt(), "OGC:CRS84", always_xy=True)
        np.testing.assert_allclose(lonlat(name, x, y), way.transform(x, y), atol=1e-9)


def test_longitudes_are_wrapped_and_what_is_off_the_earth_is_none() -> None:
    lon, lat = lonlat("EPSG:4326", np.array([190.0, -181, 180, 0]), np.array([5.0, 5, 5, 95]))
    assert lon[:3].tolist() == [-170, 179, 180]
    assert lat[:3].tolist() == [5, 5, 5]
    assert np.isnan([lon[3], lat[3]]).all()
    assert np.isnan(lonlat("no such CRS", np.zeros(2), np.zeros(2))).all()


@pytest.mark.parametrize(
    ("crs", "lon", "lat", "px"),
    [
        ("EPSG:32633", 18.5, 10, 10), ("EPSG:3857", 15, 60, 20), ("EPSG:3031", 0, -90, 30),
        ("EPSG:2227", -120, 37, 30), ("EPSG:4326", 180, 10, 1e-4), ("EPSG:4807", 2, 48, 1e-4),
        ("EPSG:32633+5773", 15, 60, 10), ("ESRI:54009", 100, 30, 1000),
    ],
)  # fmt: skip
def test_pixels_are_measured_on_the_ground(crs, lon, lat, px) -> None:
    """Against the way from one end of a pixel to the other by PROJ's geodesics on WGS 84."""
    there = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True)
    turned = Affine.rotation(20) @ Affine(1, 0.3, 0, 0, 1, 0)  # and sheared
    affine = Affine.translation(*there.transform(lon, lat)) @ turned @ Affine.scale(px, -px)
    affine @= Affine.translation(-32, -20)
    found = pixel_size(40, 64, crs, affine[:6])
    x, y = affine @ (np.array([31.5, 32.5, 32, 32]), np.array([20, 20, 19.5, 20.5]))
    lons, lats = there.transform(x, y, direction="INVERSE")
    geod = pyproj.Geod(ellps="WGS84")
    for size, (a, b) in zip(found, ((0, 1), (2, 3)), strict=True):
        true = geod.inv(lons[a], lats[a], lons[b], lats[b])[2]
        assert size == pytest.approx(true, rel=2e-4)


@pytest.mark.parametrize(
    ("crs", "affine"),
    [
        (None, None), (None, UTM), ("EPSG:32633", None), ("EPSG:4978", UTM), ("no such CRS", UTM),
        ('LOCAL_CS["site",UNIT["metre",1]]', UTM), ("EPSG:4326", Affine(0.1, 0, 0, 0, -0.1, 95)),
        ("ESRI:54050", UTM),
        ("EPSG:32633", Affine(0, 0, 1, 0, 0, 1)), ("EPSG:32633", Affine(1e9, 0, 0, 0, 1, 0)),
    ],
)  # fmt: skip
def test_pixels_without_ground(crs, affine) -> None:
    assert pixel_size(100, 100, crs, None if affine is None else affine[:6]) is None


def test_a_hidden_neighbour_is_never_opened_by_itself(tmp_path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(crs="EPSG:32633"))
    (tmp_path / "a.tfw").write_bytes(world()()[3:])
    assert header(path.read_bytes()).transform is None
    assert rasterio.open(path).transform == UTM  # what GDAL would have done
