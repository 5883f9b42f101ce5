"""Augmentation: pure in (seed, pseudo-epoch, tile), even, and the same on every device."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from satray.data.augment import (
    Augment,
    Draws,
    apply,
    counter_hash,
    resize_boxes,
)

UNIT = st.floats(0, 1, exclude_min=True, exclude_max=True)


def noise(batch, height, width, dtype=torch.uint8, seed=0):
    values = np.random.default_rng(seed).integers(0, 120, (batch, 2, height, width))
    return torch.from_numpy(values).to(dtype)


WAYS = {
    "crops": ({}, {}),
    "resized": ({"crop": "resized"}, {}),
    "colour": ({}, {"contrast": 0.5, "brightness": 1.0}),
    "erasing": ({}, {"erase": 0.9}),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_happens_to_a_tile_is_its_own(way):
    """Not a matter of batch, order or company; another for another seed or pseudo-epoch."""

    def change(x, rows, pseudo_epoch, seed=7):
        crop, finish = WAYS[way]
        if finish:
            return Augment(6, seed=seed, **finish).finish(1 + x.float(), rows, pseudo_epoch)
        return Augment(6, seed=seed, **crop)(x, rows, pseudo_epoch)

    x, rows = noise(30, 8, 9), np.random.default_rng(0).permutation(1000)[:30]
    whole = change(x, rows, 4)
    for part in (slice(None), slice(0, 1), slice(None, None, -1), slice(1, None, 2)):
        index = np.arange(30)[part].copy()
        assert torch.equal(change(x[index], rows[part], 4), whole[index])
    assert not torch.equal(change(x, rows, 5), whole)
    assert not torch.equal(change(x, rows, 4, seed=3), whole)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.float32]
)
def test_values_are_moved_never_changed(dtype):
    """By the definition of a draw: cropped, flipped left-right, up-down, transposed."""
    x, rows, augment = noise(40, 9, 11, dtype), np.arange(40), Augment(5, seed=3)
    draws = augment.draws(rows, 2, 9, 11)
    assert set(draws.d4.tolist()) == set(range(8))
    found = augment(x, rows, 2)
    assert found.dtype == dtype
    decisions = zip(x.to(torch.int64).numpy(), draws.d4, draws.top, draws.left, strict=True)
    for out, (tile, k, top, left) in zip(found.to(torch.int64).numpy(), decisions, strict=True):
        crop = tile[:, top : top + 5, left : left + 5]
        crop = crop[:, :, ::-1] if k & 1 else crop
        crop = crop[:, ::-1] if k & 2 else crop
        np.testing.assert_array_equal(out, crop.transpose(0, 2, 1) if k & 4 else crop)
    assert torch.equal(apply(x, draws, 5, batched=True), found)  # as a GPU does it


def test_the_hash_does_not_change_between_versions():
    """Checkpoints and histories depend on it."""
    found = counter_hash(0, 1, 2, rows=np.arange(3))
    assert found.tolist() == [9177511572909541326, 3640832475695910567, 1940168966537136671]


def test_draws_are_even_and_independent():
    d = Augment(10, seed=1).draws(np.arange(20_000), 0, 14, 12)
    for values, kinds in ((d.d4, 8), (d.top, 5), (d.left, 3)):
        share = np.bincount(values, minlength=kinds) / len(values)
        assert share == pytest.approx(np.full(kinds, 1 / kinds), abs=0.015)
    together = np.histogram2d(d.d4, d.top, bins=(8, 5))[0] / 20_000
    assert together == pytest.approx(np.full((8, 5), 1 / 40), abs=0.006)
    other = Augment(10, seed=1).draws(np.arange(20_000), 1, 14, 12)
    assert (d.d4 == other.d4).mean() == pytest.approx(1 / 8, abs=0.02)


def test_flips_and_crops_can_be_turned_off():
    rows, x = np.arange(50), noise(50, 8, 8)
    assert torch.equal(Augment(8, flips="none")(x, rows, 0), x)
    assert torch.equal(Augment(4, "none", "centre")(x, rows, 0), x[:, :, 2:6, 2:6])
    assert set(Augment(8, "horizontal").draws(rows, 0, 8, 8).d4.tolist()) == {0, 1}
    with pytest.raises(ValueError, match="8x8 px hold no crop of 9 px"):
        Augment(9)(x, rows, 0)
    # by chance, as validation tiles of the Planet report's code
    found = Augment(8, "horizontal", "centre")(x.float(), rows, 0)
    moved = (found != x).flatten(1).any(1)
    assert 15 < moved.sum() < 35
    assert torch.equal(found[moved], x[moved].float().flip(3))


# ---- resized crops


def test_areas_and_shapes_are_those_asked_for():
    augment = Augment(16, crop="resized", scale=0.3, ratio=1.5, seed=2)
    top, _, tall, wide = augment.boxes(np.arange(20_000), 0, 400, 400)
    area, shape = tall * wide / 400**2, wide / tall
    uncut = (tall < 400) & (wide < 400)
    assert area[uncut].min() == pytest.approx(0.3, abs=0.01)
    counts = np.histogram(area, bins=7, range=(0.3, 1))[0][:3]
    assert counts / 20_000 == pytest.approx(1 / 7, abs=0.01)
    assert (shape[uncut].min(), shape[uncut].max()) == pytest.approx((1 / 1.5, 1.5), abs=0.02)
    assert np.median(np.log(shape)) == pytest.approx(0, abs=0.01)
    room = 400 - tall
    assert (top[room > 50] / room[room > 50]).mean() == pytest.approx(0.5, abs=0.02)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(4, 70),
    width=st.integers(4, 70),
    size=st.integers(2, 40),
)
def test_each_crop_is_torchs_resize_of_it_on_cpu_and_gpu(seed, height, width, size):
    x, rows = noise(4, height, width, torch.uint16, seed), np.arange(4)
    augment = Augment(size, "none", "resized", seed=seed, scale=0.1, ratio=2.0)
    found, where = augment(x, rows, 5), augment.boxes(rows, 5, height, width)
    assert found.dtype == torch.float32
    for i, (top, left, tall, wide) in enumerate(where.T):
        crop = x[i : i + 1, :, top : top + tall, left : left + wide].float()
        theirs = F.interpolate(crop, (size, size), mode="bilinear", antialias=True)
        torch.testing.assert_close(found[i], theirs[0])
    as_gpu = resize_boxes(x, where, size, batched=True)
    torch.testing.assert_close(as_gpu, found, atol=2e-3, rtol=1e-4)
    # symmetries turn them
    turned = Augment(size, crop="resized", seed=seed, scale=0.1, ratio=2.0)
    d4, zero = turned.draws(rows, 5, size, size).d4, np.zeros(4, np.int64)
    assert torch.equal(turned(x, rows, 5), apply(found, Draws(d4, zero, zero), size))


# ---- colour


def recoloured(x_BCHW, **options):
    return Augment(2, **options).finish(x_BCHW, np.arange(len(x_BCHW)), 0)


@pytest.mark.parametrize("name", ["brightness", "contrast"])
def test_draws_of_colour_are_even_within_bounds_and_differ_by_band(name):
    x = torch.full((3000, 3, 1, 1), 0.0 if name == "brightness" else 1.0)
    assert recoloured(x) is x
    moved = (recoloured(x, **{name: 0.3}) - x).flatten(1).numpy()
    for band in moved.T:
        share = np.histogram(band, bins=6, range=(-0.3, 0.3))[0] / 3000
        assert share == pytest.approx(np.full(6, 1 / 6), abs=0.03)
    assert np.abs(np.corrcoef(moved.T) - np.eye(3)).max() < 0.06


def test_colour_is_a_line_through_each_tile_and_band():
    x, options = torch.randn(5, 2, 8, 8), {"brightness": 0.5, "contrast": 0.4, "seed": 2}
    zero, one = (recoloured(f(x), **options) for f in (torch.zeros_like, torch.ones_like))
    torch.testing.assert_close(recoloured(x, **options), zero + (one - zero) * x)


def test_a_box_of_a_share_of_tiles_is_set_to_the_mean():
    """timm's: 2 to 33 % of the area, sides of 0.3 to 3.3; each box whole, the rest untouched."""
    x = 1 + torch.rand(2000, 2, 40, 60)
    found = recoloured(x, erase=0.25, seed=3)
    gone = (found == 0).all(1)
    assert torch.equal(found, x.masked_fill(gone[:, None], 0))
    some = gone.flatten(1).any(1)
    assert some.float().mean() == pytest.approx(0.25, abs=0.03)
    down, across = gone[some].any(2), gone[some].any(1)
    assert torch.equal(gone[some], down[:, :, None] & across[:, None])
    tall, wide = down.sum(1), across.sum(1)
    area = (tall * wide / 2400).numpy()
    assert 0.01 < area.min() < 0.03 < 0.3 < area.max() < 0.36
    assert area.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.015)
    assert 0.25 < (wide / tall).min() < 0.4
    assert 2.5 < (wide / tall).max() < 4
