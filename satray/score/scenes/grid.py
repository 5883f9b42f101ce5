"""Grids of px: several files of one scene on the finest's, and the network's over a scene. Pure.

Stored px are those of the file, net px those of the network's lattice after resampling.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from affine import Affine

from satray.data.georeference import pixel_size
from satray.errors import DecodeError
from satray.score.outlines import SceneExtent

if TYPE_CHECKING:
    from satray.models.spec import BundleSpec  # torch

TOLERANCE = 0.01
"""Parts of a px of the finest grid by which corners may miss each other."""
NEAR_WHOLE = 0.005
"""Factors this near to a whole one, or to one over a whole one, are taken as that."""
MAX_FACTOR = 16.0
"""Largest factor: beyond, the ground that the bundle knows is not in the scene."""
MIN_FACTOR = 1 / 256
"""Smallest factor."""
MAX_PIXELS = 2**40
"""Most net px of a scene."""

Gsd = Literal["auto", "none"] | float


@dataclass(frozen=True)
class NetGrid:
    """A scene's grid of net px."""

    height: int
    """Rows of the scene, stored px."""
    width: int
    """Columns of the scene, stored px."""
    net_height: int
    """Rows, net px."""
    net_width: int
    """Columns, net px."""
    affine: Affine
    """Stored px corners to CRS units; without georeference x = column, y = -row."""
    affine_net: Affine
    """Net px corners to CRS units."""
    crs: str | None
    """CRS; None: pixel coordinates."""
    scale_x: float
    """Net px a stored px along a row, exactly `net_width / width`."""
    scale_y: float
    """Net px a stored px along a column, exactly `net_height / height`."""
    why: str
    """How the factors came about, for a person; one line."""

    @property
    def resampled(self) -> bool:
        """Whether net px are other than stored px."""
        return (self.net_height, self.net_width) != (self.height, self.width)


def ratios(grids: Sequence[SceneExtent]) -> tuple[int, tuple[int, ...]]:
    """Which file of a scene is the finest, and how many of its px a px of each file is long.

    Raises:
        DecodeError: sizes that are no whole multiples, another CRS, other extents.
    """
    fine = max(grids, key=lambda grid: (grid.height, grid.width))
    found = []
    for grid in grids:
        ratio = fine.height // grid.height
        refusal = None
        if (ratio * grid.height, ratio * grid.width) != (fine.height, fine.width):
            refusal = (
                f"{grid.scene} is {grid.height} x {grid.width} px, {fine.scene} {fine.height} x "
                f"{fine.width}; accepted: one size, or whole multiples"
            )
        elif grid.crs != fine.crs:
            one, other = (crs[:60] if crs else "no CRS" for crs in (grid.crs, fine.crs))
            refusal = f"{grid.scene} is in {one}, {fine.scene} in {other}; accepted: one CRS"
        elif not (miss := _miss(grid, fine, ratio)) <= TOLERANCE:
            refusal = (
                f"corners of {grid.scene} and {fine.scene} lie {miss:.3g} px apart; accepted: one "
                "extent"
            )
        if refusal:
            raise DecodeError(f"files do not fit: {refusal}")
        found.append(ratio)
    return grids.index(fine), tuple(found)


def net_grid(
    extent: SceneExtent,
    spec: "BundleSpec",
    gsd: Gsd = "auto",
) -> NetGrid:
    """Lay a scene's grid of net px.

    A net px is a stored px times the ground factor (the scene's m a px, over the bundle's; 1 for px
    of a grid that tiles were cut from) times the resize that training did of its own tiles.

    Args:
        extent: the scene's, stored px.
        spec: the bundle's.
        gsd: auto: the bundle's resolution where both are known; none: px are px; a number: the
            metres of a stored px that the bundle was trained on.

    Raises:
        DecodeError: an affine without area, or a ground too far from the bundle's.
    """
    affine, crs, height, width = extent.affine, extent.crs, extent.height, extent.width
    pixel = pixel_size(height, width, crs, extent.transform)
    ground_x, ground_y, why = _ground(pixel, spec, gsd)
    if gsd == "auto" and crs and pixel:
        steps = math.hypot(affine.a, affine.d), math.hypot(affine.b, affine.e)
        if any(trained.hold(crs, steps, pixel) for trained in spec.trained_px):
            ground_x, ground_y = 1.0, 1.0
            why = f"px as they are: {_pair(*pixel)} m, as tiles of the bundle have them"
    shape = spec.tile_shape
    resize = spec.preprocess().geometry(*shape)
    own_y, own_x = resize.resized_height / shape[0], resize.resized_width / shape[1]
    if (own_y, own_x) != (1, 1):
        why += f"; training resized tiles by {_pair(own_x, own_y)}"
    for factor in (ground_x, ground_y):
        if not MIN_FACTOR <= factor <= MAX_FACTOR:
            raise DecodeError(
                f"{why}: {factor:.4g} net px a px; accepted: 1/256 to 16 (gsd=none takes px as "
                "they are)"
            )
    asked_x, asked_y = (
        1.0 if abs(factor - 1) <= NEAR_WHOLE else factor
        for factor in (_rounded(ground_x) * own_x, _rounded(ground_y) * own_y)
    )
    net_width, net_height = max(1, round(width * asked_x)), max(1, round(height * asked_y))
    if net_width * net_height > MAX_PIXELS:
        raise DecodeError(f"{why}: {net_height:,} x {net_width:,} net px; at most 2^40")
    return NetGrid(
        height=height,
        width=width,
        net_height=net_height,
        net_width=net_width,
        affine=affine,
        affine_net=affine @ Affine.scale(width / net_width, height / net_height),
        crs=crs,
        scale_x=net_width / width,
        scale_y=net_height / height,
        why=why,
    )


def _miss(grid: SceneExtent, fine: SceneExtent, ratio: int) -> float:
    """Largest distance between corners of both, in px of the finer one."""
    if grid.transform is fine.transform is None:
        return 0.0
    to_fine = ~fine.affine @ grid.affine
    corners = [(column, row) for column in (0, grid.width) for row in (0, grid.height)]
    found = [(*(to_fine @ corner), *corner) for corner in corners]
    return max(math.hypot(x - ratio * col, y - ratio * row) for x, y, col, row in found)


def _ground(
    pixel: tuple[float, float] | None, spec: "BundleSpec", gsd: Gsd
) -> tuple[float, float, str]:
    """Ground factors of x and y, and why."""
    if gsd == "none":
        return 1.0, 1.0, "px as they are (gsd=none)"
    target_x, target_y = spec.resolution, spec.resolution_y or spec.resolution
    if gsd != "auto":
        target_x = target_y = float(gsd)
    if target_x is None or target_y is None:
        return 1.0, 1.0, "px as they are: the bundle states no resolution"
    if pixel is None:
        return 1.0, 1.0, "px as they are: without a place on the ground"
    sizes = f"px of {_pair(*pixel)} m, the bundle's {_pair(target_x, target_y)} m"
    return pixel[0] / target_x, pixel[1] / target_y, sizes


def _rounded(factor: float) -> float:
    whole = max(1, round(factor)) if factor >= 1 else 1 / round(1 / factor)
    return whole if abs(factor / whole - 1) <= NEAR_WHOLE else factor


def _pair(x: float, y: float) -> str:
    short_x, short_y = f"{x:.4g}", f"{y:.4g}"
    return short_x if short_x == short_y else f"{short_x} x {short_y}"
