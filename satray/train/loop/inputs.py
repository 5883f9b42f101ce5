"""From a stored batch to what the network trains on; evaluation uses `Preprocess` alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from satray.config.train import TrainRecipe
from satray.data.augment import Augment
from satray.data.order import samples
from satray.models.preprocess import Preprocess, normalize


class TrainInput(Protocol):
    """Makes the network's input of a batch of stored values, on their device."""

    def __call__(
        self,
        stored: Tensor,
        rows: NDArray[np.int64],
        copies: NDArray[np.int64],
        pseudo_epoch: int,
        /,
    ) -> Tensor:
        """Input of (stored values, rows of the split, how often each came before, pseudo-epoch)."""


@dataclass(frozen=True)
class AugmentedTiles:
    """The `TrainInput` of tiles: what is drawn is pure in (seed, pseudo-epoch, row, copy)."""

    preprocess: Preprocess
    """Shape after resizing, mean and deviation."""

    augment: Augment
    """Crop, symmetry and colour."""

    views: int | None = None
    """Draws a tile, after which they come again: the c-th copy of a tile in pseudo-epoch e has draw
    (e + c) mod `views`, which is the draw of that copy in pseudo-epoch 0. None: always new."""

    @classmethod
    def of(cls, recipe: TrainRecipe, preprocess: Preprocess, seed: int) -> AugmentedTiles:
        """What a recipe asks for, drawn with this seed."""
        augment = Augment.of(recipe.augment, recipe.input.size, seed)
        return cls(preprocess, augment, recipe.augment.views)

    def __call__(
        self,
        pixels_BCHW: Tensor,
        rows: NDArray[np.int64],
        copies: NDArray[np.int64],
        pseudo_epoch: int,
    ) -> Tensor:
        """x_BCHW float32, square, of stored pixels; see `train_input`."""
        if self.views is not None:
            copies, pseudo_epoch = view_of(copies, pseudo_epoch, self.views), 0
        drawn = samples(rows, copies)
        return train_input(pixels_BCHW, drawn, pseudo_epoch, self.preprocess, self.augment)


def view_of(copies: NDArray[np.int64], pseudo_epoch: int, views: int) -> NDArray[np.int64]:
    """Which of a tile's draws each copy has in a pseudo-epoch: 0 to `views` - 1."""
    return (copies + pseudo_epoch) % views


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
            or another for each time that it comes again (`satray.data.order.samples`).
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
