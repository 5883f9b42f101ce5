"""Several files of one scene on one grid: the finest one's. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from satray.errors import DecodeError

TOLERANCE = 0.01
"""Parts of a px of the finest grid by which corners may miss each other."""


@dataclass(frozen=True)
class FileGrid:
    """The grid of one file."""

    name: str
    """For messages."""
    height: int
    """Rows."""
    width: int
    """Columns."""
    crs: str | None
    """CRS; None without."""
    transform: tuple[float, ...] | None
    """Affine, rasterio's order; None without georeference."""
    note: str = ""
    """What to know about its georeference."""


def ratios(grids: Sequence[FileGrid]) -> tuple[int, tuple[int, ...]]:
    """Which file is the finest, and how many of its px a px of each file is long.

    Raises:
        DecodeError: sizes that are no whole multiples, another CRS, other extents.
    """
    finest = max(range(len(grids)), key=lambda i: (grids[i].height, grids[i].width, -i))
    fine = grids[finest]
    found = []
    for grid in grids:
        ratio = fine.height // grid.height
        if (ratio * grid.height, ratio * grid.width) != (fine.height, fine.width):
            raise DecodeError(
                f"files do not fit: {grid.name} is {grid.height} x {grid.width} px, {fine.name} "
                f"{fine.height} x {fine.width}; accepted: one size, or whole multiples"
            )
        if grid.crs != fine.crs:
            raise DecodeError(
                f"files do not fit: {grid.name} is in {_shown(grid.crs)}, {fine.name} in "
                f"{_shown(fine.crs)}; accepted: one CRS"
            )
        miss = _miss(grid, fine, ratio)
        if not miss <= TOLERANCE:
            raise DecodeError(
                f"files do not fit: corners of {grid.name} and {fine.name} lie {miss:.3g} px "
                "apart; accepted: one extent"
            )
        found.append(ratio)
    return finest, tuple(found)


def _miss(grid: FileGrid, fine: FileGrid, ratio: int) -> float:
    """Largest distance between corners of both, in px of the finer one."""
    if grid.transform is None or fine.transform is None:
        return 0.0 if grid.transform == fine.transform else math.inf
    a, b, c, d, e, f = fine.transform[:6]
    area = a * e - b * d
    if area == 0 or not math.isfinite(area):
        return 0.0 if ratio == 1 and grid.transform == fine.transform else math.inf
    worst = 0.0
    for row, column in ((0, 0), (0, grid.width), (grid.height, 0), (grid.height, grid.width)):
        A, B, C, D, E, F = grid.transform[:6]
        dx = A * column + B * row + C - (a * column * ratio + b * row * ratio + c)
        dy = D * column + E * row + F - (d * column * ratio + e * row * ratio + f)
        worst = max(worst, math.hypot((e * dx - b * dy) / area, (a * dy - d * dx) / area))
    return worst


def _shown(crs: str | None) -> str:
    return "no CRS" if crs is None else crs[:60]
