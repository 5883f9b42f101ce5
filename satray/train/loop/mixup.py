"""Mixup: tiles and labels blended in pairs (Zhang et al., ICLR 2018, arXiv 1710.09412).

Each tile is blended with the next one of the worker's batch. Its own share is drawn from a hash of
(seed, pseudo-epoch, tile) alone and is at least a half, so the tile stays the main one; its
partner is a matter of the batch. So with several workers, whose batches are smaller, pairs differ
from one worker's: equal worker counts train alike, unequal ones do not.

Shapes: B tiles of this worker's batch, C bands, H and W pixels, K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betaincinv
from torch import Tensor

from satray.data.augment import counter_hash, evenly, send

_MIXUP = 2001
"""Keeps these draws apart from those of augmentation and of torch's generators."""


def shares(
    alpha: float, seed: int, pseudo_epoch: int, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Share of each tile in its blend: max(l, 1 - l) of l ~ Beta(alpha, alpha); (B,), 0.5 to 1."""
    drawn_B = evenly(counter_hash(seed, pseudo_epoch, _MIXUP, rows=rows))
    share_B = np.asarray(betaincinv(alpha, alpha, drawn_B), dtype=np.float64)
    return np.maximum(share_B, 1 - share_B)


def mix(
    x_BCHW: Tensor,
    labels_BK: Tensor,
    share_B: NDArray[np.float64],
    valid: NDArray[np.bool_],
) -> tuple[Tensor, Tensor]:
    """Blend each tile and its labels with the next one's; the last with the first's.

    A tile that could not be read, and one whose partner could not, stay as they are.

    Args:
        x_BCHW: the network's input, floating.
        labels_BK: floating, on the same device.
        share_B: each tile's own share.
        valid: whether each tile could be read.

    Returns:
        The blended input and labels.
    """
    paired: NDArray[Any] = valid & np.roll(valid, -1)
    own_B = send(torch.from_numpy(np.where(paired, share_B, 1.0).astype(np.float32)), x_BCHW.device)
    own_B111 = own_B.view(-1, 1, 1, 1).to(x_BCHW.dtype)
    own_B1 = own_B.view(-1, 1).to(labels_BK.dtype)
    return (
        own_B111 * x_BCHW + (1 - own_B111) * x_BCHW.roll(-1, dims=0),
        own_B1 * labels_BK + (1 - own_B1) * labels_BK.roll(-1, dims=0),
    )
