"""A picture of a scene: its colours, where the strongest class comes from, and the detections.

Legend: C bands shown (3 or 1), H x W pixels of the picture, h x w cells, K classes.
"""

import io
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from satray.errors import counted

LONGEST = 1024
"""Longer side of the whole picture, px, at most."""
LEGEND = 54
"""Height of the strip below the scene, px."""
NARROWEST = 300
"""Narrowest picture, px: the legend must fit."""
EMPTY = 0.93
"""Gray of pixels without data."""
MOST = 2_000
"""Detections drawn, the likeliest; more would hide the scene."""
MARK = "#7CFC9A"
MIDDLE = 0.3
"""Median of the scene's colours, at least, as far as a gamma of `LEAST_GAMMA` lifts it."""
LEAST_GAMMA = 0.45

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """The map that lies over the picture."""

    name: str
    """The class."""
    map: NDArray[np.float32]
    """(h, w) its dense CAM, in logit units; NaN without data."""
    cells: Affine
    """From cell corners to stored px, axis-parallel."""
    score: float
    """Highest score of any cell, 0 to 1."""


def picture_size(height: int, width: int, longest: int = LONGEST) -> tuple[int, int]:
    """Rows and columns that a scene is to be thinned out to; small scenes are enlarged."""
    room = longest - LEGEND
    scale = min(longest / width, room / height)
    return max(1, min(room, round(height * scale))), max(1, min(longest, round(width * scale)))


def quicklook(
    pixels_CHW: NDArray[Any],
    valid_HW: NDArray[np.bool_],
    size: tuple[int, int],
    evidence: Evidence | None,
    rows: Floats,
    cols: Floats,
    title: str,
    made: Mapping[str, str],
) -> bytes:
    """Draw a PNG of at most `LONGEST` px a side.

    Args:
        pixels_CHW: stored values of red, green and blue, or of one band, thinned out to
            `picture_size`.
        valid_HW: where there is data.
        size: rows and columns of the scene, stored px.
        evidence: what lies over it; None: the scene alone.
        rows: of detections of that class, the likeliest first, stored px.
        cols: of the same, stored px.
        title: one line for the legend.
        made: what made it; the file's text fields.
    """
    from PIL import Image, ImageDraw
    from PIL.PngImagePlugin import PngInfo

    from satray.report.tiles import overlaid, stretched

    H, W = valid_HW.shape
    picture_px = Affine.scale(W / size[1], H / size[0])
    shown_HW3 = _brightened(stretched(pixels_CHW, *_limits(pixels_CHW, valid_HW)), valid_HW)
    top = 0.0
    if evidence is not None:
        map_HW = _on_picture(evidence, picture_px, H, W)
        top = float(np.max(map_HW, initial=0.0, where=~np.isnan(map_HW)))
        shown_HW3 = overlaid(shown_HW3, np.clip(map_HW, 0, None) / (top or 1.0))
    shown_HW3[~valid_HW] = EMPTY
    scene = Image.fromarray((shown_HW3 * 255 + 0.5).astype(np.uint8))
    drawing = ImageDraw.Draw(scene)
    radius = max(3, min(8, W // 80))
    for row, col in zip(rows[:MOST], cols[:MOST], strict=True):
        x, y = picture_px @ (col, row)
        for reach, colour, width in ((radius + 1, "#101010", 4), (radius, MARK, 2)):
            box = (x - reach, y - reach, x + reach, y + reach)
            drawing.ellipse(box, outline=colour, width=width)
    wide = max(W, NARROWEST)
    picture = Image.new("RGB", (wide, H + LEGEND), "white")
    picture.paste(scene, ((wide - W) // 2, 0))
    picture.paste(_legend(wide, evidence, top, len(rows), title), (0, H))
    sink, fields = io.BytesIO(), PngInfo()
    for name, text in made.items():
        fields.add_text(name, text)
    # zlib's search for repeated strings takes four fifths of the time, and makes files larger
    picture.save(sink, format="PNG", compress_type=zlib.Z_RLE, pnginfo=fields)
    return sink.getvalue()


def _limits(
    pixels_CHW: NDArray[Any], valid_HW: NDArray[np.bool_]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """2nd and 98th percentile of each band where there is data."""
    values = [band[valid_HW & np.isfinite(band)] for band in pixels_CHW]
    pairs = [np.percentile(some, (2, 98)) if some.size else (0.0, 1.0) for some in values]
    return tuple(float(low) for low, _ in pairs), tuple(float(high) for _, high in pairs)


def _brightened(shown_HW3: Floats, valid_HW: NDArray[np.bool_]) -> Floats:
    """With a gamma that lifts a dark middle: where clouds are white, land and water are black."""
    values = shown_HW3[valid_HW]
    middle = float(np.median(values)) if values.size else MIDDLE
    if middle >= MIDDLE:
        return shown_HW3
    gamma = max(np.log(MIDDLE) / np.log(max(middle, 1e-6)), LEAST_GAMMA)
    return np.asarray(shown_HW3**gamma, dtype=np.float64)


def _on_picture(evidence: Evidence, picture_px: Affine, H: int, W: int) -> Floats:
    """The map at the picture's pixels: bilinear between cells that have data, NaN elsewhere."""
    from satray.report.tiles import on_pixels

    # more cells than pixels: the best of each block, or a lone peak might fall between two pixels
    h, w = evidence.map.shape
    block = max(1, min(h // H, w // W))
    map_hw = np.fmax.reduceat(evidence.map, range(0, h, block), axis=0)
    map_hw = np.fmax.reduceat(map_hw, range(0, w, block), axis=1)
    return on_pixels(map_hw, picture_px @ evidence.cells @ Affine.scale(block), H, W)


def _legend(width: int, evidence: Evidence | None, top: float, count: int, title: str) -> Any:
    """A strip with the scene's name, the class, its scale and what a circle is."""
    from matplotlib import colormaps, get_data_path
    from PIL import Image, ImageDraw, ImageFont

    from satray.report.style import INK, MUTED, short

    def said(text: str, letters: int) -> str:
        return short("".join(c if c.isprintable() else " " for c in text), letters)

    strip, letters = Image.new("RGB", (width, LEGEND), "white"), max(20, width // 8)
    drawing = ImageDraw.Draw(strip)
    # Pillow's own has no accents
    font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", 12)
    drawing.text((8, 14), said(title, letters), INK, font, anchor="lm")
    if evidence is None:
        drawing.text((8, 38), "no map", MUTED, font, anchor="lm")
        return strip
    scale_60 = np.asarray(colormaps["inferno"](np.linspace(0.25, 0.95, 60)))[:, :3]
    bar = np.broadcast_to(scale_60 * 255, (13, 60, 3)).astype(np.uint8)
    strip.paste(Image.fromarray(bar), (8, 32))
    words = f"{said(evidence.name, max(12, letters // 3))}: evidence 0 to {top:.1f}"
    if width >= 520:
        words += f", best cell {evidence.score:.2f}"
    drawing.text((76, 38), words, INK, font, anchor="lm")
    if width >= 400:
        most = f"{MOST:,} of " if count > MOST else ""
        words = f"○ {most}{counted(count, 'detection')}"
        drawing.text((width - 8, 38), words, INK, font, anchor="rm")
    return strip
