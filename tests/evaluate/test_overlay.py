"""Maps lie on the picture where their cells lie on the tile."""

import numpy as np
import pytest
import scoring_material as material
from affine import Affine

from satray.evaluate.pictures import cells_on_picture
from satray.models.geometry import FeatureGrid
from satray.report.tiles import on_pixels


def test_a_cell_centre_has_the_cells_value() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    laid = on_pixels(values, Affine.translation(0.5, 0.5) @ Affine.scale(10) @
                     Affine.translation(-0.5, -0.5), 40, 50)  # fmt: skip
    # cell (row, col) has its centre at 10 * row + 0.5: the centre of pixel 10 * row
    assert np.allclose(laid[0:21:10, 0:31:10], values)
    assert np.allclose(laid[:, 5], laid[:, 0] + 0.5)  # bilinear in between
    assert np.allclose(laid[:, 49], laid[:, 31])  # edge cells go on


def test_a_map_of_one_cell_covers_all() -> None:
    assert np.array_equal(on_pixels(np.full((1, 1), 3, np.float32), Affine.scale(7), 5, 6),
                          np.full((5, 6), 3.0))  # fmt: skip


@pytest.mark.parametrize("grid", [FeatureGrid(32, 0.5, None), FeatureGrid(32, 16, None)])
@pytest.mark.parametrize("cell", [(1, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize(
    ("evaluate", "resize", "scale", "crop"),
    # stored px of the tile are 192 x 288, px of the picture 384 x 288
    [("whole", None, (384 / 128, 288 / 128), (0, 0)), ("centre", 160, (2.4, 1.2), (16, 56))],
)
def test_a_hot_cell_lies_where_it_looked(grid, cell, evaluate, resize, scale, crop) -> None:
    """Cell i has its centre at c + s i of the network's input, counted from the edge."""
    spec = material.bundle(
        material.one_tower(),
        evaluate=evaluate,
        resize=resize,
        size=128,
        tile_shape=(192, 288),
        grids={"rgb": grid},
    ).spec
    values = np.zeros((4, 4), np.float32)
    values[cell] = 1
    laid = on_pixels(values, cells_on_picture(spec, "rgb", 4, 384, 288), 384, 288)
    found = np.unravel_index(laid.argmax(), laid.shape)
    for axis in (0, 1):
        centre = scale[axis] * (crop[axis] + grid.centre + 32 * cell[axis])
        assert abs(found[axis] + 0.5 - centre) <= 1


def test_a_map_averaged_over_symmetries_lies_on_the_symmetric_grid() -> None:
    spec = material.bundle(material.one_tower()).spec
    cells = cells_on_picture(spec, "rgb", 4, 48, 96, d4=True)
    values = np.random.default_rng(0).random((4, 4)).astype(np.float32)
    laid = on_pixels(values, cells, 48, 96)
    assert np.allclose(laid[::-1], on_pixels(values[::-1], cells, 48, 96))
    assert np.allclose(laid[:, ::-1], on_pixels(values[:, ::-1], cells, 48, 96))
