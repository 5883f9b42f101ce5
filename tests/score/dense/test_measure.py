"""What networks say of themselves."""

import pytest
from score.dense import dense_material as material

from satray.models.variant import BUILT_IN
from satray.score.window_forward import measure


@pytest.mark.parametrize(
    ("name", "size", "cells", "short", "halo"),
    [
        ("single3", 224, 7, 0, 7),
        ("mobilenet_v2", 224, 7, 0, 8),
        ("xception", 299, 10, 0, 17),
        ("inception_v3", 299, 8, 2, 20),
        ("resnet50_v2", 224, 7, 0, 7),
    ],
)
def test_cells_of_the_built_in_networks(name, size, cells, short, halo):
    found = measure(material.bundle(BUILT_IN[name], size, settled=False))
    (tower,) = found.towers
    assert (tower.tile_cells, tower.short, tower.halo) == (cells, short, halo)
    assert (found.block, found.size) == (32, size)


def test_towers_are_measured_one_by_one():
    found = measure(material.bundle(BUILT_IN["double4"], 96, settled=False))
    assert [tower.name for tower in found.towers] == ["rgb", "nir"]


def test_networks_without_halo_say_that_only_tiles_can_be_scored():
    found = measure(material.bundle(BUILT_IN["simple_cnn"], 64))
    (tower,) = found.towers
    assert (tower.tile_cells, tower.stride, tower.short) == (8, 8, 0)
    assert "tower rgb" in found.why_tiles


def test_centres_of_averaged_maps():
    bundle = material.bundle(material.variant(), 96)
    assert measure(bundle, d4=True).towers[0].centre == 16
    assert measure(bundle, d4=True).d4
