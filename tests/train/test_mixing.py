"""Tiles and labels are blended alike, and what is drawn for a tile is its own."""

import numpy as np
import pytest
import torch
from scipy import stats
from train.tiny_training import recipe, run, stage, tiny_net

from satray.train.mixing import Mixing

BOTH = Mixing(0.8, 1.0)


def kept(mixing, rows, pseudo_epoch=1):
    """How much of its label each tile keeps, pixels of no matter."""
    found = []
    for labels in (torch.eye(2).repeat(len(rows) // 2, 1), torch.eye(2).flip(0)[[0, 1]]):
        labels = labels if len(labels) == len(rows) else labels.repeat(len(rows) // 2, 1)
        x = torch.zeros(len(rows), 1, 64, 64)
        _, mixed = mixing(x, labels, rows, pseudo_epoch, np.ones(len(rows), bool))
        found.append((mixed * labels).sum(1).numpy())
    np.testing.assert_array_equal(*found)
    return found[0]


def batch(tiles=4, side=6):
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(tiles, 2, side, side)).astype(np.float32))
    return x, torch.from_numpy(rng.integers(0, 2, (tiles, 3)).astype(np.float32))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_shares_follow_the_beta_distribution(alpha):
    drawn = kept(Mixing(mixup=alpha, seed=3), np.arange(4000))
    assert drawn.min() >= 0.5
    # max(l, 1 - l) of a symmetric Beta: P(share <= s) = 2 cdf(s) - 1.
    test = stats.kstest(drawn, lambda s: 2 * stats.beta(alpha, alpha).cdf(s) - 1)
    assert test.pvalue > 1e-3


def test_cutmix_boxes_follow_the_paper():
    """Sides sqrt(1 - l) of the tile's about an even centre, cut off at its edges."""
    rows = np.arange(6000)
    drawn = kept(Mixing(cutmix=1.0, seed=3), rows)
    rng = np.random.default_rng(0)
    side, places = np.sqrt(1 - rng.random(10**5)) / 2, rng.random((2, 10**5))
    lengths = np.minimum(1, places + side) - np.maximum(0, places - side)
    assert stats.ks_2samp(drawn, 1 - lengths.prod(axis=0)).statistic < 0.03  # whole px


@pytest.mark.parametrize("mixing", [Mixing(mixup=0.4), Mixing(cutmix=0.4), BOTH])
def test_what_is_drawn_is_pure_in_seed_pseudo_epoch_and_tile(mixing):
    rows = np.arange(50)
    drawn = kept(mixing, rows)
    np.testing.assert_array_equal(drawn[10:20], kept(mixing, rows[10:20]))
    other_seed = Mixing(mixing.mixup, mixing.cutmix, seed=9)
    for other in (kept(other_seed, rows), kept(mixing, rows, 3), kept(mixing, rows + 50)):
        assert (other != drawn).mean() > 0.8


def test_mixup_blends_pixels_as_labels():
    x, labels = batch()
    share = kept(Mixing(mixup=1.0), np.arange(4))
    mixed_x, mixed_labels = Mixing(mixup=1.0)(x, labels, np.arange(4), 1, np.ones(4, bool))
    for i, part in enumerate(share.tolist()):
        j = (i + 1) % 4
        torch.testing.assert_close(mixed_x[i], part * x[i] + (1 - part) * x[j])
        torch.testing.assert_close(mixed_labels[i], part * labels[i] + (1 - part) * labels[j])


def test_cutmix_pastes_one_box_and_counts_its_pixels():
    x, labels = batch(64, 20)
    rows = np.arange(64)
    mixed_x, mixed_labels = Mixing(cutmix=1.0)(x, labels, rows, 1, np.ones(64, bool))
    partner, partner_labels = x.roll(-1, 0), labels.roll(-1, 0)
    pasted = (mixed_x == partner).all(1)
    assert torch.equal(torch.where(pasted[:, None], partner, x), mixed_x)
    for each in pasted:  # a box: the outer product of its rows and columns
        assert torch.equal(each, each.any(1)[:, None] & each.any(0)[None])
    share = pasted.float().mean((1, 2))[:, None]
    assert 0.2 < share.mean() < 0.6
    torch.testing.assert_close(mixed_labels, share * partner_labels + (1 - share) * labels)


def test_with_both_each_is_done_to_half_of_the_tiles():
    x, labels = batch(200, 16)
    rows = np.arange(200)
    mixed, _ = BOTH(x, labels, rows, 1, np.ones(200, bool))
    cut = ((mixed == x) | (mixed == x.roll(-1, 0))).flatten(1).all(1)
    assert 70 < cut.sum() < 130
    alone, _ = Mixing(cutmix=BOTH.cutmix)(x, labels, rows, 1, np.ones(200, bool))
    assert torch.equal(mixed[cut], alone[cut])


@pytest.mark.parametrize("mixing", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_the_loop_mixes(mixing):
    without, mixed = (run(recipe(stage(12), augment=a), tiny_net()).rows for a in ({}, mixing))
    assert mixed[-1]["train_loss"] > without[-1]["train_loss"] + 0.05  # labels cannot be sure
    assert mixed[-1]["accuracy"] == 1.0
