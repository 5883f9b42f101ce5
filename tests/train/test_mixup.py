"""Tiles and labels are blended alike, and what each tile's share is, is its own."""

import numpy as np
import pytest
import torch
from scipy import stats
from train.tiny_training import CLASSES, recipe, run, stage, tiny_net

from satray.train.loop.mixup import mix, shares
from satray.train.loop.train import LoopSettings


def test_shares_follow_the_beta_distribution():
    rows = np.arange(4000)
    for alpha in (0.2, 1.0, 4.0):
        drawn = shares(alpha, 3, 1, rows)
        assert drawn.min() >= 0.5
        assert drawn.max() <= 1.0
        # max(l, 1 - l) of a symmetric Beta: P(share <= s) = 2 cdf(s) - 1.
        test = stats.kstest(drawn, lambda s, a=alpha: 2 * stats.beta(a, a).cdf(s) - 1)
        assert test.pvalue > 1e-3


def test_shares_are_pure():
    rows = np.arange(50)
    drawn = shares(0.4, 1, 2, rows)
    np.testing.assert_array_equal(drawn[10:20], shares(0.4, 1, 2, rows[10:20]))
    for other in (shares(0.4, 2, 2, rows), shares(0.4, 1, 3, rows), shares(0.4, 1, 2, rows + 50)):
        assert (other != drawn).mean() > 0.9


def batch():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(4, 2, 3, 3)).astype(np.float32))
    return x, torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 0]])


def test_blends_by_hand():
    x, labels = batch()
    share = np.array([0.5, 1.0, 0.75, 0.6])
    mixed_x, mixed_labels = mix(x, labels, share, np.ones(4, dtype=bool))
    for i, part in enumerate(share):
        j = (i + 1) % 4
        torch.testing.assert_close(mixed_x[i], part * x[i] + (1 - part) * x[j])
        torch.testing.assert_close(mixed_labels[i], part * labels[i] + (1 - part) * labels[j])


def test_unreadable_tiles_are_left_out():
    x, labels = batch()
    valid = np.array([True, True, False, True])
    mixed_x, mixed_labels = mix(x, labels, np.full(4, 0.5), valid)
    for i in (1, 2):  # its partner, and itself
        assert torch.equal(mixed_x[i], x[i])
        assert torch.equal(mixed_labels[i], labels[i])
    for i in (0, 3):
        assert not torch.equal(mixed_x[i], x[i])


def test_one_tile_alone_stays_as_it_is():
    x, labels = batch()
    mixed_x, mixed_labels = mix(x[:1], labels[:1], np.array([0.7]), np.array([True]))
    torch.testing.assert_close(mixed_x, x[:1])
    torch.testing.assert_close(mixed_labels, labels[:1])


@pytest.mark.parametrize(("task", "net"), [("multilabel", {}), ("multiclass", {})])
def test_the_loop_mixes(task, net):
    given = recipe(stage(12))
    plain = LoopSettings(task, CLASSES, given.optimizer)
    mixed = LoopSettings(task, CLASSES, given.optimizer, mixup=1.0)
    without, _, _ = run(given, tiny_net(**net), settings=plain)
    with_it, _, _ = run(given, tiny_net(**net), settings=mixed)
    assert with_it[0].train_loss != without[0].train_loss
    assert with_it[-1].train_loss > without[-1].train_loss + 0.05  # mixed labels cannot be sure
    assert with_it[-1].metrics["accuracy"] == 1.0
