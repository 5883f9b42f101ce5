"""From a stored batch to what the network trains on; evaluation uses `Preprocess` alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from satray.models.preprocess import Preprocess, fill_invalid, normalize, resize_tiles
from satray.tiles.augment import Augment


def train_input(
    pixels_BCHW: Tensor,
    rows: NDArray[np.int64],
    pseudo_epoch: int,
    preprocess: Preprocess,
    augment: Augment,
) -> Tensor:
    """Resize where needed, crop and turn, normalise: x_BCHW float32, square.

    Pixels stay integers until the crop is taken, unless they must be resized first.

    Args:
        pixels_BCHW: as stored, on the device.
        rows: rows of the split's table, one a tile; what augmentation is drawn from.
        pseudo_epoch: 0 for the first; the other thing that it is drawn from.
        preprocess: shape after resizing, mean and deviation.
        augment: crop and symmetry.
    """
    x_BCHW = fill_invalid(pixels_BCHW, preprocess.mean)
    height, width = preprocess.resized(x_BCHW.shape[2], x_BCHW.shape[3])
    if x_BCHW.shape[2:] != (height, width):
        x_BCHW = resize_tiles(x_BCHW, height, width)
    return normalize(augment(x_BCHW, rows, pseudo_epoch), preprocess.mean, preprocess.std)
