"""A scene in windows, and in parts: what one task reads, and one forward call takes. Pure.

Every process that works on a scene lays it out anew, and alike. Each net px belongs to one window
that shows it, so that the windows' parts of the scene's picture add up.

Legend: C bands shown, H x W net px of a window, h x w px of the picture.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satray.score.products.quicklook import picture_size
from satray.score.scenes.grid import NetGrid
from satray.score.windows import DenseGeometry, Mode, ScenePlan, Span, plan_scene

PART_BYTES = 64 << 20
"""Bytes of the pixels of a part, about; one window at least. Blocks of a file that several parts
need are decoded by each."""
BOX = 4
"""Side of the square of px that one of the picture is the mean of, at most."""
COLOURS = ("red", "green", "blue")


@dataclass(frozen=True)
class Canvas:
    """Where the picture's px lie in the scene."""

    rows: NDArray[np.int64]
    """(h,) net row that each row of the picture shows."""
    cols: NDArray[np.int64]
    """(w,) net column that each shows."""
    bands: tuple[int, ...]
    """Places of the bands shown: red, green and blue, or the first."""
    box: tuple[int, int]
    """Rows and columns of net px that are averaged, from those on."""

    @property
    def width(self) -> int:
        """Columns of the picture."""
        return len(self.cols)

    def within(self, rows: Span) -> Span:
        """Rows of the picture that show some net rows."""
        found = np.searchsorted(self.rows, (rows.start, rows.stop))
        return Span(int(found[0]), int(found[1]))

    def across(self, cols: Span) -> Span:
        """Columns of the picture that show some net columns."""
        found = np.searchsorted(self.cols, (cols.start, cols.stop))
        return Span(int(found[0]), int(found[1]))

    def sample(
        self,
        pixels_CHW: NDArray[Any],
        valid_HW: NDArray[np.bool_],
        origin: tuple[int, int],
        rows: Span,
        cols: Span,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The part of the picture that a window shows, (C, h, w), and where it has data.

        Args:
            pixels_CHW: of the window.
            valid_HW: where it has data.
            origin: its first net row and column.
            rows: of the picture, shown by this window.
            cols: the same.
        """
        there = (
            self.rows[rows.start : rows.stop] - origin[0],
            self.cols[cols.start : cols.stop] - origin[1],
        )
        H, W = valid_HW.shape
        shape = (len(there[0]), len(there[1]))
        total = np.zeros((len(self.bands), *shape), dtype=np.float64)
        count = np.zeros(shape, dtype=np.int64)
        for down in range(self.box[0]):
            for right in range(self.box[1]):
                at = np.ix_(np.minimum(there[0] + down, H - 1), np.minimum(there[1] + right, W - 1))
                good = valid_HW[at]
                count += good
                for place, band in enumerate(self.bands):
                    total[place] += np.where(good, pixels_CHW[band][at], 0)
        mean: NDArray[np.float32] = (total / np.maximum(count, 1)).astype(np.float32)
        return mean, count > 0


def canvas_of(size: tuple[int, int], net: tuple[int, int], bands: Sequence[str]) -> Canvas:
    """Lay out a scene's picture.

    Args:
        size: height and width of the scene, stored px: they decide the picture's shape.
        net: the same, net px.
        bands: of the pixels that will come.
    """
    shape = picture_size(*size)
    places = [
        ((np.arange(count) + 0.5) * length / count).astype(np.int64)
        for count, length in zip(shape, net, strict=True)
    ]
    box = [max(1, min(BOX, length // count)) for count, length in zip(shape, net, strict=True)]
    colours = all(name in bands for name in COLOURS)
    shown = tuple(bands.index(name) for name in COLOURS) if colours else (0,)
    return Canvas(places[0], places[1], shown, (box[0], box[1]))


@dataclass(frozen=True)
class Seen:
    """A window's part of the picture."""

    rows: Span
    """Rows of the picture."""
    cols: Span
    """Columns of the picture."""
    pixels: NDArray[np.float32]
    """(C, h, w)."""
    valid: NDArray[np.bool_]
    """(h, w) where the picture has data."""


@dataclass(frozen=True)
class SceneLayout:
    """A scene in windows, and its picture."""

    plan: ScenePlan
    """Its windows."""
    rows: tuple[Span, ...]
    """Net rows that each row of windows shows alone."""
    cols: tuple[Span, ...]
    """Net columns that each column of windows shows alone."""
    canvas: Canvas
    """Its picture."""

    def see(self, number: int, pixels_CHW: NDArray[Any], valid_HW: NDArray[np.bool_]) -> Seen:
        """A window's part of the picture, by its number, its px and where they have data."""
        row, col = divmod(number, len(self.cols))
        rows, cols = self.canvas.within(self.rows[row]), self.canvas.across(self.cols[col])
        window = self.plan.windows[number]
        origin = window.row.px.start, window.col.px.start
        return Seen(rows, cols, *self.canvas.sample(pixels_CHW, valid_HW, origin, rows, cols))

    def parts(self, px_bytes: int) -> tuple[range, ...]:
        """Numbers of the windows of each part; `px_bytes` of a net px, all bands."""
        parts, start, size = [], 0, 0
        for number, window in enumerate(self.plan.windows):
            own = window.height * window.width * px_bytes
            if number > start and size + own > PART_BYTES:
                parts.append(range(start, number))
                start, size = number, 0
            size += own
        return (*parts, range(start, len(self.plan.windows)))


@functools.lru_cache(maxsize=8)  # of a large scene it takes a while, and each of its parts asks
def lay_out(
    grid: NetGrid,
    geometry: DenseGeometry,
    mode: Mode,
    step: int,
    window: int,
    argmax: bool,
    bands: tuple[str, ...],
) -> SceneLayout:
    """Lay out a scene.

    Args:
        grid: the scene's.
        geometry: of the bundle.
        mode: whether a forward is a window or a tile.
        step: net px from tile to tile.
        window: longest side of a window, net px.
        argmax: whether windows consist of whole blocks, as dense argmax maps need.
        bands: the bundle's.
    """
    net = grid.net_height, grid.net_width
    plan = plan_scene(*net, geometry, mode=mode, step=step, window=window, argmax=argmax)
    across = sum(w.row.px == plan.windows[0].row.px for w in plan.windows)
    return SceneLayout(
        plan,
        owned([w.row.px.start for w in plan.windows[::across]], net[0]),
        owned([w.col.px.start for w in plan.windows[:across]], net[1]),
        canvas_of((grid.extent.height, grid.extent.width), net, bands),
    )


def owned(starts: Sequence[int], length: int) -> tuple[Span, ...]:
    """Which net px along an axis belong to each of some overlapping windows: up to the next's.

    Args:
        starts: of the windows, in order, the first from 0 on.
        length: of the axis; px beyond belong to none.
    """
    starts = [min(start, length) for start in starts]
    return tuple(Span(a, b) for a, b in zip(starts, [*starts[1:], length], strict=True))
