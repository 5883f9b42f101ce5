"""Tiles of one size from tiles of several: bilinear, antialiased where it shrinks. NumPy only."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


def resample(x_CHW: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Resize bilinearly, as `torch.nn.functional.interpolate(antialias=True)` does.

    Args:
        x_CHW: pixels (C, H, W), any integer or float dtype.
        height: rows wanted.
        width: columns wanted.

    Returns:
        Pixels (C, height, width) in the same dtype; integers are rounded to nearest.
    """
    dtype = x_CHW.dtype
    working = np.float32 if dtype.itemsize <= 2 or dtype == np.float32 else np.float64
    rows, columns = weights(x_CHW.shape[1], height), weights(x_CHW.shape[2], width)
    y_CHW = rows.astype(working) @ x_CHW.astype(working) @ columns.T.astype(working)
    if dtype.kind != "f":
        # the weights of a row sum to 1 up to rounding: stay inside of what there was
        y_CHW = np.clip(np.rint(y_CHW), x_CHW.min(), x_CHW.max())
    return np.asarray(y_CHW, dtype=dtype)


@lru_cache(maxsize=256)
def weights(size: int, wanted: int) -> NDArray[np.float64]:
    """Row-stochastic matrix (wanted, size) of the triangle filter at half-pixel centres."""
    scale = size / wanted
    support = max(scale, 1.0)
    centres = (np.arange(wanted) + 0.5) * scale
    distance = np.abs(np.arange(size)[None, :] + 0.5 - centres[:, None]) / support
    w = np.clip(1.0 - distance, 0.0, None)
    result: NDArray[np.float64] = w / w.sum(axis=1, keepdims=True)
    return result
