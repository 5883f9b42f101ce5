"""Ships of the invented coast: where they are, and how they look.

A ship is a place, a heading and a size; like everything else of the world it depends on the seed
and on its place alone. Coordinates are pixel edges of the world (see `noise`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from satray.demo.noise import Field, Noise, ramp, uniform

CELL = 40
"""At most one ship in each square of this side (px)."""
REACH = 88
"""Farther than this from its centre (px) a ship and its wake change nothing."""

# Blue, green, red, nir: paint against its brightness, foam in stored units.
HULL_BGRN = np.array([1.0, 1.0, 1.02, 0.95])
WAKE_BGRN = np.array([900.0, 950.0, 900.0, 620.0])


@dataclass(frozen=True)
class Ship:
    """One ship."""

    row: float
    """Its centre (px from the world's upper edge)."""
    col: float
    """Its centre (px from the world's left edge)."""
    heading: float
    """Where the bow points (radians, 0 = along growing columns, turning towards growing rows)."""
    length: float
    """Bow to stern (px)."""
    beam: float
    """Side to side (px)."""
    paint: float
    """Brightness of deck and hull (stored units)."""
    wake: float
    """Strength of the wake, 0 for a ship at anchor."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Upright box around the hull: first row, first column, last row, last column (edges)."""
        cos, sin = abs(np.cos(self.heading)), abs(np.sin(self.heading))
        down = (self.length * sin + self.beam * cos) / 2
        across = (self.length * cos + self.beam * sin) / 2
        return self.row - down, self.col - across, self.row + down, self.col + across


def ships_near(
    seed: int,
    row: int,
    col: int,
    height: int,
    width: int,
    is_water: Callable[[Field, Field], NDArray[np.bool_]],
    traffic: Noise,
) -> list[Ship]:
    """All ships whose hull or wake may touch a window.

    Args:
        seed: the world's.
        row: first row of the window (px).
        col: first column of the window (px).
        height: rows of the window.
        width: columns of the window.
        is_water: tells for places (rows, columns) whether a keel fits there.
        traffic: field that makes shipping dense or sparse.
    """
    first_r, last_r = (row - REACH) // CELL, (row + height + REACH) // CELL
    first_c, last_c = (col - REACH) // CELL, (col + width + REACH) // CELL
    cells = np.mgrid[first_r : last_r + 1, first_c : last_c + 1].reshape(2, -1)
    r, c = cells[0], cells[1]
    draw = [uniform(seed, r, c, np.full_like(r, k)) for k in range(8)]
    rows = (r + 0.2 + 0.6 * draw[0]) * CELL
    cols = (c + 0.2 + 0.6 * draw[1]) * CELL
    heading = 2 * np.pi * draw[2]
    length = 9.0 + 14.0 * draw[3] ** 1.6
    beam = np.clip(length * (0.2 + 0.08 * draw[4]), 2.8, 5.0)
    paint = 1500.0 + 2800.0 * draw[5]
    moving = draw[6] < 0.75
    chance = 0.12 + 0.5 * ramp(traffic.at(rows, cols), -0.8, 0.8)
    there = draw[7] < chance
    for along, aside in ((0, 0), (0.9, 0), (-0.9, 0), (0, 0.5), (0, -0.5)):
        du, dv = along * length, aside * length
        there &= is_water(
            rows + du * np.sin(heading) + dv * np.cos(heading),
            cols + du * np.cos(heading) - dv * np.sin(heading),
        )
    return [
        Ship(
            row=float(rows[i]),
            col=float(cols[i]),
            heading=float(heading[i]),
            length=float(length[i]),
            beam=float(beam[i]),
            paint=float(paint[i]),
            wake=float(0.5 + 0.7 * draw[6][i]) if moving[i] else 0.0,
        )
        for i in np.flatnonzero(there)
    ]


def draw_ship(
    ship: Ship, pixels_CHW: Field, row: int, col: int, afloat_HW: NDArray[np.bool_]
) -> tuple[tuple[slice, slice], Field]:
    """Paint one ship and its wake into a window, in place.

    Args:
        ship: the ship.
        pixels_CHW: blue, green, red, nir in stored units; changed.
        row: first row of the window (px).
        col: first column of the window (px).
        afloat_HW: where there is water; a wake does not run up the beach.

    Returns:
        Rows and columns of the window that it may touch, and its hull there, 0 to 1.
    """
    _, height, width = pixels_CHW.shape
    reach = REACH if ship.wake else ship.length / 2 + 3
    here = (
        _overlap(ship.row - row, reach, height),
        _overlap(ship.col - col, reach, width),
    )
    y = (row + np.arange(here[0].start, here[0].stop) + 0.5 - ship.row)[:, None]
    x = (col + np.arange(here[1].start, here[1].stop) + 0.5 - ship.col)[None, :]
    cos, sin = np.cos(ship.heading), np.sin(ship.heading)
    along, aside = x * cos + y * sin, np.abs(-x * sin + y * cos)

    half = ship.length / 2
    bow = np.clip((half - along) / (0.35 * ship.length), 0.0, 1.0) ** 0.7
    hull = ramp(ship.beam / 2 * bow + 0.5 - aside, 0.0, 1.0) * ramp(
        half + 0.5 - np.abs(along), 0, 1
    )
    # Bridge at the stern, darker hold amidships: a ship is not one flat blob.
    bridge = ramp(-along, 0.2 * half, 0.6 * half)
    hold = ramp(along + 0.1 * half, 0.0, 1.0) * ramp(0.6 * half - along, 0.0, 1.0)
    deck = 1.0 + 0.3 * bridge - 0.25 * ramp(2.0 - aside, 0.5, 1.5) * hold

    patch_CHW = pixels_CHW[:, *here]
    if ship.wake:
        astern = np.clip(-along - 0.8 * half, 0.0, None)
        # Down to nothing within REACH, so that it does not matter which window is rendered.
        fading = np.clip(np.exp(-astern / (0.8 * ship.length)) - 0.03, 0.0, None) * (astern > 0)
        trail = np.exp(-((aside / (0.35 * ship.beam + 0.05 * astern)) ** 2))
        arm = np.exp(-(((aside - 0.22 * astern - 0.4 * ship.beam) / 1.1) ** 2))
        foam = ship.wake * fading * (trail + 0.45 * arm) * afloat_HW[here]
        patch_CHW += WAKE_BGRN[:, None, None] * foam
    patch_CHW += hull * (ship.paint * HULL_BGRN[:, None, None] * deck - patch_CHW)
    return here, np.asarray(hull)


def hull_area(ship: Ship) -> float:
    """The whole hull as drawn (px)."""
    side = int(ship.length) + 8
    row, col = int(ship.row) - side // 2, int(ship.col) - side // 2
    _, hull = draw_ship(ship, np.zeros((4, side, side)), row, col, np.ones((side, side), np.bool_))
    return float(hull.sum())


def _overlap(centre: float, reach: float, size: int) -> slice:
    low = min(max(int(np.floor(centre - reach)), 0), size)
    return slice(low, max(low, min(int(np.ceil(centre + reach)), size)))
