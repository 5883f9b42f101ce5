"""An invented coast: 4-band tiles with labels, a scene, and where every ship is.

The archive is what a user would bring: a prefix of GeoTIFFs and a label table; and what nobody has
for real: the box of every ship. It is cut from sheets, each drawn as a whole from blurred noise and
polygons, and each a pure function of (seed, number). The scene is a sheet of its own, so no tile
shows any of it. Stored units are reflectance x 10,000 (uint16).

Legend: C bands, H, W rows and columns, N ships. Coordinates are px from the upper left corner.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import geopandas as gpd
import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.io import MemoryFile
from scipy import fft, ndimage
from shapely import Polygon, box

from satray.errors import InputError
from satray.storage import Storage, join

BANDS = ("blue", "green", "red", "nir")
CRS = "EPSG:32631"
PIXEL = 3.0
"""Side of a pixel (m)."""
CLASSES = ("sea", "land", "cloud", "ship")
SHEET, SHEETS = 1024, 1024
"""Side of the sheets that tiles are cut from (px), and how many there are at most."""

# Typical surfaces, blue, green, red, nir; near-infrared is dark over water and bright over plants.
_DEEP = (620.0, 520.0, 330.0, 170.0)
_SHALLOW = (1150.0, 1180.0, 620.0, 260.0)
_PLANTS = (420.0, 740.0, 480.0, 3600.0)
_SOIL = (800.0, 1150.0, 1600.0, 2350.0)
_PAINT = (1.0, 1.01, 1.03, 0.97)
_CLOUD = (7600.0, 7500.0, 7400.0, 7300.0)

_PRESENT, _ABSENT = 0.02, 0.002  # of a tile: at least so much is there, at most so much is not
_SEEN, _UNSEEN = 0.6, 0.15  # likewise of a hull
_OPAQUE, _THIN = 0.5, 0.25  # opacity of a cloud
_ROOM = 40  # at most one ship in each square of this side (px)

Field = NDArray[np.float32]
Box = tuple[float, float, float, float]
"""First row, first column, last row, last column (px, edges)."""


@dataclass(frozen=True)
class Tile:
    """A tile with its truth."""

    pixels: NDArray[np.uint16]
    """Blue, green, red, nir (4, H, W)."""
    transform: Affine
    """From pixels to metres."""
    labels: tuple[bool, ...]
    """One a class, in the order of `CLASSES`."""
    boxes: tuple[Box, ...]
    """Ships that are seen, clipped to the tile."""


@dataclass(frozen=True)
class Sheet:
    """A drawn piece of coast with its truth."""

    pixels: NDArray[np.uint16]
    """Blue, green, red, nir (4, H, W)."""
    transform: Affine
    """From pixels to metres."""
    land: NDArray[np.bool_]
    """Land (H, W), whatever clouds there are above it."""
    cloud: Field
    """Opacity of the clouds (H, W), 0 to 1."""
    hulls: tuple[Polygon, ...]
    """Outlines of the N ships (x = column, y = row)."""
    ship: NDArray[np.int32]
    """Whose hull a pixel is (H, W): 1 to N, 0 where there is none."""

    @cached_property
    def _areas(self) -> NDArray[np.int64]:
        """Pixels of each hull (N,)."""
        return np.bincount(self.ship.ravel(), minlength=len(self.hulls) + 1)[1:]

    def seen(self, here: tuple[slice, slice]) -> NDArray[np.float64]:
        """Share of each hull (N,) that lies in a part of the sheet and under no cloud."""
        clear = 1 - self.cloud[here].ravel()
        part = np.bincount(self.ship[here].ravel(), clear, len(self.hulls) + 1)
        return np.asarray(part[1:] / np.maximum(self._areas, 1))

    def boxes(self, row: int, col: int, size: int) -> tuple[Box, ...]:
        """Boxes of the ships that are seen in a square, clipped to it (px of the square)."""
        here = (slice(row, row + size), slice(col, col + size))
        found = []
        for n in np.flatnonzero(self.seen(here) >= _SEEN):
            x0, y0, x1, y1 = np.array(self.hulls[n].bounds) - (col, row, col, row)
            top, left, bottom, right = np.clip((y0, x0, y1, x1), 0, size).tolist()
            found.append((top, left, bottom, right))
        return tuple(found)

    def tile(self, row: int, col: int, size: int) -> Tile | None:
        """A square of the sheet, or None where its classes would be a matter of opinion.

        A surface counts from 2 % of the tile on, where no cloud hides it; between 0.2 % and 2 %,
        and with a ship that is cut in half or under thin cloud, nobody could say.
        """
        here = (slice(row, row + size), slice(col, col + size))
        land, cloud, seen = self.land[here], self.cloud[here], self.seen(here)
        clear = cloud < _OPAQUE
        shares = [np.mean(clear & ~land), np.mean(clear & land), np.mean(~clear)]
        if (
            any(_ABSENT < share < _PRESENT for share in shares)
            or shares[2] < _PRESENT <= np.mean(cloud > _THIN)
            or ((seen > _UNSEEN) & (seen < _SEEN)).any()
        ):
            return None
        boxes = self.boxes(row, col, size)
        labels = (*(bool(share >= _PRESENT) for share in shares), bool(boxes))
        place = self.transform @ Affine.translation(col, row)
        return Tile(self.pixels[:, *here], place, labels, boxes)


def draw_tiles(tiles: int, size: int, seed: int) -> Iterator[Tile]:
    """Tiles that do not overlap, sheet by sheet, in a random order within a sheet.

    Raises:
        InputError: there is no room for so many tiles of that size.
    """
    across = SHEET // size
    if tiles > (most := (SHEETS - 1) * across**2):
        raise InputError(f"tiles={tiles}: accepted: at most {most:,} of {size} px")
    made = 0
    for number in range(1, SHEETS):
        sheet = draw_sheet(seed, number)
        for place in np.random.default_rng([seed, number]).permutation(across**2):
            row, col = divmod(int(place), across)
            tile = sheet.tile(row * size, col * size, size)
            if tile is not None:
                yield tile
                made += 1
            if made == tiles:
                return
    raise InputError(f"tiles={tiles}: the coast of seed={seed} holds {made:,} of {size} px")


def draw_sheet(seed: int, number: int, side: int = SHEET) -> Sheet:
    """A square of coast of its own; number 0, the scene, lies south of all others."""
    rng = np.random.default_rng([seed, number])
    height = _noise(rng, side, 230, 6, 0.48) - 0.2  # above the sea: about 0.42 of the sheet
    land = height > 0
    pixels = np.where(land, _land(rng, side), _sea(rng, height))
    hulls = _place_ships(rng, land)
    numbered = [(hull, n) for n, hull in enumerate(hulls, start=1)]
    ship = np.zeros(land.shape, np.int32)
    if hulls:
        rasterize(numbered, out=ship)
    paint = rng.uniform(2400, 5200, len(hulls) + 1).astype(np.float32)[ship]
    pixels = np.where(ship > 0, paint * _spectrum(_PAINT), pixels)
    cloud = _ramp(_noise(rng, side, 150, 5, 0.55), 1.1, 2.0)
    pixels += cloud * (_spectrum(_CLOUD) * (0.8 + 0.25 * cloud) - pixels)
    pixels *= 1 + 0.08 * _noise(rng, side, 600) + 0.03 * rng.standard_normal()  # the day's light
    pixels = ndimage.gaussian_filter(pixels, (0, 0.7, 0.7), mode="nearest")  # the optics
    pixels += 12 * rng.standard_normal(pixels.shape, np.float32)
    south, east = divmod(number - 1, 32) if number else (33, 0)
    place = Affine(PIXEL, 0, 400_000, 0, -PIXEL, 5_800_000) @ Affine.translation(
        east * SHEET, south * SHEET
    )
    stored = np.clip(np.rint(pixels), 1, 65_535).astype(np.uint16)
    return Sheet(stored, place, land, cloud, hulls, ship)


def write_archive(storage: Storage, uri: str, tiles: int, size: int, seed: int) -> dict[str, int]:
    """Write `tiles/`, `labels.csv` (`tile,sea,land,cloud,ship`) and `ships.json` (boxes by tile).

    Returns how many tiles each class has; raises InputError where there is no room for so many
    tiles of that size (px).
    """
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("tile", *CLASSES))
    boxes: dict[str, list[list[float]]] = {}
    counts = dict.fromkeys(CLASSES, 0)
    for number, tile in enumerate(draw_tiles(tiles, size, seed)):
        name = f"coast-{number:05d}"
        storage.write(join(uri, "tiles", f"{name}.tif"), geotiff(tile.pixels, tile.transform))
        rows.writerow((name, *map(int, tile.labels)))
        boxes[name] = [[round(edge, 2) for edge in one] for one in tile.boxes]
        for label, there in zip(CLASSES, tile.labels, strict=True):
            counts[label] += there
    storage.write(join(uri, "ships.json"), json.dumps(boxes, indent=0).encode())
    storage.write(join(uri, "labels.csv"), table.getvalue().encode())
    return counts


def write_scene(storage: Storage, uri: str, size: int, seed: int) -> None:
    """Write `scene.tif` and `scene-ships.geojson`."""
    sheet = draw_sheet(seed, 0, size)
    ships, places = sheet.boxes(0, 0, size), []
    for top, left, bottom, right in ships:
        (x0, y1), (x1, y0) = sheet.transform @ (left, top), sheet.transform @ (right, bottom)
        places.append(box(x0, y0, x1, y1))
    edges = [np.round(one, 2).tolist() for one in ships]
    columns = {"class": ["ship"] * len(ships), "box_px": edges}
    ground = gpd.GeoDataFrame(columns, geometry=places, crs=CRS).to_crs("OGC:CRS84")
    storage.write(join(uri, "scene.tif"), geotiff(sheet.pixels, sheet.transform, blocks=256))
    storage.write(join(uri, "scene-ships.geojson"), ground.to_json(drop_id=True).encode())


def geotiff(pixels_CHW: NDArray[np.uint16], transform: Affine, blocks: int | None = None) -> bytes:
    """Bytes of a deflate GeoTIFF with named bands; tiled in `blocks` px where given."""
    count, height, width = pixels_CHW.shape
    layout = {"tiled": True, "blockxsize": blocks, "blockysize": blocks} if blocks else {}
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", dtype="uint16", count=count, height=height, width=width, crs=CRS,
            transform=transform, compress="deflate", predictor=2, photometric="minisblack",
            **layout,
        ) as file:  # fmt: skip
            file.write(pixels_CHW)
            file.descriptions = BANDS
        return bytes(memory.read())


def _sea(rng: np.random.Generator, height: Field) -> Field:
    """Water (4, H, W), shallow at the shore, with whitecaps: small bright specks, no ships."""
    side = len(height)
    shallow = _ramp(height, -0.45, 0.0) ** 2
    rough = _ramp(_noise(rng, side, 500), -1.0, 1.5)
    caps = (rng.random(height.shape) < 0.004 * rough) * rng.uniform(300, 1000, height.shape)
    sea = _spectrum(_DEEP) * (1 - shallow) + _spectrum(_SHALLOW) * shallow
    sea += (18 + 40 * rough) * _noise(rng, side, 11, 3, 0.7) + 110 * rough
    return np.asarray(sea + caps, np.float32)


def _land(rng: np.random.Generator, side: int) -> Field:
    """Plants, soil and towns (4, H, W).

    Roofs are bright and long. In every band they look like ships: only the water tells them apart.
    """
    green = _ramp(_noise(rng, side, 130, 4, 0.6), -0.9, 0.9)
    land = _spectrum(_PLANTS) * green + _spectrum(_SOIL) * (1 - green)
    land *= 1 + 0.07 * _noise(rng, side, 9, 3, 0.8)
    town = _ramp(_noise(rng, side, 150, 2), 0.75, 0.95)
    # lots of 13 x 21 px on a turned chequer, four random numbers each
    y, x = np.mgrid[:side, :side]
    down, across = 0.94 * y + 0.34 * x, 0.94 * x - 0.34 * y + 0.34 * side
    i, j = (down // 13).astype(int), (across // 21).astype(int)
    long, deep, shine, built = rng.random((4, i.max() + 1, j.max() + 1), np.float32)[:, i, j]
    roof = np.abs(down % 13 - 6.5) < 1.5 + 2.5 * deep
    roof &= (np.abs(across % 21 - 10.5) < 3 + 6 * long) & (built < 0.75)
    there = roof * np.maximum(town, built < 0.1)
    return np.asarray(land + there * ((2200 + 3200 * shine) * _spectrum(_PAINT) - land), np.float32)


def _place_ships(rng: np.random.Generator, land_HW: NDArray[np.bool_]) -> tuple[Polygon, ...]:
    """Outlines of ships with water all round them."""
    side = len(land_HW)
    room = ndimage.distance_transform_edt(~land_HW)
    traffic = 0.12 + 0.5 * _ramp(_noise(rng, side, 300), -0.8, 0.8)
    hulls = []
    for corner in np.ndindex(side // _ROOM, side // _ROOM):
        y, x = (np.array(corner) + rng.uniform(0.25, 0.75, 2)) * _ROOM
        length, at = 9 + 14 * rng.random() ** 1.6, (int(y), int(x))
        if rng.random() < traffic[at] and room[at] > 0.8 * length + 3:
            half, aside = length / 2, np.clip(length * rng.uniform(0.1, 0.14), 1.4, 2.5)
            starboard = [(-half, aside), (0.4 * half, aside), (0.8 * half, 0.6 * aside)]
            corners = [*starboard, (half, 0.0), *((a, -b) for a, b in reversed(starboard))]
            place = Affine.translation(x, y) @ Affine.rotation(rng.uniform(0, 360))
            hulls.append(Polygon([place @ each for each in corners]))
    return tuple(hulls)


def _noise(
    rng: np.random.Generator, side: int, wave: float, octaves: int = 1, gain: float = 0.5
) -> Field:
    """Blurred noise, mean 0 and variance 1, (side, side); opposite edges meet.

    The hills of the coarsest octave are `wave` px apart, about; each further octave halves that,
    and has `gain` of the amplitude.
    """
    white = fft.rfft2(rng.standard_normal((side, side), np.float32))
    mixed = np.zeros_like(white)
    for k in range(octaves):
        blur = min(0.58 * wave / 2**k, side / 4)
        mixed += gain**k * blur * ndimage.fourier_gaussian(white, blur, side)
    found = fft.irfft2(mixed, (side, side))
    return np.asarray((found - found.mean()) / found.std(), np.float32)


def _ramp(x: Field, low: float, high: float) -> Field:
    """Smooth step from 0 at `low` to 1 at `high`."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def _spectrum(bgrn: tuple[float, ...]) -> Field:
    return np.array(bgrn, np.float32)[:, None, None]
