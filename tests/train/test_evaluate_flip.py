"""Validation flipped by chance, as the Planet report's code does it, and never otherwise."""

import numpy as np
import torch
from train.tiny_training import SIZE, recipe, run, stage, tiles, tiny_net

from satray.data.augment import Augment
from satray.models.preprocess import Preprocess

AUGMENT = Augment(SIZE, "none", "centre", seed=0)


def trained(flip, rate=0.02, epochs=2):
    given = recipe(stage(epochs, rate, "constant"), seed=3, input={"evaluate_flip": flip})
    return run(given, tiny_net(), augment=AUGMENT)


def test_each_logit_is_of_the_tile_or_of_its_mirror_image():
    done = trained(flip=True)
    found, net = done.seen[-1].logits_NK, done.net
    pixels, _ = tiles(len(found), 2)
    p = Preprocess(("a", "b", "c"), (2500.0,) * 3, (1500.0,) * 3, SIZE, 12)
    with torch.no_grad():
        x = p(torch.from_numpy(pixels))
        ways = [net.eval()(x).numpy(), net(x.flip(3)).numpy()]
    as_it_is, mirrored = (np.abs(found - way).max(axis=1) < 1e-5 for way in ways)
    assert (as_it_is | mirrored).all()
    assert 0 < mirrored.sum() < len(found)


def test_it_changes_validation_alone():
    (plain, _, one), (flipped, _, other) = trained(flip=False), trained(flip=True)
    for first, second in zip(plain, flipped, strict=True):
        assert first["train_loss"] == second["train_loss"]
        assert first["val_loss"] != second["val_loss"]
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_each_pseudo_epoch_draws_anew():
    first, second = (each.logits_NK for each in trained(flip=True, rate=1e-12).seen)
    assert np.abs(first - second).max(axis=1).max() > 1e-4
