"""Averages over the eight symmetries: by hand, invariant, in place on the ground."""

import numpy as np
import pytest
import scoring_material as material
import torch

from satray.data.augment import Draws, apply
from satray.models.geometry import FeatureGrid, cells_on_tile
from satray.score.forward import ELEMENTS, Scorer, turn, turn_back
from satray.score.results import MapRequest

ALL = MapRequest((0, 1, 2))


def tiles(bands=3, n=3, shape=None):
    made = np.stack([material.pixels(seed, bands) for seed in range(n)])
    return made if shape is None else np.ascontiguousarray(made[:, :, : shape[0], : shape[1]])


def test_there_and_back_through_eight_different_positions():
    x = torch.arange(2 * 3 * 5 * 5).reshape(2, 3, 5, 5)
    turned = [turn(x, g) for g in ELEMENTS]
    assert all(torch.equal(turn_back(t, g), x) for g, t in enumerate(turned))
    assert len({tuple(t.flatten().tolist()) for t in turned}) == 8


def test_the_elements_are_augmentations():
    x = torch.arange(8 * 5 * 5).reshape(8, 1, 5, 5)
    zeros = np.zeros(8, dtype=np.int64)
    augmented = apply(x, Draws(d4=np.arange(8), top=zeros, left=zeros), 5)
    for g in ELEMENTS:
        assert torch.equal(augmented[g], turn(x[g], g))


@pytest.mark.parametrize("variant", [material.one_tower, material.two_towers])
def test_it_is_the_mean_by_hand(variant):
    bundle = material.bundle(variant("max"))
    given = tiles(len(bundle.spec.bands))
    plain, averaged = Scorer(bundle, ALL), Scorer(bundle, ALL, batch=2, d4=True)
    each = [plain(turn(torch.from_numpy(given), g).contiguous().numpy()) for g in ELEMENTS]
    logits = np.stack([one.numbers.logits for one in each])
    assert np.ptp(logits, axis=0).max() > 0.01  # the network is not symmetric of itself
    found = averaged(given)
    np.testing.assert_allclose(found.numbers.logits, logits.mean(0), atol=1e-4)
    for name, maps in found.maps.items():
        back = [
            turn_back(torch.from_numpy(one.maps[name]), g).numpy() for g, one in enumerate(each)
        ]
        np.testing.assert_allclose(maps, np.mean(back, axis=0), atol=1e-4)
    for name, shares in found.numbers.shares.items():
        mean = np.mean([one.numbers.shares[name] for one in each], axis=0)
        np.testing.assert_allclose(shares, mean, atol=1e-4)


@pytest.mark.parametrize("evaluate", ["whole", "centre"])
def test_tiles_that_are_not_square_are_turned_as_the_network_sees_them(evaluate):
    bundle = material.bundle(material.one_tower(), tile_shape=(40, 48), evaluate=evaluate)
    given = tiles(shape=(40, 48))
    x = bundle.spec.preprocess()(torch.from_numpy(given))
    with torch.no_grad():
        expected = torch.stack([bundle.network(turn(x, g)) for g in ELEMENTS]).mean(0).numpy()
    found = Scorer(bundle, d4=True)(given).numbers.logits
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("d4", [False, True])
def test_averaged_maps_lie_in_the_middle_of_their_tile(d4):
    grid = FeatureGrid(8.0, 0.5, None)
    spec = material.bundle(material.one_tower(), grids={"rgb": grid}).spec
    geometry = spec.preprocess().geometry(*spec.tile_shape)
    cells = cells_on_tile(geometry, grid, 4, 96, 48, d4=d4)
    middle = cells @ (2, 2)
    if d4:
        assert middle == pytest.approx((24, 48))
    else:  # centres at 0.5, 8.5, 16.5, 24.5 of 32 px: their middle is 12.5
        assert middle == pytest.approx((12.5 * 48 / 32, 12.5 * 96 / 32))
