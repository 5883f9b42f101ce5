"""Where cells lie: the table of the notes, real networks against it, and dots on the ground."""

import pytest
import torch
from affine import Affine
from scoring_material import make_peaked

from satray.models.backbones import build
from satray.models.geometry import FeatureGrid, InputGeometry, cam_transform
from satray.models.preprocess import Preprocess
from satray.models.probe import probe_grid

SOURCES = {
    "utm": Affine(10, 0, 448_000, 0, -10, 5_411_000),
    "rotated": Affine.translation(300, 700) @ Affine.rotation(30) @ Affine.scale(2, -2),
    "sheared": Affine(0.5, 0.2, 10, -0.1, -0.5, 20),
    "none": Affine(1, 0, 0, 0, -1, 0),
}


def preprocess(size, resize=None, mode="whole", bands=1):
    return Preprocess(("b",) * bands, (0.0,) * bands, (1.0,) * bands, size, resize, mode)


def test_the_formula_by_hand():
    # 512 px at 10 m shrunk to 256, then cropped at (16, 16) to 224; ResNet's cells
    geometry = InputGeometry(512, 512, 256, 256, 16, 16, 224)
    t = cam_transform(SOURCES["utm"], geometry, FeatureGrid(32, 0.5, 7))
    assert (t.a, t.e) == (32 * 20, -32 * 20)
    # the first cell's centre is at net px 0.5 = resized px 16.5 = source px 33 = 330 m
    assert t @ (0.5, 0.5) == pytest.approx((448_330, 5_410_670))
    # without resizing the pixel lattice is kept
    plain = preprocess(64).geometry(64, 64)
    assert cam_transform(Affine.identity(), plain, FeatureGrid(8, 4)) == Affine.scale(8)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize(
    ("network", "shape", "prepare", "cells", "reach"),
    [
        ("simple_cnn", (128, 128), preprocess(128), ((4, 5), (9, 6), (7, 11)), 2),
        ("simple_cnn", (256, 192), preprocess(128), ((4, 5), (7, 11)), 2),  # shrunk unevenly
        ("simple_cnn", (200, 300), preprocess(128, 160, "centre"), ((4, 5), (7, 11)), 2),
        ("resnet18", (640, 640), preprocess(320), ((4, 5),), 6),
    ],
)
def test_a_dots_peak_cell_contains_it(name, network, shape, prepare, cells, reach):
    source, backbone, grid = SOURCES[name], build(network, 1).eval(), probe_grid(network)
    with torch.no_grad():
        make_peaked(backbone)
    transform = cam_transform(source, prepare.geometry(*shape), grid)
    for cell in cells:
        # the centre of that cell on the ground, and the source pixel there
        x, y = transform @ (cell[1] + 0.5, cell[0] + 0.5)
        column, row = (int(v) for v in ~source @ (x, y))
        blank = torch.zeros(1, 1, *shape)
        dot = blank.clone()
        dot[0, 0, row - reach : row + reach + 1, column - reach : column + reach + 1] = 100
        with torch.inference_mode():
            change = backbone(prepare(dot)) - backbone(prepare(blank))
        heat = change.square().sum(1)[0]
        peak = divmod(int(heat.argmax()), heat.shape[1])
        # the dot's own ground coordinate, in cells of the map
        inside = ~transform @ (source @ (column + 0.5, row + 0.5))
        assert (int(inside[1]), int(inside[0])) == peak == cell


# The grid of a backbone, found by probing


@pytest.mark.parametrize(
    ("backbone", "stride", "centre", "halo"),
    [
        ("resnet18", 32, 0.5, 7),
        ("resnetv2_50", 32, 0.5, 7),
        ("mobilenetv2_100", 32, 0.5, 8),
        ("legacy_xception", 32, 3.5, 17),
        ("inception_v3", 32, 37.5, 20),
        ("convnext_atto", 32, 16, 18),
        ("simple_cnn", 8, 4, None),  # group normalisation sees the whole map
        ("efficientnet_b0", 32, 0.5, None),  # squeeze-excite
        ("vit_tiny_patch16_224", 16, 8, None),
        ("convnextv2_atto", 32, 16, None),  # its norm looks at the whole map
    ],
)
def test_the_table_of_the_notes_and_other_backbones(backbone, stride, centre, halo):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert probe_grid(backbone) == FeatureGrid(stride, centre, halo)
    assert torch.equal(torch.rand(2), expected)  # torch's generator is left alone
