"""Where a bundle's feature cells and tiles lie in a scene: pure arithmetic.

Net px are pixels of the scene as the network sees it, after resampling; cells are counted from the
scene's net origin. The whole-scene forward is that of the scene padded right and bottom to a
multiple of `block`, so that every window that starts at a multiple of it shares its lattices.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from satray.errors import InputError
from satray.models.geometry import FeatureGrid


@dataclass(frozen=True)
class TowerLattice:
    """One tower's cells, the same along both axes."""

    name: str
    """The tower's."""

    stride: int
    """Net px from cell to cell."""

    centre: float
    """Centre of cell 0, in net px."""

    halo: int | None
    """Cells from a window's border that zero padding can reach; None: all of them."""

    short: int
    """Cells fewer than length / stride that the network gives, where it does not pad throughout
    (InceptionV3: 2)."""

    tile_cells: int
    """Cells along a side that the network gives of a training tile."""

    def cells(self, length: int) -> int:
        """Cells along an axis of `length` net px, a multiple of the block."""
        return max(length // self.stride - self.short, 0)

    def affine(self) -> Affine:
        """From cell corners (column, row) to net px, exact."""
        corner = self.centre - self.stride / 2
        return Affine.translation(corner, corner) @ Affine.scale(self.stride)

    def nearest(self, origin: int) -> int:
        """The first cell of a tile at that net px; the nearest where it lies between two."""
        return (2 * origin + self.stride) // (2 * self.stride)


@dataclass(frozen=True)
class DenseGeometry:
    """All that planning needs to know of a bundle."""

    towers: tuple[TowerLattice, ...]
    """In the network's order."""

    size: int
    """Side of a training tile, in net px."""

    block: int
    """Least common multiple of the strides, in net px: windows start at multiples of it."""

    d4: bool = False
    """Whether maps and numbers are means over the eight flips and transposes; the centres are
    then those of the mean (see `turned`)."""

    @property
    def why_tiles(self) -> str | None:
        """Why only tiles can be scored; None where windows can be."""
        far = [tower.name for tower in self.towers if tower.halo is None]
        if not far:
            return None
        return (
            f"halo: null (tower {', '.join(far)}: squeeze-excite, attention or group normalisation "
            "lets a far pixel move every cell)"
        )

    @property
    def shortest(self) -> int:
        """The least length, in net px, of which every tower gives a cell."""
        return max(up((t.short + 1) * t.stride, self.block) for t in self.towers)

    def padded(self, length: int) -> int:
        """Length of an axis after padding, in net px."""
        return max(up(length, self.block), self.shortest)

    def turned(self, *, tiles: bool) -> "DenseGeometry":
        """With the centres of means over the eight symmetries.

        Cell i of an input of n cells and P px is averaged with P - centre - stride (n - 1 - i);
        the mean lies as far from one edge as from the other.

        Args:
            tiles: whether tiles are turned one by one, or whole windows.
        """
        towers = []
        for tower in self.towers:
            centre = tower.stride * (tower.short + 1) / 2
            if tiles:
                centre = (self.size - tower.stride * (tower.tile_cells - 1)) / 2
            towers.append(replace(tower, centre=centre))
        return replace(self, towers=tuple(towers), d4=True)

    def tower(self, name: str) -> TowerLattice:
        """The lattice of a tower, by its name."""
        (tower,) = (tower for tower in self.towers if tower.name == name)
        return tower


def geometry_of(
    grids: dict[str, FeatureGrid], size: int, tile_cells: dict[str, int], short: dict[str, int]
) -> DenseGeometry:
    """Put a bundle's grids and what the network gives together.

    Args:
        grids: by tower, as in the bundle.
        size: side of a training tile, in net px.
        tile_cells: cells a side of a training tile, by tower.
        short: see `TowerLattice.short`, by tower.

    Raises:
        InputError: a stride is no whole number of px: no lattice of pixels carries such cells.
    """
    towers = []
    for name, grid in grids.items():
        if grid.stride != int(grid.stride):
            raise InputError(
                f"bundle: tower {name} has a stride of {grid.stride} px; accepted for scenes: "
                "whole numbers (score its tiles with tiles=)"
            )
        stride = int(grid.stride)
        towers.append(
            TowerLattice(name, stride, grid.centre, grid.halo, short[name], tile_cells[name])
        )
    return DenseGeometry(tuple(towers), size, math.lcm(*(tower.stride for tower in towers)))


@dataclass(frozen=True)
class AxisTiles:
    """The tiles along one axis of a scene."""

    origins: tuple[int, ...]
    """First net px of each, rising."""

    size: int
    """Net px that each covers: the training tile's, or the scene's where that is smaller."""

    starts: dict[str, tuple[int, ...]]
    """First cell of each, by tower."""

    counts: dict[str, int]
    """Cells of each, by tower."""

    def __len__(self) -> int:
        """How many."""
        return len(self.origins)

    def within(self, start: int, stop: int) -> NDArray[np.int64]:
        """First net px of tiles `start` to before `stop`."""
        return np.array(self.origins[start:stop], dtype=np.int64)


def axis_tiles(length: int, geometry: DenseGeometry, step: int) -> AxisTiles:
    """The tiles along an axis.

    Tiles lie wholly within the scene, from its origin on; the last is moved back so that less
    than one block is left over. A scene smaller than a tile has one, over all its cells.

    Args:
        length: of the scene, in net px.
        geometry: of the bundle.
        step: net px from tile to tile, 1 at least.
    """
    if length < 1 or step < 1:
        raise ValueError(f"length {length}, step {step}")
    padded = geometry.padded(length)
    totals = {tower.name: tower.cells(padded) for tower in geometry.towers}
    if length < geometry.size:
        return AxisTiles((0,), length, dict.fromkeys(totals, (0,)), totals)
    room = length - geometry.size
    origins = list(range(0, room + 1, step))
    last = room // geometry.block * geometry.block
    if last > origins[-1]:
        origins.append(last)
    starts: dict[str, tuple[int, ...]] = {}
    for tower in geometry.towers:
        most = totals[tower.name] - tower.tile_cells
        starts[tower.name] = tuple(min(tower.nearest(origin), most) for origin in origins)
    counts = {tower.name: tower.tile_cells for tower in geometry.towers}
    return AxisTiles(tuple(origins), geometry.size, starts, counts)


def up(length: int, block: int) -> int:
    """The next multiple of `block`."""
    return -(-length // block) * block
