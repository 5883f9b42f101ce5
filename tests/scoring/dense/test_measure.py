"""What networks say of themselves."""

import pytest
from scoring.dense import dense_material as material

from satray.models.variant import BUILT_IN
from satray.scoring.dense.measure import measure


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
    (tower,) = found.geometry.towers
    assert (tower.tile_cells, tower.short, tower.halo) == (cells, short, halo)
    assert (found.geometry.block, found.geometry.size) == (32, size)
    # conv1 alone keeps 64 channels of a quarter of the px (32 of them where there are 32)
    assert 30 < found.bytes_per_px < 2000


def test_towers_are_measured_one_by_one():
    found = measure(material.bundle(BUILT_IN["double4"], 96, settled=False))
    assert [tower.name for tower in found.geometry.towers] == ["rgb", "nir"]


def test_networks_without_halo_say_that_only_tiles_can_be_scored():
    found = measure(material.bundle(BUILT_IN["simple_cnn"], 64))
    (tower,) = found.geometry.towers
    assert (tower.tile_cells, tower.stride, tower.short) == (8, 8, 0)
    assert "tower rgb" in found.geometry.why_tiles
    assert found.bytes_per_px > 0


def test_centres_of_averaged_maps():
    bundle = material.bundle(material.variant(), 96)
    assert measure(bundle, d4=True).geometry.towers[0].centre == 16
    assert measure(bundle, d4=True).geometry.d4
