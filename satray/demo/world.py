"""An invented coast: sea, land, towns, clouds and ships, as a pure function of (seed, place).

Any window of it can be rendered by itself and agrees with its neighbours, so tiles and scenes come
from one world. Stored units are reflectance x 10,000 (uint16), bands blue, green, red, nir.

Legend: C bands, H, W rows and columns.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from satray.demo.noise import Field, Noise, grain, ramp, uniform
from satray.demo.ships import Ship, draw_ship, hull_area, ships_near

BANDS = ("blue", "green", "red", "nir")
CRS = "EPSG:32631"
PIXEL = 3.0
"""Side of a pixel on the ground (m)."""
EXTENT = 32_768
"""Side of the world (px): about one 100 km square of its UTM zone."""
_WEST, _NORTH = 400_000.0, 5_800_000.0

# Typical surfaces, blue, green, red, nir; near-infrared is dark over water and bright over plants.
_DEEP = (620.0, 520.0, 330.0, 170.0)
_SHALLOW = (1150.0, 1180.0, 620.0, 260.0)
_PLANTS = (420.0, 740.0, 480.0, 3600.0)
_SOIL = (800.0, 1150.0, 1600.0, 2350.0)
_SAND = (1500.0, 1950.0, 2350.0, 2850.0)
_STREET = (1050.0, 1120.0, 1180.0, 1500.0)
_ROOF = (1.0, 1.03, 1.05, 1.0)
_CLOUD = (7600.0, 7500.0, 7400.0, 7300.0)

_PAD = 2  # for the blur of the optics and the slopes
_SHADOW = (14, -10)  # px from a cloud to its shadow


@dataclass(frozen=True)
class Window:
    """A rendered piece of the world with its truth."""

    row: int
    """First row (px from the world's upper edge)."""
    col: int
    """First column (px from the world's left edge)."""
    pixels: NDArray[np.uint16]
    """Blue, green, red, nir (4, H, W); reflectance x 10,000."""
    land: NDArray[np.bool_]
    """Land (H, W), whatever clouds there are above it."""
    cloud: Field
    """Opacity of the clouds (H, W), 0 to 1."""
    ships: tuple[tuple[Ship, float], ...]
    """Ships that touch the window, each with the share of its hull that is seen in it."""

    @property
    def transform(self) -> Affine:
        """From pixels of the window to metres."""
        return transform(self.row, self.col)


def transform(row: int, col: int) -> Affine:
    """The georeference of a window of the world."""
    return Affine(PIXEL, 0.0, _WEST + PIXEL * col, 0.0, -PIXEL, _NORTH - PIXEL * row)


def _spectrum(bgrn: tuple[float, ...]) -> Field:
    return np.array(bgrn)[:, None, None]


@dataclass(frozen=True)
class World:
    """The coast of one seed."""

    seed: int
    """The seed of everything in it."""
    shore: float = 0.2
    """Height (standard deviations) above which there is land: about 0.42 of the world."""

    @cached_property
    def height(self) -> Noise:
        """Ground above the sea floor."""
        return Noise(self._seed(1), 230.0, 6, 0.48)

    def _seed(self, part: int) -> int:
        return self.seed * 1009 + part

    def afloat(self, rows: Field, cols: Field) -> NDArray[np.bool_]:
        """Whether a keel fits at these places."""
        return np.asarray(self.height.at(rows, cols) < self.shore - 0.1)

    def cover(self, rows: Field, cols: Field) -> tuple[NDArray[np.bool_], Field]:
        """Land and cloud opacity at these places."""
        return self.height.at(rows, cols) > self.shore, _opacity(self._clouds.at(rows, cols))

    def render(self, row: int, col: int, height: int, width: int) -> Window:
        """The window whose upper left pixel is (row, col)."""
        r, c, h, w = row - _PAD, col - _PAD, height + 2 * _PAD, width + 2 * _PAD
        ground = self.height.window(r, c, h, w) - self.shore
        land = ground > 0
        if land.all():
            pixels = self._land(ground, r, c)
        elif land.any():
            pixels = np.where(land, self._land(ground, r, c), self._sea(ground, r, c))
        else:
            pixels = self._sea(ground, r, c)
        traffic = Noise(self._seed(51), 300.0)
        fleet = ships_near(self._seed(50), r, c, h, w, self.afloat, traffic)
        hulls = [(ship, *draw_ship(ship, pixels, r, c, ~land)) for ship in fleet]
        cloud = self._cloud(r, c, h, w)
        shade = self._cloud(r - _SHADOW[0], c - _SHADOW[1], h, w)
        pixels *= 1.0 - 0.45 * shade * (1 - cloud)
        pixels += cloud * (_spectrum(_CLOUD) * (0.8 + 0.25 * cloud) - pixels)
        pixels = _blur(pixels) * self._light(r, c, h, w)
        pixels += 12.0 * np.stack([grain(self._seed(33 + k), r, c, h, w) for k in range(4)])

        inner = (slice(_PAD, -_PAD), slice(_PAD, -_PAD))
        clear = np.zeros((h, w))
        clear[inner] = 1 - cloud[inner]
        seen = tuple(
            (ship, float((hull * clear[here]).sum() / hull_area(ship)))
            for ship, here, hull in hulls
            if (hull * clear[here]).any()
        )
        return Window(
            row=row,
            col=col,
            pixels=np.clip(np.rint(pixels), 1, 65_535).astype(np.uint16)[:, *inner],
            land=land[inner],
            cloud=cloud[inner],
            ships=seen,
        )

    def _sea(self, ground: Field, r: int, c: int) -> Field:
        h, w = ground.shape
        shallow = ramp(ground, -0.45, 0.0) ** 2
        rough = ramp(Noise(self._seed(2), 700.0).window(r, c, h, w), -1.0, 1.5)
        swell = Noise(self._seed(3), 11.0, 3, 0.7).window(r, c, h, w)
        sea = _spectrum(_DEEP) * (1 - shallow) + _spectrum(_SHALLOW) * shallow
        sea = sea + (18.0 + 40.0 * rough) * swell + 110.0 * rough
        # Whitecaps: small bright specks that are no ships.
        y, x = _grid(r, c, h, w)
        cap = (uniform(self._seed(4), y, x) < 0.004 * rough) * (0.4 + uniform(self._seed(5), y, x))
        surf = np.exp(-((ground / 0.035) ** 2)) * ramp(swell, -0.5, 1.0)
        return np.asarray(sea + (700.0 * cap + 900.0 * surf) * _spectrum((1.0, 1.0, 0.95, 0.6)))

    def _land(self, ground: Field, r: int, c: int) -> Field:
        h, w = ground.shape
        y, x = _grid(r, c, h, w)
        green = ramp(Noise(self._seed(10), 130.0, 4, 0.6).window(r, c, h, w), -0.9, 0.9)
        # Fields: a turned patchwork, each patch with its own crop.
        u, v = (0.86 * y + 0.51 * x) // 19, (0.86 * x - 0.51 * y) // 31
        crop = uniform(self._seed(11), u.astype(np.int64), v.astype(np.int64))
        farmed = ramp(Noise(self._seed(12), 260.0, 2).window(r, c, h, w), -0.1, 0.3)
        green = green * (1 - farmed) + crop * farmed
        land = _spectrum(_PLANTS) * green + _spectrum(_SOIL) * (1 - green)
        land = land * (1.0 + 0.07 * Noise(self._seed(13), 9.0, 3, 0.8).window(r, c, h, w))

        town = ramp(Noise(self._seed(14), 150.0, 2).window(r, c, h, w), 0.75, 0.95)
        roof, street = self._buildings(y, x)
        land = land + 0.75 * town * street * (_spectrum(_STREET) - land)
        alone = (1 - town) * (uniform(self._seed(15), y // 37, x // 37) < 0.25)
        land = land + ((town + alone) * (roof > 0)) * (_spectrum(_ROOF) * roof - land)

        slope = np.gradient(ground, axis=0) - np.gradient(ground, axis=1)
        land = land * np.clip(1.0 + 6.0 * slope, 0.75, 1.25)
        sand = np.exp(-ground / 0.03) * ramp(-ground, -0.2, 0.0)
        return np.asarray(land + sand * (_spectrum(_SAND) - land))

    def _buildings(self, y: NDArray[np.int64], x: NDArray[np.int64]) -> tuple[Field, Field]:
        """Brightness of roofs (0 where there is none) and where streets run (0 or 1).

        Long bright roofs look like ships in every band: only the water around tells them apart.
        """
        u, v = 0.94 * y + 0.34 * x, 0.94 * x - 0.34 * y
        i, j = np.floor(u / 13).astype(np.int64), np.floor(v / 21).astype(np.int64)
        du, dv = u - 13.0 * i, v - 21.0 * j
        long, deep, shine, built = (uniform(self._seed(20 + k), i, j) for k in range(4))
        inside = (
            (np.abs(du - 6.5) < 1.5 + 2.5 * deep)
            & (np.abs(dv - 10.5) < 3.0 + 6.0 * long)
            & (built < 0.75)
        )
        street = (du < 1.5) | (dv < 1.5)
        return inside * (1300.0 + 3200.0 * shine), street.astype(np.float64)

    @property
    def _clouds(self) -> Noise:
        return Noise(self._seed(30), 150.0, 5, 0.55)

    def _cloud(self, r: int, c: int, h: int, w: int) -> Field:
        return _opacity(self._clouds.window(r, c, h, w))

    def _light(self, r: int, c: int, h: int, w: int) -> Field:
        """Brightness of the day, slowly changing from place to place, a little by band."""
        common = Noise(self._seed(31), 1500.0).window(r, c, h, w)
        tint = Noise(self._seed(32), 1100.0).window(r, c, h, w)
        return np.stack([1.0 + 0.08 * common + k * 0.03 * tint for k in (1.0, 0.4, -0.4, -1.0)])


def _opacity(x: Field) -> Field:
    return ramp(x, 1.0, 1.9)


def _grid(r: int, c: int, h: int, w: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    y, x = np.meshgrid(np.arange(r, r + h), np.arange(c, c + w), indexing="ij")
    return y, x


def _blur(pixels_CHW: Field) -> Field:
    """The optics: binomial (1, 2, 1) / 4 along both axes; the padding takes the edge."""
    for axis in (1, 2):
        pixels_CHW = (
            np.roll(pixels_CHW, 1, axis) + 2.0 * pixels_CHW + np.roll(pixels_CHW, -1, axis)
        ) / 4.0
    return pixels_CHW
