import numpy as np
import pytest
import torch

from satray.data.resample import resample


@pytest.mark.parametrize("shape", [(13, 17), (40, 9), (64, 64), (7, 80)])
def test_equals_torch(shape):
    x_CHW = np.random.default_rng(0).normal(0, 1, (3, 31, 22)).astype(np.float32)
    want = torch.nn.functional.interpolate(
        torch.from_numpy(x_CHW)[None], shape, mode="bilinear", antialias=True, align_corners=False
    )[0]
    np.testing.assert_allclose(resample(x_CHW, *shape), want.numpy(), atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int8", "int32"])
def test_integers_stay_within_their_range(dtype):
    limits = np.iinfo(dtype)
    x_CHW = np.full((1, 8, 8), limits.max, dtype)
    x_CHW[:, ::2] = limits.min
    y_CHW = resample(x_CHW, 11, 5)
    assert y_CHW.dtype == dtype
    assert limits.min <= y_CHW.min() <= y_CHW.max() <= limits.max
    flat = np.full((1, 8, 8), limits.max, dtype)
    assert (resample(flat, 3, 3) == limits.max).all()
