"""Where cells lie: the table of the notes, and real networks against it."""

import time

import pytest
import torch

from satray.models.backbones import build
from satray.models.geometry import FeatureGrid, probe_grid
from satray.models.probe import probe_named


@pytest.mark.parametrize(
    ("backbone", "centre", "halo"),
    [
        ("resnet18", 0.5, 7),
        ("resnetv2_50", 0.5, 7),
        ("mobilenetv2_100", 0.5, 8),
        ("legacy_xception", 3.5, 17),
        ("inception_v3", 37.5, 20),
    ],
)
def test_the_table_of_the_notes(backbone, centre, halo):
    assert probe_grid(backbone) == FeatureGrid(32, centre, halo)


@pytest.mark.parametrize(
    ("backbone", "cells", "last"),
    [("resnet18", 7, 192.5), ("legacy_xception", 10, 291.5), ("inception_v3", 8, 261.5)],
)
def test_last_centres_at_the_usual_sides(backbone, cells, last):
    # at 224 and 299 px; the cells are counted in test_feature_shapes
    grid = probe_grid(backbone)
    assert grid.centre + (cells - 1) * grid.stride == last


@pytest.mark.parametrize(
    ("backbone", "grid"),
    [
        ("simple_cnn", FeatureGrid(8, 4, None)),  # group normalisation sees the whole map
        ("efficientnet_b0", FeatureGrid(32, 0.5, None)),  # squeeze-excite
        ("vgg11", FeatureGrid(32, 16, None)),
        ("vit_tiny_patch16_224", FeatureGrid(16, 8, None)),
        ("convnext_atto", FeatureGrid(32, 16, None)),
    ],
)
def test_other_backbones(backbone, grid):
    found = probe_grid(backbone)
    assert (found.stride, found.centre) == (grid.stride, grid.centre)
    if backbone not in ("vgg11", "convnext_atto"):
        assert found.halo is None
    else:
        assert found.halo > 0


def by_arithmetic(layers):
    """method.md D: c += ((k - 1) / 2 - p) j; j *= s, and the receptive field."""
    centre, jump, field = 0.5, 1, 1
    for kernel, stride, padding in layers:
        centre += ((kernel - 1) / 2 - padding) * jump
        field += (kernel - 1) * jump
        jump *= stride
    return centre, jump, field


def test_layer_arithmetic_agrees():
    block = [(3, 1, 1), (3, 1, 1)]
    down = [(3, 2, 1), (3, 1, 1)]
    resnet18 = [(7, 2, 3), (3, 2, 1), *block, *block, *(down + block) * 3]
    centre, stride, field = by_arithmetic(resnet18)
    grid = probe_grid("resnet18")
    assert (grid.stride, grid.centre) == (stride, centre)
    assert field == 435
    # the first cell whose field lies within is where the halo ends
    assert centre + grid.halo * stride >= field / 2 > centre + (grid.halo - 1) * stride
    conv, pool = (3, 1, 1), (2, 2, 0)
    simple = [conv, pool, conv, pool, conv, pool, conv, conv]
    assert by_arithmetic(simple)[:2] == (4.0, 8)


def test_beyond_the_halo_a_window_sees_what_the_whole_scene_sees():
    backbone = build("resnet18", 3).eval()
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)  # timm starts the last of each block at zero
    scene = torch.randn(1, 3, 64, 32 * 24)
    start, cells = 5, 16
    window = scene[..., 32 * start : 32 * (start + cells)]
    with torch.inference_mode():
        whole = backbone(scene)[..., start : start + cells]
        part = backbone(window)
    halo = probe_grid("resnet18").halo
    error = (whole - part).abs().amax((0, 1, 2)) / whole.abs().max()
    assert (error[halo:-halo] < 1e-5).all()
    assert error[0] > 1e-3
    assert error[-1] > 1e-3


def test_probing_is_cached_and_leaves_torchs_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    probe_named.cache_clear()
    probe_grid("simple_cnn")
    assert torch.equal(torch.rand(2), expected)
    start = time.perf_counter()
    for _ in range(100):
        probe_grid("simple_cnn")
    assert time.perf_counter() - start < 0.1
