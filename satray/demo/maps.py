"""Read back what the score job wrote: ship maps and their tiles, side by side.

Legend: h, w cells of a map; C bands, H, W pixels of a tile.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import MemoryFile

from satray.demo.pointing import Box, Point, Score, play, total
from satray.scoring.rasters import cam_path
from satray.storage import Storage, join

READERS = 8


@dataclass(frozen=True)
class Map:
    """The map of one class on one tile."""

    values: NDArray[np.float32]
    """Logit units (h, w); NaN where the tile has no data."""
    transform: Affine
    """From cells to the ground."""


@dataclass(frozen=True)
class MappedTile:
    """A tile, its ships, and one network's map."""

    tile_id: str
    """Its id."""
    pixels: NDArray[np.generic]
    """Stored values (C, H, W)."""
    transform: Affine
    """From pixels to the ground."""
    boxes: tuple[Box, ...]
    """Ships (px of the tile)."""
    map: Map
    """Where the network saw ships."""

    def play(self) -> Point:
        """The pointing game on this tile."""
        height, width = self.pixels.shape[-2:]
        return play(
            self.map.values, self.map.transform, self.transform, (height, width), self.boxes
        )


def read_map(
    storage: Storage, out: str, tile_id: str, towers: Sequence[str], class_name: str
) -> Map:
    """The class's map of one tile, summed over towers: logit = sum over its pooled cells + bias.

    Args:
        storage: where the run folder is.
        out: the run folder of a score job.
        tile_id: the tile.
        towers: names of the network's towers.
        class_name: a band description of the map.

    Raises:
        ValueError: the towers' maps lie on different grids, so that there is no sum.
    """
    parts = []
    for tower in towers:
        data = storage.read(join(out, cam_path(tile_id, tower)))
        with MemoryFile(data) as memory, memory.open() as file:
            band = file.descriptions.index(class_name) + 1
            parts.append(Map(file.read(band), file.transform))
    first = parts[0]
    for part in parts[1:]:
        if part.values.shape != first.values.shape or part.transform != first.transform:
            raise ValueError(f"{tile_id}: towers {', '.join(towers)} lie on different grids")
    return Map(sum((part.values for part in parts[1:]), first.values), first.transform)


def read_tiles(
    storage: Storage,
    out: str,
    tiles: Iterable[tuple[str, str]],
    boxes: dict[str, tuple[Box, ...]],
    towers: Sequence[str],
    class_name: str,
) -> list[MappedTile]:
    """Tiles, given as (id, URI), with their ships and maps, in the order given."""

    def one(tile: tuple[str, str]) -> MappedTile:
        tile_id, uri = tile
        with MemoryFile(storage.read(uri)) as memory, memory.open() as file:
            pixels, transform = file.read(), file.transform
        found = read_map(storage, out, tile_id, towers, class_name)
        return MappedTile(tile_id, pixels, transform, boxes[tile_id], found)

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(one, tiles))


def pointing_score(tiles: Iterable[MappedTile]) -> Score:
    """The pointing game over tiles."""
    return total(tile.play() for tile in tiles)
