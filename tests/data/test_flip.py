import numpy as np
import torch

from satray.data.flip import flip_at_random

ROWS = np.arange(1000)


def flipped(rows=ROWS, pseudo_epoch=0, seed=0):
    """Which tiles were flipped: each is one row of two pixels, 0 and 1."""
    x = torch.tensor([0.0, 1.0]).expand(len(rows), 3, 1, 2)
    found = flip_at_random(x, rows, pseudo_epoch, seed)
    assert torch.equal(found.sort(dim=3).values, x)
    return (found[:, 0, 0, 0] == 1).numpy()


def test_about_half_are_flipped():
    assert 430 < flipped().sum() < 570


def test_a_tile_is_flipped_whatever_its_batch():
    chosen = np.array([7, 500, 3])
    np.testing.assert_array_equal(flipped(chosen), flipped()[chosen])


def test_each_pseudo_epoch_and_seed_draws_anew():
    first = flipped()
    np.testing.assert_array_equal(flipped(), first)
    for other in (flipped(pseudo_epoch=1), flipped(seed=1)):
        assert 400 < (other != first).sum() < 600


def test_it_is_a_mirror_image():
    x = torch.rand(64, 2, 5, 4)
    found = flip_at_random(x, np.arange(64), 0, 0)
    moved = flipped(np.arange(64))
    assert moved.any()
    assert not moved.all()
    assert torch.equal(found[moved], x[moved].flip(3))
    assert torch.equal(found[~moved], x[~moved])
