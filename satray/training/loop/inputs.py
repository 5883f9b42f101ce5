"""From a stored batch to what the network trains on; evaluation uses `Preprocess` alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from satray.models.preprocess import Preprocess, normalize
from satray.tiles.augment import Augment


def train_input(
    pixels_BCHW: Tensor,
    rows: NDArray[np.int64],
    pseudo_epoch: int,
    preprocess: Preprocess,
    augment: Augment,
) -> Tensor:
    """Resize where needed, crop and turn, normalise, recolour: x_BCHW float32, square.

    Pixels stay integers until the crop is taken, unless they must be resized first or mean
    something else than they are (`input.radiometry`). Crops that are resized themselves
    (`augment.crop: resized`) are taken from the tile in its own size.

    Args:
        pixels_BCHW: as stored, on the device.
        rows: a number for each tile that augmentation is drawn from: its row of the split's table,
            or another for each time that it comes again (`satray.tiles.order.samples`).
        pseudo_epoch: 0 for the first; the other thing that it is drawn from.
        preprocess: shape after resizing, mean and deviation.
        augment: crop, symmetry and colour.
    """
    x_BCHW = preprocess.values(pixels_BCHW)
    height, width = preprocess.resized(x_BCHW.shape[2], x_BCHW.shape[3])
    if augment.crop != "resized" and x_BCHW.shape[2:] != (height, width):
        x_BCHW = preprocess.resample(x_BCHW, height, width)
    x_BCSS = normalize(augment(x_BCHW, rows, pseudo_epoch), preprocess.mean, preprocess.std)
    return augment.colour(x_BCSS, rows, pseudo_epoch)
