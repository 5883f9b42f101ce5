"""The pointing game: does the peak of a class activation map fall on what the class is about?

On each tile that holds a ship, the centre of the map's highest cell either falls within a ship's
box or not. A cell is the finest thing that a map can tell, so the boxes are widened by half a cell
on every side; chance is the share of the tile that the boxes, widened alike, cover.

Source: Zhang et al., 'Top-down neural attention by excitation backprop' (2016), who widen by 15 px.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from affine import Affine
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
"""First row, first column, last row, last column (px of the tile, edges)."""


@dataclass(frozen=True)
class Point:
    """The game on one tile."""

    hit: bool
    """The peak's cell centre lies within a widened box."""
    chance: float
    """Share of the tile that the widened boxes cover: what a random place would hit."""


@dataclass(frozen=True)
class Score:
    """The game over many tiles."""

    tiles: int
    """Tiles played."""
    hits: int
    """Tiles whose peak fell on a ship."""
    expected: float
    """Hits that random places would have had."""
    spread: float
    """Standard deviation of those (independent tiles, each with its own chance)."""

    @property
    def rate(self) -> float:
        """Hits a tile; NaN without tiles."""
        return self.hits / self.tiles if self.tiles else float("nan")

    @property
    def chance(self) -> float:
        """Expected hits a tile; NaN without tiles."""
        return self.expected / self.tiles if self.tiles else float("nan")


def peak(
    cam_hw: NDArray[np.floating], cam_to_ground: Affine, tile_to_ground: Affine
) -> tuple[float, float]:
    """Row and column (px of the tile, edges) of the centre of the map's highest cell.

    Args:
        cam_hw: the map; NaN cells do not count; of equal cells the first wins.
        cam_to_ground: the map's own transform, from its cells to the ground.
        tile_to_ground: the tile's transform, from its pixels to the ground.

    Raises:
        ValueError: no cell has a value.
    """
    row, col = np.unravel_index(int(np.nanargmax(cam_hw)), cam_hw.shape)
    x, y = ~tile_to_ground @ cam_to_ground @ (float(col) + 0.5, float(row) + 0.5)
    return y, x


def half_cell(cam_to_ground: Affine, tile_to_ground: Affine) -> tuple[float, float]:
    """Half a cell of the map along rows and columns (px of the tile)."""
    cell = ~tile_to_ground @ cam_to_ground
    return abs(cell.e) / 2, abs(cell.a) / 2


def play(
    cam_hw: NDArray[np.floating],
    cam_to_ground: Affine,
    tile_to_ground: Affine,
    tile_shape: tuple[int, int],
    boxes: Sequence[Box],
) -> Point:
    """Play one tile. `tile_shape` is its height and width (px)."""
    row, col = peak(cam_hw, cam_to_ground, tile_to_ground)
    down, across = half_cell(cam_to_ground, tile_to_ground)
    wide = [(a - down, b - across, c + down, d + across) for a, b, c, d in boxes]
    hit = any(a <= row <= c and b <= col <= d for a, b, c, d in wide)
    return Point(hit, covered(wide, *tile_shape))


def covered(boxes: Sequence[Box], height: float, width: float) -> float:
    """Share of a tile that the union of boxes covers (exact; what lies outside is cut off)."""
    if not boxes:
        return 0.0
    edges = np.asarray(boxes, np.float64)
    edges[:, [0, 2]] = edges[:, [0, 2]].clip(0, height)
    edges[:, [1, 3]] = edges[:, [1, 3]].clip(0, width)
    rows, cols = np.unique(edges[:, [0, 2]]), np.unique(edges[:, [1, 3]])
    inside = np.zeros((len(rows) - 1, len(cols) - 1), np.bool_)
    for top, left, bottom, right in edges:
        inside |= ((rows[:-1] >= top) & (rows[1:] <= bottom))[:, None] & (
            (cols[:-1] >= left) & (cols[1:] <= right)
        )[None, :]
    area = np.diff(rows)[:, None] * np.diff(cols)[None, :]
    return float(area[inside].sum() / (height * width))


def total(points: Iterable[Point]) -> Score:
    """Sum up the tiles."""
    played = list(points)
    return Score(
        tiles=len(played),
        hits=sum(point.hit for point in played),
        expected=sum(point.chance for point in played),
        spread=sqrt(sum(point.chance * (1 - point.chance) for point in played)),
    )
