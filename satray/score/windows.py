"""How a scene is cut: cells, tiles and windows as pure arithmetic.

Net px are pixels of the scene as the network sees it, after resampling; cells are counted from the
scene's net origin. The whole-scene forward is that of the scene padded right and bottom to a
multiple of `block`, so that every window that starts at a multiple of it shares its lattices.

Dense: a window is one forward, and every cell that it keeps is that of one forward over the whole
scene. Along an axis it reads [start, stop) net px; its exact cells are those that zero padding at
its borders cannot reach (where its border is the scene's own, the whole-scene forward pads there
too, and no halo is lost), and of these it keeps the core. Cores follow one another without gap or
overlap; exact areas overlap so far that each tile lies wholly within one of them, and belongs to
the first such. Windows are products of windows along both axes, all of one shape.

Tiles: a window holds whole tiles, each its own forward, for networks without a halo. Where tiles
overlap their cells are cut in the middle, so that each cell of a map is one tile's.
"""

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from satray.errors import InputError
from satray.models.geometry import FeatureGrid

Mode = Literal["dense", "tiles"]
"""dense: windows; tiles: one by one, as in training."""
WINDOW = 1024
"""Side of a window, in net px, if nothing is said; in dense mode raised to `least_side`."""
HALOS = 4
"""Halos that a dense window's side is at least: else most of it is thrown away."""
SIDE = 10_240
"""Side, in net px, of the scene that stands for all in `choose`: about Sentinel-2's, Landsat's."""


@dataclass(frozen=True)
class Span:
    """Whole numbers from `start` to before `stop`: px, cells or tiles along an axis."""

    start: int
    """First."""

    stop: int
    """One after the last."""

    def __len__(self) -> int:
        """How many."""
        return self.stop - self.start

    def within(self, start: int) -> slice:
        """As a slice of an array that begins at `start`."""
        return slice(self.start - start, self.stop - start)


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
        """The first cell of a tile at that net px; between two the nearest, half a cell off."""
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

    @property
    def finest(self) -> TowerLattice:
        """The lattice of the smallest cells, the first of several."""
        return min(self.towers, key=lambda tower: tower.stride)

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

    def cores(self, tower: TowerLattice) -> tuple[Span, ...]:
        """Cells of a tower's map that each tile gives: its own, cut in the middle of overlaps."""
        starts, count = self.starts[tower.name], min(self.counts[tower.name], tower.tile_cells)
        stops = [min(a + count, (a + b + count) // 2) for a, b in pairwise(starts)]
        stops.append(starts[-1] + count)
        firsts = map(max, starts, (0, *stops))
        return tuple(Span(first, stop) for first, stop in zip(firsts, stops, strict=True))

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


@dataclass(frozen=True)
class AxisWindow:
    """A window along one axis."""

    px: Span
    """What it reads, in net px. Dense: of the padded scene, from a multiple of the block on.
    Tiles: its tiles and a block on either side, within the scene; beyond it only where the scene is
    smaller than a tile."""

    tiles: Span
    """Tiles that it scores, by their place along the axis."""

    cells: dict[str, Span]
    """Cells of the map that it gives, by tower, counted from the scene's origin. Dense: its core.
    Tiles: those that its tiles give."""

    exact: dict[str, Span]
    """Dense: cells equal to the whole scene's, by tower. Tiles: none."""


@dataclass(frozen=True)
class Window:
    """A rectangle of the scene, read at once."""

    row: AxisWindow
    """Downwards."""

    col: AxisWindow
    """Rightwards."""

    @property
    def height(self) -> int:
        """In net px."""
        return len(self.row.px)

    @property
    def width(self) -> int:
        """In net px."""
        return len(self.col.px)

    @property
    def tiles(self) -> int:
        """How many tiles it scores: its rows x its columns of tiles, in row order."""
        return len(self.row.tiles) * len(self.col.tiles)

    def cells(self, tower: str) -> tuple[Span, Span]:
        """Rows and columns of cells that it gives of a tower's map."""
        return self.row.cells[tower], self.col.cells[tower]


@dataclass(frozen=True)
class ScenePlan:
    """A scene in windows."""

    mode: Mode
    """Whether a forward is a window or a tile."""

    height: int
    """In net px, before padding."""

    width: int
    """In net px, before padding."""

    geometry: DenseGeometry
    """The bundle's."""

    rows: AxisTiles
    """Tiles downwards."""

    cols: AxisTiles
    """Tiles rightwards."""

    windows: tuple[Window, ...]
    """In row order."""

    argmax: bool = False
    """Dense: whether cores consist of whole blocks, as argmax maps need."""

    @property
    def tiles(self) -> int:
        """How many tiles the scene has."""
        return len(self.rows) * len(self.cols)

    @property
    def px(self) -> int:
        """Net px that all forwards together look at."""
        return sum(self.forward_px(window) for window in self.windows)

    @property
    def kept(self) -> float:
        """The padded scene's px over those that all forwards look at, 0 to 1."""
        padded = self.geometry.padded
        return padded(self.height) * padded(self.width) / self.px

    def forward_px(self, window: Window) -> int:
        """Net px that the forwards of a window look at."""
        if self.mode == "tiles":
            return window.tiles * self.geometry.size**2
        return window.height * window.width

    def cells(self, tower: str) -> tuple[int, int]:
        """Rows and columns of a tower's map of the whole scene."""
        lattice, padded = self.geometry.tower(tower), self.geometry.padded
        return lattice.cells(padded(self.height)), lattice.cells(padded(self.width))

    def corners(self, window: Window) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First rows and first columns of a window's tiles, in net px of the window."""
        rows, cols = (
            tiles.within(axis.tiles.start, axis.tiles.stop) - axis.px.start
            for tiles, axis in ((self.rows, window.row), (self.cols, window.col))
        )
        return rows, cols

    def places(self, window: Window) -> list[tuple[int, int]]:
        """First row and column of each of a window's tiles, net px of the window, in row order."""
        tops, lefts = self.corners(window)
        return [(int(top), int(left)) for top in tops for left in lefts]


def plan_scene(
    height: int,
    width: int,
    geometry: DenseGeometry,
    *,
    mode: Mode = "dense",
    step: int | None = None,
    window: int = WINDOW,
    argmax: bool = False,
) -> ScenePlan:
    """Cut a scene into windows.

    Args:
        height: of the scene, in net px.
        width: the same.
        geometry: of the bundle; in dense mode every tower has a halo.
        mode: whether a forward is a window or a tile.
        step: net px from tile to tile; None: a tile's side, no overlap.
        window: longest side of a window, in net px. Dense: raised to `least_side`, and along each
            axis then made as short as the same number of windows allows. Tiles: of its tiles
            together; one at least.
        argmax: dense: cores consist of whole blocks of `tile_cells` cells, as argmax maps need.

    Raises:
        InputError: the bundle can be scored tile by tile only.
    """
    dense = mode == "dense"
    if dense and geometry.why_tiles:
        raise InputError(f"mode=dense: found {geometry.why_tiles}; accepted: mode=tiles or auto")
    side = max(up(window, geometry.block), least_side(geometry)) if dense else window
    axes = []
    for length in (height, width):
        tiles = axis_tiles(length, geometry, step or geometry.size)
        axes.append(
            (
                tiles,
                _shortest_walk(length, geometry, tiles, side, argmax)
                if dense
                else _cut(length, geometry, tiles, side),
            )
        )
    (rows, row_windows), (cols, col_windows) = axes
    windows = tuple(Window(row, col) for row in row_windows for col in col_windows)
    return ScenePlan(mode, height, width, geometry, rows, cols, windows, argmax)


def choose(
    geometry: DenseGeometry,
    *,
    step: int | None = None,
    window: int = WINDOW,
    argmax: bool = False,
) -> tuple[Mode, str]:
    """What `mode=auto` takes: windows or tiles, whichever look at less; and why, for a person.

    One way for a whole run: the two frame tiles otherwise, so that scores of scenes that were
    scored in different ways could not be compared. Bundle and keys decide, on a scene of `SIDE`.

    Args:
        geometry: of the bundle.
        step: net px from tile to tile; None: no overlap.
        window: longest side of a window, in net px.
        argmax: whether argmax maps are asked for.
    """
    if geometry.why_tiles:
        return "tiles", f"tiles: {geometry.why_tiles}"
    plan = plan_scene(SIDE, SIDE, geometry, step=step, window=window, argmax=argmax)
    first = plan.windows[0]
    kept = f"windows of {first.height} x {first.width} px keep {plan.kept:.0%} of what they read"
    ratio = plan.tiles * geometry.size**2 / plan.px
    if ratio > 1:
        return "dense", (
            f"dense: tiles of large scenes would look at {ratio:.1f} x as many px ({kept})"
        )
    return "tiles", f"tiles: windows of large scenes would cost {1 / ratio:.1f} x as much ({kept})"


def least_side(geometry: DenseGeometry) -> int:
    """The least side of a dense window, net px: `HALOS` halos, and a tile between two of them."""
    sides = [geometry.shortest]
    for tower in geometry.towers:
        halo = (tower.halo or 0) * tower.stride
        tile = max((tower.tile_cells + tower.short) * tower.stride, geometry.size)
        # a block more: windows start at multiples of it
        sides += [HALOS * halo, tile + 2 * halo + geometry.block]
    return up(max(sides), geometry.block)


def up(length: int, block: int) -> int:
    """The next multiple of `block`."""
    return -(-length // block) * block


def _shortest_walk(
    length: int, geometry: DenseGeometry, tiles: AxisTiles, side: int, argmax: bool
) -> tuple[AxisWindow, ...]:
    """As few windows as sides up to `side` allow, and of those the shortest."""
    padded, block = geometry.padded(length), geometry.block
    side = min(side, padded)
    best = _walk(padded, geometry, tiles, side, argmax)
    low, high = min(least_side(geometry), side) // block, side // block
    while low < high:
        middle = (low + high) // 2
        found = _walk(padded, geometry, tiles, middle * block, argmax)
        if len(found) <= len(best):
            best, high = found, middle
        else:
            low = middle + 1
    return best


def _walk(
    padded: int, geometry: DenseGeometry, tiles: AxisTiles, side: int, argmax: bool
) -> tuple[AxisWindow, ...]:
    """Windows from the scene's origin to its end, each as far on as what is left undone allows."""
    totals = {tower.name: tower.cells(padded) for tower in geometry.towers}
    done = dict.fromkeys(totals, 0)
    tile, start = 0, 0
    windows: list[AxisWindow] = []
    while True:
        px = Span(start, start + side)
        if px.stop >= padded:
            px = Span(max(0, padded - side), padded)
        exact = _exact(px, padded, geometry)
        core = {}
        for tower in geometry.towers:
            name, stop = tower.name, exact[tower.name].stop
            if argmax and stop < totals[name]:
                stop -= stop % tower.tile_cells
            core[name] = Span(done[name], max(stop, done[name]))
            done[name] = core[name].stop
        last = tile
        while last < len(tiles) and _holds(px, exact, tiles, last):
            last += 1
        windows.append(AxisWindow(px, Span(tile, last), core, exact))
        tile = last
        if px.stop == padded:
            return tuple(windows)
        start = _next_start(geometry, tiles, tile, done)
        if start <= px.start:
            raise ValueError(f"a window of {side} px is too short for its halos and a tile")


def _exact(px: Span, padded: int, geometry: DenseGeometry) -> dict[str, Span]:
    found = {}
    for tower in geometry.towers:
        first, halo = px.start // tower.stride, tower.halo or 0
        start = first + halo if px.start else 0
        stop = first + tower.cells(len(px)) - (halo if px.stop < padded else 0)
        found[tower.name] = Span(start, max(start, stop))
    return found


def _holds(px: Span, exact: dict[str, Span], tiles: AxisTiles, tile: int) -> bool:
    """Whether a tile's px and cells end within; that they start there is how windows are chosen."""
    if tiles.origins[tile] + tiles.size > px.stop:
        return False
    return all(
        tiles.starts[name][tile] + tiles.counts[name] <= span.stop for name, span in exact.items()
    )


def _next_start(geometry: DenseGeometry, tiles: AxisTiles, tile: int, done: dict[str, int]) -> int:
    """The last start whose exact area begins no later than what is still to do."""
    latest = []
    for tower in geometry.towers:
        cell = done[tower.name]
        if tile < len(tiles):
            cell = min(cell, tiles.starts[tower.name][tile])
            latest.append(tiles.origins[tile])
        latest.append((cell - (tower.halo or 0)) * tower.stride)
    return min(latest) // geometry.block * geometry.block


def _cut(
    length: int, geometry: DenseGeometry, tiles: AxisTiles, side: int
) -> tuple[AxisWindow, ...]:
    """Windows of whole tiles, as many as fit into `side` px."""
    windows = []
    cores = {tower.name: tiles.cores(tower) for tower in geometry.towers}
    first = 0
    while first < len(tiles):
        start = tiles.origins[first]
        last = first + 1
        while last < len(tiles) and tiles.origins[last] + geometry.size - start <= side:
            last += 1
        stop = tiles.origins[last - 1] + geometry.size
        # a block more, so that squares of cells at the rim are seen whole
        px = Span(
            max(0, start - geometry.block), min(stop + geometry.block, max(length, geometry.size))
        )
        cells = {
            name: Span(spans[first].start, spans[last - 1].stop) for name, spans in cores.items()
        }
        windows.append(AxisWindow(px, Span(first, last), cells, {}))
        first = last
    return tuple(windows)
