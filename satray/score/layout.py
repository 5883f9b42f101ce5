"""A scene in windows, and in parts: what one task reads, and one forward call takes. Pure.

Every process that works on a scene lays it out anew, and alike. Each net px belongs to one window
that shows and counts it, so that the windows' parts of picture and coverage add up.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from satray.score.overview import Canvas, Coverage, canvas_of, coverage_of
from satray.score.windows import DenseGeometry, Mode, ScenePlan, Span, plan_scene

PART_BYTES = 64 << 20
"""Bytes of the pixels of a part, about; one window at least. Blocks of a file that several parts
need are decoded by each."""


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
    size: tuple[int, int],
    net: tuple[int, int],
    geometry: DenseGeometry,
    mode: Mode,
    step: int,
    window: int,
    argmax: bool,
    bands: tuple[str, ...],
) -> SceneLayout:
    """Lay out a scene.

    Args:
        size: height and width, stored px.
        net: the same, net px.
        geometry: of the bundle.
        mode: whether a forward is a window or a tile.
        step: net px from tile to tile.
        window: longest side of a window, net px.
        argmax: whether windows consist of whole blocks, as dense argmax maps need.
        bands: the bundle's.
    """
    plan = plan_scene(*net, geometry, mode=mode, step=step, window=window, argmax=argmax)
    across = sum(w.row.px == plan.windows[0].row.px for w in plan.windows)
    return SceneLayout(
        plan,
        owned([w.row.px.start for w in plan.windows[::across]], net[0]),
        owned([w.col.px.start for w in plan.windows[:across]], net[1]),
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
