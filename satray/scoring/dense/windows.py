"""Cut a scene into windows, so that every kept cell is that of one forward over it all.

Along an axis: a window reads [start, stop) net px. Its exact cells are those that zero padding at
its borders cannot reach; where its border is the scene's own, the whole-scene forward pads there
too and no halo is lost. Of these it keeps the core: cores follow one another without gap or
overlap. Exact areas overlap so far that each tile lies wholly within one of them, and belongs to
the first such. Windows of a scene are products of windows along its axes, all of one shape.
"""

from dataclasses import dataclass

from satray.errors import InputError
from satray.scoring.dense.lattice import AxisTiles, DenseGeometry, axis_tiles, up

WINDOW = 1024
"""Side of a window, in net px, if nothing is said; raised to `least_side`."""

HALOS = 4
"""Halos that a window's side is at least: else most of it is thrown away."""


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
class AxisWindow:
    """A window along one axis."""

    px: Span
    """What it reads, in net px of the padded scene; starts at a multiple of the block."""

    exact: dict[str, Span]
    """Cells equal to the whole scene's, by tower, counted from the scene's origin."""

    core: dict[str, Span]
    """Cells that it keeps, by tower, within `exact`."""

    tiles: Span
    """Tiles that it scores, by their place along the axis."""


@dataclass(frozen=True)
class Window:
    """A rectangle of the scene, read for one forward."""

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


@dataclass(frozen=True)
class ScenePlan:
    """A scene in windows."""

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
    """Whether cores consist of whole blocks, as argmax maps need."""

    def core(self, window: Window, tower: str) -> tuple[Span, Span]:
        """Rows and columns of the map that a window gives, counted from the scene's origin."""
        return window.row.core[tower], window.col.core[tower]

    @property
    def tiles(self) -> int:
        """How many tiles the scene has."""
        return len(self.rows) * len(self.cols)

    @property
    def px(self) -> int:
        """Net px that all forwards together look at."""
        return sum(window.height * window.width for window in self.windows)

    @property
    def kept(self) -> float:
        """The padded scene's px over those that all forwards look at, 0 to 1."""
        padded = self.geometry.padded
        return padded(self.height) * padded(self.width) / self.px

    def cells(self, tower: str) -> tuple[int, int]:
        """Rows and columns of a tower's map of the whole scene."""
        lattice = self.geometry.tower(tower)
        padded = self.geometry.padded
        return lattice.cells(padded(self.height)), lattice.cells(padded(self.width))


def least_side(geometry: DenseGeometry) -> int:
    """The least side of a window, in net px: `HALOS` halos, and a tile between two of them."""
    sides = [geometry.shortest]
    for tower in geometry.towers:
        halo = (tower.halo or 0) * tower.stride
        tile = max((tower.tile_cells + tower.short) * tower.stride, geometry.size)
        # a block more: windows start at multiples of it
        sides += [HALOS * halo, tile + 2 * halo + geometry.block]
    return up(max(sides), geometry.block)


def plan_scene(
    height: int,
    width: int,
    geometry: DenseGeometry,
    *,
    step: int | None = None,
    window: int = WINDOW,
    argmax: bool = False,
) -> ScenePlan:
    """Cut a scene into windows.

    Args:
        height: of the scene, in net px.
        width: the same.
        geometry: of the bundle; every tower has a halo.
        step: net px from tile to tile; None: a tile's side, no overlap.
        window: longest side of a window, in net px; raised to `least_side`. Along each axis it is
            then made as short as the same number of windows allows.
        argmax: cores consist of whole blocks of `tile_cells` cells, as argmax maps need.

    Raises:
        InputError: the bundle can be scored tile by tile only.
    """
    if geometry.why_tiles:
        raise InputError(f"mode=dense: found {geometry.why_tiles}; accepted: mode=tiles or auto")
    side = max(up(window, geometry.block), least_side(geometry))
    axes = []
    for length in (height, width):
        tiles = axis_tiles(length, geometry, step or geometry.size)
        axes.append((tiles, _shortest_walk(length, geometry, tiles, side, argmax)))
    (rows, row_windows), (cols, col_windows) = axes
    windows = tuple(Window(row, col) for row in row_windows for col in col_windows)
    return ScenePlan(height, width, geometry, rows, cols, windows, argmax)


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
        windows.append(AxisWindow(px, exact, core, Span(tile, last)))
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
