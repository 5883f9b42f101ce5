"""`augment.views`: so many draws a tile, which then come again."""

import numpy as np
import pytest
import torch
from train.tiny_training import PREPROCESS, SIZE, recipe, run, stage, tiles, tiny_net

from satray.data.augment import Augment
from satray.data.order import samples
from satray.train.step import AugmentedTiles, train_input, view_of

ROWS = np.array([3, 1, 3, 0, 3])
COPIES = np.array([0, 0, 1, 0, 2])
AUGMENT = Augment(SIZE, seed=7, brightness=0.5)


@pytest.fixture
def pixels():
    return torch.from_numpy(tiles(8, 1)[0][ROWS])


def test_a_copy_in_a_pseudo_epoch_has_its_view(pixels):
    tiles_of = AugmentedTiles(PREPROCESS, AUGMENT, views=3)
    views = [
        train_input(pixels, samples(ROWS, np.full(5, view)), 0, PREPROCESS, AUGMENT)
        for view in range(3)
    ]
    for pseudo_epoch in range(7):
        found = tiles_of(pixels, ROWS, COPIES, pseudo_epoch)
        for place, copy in enumerate(COPIES):
            assert torch.equal(found[place], views[(pseudo_epoch + copy) % 3][place])
    apart = [(one - other).abs().amax() for one in views for other in views if one is not other]
    assert min(apart) > 0.1


def test_one_view_never_changes(pixels):
    tiles_of = AugmentedTiles(PREPROCESS, AUGMENT, views=1)
    first = tiles_of(pixels, ROWS, COPIES, 0)
    assert torch.equal(tiles_of(pixels, ROWS, COPIES, 5), first)
    assert torch.equal(first[0], first[2])  # the same tile twice


def test_without_views_every_pseudo_epoch_draws_anew(pixels):
    tiles_of = AugmentedTiles(PREPROCESS, AUGMENT)
    for pseudo_epoch in (0, 4):
        found = tiles_of(pixels, ROWS, COPIES, pseudo_epoch)
        as_before = train_input(pixels, samples(ROWS, COPIES), pseudo_epoch, PREPROCESS, AUGMENT)
        assert torch.equal(found, as_before)
    assert not torch.equal(tiles_of(pixels, ROWS, COPIES, 0), found)


def test_views_cycle():
    assert view_of(np.array([0, 1, 2, 9]), 2, 4).tolist() == [2, 3, 0, 3]


def test_training_draws_its_views():
    one = {"flips": "d4", "crop": "centre", "views": 1}
    anew, cycled = (run(recipe(stage(2), augment=a), tiny_net())[0] for a in ({"views": None}, one))
    assert anew[0]["train_loss"] == cycled[0]["train_loss"]  # the first pseudo-epoch is view 0
    assert anew[1]["train_loss"] != cycled[1]["train_loss"]
