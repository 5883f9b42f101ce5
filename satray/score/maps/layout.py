"""How a scene is scored, and the parts that it is read in. Pure.

A part is some windows that follow one another: what one task reads, and one forward call takes.
Every process that works on a scene lays it out anew, and alike.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from satray.errors import InputError
from satray.score.dense.windows import (
    DenseGeometry,
    Mode,
    ScenePlan,
    Span,
    Window,
    choose,
    plan_scene,
)
from satray.score.maps.overview import Canvas, Coverage, canvas_of, coverage_of
from satray.score.maps.settings import Settings
from satray.score.scenes.grid import NetGrid

PART_BYTES = 16 << 20
"""Bytes of the pixels of a part, about; one window at least."""
WIDER = 4
"""Times as many where a scene is decoded in strips: each part decodes whole rows of px."""


@dataclass(frozen=True)
class Geometries:
    """A bundle's geometry for either way."""

    dense: DenseGeometry
    """Windows."""
    tiles: DenseGeometry
    """Tiles one by one."""

    def of(self, mode: Mode) -> DenseGeometry:
        """The geometry of one way."""
        return self.dense if mode == "dense" else self.tiles


@dataclass(frozen=True)
class SceneLayout:
    """A scene in windows, and its overview."""

    plan: ScenePlan
    """Its windows."""
    rows: tuple[Span, ...]
    """Net rows that each row of windows shows alone."""
    cols: tuple[Span, ...]
    """Net columns that each column of windows shows alone."""
    canvas: Canvas
    """Its picture."""
    coverage: Coverage
    """Which cell each net px belongs to."""

    def alone(self, number: int) -> tuple[Span, Span]:
        """Net rows and columns that a window shows and counts, and no other does."""
        row, col = divmod(number, len(self.cols))
        return self.rows[row], self.cols[col]

    def parts(self, px_bytes: int, *, strips: bool = False) -> tuple[range, ...]:
        """Numbers of the windows of each part.

        Args:
            px_bytes: of a net px, all bands.
            strips: whether the scene is decoded in strips that are wider than a window.
        """
        most = WIDER * PART_BYTES if strips else PART_BYTES
        parts, start, size = [], 0, 0
        for number, window in enumerate(self.plan.windows):
            own = window.height * window.width * px_bytes
            if number > start and size + own > most:
                parts.append(range(start, number))
                start, size = number, 0
            size += own
        return (*parts, range(start, len(self.plan.windows)))


def layout_of(
    grid: NetGrid,
    mode: Mode,
    settings: Settings,
    geometries: Geometries,
    bands: tuple[str, ...],
) -> SceneLayout:
    """Lay out a scene of so many net px; the same in every process."""
    argmax = mode == "dense" and "argmax" in settings.kinds
    return _laid_out(
        (grid.height, grid.width), (grid.net_height, grid.net_width), geometries.of(mode), mode,
        settings.step, settings.window, argmax, bands,
    )  # fmt: skip


@functools.lru_cache(maxsize=8)  # of a large scene it takes a while, and each of its parts asks
def _laid_out(
    size: tuple[int, int],
    net: tuple[int, int],
    geometry: DenseGeometry,
    mode: Mode,
    step: int,
    window: int,
    argmax: bool,
    bands: tuple[str, ...],
) -> SceneLayout:
    plan = plan_scene(*net, geometry, mode=mode, step=step, window=window, argmax=argmax)
    across = sum(w.row.px == plan.windows[0].row.px for w in plan.windows)
    rows = [w.row.px.start for w in plan.windows[::across]]
    cols = [w.col.px.start for w in plan.windows[:across]]
    return SceneLayout(
        plan,
        owned(rows, net[0]),
        owned(cols, net[1]),
        canvas_of(size, net, bands),
        coverage_of(net, plan),
    )


def owned(starts: Sequence[int], length: int) -> tuple[Span, ...]:
    """Which net px along an axis belong to each of some overlapping windows: up to the next's.

    Args:
        starts: of the windows, in order, the first from 0 on.
        length: of the axis; px beyond belong to none.
    """
    starts = [min(start, length) for start in starts]
    return tuple(Span(a, b) for a, b in zip(starts, [*starts[1:], length], strict=True))


def mode_of(settings: Settings, geometries: Geometries) -> tuple[Mode, str]:
    """How all scenes of a run are scored, and why: by bundle and keys alone.

    Raises:
        InputError: windows are asked for and cannot be.
    """
    if settings.mode == "auto":
        return choose(
            geometries.dense,
            step=settings.step,
            window=settings.window,
            argmax="argmax" in settings.kinds,
        )
    mode: Mode = settings.mode
    if mode == "dense" and geometries.dense.why_tiles:
        raise InputError(
            f"mode=dense: found {geometries.dense.why_tiles}; accepted: mode=tiles or auto"
        )
    return mode, f"{mode}: mode={mode}"


def px_bytes(grid: NetGrid, bands: Sequence[str], dtype: str) -> int:
    """Bytes of a net px as it travels: as stored, or values and shares in float32."""
    return len(bands) * (8 if grid.resampled else np.dtype(dtype).itemsize)


def tiles_of(window: Window, plan: ScenePlan) -> list[tuple[int, int]]:
    """First row and column of a window's tiles, net px of the window, in row order."""
    tops, lefts = plan.corners(window)
    return [(int(top), int(left)) for top in tops for left in lefts]
