"""From stored pixels to values, by the radiometry that a network was trained with.

Pixel by pixel, batched, on the device where the pixels are. Legend: B tiles, C bands, H x W pixels.
"""

import torch
from torch import Tensor

from satray.models.constants import by_band
from satray.models.pil import pil_levels
from satray.models.radiometry import Radiometry


def to_values(x_BCHW: Tensor, radiometry: Radiometry, bands: tuple[str, ...]) -> Tensor:
    """Values of stored pixels.

    Args:
        x_BCHW: stored pixels, any dtype and device.
        radiometry: which values.
        bands: names of the channels.

    Returns:
        stored: the batch itself. percentile and pil_compat: float32, 0 to 1; a float pixel that is
        not finite is NaN.

    Raises:
        ValueError: pil_compat of other than 16-bit integers.
    """
    if radiometry.name == "pil_compat":
        if x_BCHW.dtype != torch.uint16:
            raise ValueError(f"pil_compat takes uint16 pixels, found {x_BCHW.dtype}")
        return pil_levels(x_BCHW, bands.index("nir")) / 255
    if radiometry.name == "percentile":
        return _stretch(x_BCHW, radiometry)
    return x_BCHW


def _stretch(x_BCHW: Tensor, radiometry: Radiometry) -> Tensor:
    """(x - low) / (high - low), clipped to 0..1; a band whose bounds are one value steps there."""
    y_BCHW = x_BCHW.float()
    low_1C11, high_1C11 = (
        by_band(bounds, y_BCHW.dtype, y_BCHW.device) for bounds in (radiometry.low, radiometry.high)
    )
    span_1C11 = (high_1C11 - low_1C11).where(high_1C11 > low_1C11, 1)
    stretched_BCHW = ((y_BCHW - low_1C11) / span_1C11).clamp(0, 1)
    if not x_BCHW.is_floating_point():
        return stretched_BCHW
    return stretched_BCHW.where(x_BCHW.isfinite(), torch.nan)
