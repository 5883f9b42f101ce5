"""Contrast and brightness: bounded, by band, pure in (seed, pseudo-epoch, tile)."""

import numpy as np
import pytest
import torch

from satray.data.augment import Augment
from satray.models.preprocess import Preprocess
from satray.training.loop.inputs import train_input

ROWS = np.arange(3000)


def changed(x_BCHW, rows=ROWS, pseudo_epoch=0, **options):
    return Augment(2, **options).colour(x_BCHW, rows, pseudo_epoch)


def test_nothing_asked_nothing_done():
    x = torch.randn(3, 2, 2, 2)
    assert changed(x, ROWS[:3]) is x


@pytest.mark.parametrize("name", ["brightness", "contrast"])
def test_draws_are_even_within_bounds_and_differ_by_band(name):
    x = torch.full((3000, 3, 1, 1), 0.0 if name == "brightness" else 1.0)
    moved = (changed(x, **{name: 0.3}) - x).flatten(1).numpy()
    assert np.abs(moved).max() <= 0.3
    for band in moved.T:
        share = np.histogram(band, bins=6, range=(-0.3, 0.3))[0] / 3000
        assert share == pytest.approx(np.full(6, 1 / 6), abs=0.03)
    assert np.abs(np.corrcoef(moved.T) - np.eye(3)).max() < 0.06


def test_it_is_a_line_through_each_tile_and_band():
    x = torch.randn(5, 2, 8, 8)
    y = changed(x, ROWS[:5], brightness=0.5, contrast=0.4, seed=2)
    zero = changed(torch.zeros_like(x), ROWS[:5], brightness=0.5, contrast=0.4, seed=2)
    one = changed(torch.ones_like(x), ROWS[:5], brightness=0.5, contrast=0.4, seed=2)
    torch.testing.assert_close(y, zero + (one - zero) * x)


def test_what_happens_to_a_tile_is_its_own():
    x = torch.randn(20, 2, 2, 2)
    whole = changed(x, ROWS[:20], contrast=0.5, brightness=1.0)
    assert torch.equal(changed(x[5:9], ROWS[5:9], contrast=0.5, brightness=1.0), whole[5:9])
    assert not torch.equal(changed(x, ROWS[:20], 1, contrast=0.5, brightness=1.0), whole)


def test_training_input_is_recoloured_after_normalising():
    pixels = torch.randint(0, 255, (4, 2, 6, 6), dtype=torch.uint8)
    rows = np.arange(4)
    preprocess = Preprocess(("a", "b"), (100.0, 120.0), (40.0, 50.0), 4, 6)
    plain = Augment(4, seed=1)
    bright = Augment(4, seed=1, brightness=0.5, contrast=0.2)
    before = train_input(pixels, rows, 0, preprocess, plain)
    after = train_input(pixels, rows, 0, preprocess, bright)
    torch.testing.assert_close(after, bright.colour(before, rows, 0))
    assert not torch.equal(after, before)


def test_resized_crops_come_from_the_stored_tile():
    """Not from one that was resized before: each pixel is interpolated once."""
    pixels = torch.randint(0, 255, (4, 2, 12, 12), dtype=torch.uint8)
    preprocess = Preprocess(("a", "b"), (0.0, 0.0), (1.0, 1.0), 4, 6)
    augment = Augment(4, crop="resized", seed=1)
    found = train_input(pixels, np.arange(4), 0, preprocess, augment)
    assert torch.equal(found, augment(pixels, np.arange(4), 0))
