"""Maps lie on the picture where their cells lie on the tile."""

import numpy as np
import pytest
import scoring_material as material
import torch
from affine import Affine

from satray.scoring.overlay import cells_on_picture, on_pixels


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


@pytest.mark.parametrize(("evaluate", "resize"), [("whole", None), ("centre", 40)])
def test_the_bright_spot_is_where_the_object_is(evaluate: str, resize: int | None) -> None:
    """The features of simple_cnn around a spot, laid on the tile, peak at the spot."""
    bundle = material.bundle(material.one_tower(), evaluate=evaluate, resize=resize)
    cells = cells_on_picture(bundle.spec, "rgb", 4, 96, 96)  # a picture of twice the tile's size
    for row, col in ((14, 20), (30, 26)):
        tile = np.full((1, 3, 48, 48), 2000, np.uint16)
        spot = tile.copy()
        spot[:, :, row - 2 : row + 2, col - 2 : col + 2] = 4000
        both = torch.from_numpy(np.concatenate([tile, spot]))
        features = bundle.logits(both, return_features=True)[1]["rgb"]
        moved = (features[1] - features[0]).abs().sum(0).numpy()
        laid = on_pixels(moved, cells, 96, 96)
        weight = laid.clip(0)
        peak = [
            float((weight.sum(1 - axis) * np.arange(96)).sum() / weight.sum()) for axis in (0, 1)
        ]
        stride = bundle.spec.grids["rgb"].stride * abs(cells.a) / bundle.spec.grids["rgb"].stride
        assert abs(peak[0] - 2 * row) < stride
        assert abs(peak[1] - 2 * col) < stride


def test_a_map_averaged_over_symmetries_lies_on_the_symmetric_grid() -> None:
    spec = material.bundle(material.one_tower()).spec
    cells = cells_on_picture(spec, "rgb", 4, 48, 96, d4=True)
    values = np.random.default_rng(0).random((4, 4)).astype(np.float32)
    laid = on_pixels(values, cells, 48, 96)
    assert np.allclose(laid[::-1], on_pixels(values[::-1], cells, 48, 96))
    assert np.allclose(laid[:, ::-1], on_pixels(values[:, ::-1], cells, 48, 96))
