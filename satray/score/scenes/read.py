"""Windows of a scene on the network's lattice, each as if the whole scene had been resampled.

Legend: C bands, H x W net px of a window.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.data.values import mean_of
from satray.score.scenes.grid import NetGrid
from satray.score.scenes.lanes import Lane, lane, mostly, resampled
from satray.score.scenes.open import Scene

STRIP = 64 << 20
"""Bytes of stored px, about, that are resampled at once; a finer scene's window may hold many."""


@dataclass(frozen=True)
class WindowPixels:
    """What the network is given of a window."""

    pixels_CHW: NDArray[Any]  # noqa: N815
    """Values in the bundle's stored units: its dtype, or float32 where resampled; means over what
    is measured under the filter; 0 where nothing is."""
    measured_CHW: NDArray[Any]  # noqa: N815
    """Share of each value that is measured: bool, or 0 to 1 where resampled; 0 beyond the scene."""
    fills_NC: NDArray[np.float32] | None = None  # noqa: N815
    """What stands in for the rest in each tile asked for; None: its mean over this window's px."""

    @property
    def valid_HW(self) -> NDArray[np.bool_]:  # noqa: N802
        """Where all bands are measured."""
        return mostly(self.measured_CHW)


def read_window(
    scene: Scene, grid: NetGrid, x: int, y: int, width: int, height: int
) -> WindowPixels:
    """Read a window of net px.

    Bilinear and antialiased where resampled, with weights that know the whole axis: windows that
    overlap agree. What is not measured weighs nothing, so that no sentinel mixes with measurements.

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
    right, bottom = min(x + width, grid.net_width), min(y + height, grid.net_height)
    shape = (len(scene.facts.bands), max(bottom - y, 0), max(right - x, 0))
    if not (shape[1] and shape[2]):
        pixels_CHW = np.zeros(shape, np.float32 if grid.resampled else scene.facts.dtype)
        measured_CHW = np.zeros(shape, np.float32 if grid.resampled else bool)
    elif grid.resampled:
        pixels_CHW, measured_CHW = _resampled(scene, grid, (x, y, right, bottom))
    else:
        pixels_CHW, measured_CHW = scene.read(y, x, *shape[1:])
        if not measured_CHW.all():
            pixels_CHW = np.where(measured_CHW, pixels_CHW, 0)
    if shape[1:] != (height, width):
        beyond = ((0, 0), (0, height - shape[1]), (0, width - shape[2]))
        pixels_CHW, measured_CHW = np.pad(pixels_CHW, beyond), np.pad(measured_CHW, beyond)
    return WindowPixels(pixels_CHW, measured_CHW)


def with_fills(
    window: WindowPixels,
    scene: Scene,
    grid: NetGrid,
    origin: tuple[int, int],
    tiles: Sequence[tuple[int, int]],
    size: tuple[int, int],
) -> WindowPixels:
    """Add what stands in for values that are missing in tiles of a window that is resampled.

    As for a tile of its own: the mean over the stored px that are measured, which are read again
    for the tiles that lack some.

    Args:
        window: read from `scene`.
        scene: open.
        grid: of the same scene.
        origin: the window's first row and column, net px.
        tiles: first row and column of each tile, net px of the window.
        size: rows and columns of a tile, net px.

    Raises:
        DecodeError: the scene cannot be read there.
    """
    share_CHW = window.measured_CHW
    if not grid.resampled or (share_CHW == 1).all() or not share_CHW.any():
        return window
    fills_NC = np.zeros((len(tiles), len(window.pixels_CHW)), np.float32)
    for n, (top, left) in enumerate(tiles):
        rows, columns = slice(top, top + size[0]), slice(left, left + size[1])
        share_Chw = share_CHW[:, rows, columns]
        if (share_Chw == 1).all() or not share_Chw.any():
            continue
        first_row, height = _stored(origin[0] + top, size[0], grid.scale_y, grid.height)
        first_column, width = _stored(origin[1] + left, size[1], grid.scale_x, grid.width)
        x_CHW, valid_CHW = scene.read(first_row, first_column, height, width)
        fills_NC[n] = [mean_of(x[v]) for x, v in zip(x_CHW, valid_CHW, strict=True)]
    return replace(window, fills_NC=fills_NC)


def _stored(start: int, length: int, scale: float, size: int) -> tuple[int, int]:
    """First px and number of those that lie under some net px of an axis; at least one."""
    first = min(round(start / scale), size - 1)
    return first, max(min(round((start + length) / scale), size) - first, 1)


def _resampled(
    scene: Scene, grid: NetGrid, box: tuple[int, int, int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Values and shares of `box` (left, upper, right, lower edge; net px), strip by strip."""
    x, y, right, bottom = box
    pixels_CHW = np.empty((len(scene.facts.bands), bottom - y, right - x), np.float32)
    measured_CHW = np.empty_like(pixels_CHW)
    columns = lane(x, right, grid.width, grid.net_width)
    step = _rows_at_once(scene, grid, columns)
    for top in range(y, bottom, step):
        rows = lane(top, min(top + step, bottom), grid.height, grid.net_height)
        x_CHW, valid_CHW = scene.read(rows.first, columns.first, rows.count, columns.count)
        strip = (slice(None), slice(top - y, top - y + step))
        pixels_CHW[strip], measured_CHW[strip] = resampled(x_CHW, valid_CHW, rows, columns)
    return pixels_CHW, measured_CHW


def _rows_at_once(scene: Scene, grid: NetGrid, columns: Lane) -> int:
    size = max(4, np.dtype(scene.facts.stored_dtype).itemsize)
    stored_row = columns.count * len(scene.facts.bands) * size
    return max(1, int(STRIP / stored_row * grid.scale_y))
