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


def on_pixels(values_hw: NDArray[np.float32], cells: Affine, height: int, width: int) -> Floats:
    """A map at the pixels of a picture: bilinear between cell centres, edge cells going on.

    Args:
        values_hw: the map.
        cells: from cell corners to pixel corners (no rotation).
        height: H.
        width: W.
    """
    from scipy.ndimage import map_coordinates  # half a second that planning need not wait for

    back = ~cells
    rows_H = back.e * (np.arange(height) + 0.5) + back.f - 0.5
    columns_W = back.a * (np.arange(width) + 0.5) + back.c - 0.5
    places_2HW = np.meshgrid(rows_H, columns_W, indexing="ij")
    found: Floats = map_coordinates(
        values_hw.astype(np.float64), places_2HW, order=1, mode="nearest"
    )
    return found
