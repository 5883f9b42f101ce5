"""Where a feature cell lies: in the network's input, and on the ground.

Coordinates are pixel-edge ones: pixel i covers [i, i + 1] and has its centre at i + 0.5. An affine
transform maps (column, row) to ground coordinates, as rasterio's do.
"""

from dataclasses import dataclass, replace

from affine import Affine
from pydantic import NonNegativeInt, PositiveFloat


@dataclass(frozen=True)
class FeatureGrid:
    """The lattice of a backbone's feature cells, the same along both axes."""

    stride: PositiveFloat
    """Distance between neighbouring cells' centres, in px of the network's input."""

    centre: float
    """Centre of the first cell, in px from the input's edge."""

    halo: NonNegativeInt | None = None
    """Cells from a border that zero padding can reach; None where a far pixel moves every cell
    (squeeze-excite, attention, group normalisation)."""


@dataclass(frozen=True)
class InputGeometry:
    """How a tile became the network's input.

    `height` and `width` are the tile's (stored px), `resized_height` and `resized_width` those
    after resizing, `x_crop` and `y_crop` the left and upper edge of the crop (resized px), and
    `size` the side of the square crop that the network saw.
    """

    height: int
    width: int
    resized_height: int
    resized_width: int
    x_crop: int
    y_crop: int
    size: int


def cam_transform(source: Affine, geometry: InputGeometry, grid: FeatureGrid) -> Affine:
    """Transform of the feature grid as a raster, from that of the tile.

    `T_source . scale(W / w_resized, H / h_resized) . translation(x_crop, y_crop)
    . translation(c - s/2, c - s/2) . scale(s)`, where c is the centre of the grid's first cell and
    s its stride, in px of the network's input: from cell corners back to the tile's pixel corners.
    """
    corner = grid.centre - grid.stride / 2
    return (
        source
        @ Affine.scale(
            geometry.width / geometry.resized_width, geometry.height / geometry.resized_height
        )
        @ Affine.translation(geometry.x_crop, geometry.y_crop)
        @ Affine.translation(corner, corner)
        @ Affine.scale(grid.stride)
    )


def cells_on_tile(
    geometry: InputGeometry,
    grid: FeatureGrid,
    across: int,
    height: int,
    width: int,
    *,
    d4: bool = False,
) -> Affine:
    """Transform from cell corners to the pixel corners of a tile in a size of its own.

    Args:
        geometry: of the bundle's tiles.
        grid: the tower's.
        across: its cells a side.
        height: rows of the tile, or of a picture that shows the whole of it (px).
        width: columns of it (px).
        d4: whether the map is a mean over the tile's symmetries.
    """
    if d4:
        grid = centred(grid, geometry.size, across)
    size = Affine.scale(width / geometry.width, height / geometry.height)
    return cam_transform(size, geometry, grid)


def centred(grid: FeatureGrid, size: int, cells: int) -> FeatureGrid:
    """The grid of maps that are averaged over the tile's symmetries.

    Cell i has its centre at c + s i, and that of the flipped tile, turned back, at
    size - c - s (cells - 1 - i), where `size` is the side of the network's input (px); their mean
    lies as far from one edge of the input as from the other.
    """
    return replace(grid, centre=(size - grid.stride * (cells - 1)) / 2)
