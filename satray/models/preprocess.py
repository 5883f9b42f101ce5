"""From stored pixels to the network's input, batched, on the device where the pixels are.

Legend: B tiles, C bands, H x W pixels.
"""

import functools
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from satray.models.geometry import InputGeometry
from satray.models.pil import pil_levels, pil_resize
from satray.models.radiometry import Radiometry


@dataclass(frozen=True)
class Preprocess:
    """The deterministic way from stored pixels to the network's input."""

    bands: tuple[str, ...]
    """Names of the channels, in the network's input order; the pixels given have the same."""

    mean: tuple[float, ...]
    """Mean of each band's values after the radiometry (`stored`: in stored units)."""

    std: tuple[float, ...]
    """Standard deviation of each band's values after the radiometry."""

    size: int
    """Side of the network's input, in px."""

    resize: int | None = None
    """Length of the tile's shorter side before cropping, in px; None: `size`."""

    mode: Literal["whole", "centre"] = "whole"
    """whole: the tile shrunk to `size` x `size`; centre: the middle of the resized tile."""

    radiometry: Radiometry = field(default_factory=Radiometry)
    """What stored values mean."""

    def values(self, pixels_BCHW: Tensor) -> Tensor:
        """Values of stored pixels, the band's mean where one is not finite; any dtype in.

        Whole numbers of `stored` pass as they are, all else comes out in a float dtype.
        """
        if pixels_BCHW.shape[1] != len(self.bands):
            raise ValueError(f"{pixels_BCHW.shape[1]} bands given, {len(self.bands)} expected")
        x_BCHW = to_values(pixels_BCHW, self.radiometry, self.bands)
        if not x_BCHW.is_floating_point():
            return x_BCHW
        mean_1C11 = _by_band(self.mean, x_BCHW.dtype, x_BCHW.device)
        return torch.where(x_BCHW.isfinite(), x_BCHW, mean_1C11)

    def resample(self, x_BCHW: Tensor, height: int, width: int) -> Tensor:
        """Resize values: bilinear with antialiasing, in PIL's own way for `pil_compat`."""
        if self.radiometry.name != "pil_compat":
            return resize_tiles(x_BCHW, height, width)
        level_BCHW = (x_BCHW * 255).round()
        return pil_resize(level_BCHW, self.bands.index("nir"), height, width) / 255

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Shape that a tile is resized to before cropping, aspect kept (torchvision's Resize)."""
        short = self.resize or self.size
        if height <= width:
            return short, int(short * width / height)
        return int(short * height / width), short

    def geometry(self, height: int, width: int) -> InputGeometry:
        """How a tile of that shape (px) becomes the network's input."""
        if self.mode == "whole":
            return InputGeometry(height, width, self.size, self.size, 0, 0, self.size)
        tall, wide = self.resized(height, width)
        # torchvision's CenterCrop rounds the same way.
        y, x = round((tall - self.size) / 2), round((wide - self.size) / 2)
        return InputGeometry(height, width, tall, wide, x, y, self.size)

    def __call__(self, pixels_BCHW: Tensor) -> Tensor:
        """Input x_BCHW (float32, size x size) of stored pixels (any dtype, on any device)."""
        g = self.geometry(pixels_BCHW.shape[2], pixels_BCHW.shape[3])
        x_BCHW = self.values(pixels_BCHW)
        x_BCHW = self.resample(x_BCHW, g.resized_height, g.resized_width)
        x_BCHW = x_BCHW[:, :, g.y_crop : g.y_crop + g.size, g.x_crop : g.x_crop + g.size]
        return normalize(x_BCHW, self.mean, self.std)


def to_values(x_BCHW: Tensor, radiometry: Radiometry, bands: tuple[str, ...]) -> Tensor:
    """Values of stored pixels (any dtype and device), by the radiometry of a network.

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
    if radiometry.name == "stored":
        return x_BCHW
    y_BCHW = x_BCHW.float()
    low_1C11, high_1C11 = (
        _by_band(bounds, y_BCHW.dtype, y_BCHW.device)
        for bounds in (radiometry.low, radiometry.high)
    )
    span_1C11 = (high_1C11 - low_1C11).where(high_1C11 > low_1C11, 1)  # of one value: a step there
    stretched_BCHW = ((y_BCHW - low_1C11) / span_1C11).clamp(0, 1)
    if not x_BCHW.is_floating_point():
        return stretched_BCHW
    return stretched_BCHW.where(x_BCHW.isfinite(), torch.nan)


def resize_tiles(x_BCHW: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resize with antialiasing, in float32; the batch itself if it fits already.

    Pixel edges fall on pixel edges (`align_corners=False`), which `cam_transform` relies on.
    """
    x_BCHW = x_BCHW.float()
    if x_BCHW.shape[2:] == (height, width):
        return x_BCHW
    return F.interpolate(
        x_BCHW, size=(height, width), mode="bilinear", align_corners=False, antialias=True
    )


def normalize(x_BCHW: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(x - mean) / std per band, in float32; a band without spread is only centred."""
    spread = tuple(1.0 if s == 0 else s for s in std)
    mean_1C11, std_1C11 = (_by_band(v, torch.float32, x_BCHW.device) for v in (mean, spread))
    return (x_BCHW.float() - mean_1C11) / std_1C11


def _by_band(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number a band, to broadcast over x_BCHW: (1, C, 1, 1). Not to be written to."""
    # A copy from pageable memory would wait for all that the GPU is at, so it is made once. On CPUs
    # nothing is gained, and a tracer (torch.export) must not leave its stand-ins behind.
    make = _kept if device.type == "cuda" else _kept.__wrapped__
    return make(values, dtype, device)


@functools.lru_cache(maxsize=64)
def _kept(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # one born in inference could not be trained through
        return torch.tensor(values, dtype=dtype, device=device).view(1, -1, 1, 1)
