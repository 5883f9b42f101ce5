"""Random resized crops: their distribution, their pixels, and the two ways to make them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from satray.data.augment import Augment
from satray.data.resized import Boxes, _multiplied, _tile_by_tile, boxes

UNIT = st.floats(0, 1, exclude_min=True, exclude_max=True)


def noise(batch, height, width, dtype=torch.uint8, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (batch, 2, height, width))
    return torch.from_numpy(values).to(dtype)


def resized(size=16, **options):
    return Augment(size, crop="resized", **options)


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
    assert 1 <= b.height[0] <= height
    assert 1 <= b.width[0] <= width
    assert 0 <= b.top[0] <= height - b.height[0]
    assert 0 <= b.left[0] <= width - b.width[0]


def test_areas_and_shapes_are_those_asked_for():
    b = resized(scale=0.3, ratio=1.5, seed=2).boxes(np.arange(20_000), 0, 400, 400)
    area, shape = b.height * b.width / 400**2, b.width / b.height
    uncut = (b.height < 400) & (b.width < 400)
    assert area[uncut].min() == pytest.approx(0.3, abs=0.01)
    assert np.histogram(area, bins=7, range=(0.3, 1))[0][:3] / 20_000 == pytest.approx(
        1 / 7, abs=0.01
    )
    assert (shape[uncut].min(), shape[uncut].max()) == pytest.approx((1 / 1.5, 1.5), abs=0.02)
    assert np.median(np.log(shape)) == pytest.approx(0, abs=0.01)
    room = 400 - b.height
    assert (b.top[room > 50] / room[room > 50]).mean() == pytest.approx(0.5, abs=0.02)


def test_scale_and_ratio_one_are_the_whole_tile_resized():
    x = noise(3, 40, 40)
    found = resized(16, flips="none", scale=1.0, ratio=1.0)(x, np.arange(3), 0)
    theirs = F.interpolate(x.float(), (16, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(found, theirs)


def test_each_crop_is_torchs_resize_of_it():
    x, rows, augment = noise(9, 50, 37, torch.uint16), np.arange(9), resized(seed=3, flips="none")
    found, b = augment(x, rows, 5), augment.boxes(rows, 5, 50, 37)
    assert found.dtype == torch.float32
    for i in range(9):
        top, left = b.top[i], b.left[i]
        crop = x[i : i + 1, :, top : top + b.height[i], left : left + b.width[i]].float()
        theirs = F.interpolate(crop, (16, 16), mode="bilinear", antialias=True)
        torch.testing.assert_close(found[i], theirs[0])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(4, 70),
    width=st.integers(4, 70),
    size=st.integers(2, 40),
)
def test_the_ways_of_cpu_and_gpu_agree(seed, height, width, size):
    x = noise(4, height, width, seed=seed)
    where = resized(size, seed=seed, scale=0.1, ratio=2.0).boxes(np.arange(4), 1, height, width)
    torch.testing.assert_close(
        _multiplied(x, where, size), _tile_by_tile(x, where, size), atol=2e-3, rtol=1e-4
    )


def test_symmetries_turn_resized_crops_too():
    x, rows = noise(40, 30, 30), np.arange(40)
    plain = resized(seed=4, flips="none")(x, rows, 2)
    turned = resized(seed=4)(x, rows, 2)
    for k, before, after in zip(
        Augment(16, seed=4).draws(rows, 2, 30, 30).d4, plain, turned, strict=True
    ):
        wanted = before.flip(2) if k & 1 else before
        wanted = wanted.flip(1) if k & 2 else wanted
        assert torch.equal(after, wanted.transpose(1, 2) if k & 4 else wanted)


def test_what_happens_to_a_tile_is_its_own():
    x, rows, augment = noise(12, 33, 29), np.arange(12) + 100, resized(seed=1)
    whole = augment(x, rows, 3)
    assert torch.equal(augment(x[4:7], rows[4:7], 3), whole[4:7])
    assert not torch.equal(augment(x, rows, 4), whole)


def test_small_tiles_are_enlarged():
    x = torch.full((1, 1, 3, 2), 7, dtype=torch.uint8)
    one = np.ones(1, dtype=np.int64)
    whole = Boxes(one * 0, one * 0, one * 3, one * 2)
    for way in (_tile_by_tile, _multiplied):
        assert way(x, whole, 8).eq(7).all()
    assert math.isclose(float(resized(8)(x, one, 0).mean()), 7, rel_tol=1e-6)
