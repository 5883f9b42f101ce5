"""A class activation map laid on the picture of its tile.

Legend: h x w cells, H x W pixels of the picture.
"""

from affine import Affine

from satray.models.geometry import cam_transform, centred
from satray.models.spec import BundleSpec


def cells_on_picture(
    spec: BundleSpec, tower: str, across: int, height: int, width: int, *, d4: bool = False
) -> Affine:
    """The affine from a tower's cell corners to the pixel corners of a picture.

    Args:
        spec: the bundle's.
        tower: whose cells.
        across: how many of them a side.
        height: rows of the picture, which shows the whole tile (px).
        width: columns of the picture (px).
        d4: whether the map is a mean over the tile's symmetries.
    """
    tall, wide = spec.tile_shape
    shown = Affine.scale(width / wide, height / tall)
    geometry = spec.preprocess().geometry(tall, wide)
    grid = spec.grids[tower]
    if d4:
        grid = centred(grid, geometry.size, across)
    return cam_transform(shown, geometry, grid)
