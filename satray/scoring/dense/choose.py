"""`mode=auto`: windows or tiles, whichever costs less of the two that give what is asked."""

from dataclasses import dataclass
from typing import Literal

from satray.scoring.dense.lattice import DenseGeometry, axis_tiles
from satray.scoring.dense.windows import WINDOW, plan_scene

Mode = Literal["dense", "tiles"]


@dataclass(frozen=True)
class Choice:
    """How a scene is scored, and why."""

    mode: Mode
    """dense: windows; tiles: one by one, as in training."""

    why: str
    """For a person."""

    dense_px: int | None
    """Net px that windows look at, halos included; None where there can be none."""

    tiles_px: int
    """Net px that tiles look at."""


def choose(
    height: int,
    width: int,
    geometry: DenseGeometry,
    *,
    step: int | None = None,
    window: int = WINDOW,
    argmax: bool = False,
    relative: float = 1.0,
) -> Choice:
    """Choose by arithmetic.

    Args:
        height: of the scene, in net px.
        width: the same.
        geometry: of the bundle.
        step: net px from tile to tile; None: no overlap.
        window: longest side of a window, in net px.
        argmax: whether argmax maps are asked for.
        relative: what a px costs in windows over what it costs in tiles, where that is measured.
    """
    tiles_px = geometry.size**2
    for length in (height, width):
        tiles_px *= len(axis_tiles(length, geometry, step or geometry.size))
    if geometry.why_tiles:
        return Choice("tiles", f"tiles: {geometry.why_tiles}", None, tiles_px)
    plan = plan_scene(height, width, geometry, step=step, window=window, argmax=argmax)
    dense_px = plan.px
    first = plan.windows[0]
    kept = f"windows of {first.height} x {first.width} px keep {plan.kept:.0%} of what they read"
    ratio = tiles_px / (dense_px * relative)
    if ratio > 1:
        why = f"dense: tiles would look at {ratio:.1f} x as many px ({kept})"
        return Choice("dense", why, dense_px, tiles_px)
    why = f"tiles: windows would cost {1 / ratio:.1f} x as much at this stride ({kept})"
    return Choice("tiles", why, dense_px, tiles_px)
