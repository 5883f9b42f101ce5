"""A scene's job: how it is scored, and its units of work. Pure.

A unit is some rows of windows, the whole width of the scene: what one process does at a time, and
what is done again when one dies.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from satray.errors import InputError
from satray.scoring.dense.windows import (
    DenseGeometry,
    Mode,
    ScenePlan,
    Span,
    Window,
    choose,
    plan_scene,
)
from satray.scoring.maps.settings import Settings

UNIT_PX = 32 << 20
"""Net px that the forwards of a unit look at, about: some seconds of work."""


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
class Way:
    """How a scene is scored."""

    mode: Mode
    """dense or tiles."""
    why: str
    """For a person."""
    rows: int
    """Rows of windows."""
    px: int
    """Net px that all forwards look at."""
    units: tuple[Span, ...]
    """Rows of windows that each unit takes."""


@dataclass(frozen=True)
class Row:
    """Windows side by side."""

    parts: tuple[Window, ...]
    """From left to right."""

    @property
    def px(self) -> Span:
        """Net px downwards."""
        return self.parts[0].row.px

    @property
    def tiles(self) -> Span:
        """Rows of tiles that are scored."""
        return self.parts[0].row.tiles


def plan_of(
    height: int, width: int, mode: Mode, settings: Settings, geometries: Geometries
) -> ScenePlan:
    """The plan of a scene of so many net px; the same in every process."""
    return plan_scene(
        height,
        width,
        geometries.of(mode),
        mode=mode,
        step=settings.step,
        window=settings.window,
        argmax=mode == "dense" and "argmax" in settings.kinds,
    )


def rows_of(plan: ScenePlan) -> tuple[Row, ...]:
    """The rows of a plan, from above."""
    rows: dict[int, list[Window]] = {}
    for window in plan.windows:
        rows.setdefault(window.row.px.start, []).append(window)
    return tuple(Row(tuple(parts)) for parts in rows.values())


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


def way_of(height: int, width: int, settings: Settings, geometries: Geometries) -> Way:
    """Cut a scene of so many net px into units, for the run's way; raises as `mode_of`."""
    mode, why = mode_of(settings, geometries)
    plan = plan_of(height, width, mode, settings, geometries)
    rows = rows_of(plan)
    return Way(
        mode, why, len(rows), plan.px, cut([sum(map(plan.forward_px, row.parts)) for row in rows])
    )


def cut(costs: Sequence[int], most: int = UNIT_PX) -> tuple[Span, ...]:
    """Cut rows into units of `most` px, or of one row."""
    units: list[Span] = []
    start, px = 0, 0
    for row, cost in enumerate(costs):
        if row > start and px + cost > most:
            units.append(Span(start, row))
            start, px = row, 0
        px += cost
    return (*units, Span(start, len(costs)))


def owned(rows: Sequence[Span], length: int) -> list[Span]:
    """Which net px along an axis belong to each of some overlapping spans: up to the next's first.

    Args:
        rows: spans in order, the first from 0 on.
        length: of the axis; px beyond belong to none.
    """
    starts = [min(span.start, length) for span in rows]
    stops = [*starts[1:], length]
    return [Span(a, b) for a, b in zip(starts, stops, strict=True)]
