"""A bright dot at a known place on the ground lies in the footprint of the cell that sees it."""

import pytest
import torch
from affine import Affine

from satray.models.backbones import build
from satray.models.geometry import FeatureGrid, InputGeometry, cam_transform, probe_grid
from satray.models.preprocess import Preprocess

SOURCES = {
    "utm": Affine(10, 0, 448_000, 0, -10, 5_411_000),
    "rotated": Affine.translation(300, 700) @ Affine.rotation(30) @ Affine.scale(2, -2),
    "sheared": Affine(0.5, 0.2, 10, -0.1, -0.5, 20),
    "none": Affine(1, 0, 0, 0, -1, 0),
}


def peaked(name, bands):
    """A backbone whose kernels are all hills, so that what a dot does peaks where the dot is."""
    backbone = build(name, bands).eval()
    for module in backbone.modules():
        if isinstance(module, torch.nn.Conv2d):
            sides = [
                torch.arange(1.0, k + 1).minimum(torch.arange(k, 0.0, -1))
                for k in module.kernel_size
            ]
            hill = torch.outer(*sides)
            with torch.no_grad():
                hill /= hill.sum() * module.weight.shape[1]
                module.weight.copy_(hill.expand_as(module.weight))
        elif isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)  # timm starts some of them at zero
    return backbone


def preprocess(size, resize=None, mode="whole"):
    return Preprocess(("b",), (0.0,), (1.0,), size, resize, mode)


def test_the_formula_by_hand():
    # 512 px at 10 m shrunk to 256, then cropped at (16, 16) to 224; ResNet's cells
    geometry = InputGeometry(512, 512, 256, 256, 16, 16, 224)
    t = cam_transform(SOURCES["utm"], geometry, FeatureGrid(32, 0.5, 7))
    assert (t.a, t.e) == (32 * 20, -32 * 20)
    # the first cell's centre is at net px 0.5 = resized px 16.5 = source px 33 = 330 m
    assert t @ (0.5, 0.5) == pytest.approx((448_330, 5_410_670))


def test_towers_without_resizing_keep_the_pixel_lattice():
    geometry = preprocess(64).geometry(64, 64)
    t = cam_transform(Affine.identity(), geometry, FeatureGrid(8, 4))
    assert t == Affine.scale(8)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize(
    ("shape", "prepare"),
    [
        ((128, 128), preprocess(128)),
        ((256, 192), preprocess(128)),  # shrunk unevenly
        ((200, 300), preprocess(128, 160, "centre")),
    ],
)
def test_a_dots_peak_cell_contains_it(name, shape, prepare):
    source = SOURCES[name]
    grid = probe_grid("simple_cnn")
    backbone = peaked("simple_cnn", 1)
    geometry = prepare.geometry(*shape)
    transform = cam_transform(source, geometry, grid)
    for cell in ((4, 5), (9, 6), (7, 11)):
        # the centre of that cell on the ground, and the source pixel there
        x, y = transform @ (cell[1] + 0.5, cell[0] + 0.5)
        column, row = (int(v) for v in ~source @ (x, y))
        blank = torch.zeros(1, 1, *shape)
        dot = blank.clone()
        dot[0, 0, row - 2 : row + 3, column - 2 : column + 3] = 100
        with torch.inference_mode():
            change = backbone(prepare(dot)) - backbone(prepare(blank))
        heat = change.square().sum(1)[0]
        peak = divmod(int(heat.argmax()), heat.shape[1])
        # the dot's own ground coordinate, in cells of the map
        inside = ~transform @ (source @ (column + 0.5, row + 0.5))
        assert (int(inside[1]), int(inside[0])) == peak == cell


def test_a_dots_peak_on_a_resnet():
    backbone, grid = peaked("resnet18", 3), probe_grid("resnet18")
    source = SOURCES["rotated"]
    prepare = Preprocess(("r", "g", "b"), (0.0,) * 3, (1.0,) * 3, 320)
    transform = cam_transform(source, prepare.geometry(640, 640), grid)
    blank = torch.zeros(1, 3, 640, 640)
    dot = blank.clone()
    row, column = 256, 320  # centres of cell (4, 5): net px 128.5 and 160.5
    dot[0, :, row - 6 : row + 8, column - 6 : column + 8] = 20
    with torch.inference_mode():
        heat = (backbone(prepare(dot)) - backbone(prepare(blank))).square().sum(1)[0]
    peak = divmod(int(heat.argmax()), heat.shape[1])
    x, y = ~transform @ (source @ (column + 0.5, row + 0.5))
    assert (int(y), int(x)) == peak
