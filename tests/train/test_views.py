"""`augment.views`: so many draws a tile, which then come again."""

import numpy as np
import pytest
import torch
from train.tiny_training import PREPROCESS, SIZE, tiles

from satray.data.augment import Augment
from satray.data.order import samples
from satray.train.step import AugmentedTiles, train_input

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
