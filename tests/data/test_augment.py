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
    boxes,
    counter_hash,
    flip_at_random,
    resize_boxes,
)
from satray.models.preprocess import Preprocess
from satray.train.step import train_input

DTYPES = [torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.float32]
UNIT = st.floats(0, 1, exclude_min=True, exclude_max=True)


def pixels(batch, height, width, dtype=torch.int32):
    count = batch * 2 * height * width
    return torch.arange(count).reshape(batch, 2, height, width).to(dtype)


def noise(batch, height, width, dtype=torch.uint8, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (batch, 2, height, width))
    return torch.from_numpy(values).to(dtype)


def flipped_at_random(x, rows, pseudo_epoch, seed=0):
    return flip_at_random(x.float(), rows, pseudo_epoch, seed)


WAYS = {
    "crops": lambda x, rows, epoch, seed=7: Augment(6, seed=seed)(x, rows, epoch),
    "resized": lambda x, rows, epoch, seed=7: Augment(6, crop="resized", seed=seed)(x, rows, epoch),
    "colour": lambda x, rows, epoch, seed=7: Augment(
        6, seed=seed, contrast=0.5, brightness=1.0
    ).finish(x.float(), rows, epoch),
    "erasing": lambda x, rows, epoch, seed=7: Augment(6, seed=seed, erase=0.9).finish(
        1 + x.float(), rows, epoch
    ),
    "random flips": flipped_at_random,
}


@pytest.mark.parametrize("way", WAYS)
def test_what_happens_to_a_tile_is_its_own(way):
    """Not a matter of batch, order or company; another for another seed or pseudo-epoch."""
    change = WAYS[way]
    x, rows = noise(30, 8, 9), np.random.default_rng(0).permutation(1000)[:30]
    whole = change(x, rows, 4)
    assert torch.equal(change(x, rows, 4), whole)
    for part in (slice(0, 1), slice(3, 17), slice(None, None, -1), slice(1, None, 2)):
        index = np.arange(30)[part].copy()
        assert torch.equal(change(x[index], rows[part], 4), whole[index])
    assert not torch.equal(change(x, rows, 5), whole)
    assert not torch.equal(change(x, rows, 4, seed=3), whole)


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_moved_never_changed(dtype):
    """By the definition of a draw: cropped, flipped left-right, up-down, transposed."""
    rows, augment = np.arange(40), Augment(5, seed=3)
    x = pixels(40, 9, 11).remainder(120).to(dtype)
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


def test_the_eight_elements_are_the_symmetries_of_the_square():
    x = pixels(1, 4, 4)
    zero = np.zeros(1, dtype=np.int64)
    seen = {
        tuple(apply(x, Draws(zero + k, zero, zero), 4)[0, 0].flatten().tolist()) for k in range(8)
    }
    turned = (torch.rot90(x, k, (2, 3)) for k in range(4))
    square = {tuple(each[0, 0].flatten().tolist()) for t in turned for each in (t, t.flip(3))}
    assert seen == square
    assert len(seen) == 8


def test_the_hash_does_not_change_between_versions():
    """Checkpoints and histories depend on it."""
    found = counter_hash(0, 1, 2, rows=np.arange(3))
    assert found.tolist() == [9177511572909541326, 3640832475695910567, 1940168966537136671]


def test_draws_are_even_and_independent():
    d = Augment(10, seed=1).draws(np.arange(20_000), 0, 14, 12)
    for values, kinds in ((d.d4, 8), (d.top, 5), (d.left, 3)):
        share = np.bincount(values, minlength=kinds) / len(values)
        assert len(share) == kinds
        assert share == pytest.approx(np.full(kinds, 1 / kinds), abs=0.015)
    together = np.histogram2d(d.d4, d.top, bins=(8, 5))[0] / 20_000
    assert together == pytest.approx(np.full((8, 5), 1 / 40), abs=0.006)
    other = Augment(10, seed=1).draws(np.arange(20_000), 1, 14, 12)
    assert (d.d4 == other.d4).mean() == pytest.approx(1 / 8, abs=0.02)


def test_flips_and_crops_can_be_turned_off():
    rows = np.arange(50)
    x = pixels(50, 8, 8)
    assert torch.equal(Augment(8, flips="none")(x, rows, 0), x)
    assert torch.equal(Augment(4, "none", "centre")(x, rows, 0), x[:, :, 2:6, 2:6])
    assert set(Augment(8, "horizontal").draws(rows, 0, 8, 8).d4.tolist()) == {0, 1}


def test_a_tile_smaller_than_the_crop_is_refused():
    with pytest.raises(ValueError, match="7x8 px hold no crop of 8 px"):
        Augment(8)(pixels(1, 7, 8), np.arange(1), 0)


# ---- resized crops


@given(
    units=st.lists(UNIT, min_size=4, max_size=4),
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    scale=st.floats(0.01, 1),
    ratio=st.floats(1, 5),
)
def test_boxes_lie_within_their_tile(units, height, width, scale, ratio):
    given = [np.array([u]) for u in units]
    b = boxes(*given, height=height, width=width, scale=scale, ratio=ratio)
    ((top,), (left,), (tall,), (wide,)) = b
    assert 1 <= tall <= height
    assert 1 <= wide <= width
    assert 0 <= top <= height - tall
    assert 0 <= left <= width - wide


def test_areas_and_shapes_are_those_asked_for():
    augment = Augment(16, crop="resized", scale=0.3, ratio=1.5, seed=2)
    top, _, tall, wide = augment.boxes(np.arange(20_000), 0, 400, 400)
    area, shape = tall * wide / 400**2, wide / tall
    uncut = (tall < 400) & (wide < 400)
    assert area[uncut].min() == pytest.approx(0.3, abs=0.01)
    assert np.histogram(area, bins=7, range=(0.3, 1))[0][:3] / 20_000 == pytest.approx(
        1 / 7, abs=0.01
    )
    assert (shape[uncut].min(), shape[uncut].max()) == pytest.approx((1 / 1.5, 1.5), abs=0.02)
    assert np.median(np.log(shape)) == pytest.approx(0, abs=0.01)
    room = 400 - tall
    assert (top[room > 50] / room[room > 50]).mean() == pytest.approx(0.5, abs=0.02)


def test_each_crop_is_torchs_resize_of_it():
    x, rows = noise(9, 50, 37, torch.uint16), np.arange(9)
    augment = Augment(16, "none", "resized", seed=3)
    found, b = augment(x, rows, 5), augment.boxes(rows, 5, 50, 37)
    assert found.dtype == torch.float32
    for i, (top, left, tall, wide) in enumerate(b.T):
        crop = x[i : i + 1, :, top : top + tall, left : left + wide].float()
        theirs = F.interpolate(crop, (16, 16), mode="bilinear", antialias=True)
        torch.testing.assert_close(found[i], theirs[0])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(4, 70),
    width=st.integers(4, 70),
    size=st.integers(2, 40),
)
def test_resizing_on_cpu_and_gpu_agrees(seed, height, width, size):
    x = noise(4, height, width, seed=seed)
    augment = Augment(size, crop="resized", seed=seed, scale=0.1, ratio=2.0)
    where = augment.boxes(np.arange(4), 1, height, width)
    torch.testing.assert_close(
        resize_boxes(x, where, size, batched=True),
        resize_boxes(x, where, size, batched=False),
        atol=2e-3,
        rtol=1e-4,
    )


def test_symmetries_turn_resized_crops_too_and_small_tiles_are_enlarged():
    x, rows = noise(40, 30, 30), np.arange(40)
    plain = Augment(16, "none", "resized", seed=4)(x, rows, 2)
    turned = Augment(16, crop="resized", seed=4)(x, rows, 2)
    zero = np.zeros(40, np.int64)
    d4 = Augment(16, seed=4).draws(rows, 2, 30, 30).d4
    assert torch.equal(turned, apply(plain, Draws(d4, zero, zero), 16))
    whole = np.array([[0], [0], [3], [2]])
    for batched in (False, True):
        assert resize_boxes(torch.full((1, 1, 3, 2), 7), whole, 8, batched=batched).eq(7).all()


# ---- colour


def recoloured(x_BCHW, **options):
    return Augment(2, **options).finish(x_BCHW, np.arange(len(x_BCHW)), 0)


@pytest.mark.parametrize("name", ["brightness", "contrast"])
def test_draws_of_colour_are_even_within_bounds_and_differ_by_band(name):
    x = torch.full((3000, 3, 1, 1), 0.0 if name == "brightness" else 1.0)
    assert recoloured(x) is x
    moved = (recoloured(x, **{name: 0.3}) - x).flatten(1).numpy()
    assert np.abs(moved).max() <= 0.3
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
    x = 1 + torch.rand(4000, 2, 40, 60)
    found = recoloured(x, erase=0.25, seed=3)
    gone = (found == 0).all(1)
    assert torch.equal(found, x.masked_fill(gone[:, None], 0))
    some = gone.flatten(1).any(1)
    assert some.float().mean() == pytest.approx(0.25, abs=0.02)
    down, across = gone[some].any(2), gone[some].any(1)
    assert torch.equal(gone[some], down[:, :, None] & across[:, None])
    tall, wide = down.sum(1), across.sum(1)
    area = (tall * wide / 2400).numpy()
    assert 0.01 < area.min() < 0.03 < 0.3 < area.max() < 0.36
    assert area.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.01)
    assert 0.25 < (wide / tall).min() < 0.35
    assert 2.8 < (wide / tall).max() < 4
    for side in (down, across):  # anywhere: as often at one edge as at the other
        covered = side.float().mean(0)
        assert covered.min() > 0.02
        torch.testing.assert_close(covered, covered.flip(0), atol=0.1, rtol=0)


def test_training_input_is_recoloured_after_normalising():
    x, rows = noise(4, 6, 6), np.arange(4)
    preprocess = Preprocess(("a", "b"), (100.0, 120.0), (40.0, 50.0), 4, 6)
    bright = Augment(4, seed=1, brightness=0.5, contrast=0.2)
    before = train_input(x, rows, 0, preprocess, Augment(4, seed=1))
    after = train_input(x, rows, 0, preprocess, bright)
    torch.testing.assert_close(after, bright.finish(before, rows, 0))
    assert not torch.equal(after, before)


# ---- flips of validation tiles, and sending


def test_about_half_are_flipped_and_a_flip_is_a_mirror_image():
    x, rows = torch.rand(1000, 2, 2, 4), np.arange(1000)
    found = flip_at_random(x, rows, 0, 0)
    moved = (found != x).flatten(1).any(1)
    assert 430 < moved.sum() < 570
    assert torch.equal(found[moved], x[moved].flip(3))
    for other in (flip_at_random(x, rows, 1, 0), flip_at_random(x, rows, 0, 1)):
        assert 400 < (other != found).flatten(1).any(1).sum() < 600
