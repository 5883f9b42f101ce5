"""Windows of a scene on the network's lattice, each as if the whole scene had been resampled.

Legend: C bands, H x W net px of a window.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.scoring.scenes.lanes import Lane, lane, resampled
from satray.scoring.scenes.netgrid import NetGrid
from satray.scoring.scenes.opened import Scene

STRIP = 64 << 20
"""Bytes of stored px, about, that are resampled at once; a finer scene's window may hold many."""


@dataclass(frozen=True)
class WindowPixels:
    """What the network is given of a window."""

    pixels_CHW: NDArray[Any]  # noqa: N815
    """Values in the bundle's stored units: its dtype, or float32 where resampled; 0 where not
    valid."""
    valid_HW: NDArray[np.bool_]  # noqa: N815
    """Where there is data: False beyond the scene, and of a resampled px where less than half of
    its filter's weight has data."""


def read_window(
    scene: Scene, grid: NetGrid, x: int, y: int, width: int, height: int
) -> WindowPixels:
    """Read a window of net px.

    Bilinear and antialiased where resampled, with weights that know the whole axis: windows that
    overlap agree. A px without data weighs nothing, so that no sentinel mixes with measurements.

    Args:
        scene: open.
        grid: of the same scene.
        x: left edge, net px; 0 or more.
        y: upper edge, net px.
        width: net px; may reach beyond the scene.
        height: net px.

    Raises:
        DecodeError: the scene cannot be read there.
    """
    kind = np.float32 if grid.resampled else scene.facts.dtype
    pixels_CHW = np.zeros((len(scene.facts.bands), height, width), kind)
    valid_HW = np.zeros((height, width), dtype=bool)
    right, bottom = min(x + width, grid.net_width), min(y + height, grid.net_height)
    if right > x and bottom > y:
        part = (slice(0, bottom - y), slice(0, right - x))
        if grid.resampled:
            _resample(scene, grid, (x, y, right, bottom), pixels_CHW, valid_HW)
        else:
            x_CHW, there_HW = scene.read(y, x, bottom - y, right - x)
            pixels_CHW[:, *part], valid_HW[part] = np.where(there_HW, x_CHW, 0), there_HW
    return WindowPixels(pixels_CHW, valid_HW)


def _resample(
    scene: Scene,
    grid: NetGrid,
    box: tuple[int, int, int, int],
    pixels_CHW: NDArray[Any],
    valid_HW: NDArray[np.bool_],
) -> None:
    """Fill the window's upper left part with `box` (left, upper, right, lower edge; net px)."""
    x, y, right, bottom = box
    columns = lane(x, right, grid.width, grid.net_width)
    step = _rows_at_once(scene, grid, columns)
    for top in range(y, bottom, step):
        end = min(top + step, bottom)
        rows = lane(top, end, grid.height, grid.net_height)
        x_CHW, there_HW = scene.read(rows.first, columns.first, rows.count, columns.count)
        value_Chw, enough_1hw = resampled(x_CHW, there_HW[None], rows, columns)
        part = (slice(top - y, end - y), slice(0, right - x))
        pixels_CHW[:, *part] = np.where(enough_1hw, value_Chw, 0)
        valid_HW[part] = enough_1hw[0]


def _rows_at_once(scene: Scene, grid: NetGrid, columns: Lane) -> int:
    size = max(4, np.dtype(scene.facts.stored_dtype).itemsize)
    stored_row = columns.count * len(scene.facts.bands) * size
    return max(1, int(STRIP / stored_row * grid.scale_y))
