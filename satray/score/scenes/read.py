"""Windows of a scene on the network's lattice, each as if the whole scene had been resampled.

Legend: C bands, H x W net px of a window.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.data.values import mean_of
from satray.score.scenes.grid import NetGrid, lane, mostly, resampled
from satray.score.scenes.open import Scene

STRIP = 64 << 20
"""Bytes of stored px, about, that are resampled at once; a finer scene's window may hold many."""


@dataclass(frozen=True)
class WindowPixels:
    """What the network is given of a window."""

    pixels_CHW: NDArray[Any]  # noqa: N815
    """Values in the bundle's stored units: its dtype, or float32 where resampled; means over what
    is measured under the filter; 0 where nothing is."""
    shares_CHW: NDArray[Any] | None  # noqa: N815
    """Share of each value that is measured: bool, or 0 to 1 where resampled; 0 beyond the scene.
    None: all of it is, and nothing travels in place of a mask that says only yes."""
    fills_NC: NDArray[np.float32] | None = None  # noqa: N815
    """What stands in for the rest in each tile asked for; None: its mean over this window's px."""

    @property
    def measured_CHW(self) -> NDArray[Any]:  # noqa: N802
        """Share of each value that is measured."""
        if self.shares_CHW is None:
            return np.broadcast_to(np.True_, self.pixels_CHW.shape)
        return self.shares_CHW

    @property
    def valid_HW(self) -> NDArray[np.bool_]:  # noqa: N802
        """Where all bands are measured."""
        return mostly(self.measured_CHW)


def read_window(
    scene: Scene, grid: NetGrid, x: int, y: int, width: int, height: int
) -> WindowPixels:
    """Read a window of net px.

    What is not measured weighs nothing where px are resampled, so that no sentinel mixes with
    measurements.

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
    shape = len(scene.facts.bands), height, width
    if grid.resampled:
        pixels_CHW, measured_CHW = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    else:
        pixels_CHW, measured_CHW = np.zeros(shape, scene.facts.dtype), np.zeros(shape, bool)
    if right <= x or bottom <= y:
        return WindowPixels(pixels_CHW, measured_CHW)
    if not grid.resampled:
        x_CHW, valid_CHW = scene.read(y, x, bottom - y, right - x)
        if x_CHW.shape == shape and valid_CHW.all():
            return WindowPixels(x_CHW, None)
        there = np.s_[:, : bottom - y, : right - x]
        measured_CHW[there] = valid_CHW
        np.copyto(pixels_CHW[there], x_CHW, where=valid_CHW)
        return WindowPixels(pixels_CHW, measured_CHW)
    columns = lane(x, right, grid.extent.width, grid.net_width)
    size = max(4, np.dtype(scene.facts.stored_dtype).itemsize)
    step = max(1, int(STRIP / (columns.count * shape[0] * size) * grid.scale_y))
    for top in range(y, bottom, step):
        rows = lane(top, min(top + step, bottom), grid.extent.height, grid.net_height)
        x_CHW, valid_CHW = scene.read(rows.first, columns.first, rows.count, columns.count)
        strip = np.s_[:, top - y : min(top + step, bottom) - y, : right - x]
        pixels_CHW[strip], measured_CHW[strip] = resampled(x_CHW, valid_CHW, rows, columns)
    return WindowPixels(pixels_CHW, None if (measured_CHW == 1).all() else measured_CHW)


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
    share_CHW = window.shares_CHW
    if not grid.resampled or share_CHW is None or not share_CHW.any():
        return window
    fills_NC = np.zeros((len(tiles), len(window.pixels_CHW)), np.float32)
    for n, (top, left) in enumerate(tiles):
        share_Chw = share_CHW[:, top : top + size[0], left : left + size[1]]
        if (share_Chw == 1).all() or not share_Chw.any():
            continue
        rows, columns = grid.extent.height, grid.extent.width
        first_row, height = _stored(origin[0] + top, size[0], grid.scale_y, rows)
        first_column, width = _stored(origin[1] + left, size[1], grid.scale_x, columns)
        x_CHW, valid_CHW = scene.read(first_row, first_column, height, width)
        fills_NC[n] = [mean_of(x[v]) for x, v in zip(x_CHW, valid_CHW, strict=True)]
    return replace(window, fills_NC=fills_NC)


def _stored(start: int, length: int, scale: float, size: int) -> tuple[int, int]:
    """First px and number of those that lie under some net px of an axis; at least one."""
    first = min(round(start / scale), size - 1)
    return first, max(min(round((start + length) / scale), size) - first, 1)
