"""Small pictures of tiles, and of where a class comes from in them."""

import io
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SIDE = 144
"""Longer side of a thumbnail, px."""
GAP = 4
"""White px between the tile and its map."""
QUALITY = 82


def stretched(
    pixels_CHW: NDArray[Any], low: tuple[float, ...], high: tuple[float, ...]
) -> NDArray[np.float64]:
    """Stored pixels to colours in 0..1, (H, W, 3); one band becomes gray.

    Args:
        pixels_CHW: one or three bands.
        low: stored value of each band that becomes black.
        high: stored value of each band that becomes white.
    """
    x_CHW = np.nan_to_num(pixels_CHW.astype(np.float64))
    low_C11, high_C11 = (np.asarray(v, dtype=np.float64)[:, None, None] for v in (low, high))
    span_C11 = np.where(high_C11 > low_C11, high_C11 - low_C11, 1.0)
    shown_CHW = np.clip((x_CHW - low_C11) / span_C11, 0, 1)
    if len(shown_CHW) == 1:
        shown_CHW = np.repeat(shown_CHW, 3, axis=0)
    return np.moveaxis(shown_CHW, 0, -1)


def shrunk(colours_HW3: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colours in 0..1 as a small 8-bit picture: its longer side is `SIDE`."""
    from PIL import Image  # matplotlib's own dependency

    height, width = colours_HW3.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray((colours_HW3 * 255 + 0.5).astype(np.uint8))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def thumbnail(colours_HW3: NDArray[np.uint8], evidence_HW: NDArray[np.float64] | None) -> bytes:
    """A small tile as a JPEG, with the same tile under its map to the right of it.

    Args:
        colours_HW3: as `shrunk` gives them.
        evidence_HW: evidence for the class, 0 (none) to 1; None: the tile alone.
    """
    from PIL import Image

    parts = [colours_HW3]
    if evidence_HW is not None:
        gap = np.full((len(colours_HW3), GAP, 3), 255, np.uint8)
        shown = overlaid(colours_HW3 / 255, evidence_HW)
        parts += [gap, (shown * 255 + 0.5).astype(np.uint8)]
    sink = io.BytesIO()
    whole = Image.fromarray(np.concatenate(parts, axis=1))
    whole.save(sink, format="JPEG", quality=QUALITY, optimize=True)
    return sink.getvalue()


def overlaid(
    colours_HW3: NDArray[np.float64], evidence_HW: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The tile, darkened and gray, with its evidence glowing over it; (H, W, 3) in 0..1."""
    from matplotlib import colormaps

    e_HW = np.clip(np.nan_to_num(evidence_HW), 0, 1)
    glow_HW3 = np.asarray(colormaps["inferno"](0.25 + 0.7 * e_HW))[..., :3]
    gray_HW1 = colours_HW3.mean(axis=-1, keepdims=True)
    base_HW3 = 0.75 * (0.5 * colours_HW3 + 0.5 * gray_HW1)
    alpha_HW1 = (0.8 * np.sqrt(e_HW))[..., None]
    mixed: NDArray[np.float64] = base_HW3 * (1 - alpha_HW1) + glow_HW3 * alpha_HW1
    return np.clip(mixed, 0, 1)


def on_pixels(values_hw: NDArray[Any], cells: Affine, height: int, width: int) -> Floats:
    """A map on another grid: bilinear between centres of cells with data, edge cells going on.

    Args:
        values_hw: the map; NaN without data.
        cells: from its cell corners to those of the grid's pixels (no rotation).
        height: H.
        width: W.

    Returns:
        (H, W), NaN where no cell that has a say has data.
    """
    from scipy.ndimage import affine_transform  # half a second that planning need not wait for

    back = ~cells
    scale, first = (back.e, back.a), (back.e / 2 + back.f - 0.5, back.a / 2 + back.c - 0.5)

    def at_pixels(some_hw: NDArray[Any]) -> Floats:
        some_hw = some_hw.astype(np.float64)
        found = affine_transform(some_hw, scale, first, (height, width), order=1, mode="nearest")
        return np.asarray(found)

    known_hw = ~np.isnan(values_hw)
    if known_hw.all():
        return at_pixels(values_hw)
    with np.errstate(invalid="ignore", divide="ignore"):
        return at_pixels(np.where(known_hw, values_hw, 0)) / at_pixels(known_hw)
