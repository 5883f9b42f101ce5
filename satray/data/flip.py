"""Left-right flips at random, pure in (seed, pseudo-epoch, row).

The Planet report's code flips validation tiles by chance, so that the same weights score 0.5842
while training and 0.5827 when run again (`input.evaluate_flip`; off by default).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from satray.data.augment import counter_hash
from satray.data.send import send

_FLIP = 1 << 16
"""Stream of the hash, far from augmentation's."""


def flip_at_random(x_BCHW: Tensor, rows: NDArray[np.int64], pseudo_epoch: int, seed: int) -> Tensor:
    """Flip about half of the tiles left-right; x_BCHW of any floating dtype and device."""
    bits = counter_hash(seed, pseudo_epoch, _FLIP, rows=rows) >> np.uint64(63)
    chosen_B = send(torch.from_numpy(bits.astype(bool)), x_BCHW.device)
    return torch.where(chosen_B[:, None, None, None], x_BCHW.flip(3), x_BCHW)
