"""From stored pixels to input: dtypes, resizing, statistics, and the radiometries."""

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv

from satray.models.geometry import InputGeometry
from satray.models.preprocess import Preprocess, normalize, resize_tiles, to_values
from satray.models.radiometry import Radiometry


def preprocess(size, resize=None, mode="whole", mean=(0.0,), std=(1.0,)):
    return Preprocess(tuple(f"b{i}" for i in range(len(mean))), mean, std, size, resize, mode)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64])
def test_any_dtype_becomes_float32(dtype):
    pixels = torch.from_numpy(np.full((2, 2, 8, 8), 60, dtype))
    x = preprocess(4, mean=(50.0, 10.0), std=(5.0, 0.0))(pixels)
    assert (x.dtype, x.shape) == (torch.float32, (2, 2, 4, 4))
    torch.testing.assert_close(x[:, 0], torch.full((2, 4, 4), 2.0))
    torch.testing.assert_close(x[:, 1], torch.full((2, 4, 4), 50.0))  # no spread: centred only
    if dtype == np.uint16:
        assert (preprocess(4)(torch.full((1, 1, 4, 4), 65_535).to(torch.uint16)) == 65_535).all()


def test_resizing_is_torchvisions():
    x = torch.rand(2, 3, 50, 70) * 255
    torch.testing.assert_close(
        resize_tiles(x, 32, 32), tv.resize(x, [32, 32], antialias=True), rtol=1e-5, atol=1e-3
    )
    assert resize_tiles(x, 50, 70) is x


@pytest.mark.parametrize(("height", "width"), [(256, 256), (200, 300), (301, 200), (224, 225)])
def test_centre_is_torchvisions_resize_and_crop(height, width):
    p = preprocess(64, 75, "centre")
    x = torch.rand(1, 1, height, width)
    expected = tv.center_crop(tv.resize(x, [75], antialias=True), [64, 64])
    torch.testing.assert_close(p(x), expected, rtol=1e-5, atol=1e-5)
    g = p.geometry(height, width)
    assert tv.resize(x, [75]).shape[2:] == (g.resized_height, g.resized_width)


def test_whole_sees_the_whole_tile_and_bands_are_normalised_apart():
    p = preprocess(64, 80)
    assert p.geometry(200, 300) == InputGeometry(200, 300, 64, 64, 0, 0, 64)
    x = torch.zeros(1, 1, 128, 128)
    x[..., -1, -1] = 1
    assert p(x)[..., -1, -1] > 0
    x = torch.stack([torch.full((2, 2), 3.0), torch.full((2, 2), 10.0)])[None]
    assert normalize(x, (1.0, 4.0), (2.0, 3.0))[0, :, 0, 0].tolist() == [1, 2]
    with pytest.raises(ValueError, match="2 bands given, 1 expected"):
        preprocess(4)(torch.zeros(1, 2, 4, 4))


# Radiometry (pil_compat: test_pil.py)

STRETCH = Radiometry("percentile", (100.0, 7.0), (300.0, 7.0))


def column(*values, dtype=np.uint16):
    """A batch of one tile with two equal bands."""
    x_W = np.array(values, dtype)
    return torch.from_numpy(np.stack([x_W, x_W])[None, :, None])


def test_percentiles_become_0_and_1_and_what_lies_beyond_is_clipped():
    x = column(1, 2, 65_535)
    assert to_values(x, Radiometry(), ("a", "b")) is x  # stored
    found = to_values(column(0, 100, 150, 300, 65_535), STRETCH, ("a", "b"))
    assert found.dtype == torch.float32
    assert found[0, 0, 0].tolist() == [0, 0, 0.25, 1, 1]
    # a band whose percentiles are one value is split there
    assert to_values(column(6, 7, 8), STRETCH, ("a", "b"))[0, 1, 0].tolist() == [0, 0, 1]


def test_what_is_not_finite_becomes_the_mean_of_the_values():
    x = torch.tensor([[[[1.0, float("nan")], [float("inf"), 3.0]]]])
    assert preprocess(2, mean=(2.0,), std=(1.0,))(x).flatten().tolist() == [-1, 0, 0, 1]
    x = column(np.nan, np.inf, -np.inf, 200, dtype=np.float32)
    assert to_values(x, STRETCH, ("a", "b"))[0, 0, 0].isnan().tolist() == [True] * 3 + [False]
    p = Preprocess(("a", "b"), (0.3, 0.3), (0.1, 0.1), 4, None, "whole", STRETCH)
    assert p.values(x)[0, 0, 0].tolist() == pytest.approx([0.3, 0.3, 0.3, 0.5])
