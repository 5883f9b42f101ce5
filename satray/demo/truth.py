"""What is true of tiles and scenes of the invented coast: their classes and their ships."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from satray.demo.world import EXTENT, Window, World
from satray.errors import InputError

CLASSES = ("sea", "land", "cloud", "ship")

Box = tuple[float, float, float, float]
"""First row, first column, last row, last column (px, edges)."""

_TILES_END = int(0.9 * EXTENT)  # tiles lie above this row, scenes below it
_PRESENT, _ABSENT = (
    0.02,
    0.002,
)  # share of a tile: at least so much is there, at most so much is not
_SEEN, _UNSEEN = 0.6, 0.15  # share of a hull
_OPAQUE, _THIN = 0.5, 0.25  # opacity of a cloud


@dataclass(frozen=True)
class LabelledTile:
    """A tile with its truth."""

    name: str
    """Its id, the file name without extension."""
    window: Window
    """Pixels and place."""
    labels: tuple[bool, ...]
    """One a class, in the order of `CLASSES`."""
    boxes: tuple[Box, ...]
    """Ships, clipped to the tile (px of the tile)."""


def label(window: Window) -> tuple[tuple[bool, ...], tuple[Box, ...]] | None:
    """Classes and ship boxes of a window, or None where they would be a matter of opinion.

    A surface counts from 2 % of the window on, where no cloud hides it; between 0.2 % and 2 %, and
    with a ship that is cut in half or under thin cloud, nobody could say.
    """
    clear = window.cloud < _OPAQUE
    opaque, thin = np.mean(~clear), np.mean(window.cloud > _THIN)
    shares = [np.mean(clear & ~window.land), np.mean(clear & window.land), opaque]
    if any(_ABSENT < share < _PRESENT for share in shares) or opaque < _PRESENT <= thin:
        return None
    if any(_UNSEEN < seen < _SEEN for _, seen in window.ships):
        return None
    boxes = ship_boxes(window)
    return (*(bool(share >= _PRESENT) for share in shares), bool(boxes)), boxes


def ship_boxes(window: Window) -> tuple[Box, ...]:
    """Boxes of the ships that are seen, clipped to the window (px of the window)."""
    height, width = window.land.shape
    return tuple(
        (
            max(ship.box[0] - window.row, 0.0),
            max(ship.box[1] - window.col, 0.0),
            min(ship.box[2] - window.row, float(height)),
            min(ship.box[3] - window.col, float(width)),
        )
        for ship, seen in window.ships
        if seen >= _SEEN
    )


def draw_tiles(tiles: int, size: int, seed: int) -> Iterator[LabelledTile]:
    """Tiles from places of the world that do not overlap, in a random order.

    Raises:
        InputError: the world has no room for so many tiles of that size.
    """
    world = World(seed)
    rows, cols = _TILES_END // size, EXTENT // size
    made = 0
    for place in np.random.default_rng(seed).permutation(rows * cols):
        if made == tiles:
            return
        row, col = divmod(int(place), cols)
        window = world.render(row * size, col * size, size, size)
        truth = label(window)
        if truth is None:
            continue
        made += 1
        yield LabelledTile(f"coast-{made:05d}", window, *truth)
    if made < tiles:
        raise InputError(f"tiles={tiles}: the demo world holds {made} tiles of {size} px")


def scene_window(size: int, seed: int) -> Window:
    """A scene with both sea and land and few clouds, from rows that no tile touches.

    Raises:
        InputError: the scene is larger than the part of the world kept for it.
    """
    world = World(seed)
    if size > EXTENT - _TILES_END:
        raise InputError(f"scene of {size} px: at most {EXTENT - _TILES_END} px")
    rng = np.random.default_rng([seed, 1])
    best, place = np.inf, (0, 0)
    for _ in range(200):
        row = int(rng.integers(_TILES_END, EXTENT - size + 1))
        col = int(rng.integers(0, EXTENT - size + 1))
        y, x = np.meshgrid(np.linspace(0, size, 24), np.linspace(0, size, 24))
        land, cloud = world.cover(row + y.ravel(), col + x.ravel())
        far = abs(land.mean() - 0.4) + abs(np.mean(cloud > _OPAQUE) - 0.06)
        if far < best:
            best, place = far, (row, col)
    return world.render(*place, size, size)
