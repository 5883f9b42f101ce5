"""Cut a scene into pieces that hold whole tiles, for networks that score tile by tile: pure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from satray.scoring.dense.lattice import AxisTiles, DenseGeometry, axis_tiles
from satray.scoring.dense.windows import Span


@dataclass(frozen=True)
class AxisPiece:
    """A piece along one axis."""

    px: Span
    """What it reads, in net px: its tiles and a block on either side, within the scene; beyond it
    only where the scene is smaller than a tile."""

    tiles: Span
    """Tiles that it scores, by their place along the axis."""

    cells: dict[str, Span]
    """Cells of those tiles, by tower, counted from the scene's origin."""


@dataclass(frozen=True)
class Piece:
    """A rectangle of the scene with all the tiles in it that are its own."""

    row: AxisPiece
    """Downwards."""

    col: AxisPiece
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
        """How many tiles: rows x columns of them, in row order."""
        return len(self.row.tiles) * len(self.col.tiles)


@dataclass(frozen=True)
class TilePlan:
    """A scene in pieces."""

    height: int
    """In net px."""

    width: int
    """In net px."""

    geometry: DenseGeometry
    """The bundle's."""

    rows: AxisTiles
    """Tiles downwards."""

    cols: AxisTiles
    """Tiles rightwards."""

    pieces: tuple[Piece, ...]
    """In row order."""

    @property
    def tiles(self) -> int:
        """How many tiles the scene has."""
        return len(self.rows) * len(self.cols)

    @property
    def px(self) -> int:
        """Net px that all forwards together look at."""
        return self.tiles * self.geometry.size**2

    def corners(self, piece: Piece) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First rows and first columns of a piece's tiles, in net px of the piece."""
        rows, cols = (
            tiles.within(axis.tiles.start, axis.tiles.stop) - axis.px.start
            for tiles, axis in ((self.rows, piece.row), (self.cols, piece.col))
        )
        return rows, cols

    def cells(self, tower: str) -> tuple[int, int]:
        """Rows and columns of a tower's map of the whole scene."""
        lattice = self.geometry.tower(tower)
        padded = self.geometry.padded
        return lattice.cells(padded(self.height)), lattice.cells(padded(self.width))


def plan_tiles(
    height: int, width: int, geometry: DenseGeometry, *, step: int | None = None, side: int = 1024
) -> TilePlan:
    """Cut a scene into pieces.

    Args:
        height: of the scene, in net px.
        width: the same.
        geometry: of the bundle; halos do not matter.
        step: net px from tile to tile; None: a tile's side, no overlap.
        side: longest side of the tiles of a piece together, in net px; one tile at least.
    """
    axes = []
    for length in (height, width):
        tiles = axis_tiles(length, geometry, step or geometry.size)
        axes.append((tiles, _cut(length, geometry, tiles, side)))
    (rows, row_pieces), (cols, col_pieces) = axes
    pieces = tuple(Piece(row, col) for row in row_pieces for col in col_pieces)
    return TilePlan(height, width, geometry, rows, cols, pieces)


def _cut(
    length: int, geometry: DenseGeometry, tiles: AxisTiles, side: int
) -> tuple[AxisPiece, ...]:
    pieces = []
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
            name: Span(starts[first], starts[last - 1] + tiles.counts[name])
            for name, starts in tiles.starts.items()
        }
        pieces.append(AxisPiece(px, Span(first, last), cells))
        first = last
    return tuple(pieces)
