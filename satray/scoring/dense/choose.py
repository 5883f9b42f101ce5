"""`mode=auto`: windows or tiles, whichever costs less of the two that give what is asked.

One way for a whole run: the two frame tiles otherwise, so that scores of scenes that were scored in
different ways could not be compared. What decides is the bundle and the keys, on a scene of `SIDE`.
"""

from dataclasses import dataclass
from typing import Literal

from satray.scoring.dense.lattice import DenseGeometry, axis_tiles
from satray.scoring.dense.windows import WINDOW, plan_scene

Mode = Literal["dense", "tiles"]

SIDE = 10_240
"""Side, in net px, of the scene that stands for all: about that of Sentinel-2's and Landsat's."""


@dataclass(frozen=True)
class Choice:
    """How scenes are scored, and why."""

    mode: Mode
    """dense: windows; tiles: one by one, as in training."""

    why: str
    """For a person."""

    dense_px: int | None
    """Net px that windows look at, halos included; None where there can be none."""

    tiles_px: int
    """Net px that tiles look at."""


def choose(
    geometry: DenseGeometry,
    *,
    step: int | None = None,
    window: int = WINDOW,
    argmax: bool = False,
) -> Choice:
    """Choose by arithmetic.

    Args:
        geometry: of the bundle.
        step: net px from tile to tile; None: no overlap.
        window: longest side of a window, in net px.
        argmax: whether argmax maps are asked for.
    """
    tiles_px = (geometry.size * len(axis_tiles(SIDE, geometry, step or geometry.size))) ** 2
    if geometry.why_tiles:
        return Choice("tiles", f"tiles: {geometry.why_tiles}", None, tiles_px)
    plan = plan_scene(SIDE, SIDE, geometry, step=step, window=window, argmax=argmax)
    first = plan.windows[0]
    kept = f"windows of {first.height} x {first.width} px keep {plan.kept:.0%} of what they read"
    ratio = tiles_px / plan.px
    if ratio > 1:
        why = f"dense: tiles of large scenes would look at {ratio:.1f} x as many px ({kept})"
        return Choice("dense", why, plan.px, tiles_px)
    why = f"tiles: windows of large scenes would cost {1 / ratio:.1f} x as much ({kept})"
    return Choice("tiles", why, plan.px, tiles_px)
