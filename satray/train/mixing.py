"""Mixup and cutmix: each tile and its labels blended with the next one's of the worker's batch.

Mixup (Zhang et al., ICLR 2018, arXiv 1710.09412) blends all pixels; cutmix (Yun et al., ICCV 2019,
arXiv 1905.04899) pastes a box of the other tile. What is done to a tile, how much and where is
drawn from a hash of (seed, pseudo-epoch, tile) alone; its partner is a matter of the batch. So with
several workers, whose batches are smaller, pairs differ from one worker's: equal worker counts
train alike, unequal ones do not.

Shapes: B tiles of this worker's batch, C bands, H and W pixels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betaincinv
from torch import Tensor

from satray.config.train import AugmentOptions
from satray.data.augment import counter_hash, evenly, inside, send

_MIXUP, _CUTMIX, _WHICH, _DOWN, _ACROSS = range(2001, 2006)
"""Streams of the hash: they keep these draws apart from those of augmentation."""


@dataclass(frozen=True)
class Mixing:
    """What a recipe asks for."""

    mixup: float = 0.0
    """Alpha of mixup; 0: none."""
    cutmix: float = 0.0
    """Alpha of cutmix; 0: none. With both, half of the tiles get each, by chance."""
    seed: int = 0
    """Of all draws."""

    @classmethod
    def of(cls, options: AugmentOptions, seed: int) -> Mixing | None:
        """What a recipe asks for, drawn with this seed; None for nothing."""
        if not options.mixup and not options.cutmix:
            return None
        return cls(options.mixup, options.cutmix, seed)

    def __call__(
        self,
        x_BCHW: Tensor,
        labels_BK: Tensor,
        rows: NDArray[np.int64],
        pseudo_epoch: int,
        valid: NDArray[np.bool_],
    ) -> tuple[Tensor, Tensor]:
        """Blend each tile and its labels with the next one's; the last with the first's.

        A tile that could not be read, and one whose partner could not, stay as they are.

        Args:
            x_BCHW: the network's input, floating.
            labels_BK: floating, on the same device.
            rows: a number for each tile that its draws come from (`satray.data.order.samples`).
            pseudo_epoch: 0 for the first; the other thing that they come from.
            valid: whether each tile could be read.

        Returns:
            The blended input and labels.
        """
        height, width = x_BCHW.shape[2:]
        paired_B: NDArray[Any] = valid & np.roll(valid, -1)
        cut_B = paired_B & (self.cutmix > 0)
        if self.mixup and self.cutmix:
            cut_B &= self._even(_WHICH, rows, pseudo_epoch) < 0.5
        # Pairs are symmetric, so that the tile may always be the main one of its blend.
        share_B = self._beta(self.mixup, _MIXUP, rows, pseudo_epoch)
        blended_B = np.where(paired_B & ~cut_B, np.maximum(share_B, 1 - share_B), 1.0)
        box_4B = self._boxes(rows, pseudo_epoch, height, width) * cut_B
        top_B, left_B, bottom_B, right_B = box_4B
        kept_B = blended_B - (bottom_B - top_B) * (right_B - left_B) / (height * width)
        # All that is drawn travels to the device as one array.
        drawn_6B = send(
            torch.from_numpy(np.stack([blended_B, kept_B, *box_4B]).astype(np.float32)),
            x_BCHW.device,
        )
        own_B111, kept_B1 = drawn_6B[0, :, None, None, None], drawn_6B[1, :, None]
        others_BCHW = x_BCHW.roll(-1, dims=0)
        if self.mixup:
            x_BCHW = torch.lerp(others_BCHW, x_BCHW, own_B111.to(x_BCHW))
        if self.cutmix:
            x_BCHW = torch.where(inside(drawn_6B[2:], height, width), others_BCHW, x_BCHW)
        mixed_BK = torch.lerp(labels_BK.roll(-1, dims=0), labels_BK, kept_B1.to(labels_BK))
        return x_BCHW, mixed_BK

    def _boxes(
        self, rows: NDArray[np.int64], pseudo_epoch: int, height: int, width: int
    ) -> NDArray[np.float64]:
        """Cutmix's top, left, bottom and right of each tile's box, px: (4, B).

        Its sides are sqrt(1 - l) of the tile's with l ~ Beta(alpha, alpha), its centre falls
        anywhere, and what lies outside is cut off.
        """
        side_B = np.sqrt(1 - self._beta(self.cutmix, _CUTMIX, rows, pseudo_epoch))
        edges = []
        for stream, length in ((_DOWN, height), (_ACROSS, width)):
            half_B = np.floor(side_B * length / 2)
            centre_B = np.floor(self._even(stream, rows, pseudo_epoch) * length)
            edges.append(np.clip([centre_B - half_B, centre_B + half_B], 0, length))
        (top_B, bottom_B), (left_B, right_B) = edges
        return np.stack([top_B, left_B, bottom_B, right_B])

    def _beta(
        self, alpha: float, stream: int, rows: NDArray[np.int64], pseudo_epoch: int
    ) -> NDArray[np.float64]:
        if not alpha:
            return np.ones(len(rows))
        drawn_B = betaincinv(alpha, alpha, self._even(stream, rows, pseudo_epoch))
        return np.asarray(drawn_B, dtype=np.float64)

    def _even(self, stream: int, rows: NDArray[np.int64], pseudo_epoch: int) -> NDArray[np.float64]:
        return evenly(counter_hash(self.seed, pseudo_epoch, stream, rows=rows))
