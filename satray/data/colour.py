"""Contrast and brightness of normalised tiles.

Shapes: B tiles, C bands, H and W pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from satray.data.send import send


def recolour(x_BCHW: Tensor, gain_BC: NDArray[np.float64], shift_BC: NDArray[np.float64]) -> Tensor:
    """Give gain * x + shift, for each tile and band.

    Where x is normalised to mean 0 and deviation 1 a band, a gain of 1.2 is a fifth more contrast
    about the archive's mean, and a shift of 0.1 is a tenth of the archive's deviation.

    Args:
        x_BCHW: floating.
        gain_BC: factors.
        shift_BC: what is added, in the units of x.
    """
    gain_BC11, shift_BC11 = (
        send(torch.from_numpy(part.astype(np.float32)), x_BCHW.device).to(x_BCHW)[:, :, None, None]
        for part in (gain_BC, shift_BC)
    )
    return torch.addcmul(shift_BC11, x_BCHW, gain_BC11)
