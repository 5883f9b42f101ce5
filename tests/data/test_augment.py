import numpy as np
import pytest
import torch

from satray.data.augment import (
    Augment,
    Draws,
    _gathered,
    _tile_by_tile,
    apply,
    counter_hash,
)

DTYPES = [torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.float32]


def pixels(batch, height, width, dtype=torch.int32):
    count = batch * 2 * height * width
    return torch.arange(count).reshape(batch, 2, height, width).to(dtype)


def by_definition(x_BCHW, draws, size):
    """Pixel (row, column) of the output, tile by tile, in numpy."""
    x, out = x_BCHW.numpy(), []
    for tile, k, top, left in zip(x, draws.d4, draws.top, draws.left, strict=True):
        crop = tile[:, top : top + size, left : left + size]
        crop = crop[:, :, ::-1] if k & 1 else crop
        crop = crop[:, ::-1] if k & 2 else crop
        out.append(crop.transpose(0, 2, 1) if k & 4 else crop)
    return torch.from_numpy(np.stack(out))


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_moved_never_changed(dtype):
    rows = np.arange(40)
    augment = Augment(5, seed=3)
    x = pixels(40, 9, 11).remainder(120).to(dtype)
    draws = augment.draws(rows, 2, 9, 11)
    assert set(draws.d4.tolist()) == set(range(8))
    found = augment(x, rows, 2)
    assert found.dtype == dtype
    assert torch.equal(found.to(torch.int64), by_definition(x.to(torch.int64), draws, 5))


def test_the_ways_of_cpu_and_gpu_agree():
    x = pixels(40, 9, 11)
    draws = Augment(5, seed=3).draws(np.arange(40), 2, 9, 11)
    assert torch.equal(_tile_by_tile(x, draws, 5), _gathered(x, draws, 5))


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


def test_what_happens_to_a_tile_is_its_own():
    """Not a matter of batch, order or company."""
    augment = Augment(6, seed=7)
    x = pixels(30, 8, 9)
    rows = np.random.default_rng(0).permutation(1000)[:30]
    whole = augment(x, rows, 4)
    for part in (slice(0, 1), slice(3, 17), slice(None, None, -1), slice(1, None, 2)):
        index = np.arange(30)[part]
        alone = augment(x[torch.from_numpy(index.copy())], rows[part], 4)
        assert torch.equal(alone, whole[torch.from_numpy(index.copy())])


def test_seed_pseudo_epoch_and_row_each_matter():
    rows = np.arange(500)

    def drawn(seed, pseudo_epoch, rows):
        d = Augment(4, seed=seed).draws(rows, pseudo_epoch, 20, 20)
        return np.stack([d.d4, d.top, d.left])

    base = drawn(0, 0, rows)
    assert np.array_equal(base, drawn(0, 0, rows))
    for other in (drawn(1, 0, rows), drawn(0, 1, rows), drawn(0, 0, rows + 500)):
        same = (base == other).mean(axis=1)
        assert same == pytest.approx([1 / 8, 1 / 17, 1 / 17], abs=0.06)


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


def test_flips_and_crops_can_be_turned_off():
    rows = np.arange(50)
    x = pixels(50, 8, 8)
    assert torch.equal(Augment(8, flips="none")(x, rows, 0), x)
    assert torch.equal(Augment(4, "none", "centre")(x, rows, 0), x[:, :, 2:6, 2:6])
    assert set(Augment(8, "horizontal").draws(rows, 0, 8, 8).d4.tolist()) == {0, 1}


def test_a_tile_smaller_than_the_crop_is_refused():
    with pytest.raises(ValueError, match="7x8 px hold no crop of 8 px"):
        Augment(8)(pixels(1, 7, 8), np.arange(1), 0)
