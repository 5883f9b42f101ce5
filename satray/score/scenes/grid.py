"""Grids of px: a scene's files on the finest's, the network's over a scene, and resampling. Pure.

Stored px are those of the file, net px those of the network's lattice after resampling. Resampling
is bilinear and antialiased, with the weights of `torch.nn.functional.interpolate(mode="bilinear",
antialias=True)`, taken from where a px lies on the whole axis: parts that meet agree to the last
digit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from scipy.sparse import csr_array

from satray.data.georeference import pixel_size
from satray.errors import DecodeError
from satray.score.outlines import SceneExtent

if TYPE_CHECKING:
    from satray.models.spec import BundleSpec  # torch

TOLERANCE = 0.01
"""Parts of a px of the finest grid by which corners may miss each other."""
NEAR_WHOLE = 0.005
"""Factors this near to a whole one, or to one over a whole one, are taken as that."""
FACTORS = (1 / 256, 16.0)
"""Smallest and largest factor: beyond, the ground that the bundle knows is not in the scene."""
MAX_PIXELS = 2**40
"""Most net px of a scene."""
HALF = 0.5
"""Share of a filter's weight from which on a px is measured enough to count as data."""

Gsd = Literal["auto", "none"] | float


@dataclass(frozen=True)
class NetGrid:
    """A scene's grid of net px."""

    extent: SceneExtent
    """The scene's size and place, stored px."""
    net_height: int
    """Rows, net px."""
    net_width: int
    """Columns, net px."""
    why: str
    """How the factors came about, for a person; one line."""

    @property
    def scale_x(self) -> float:
        """Net px a stored px along a row."""
        return self.net_width / self.extent.width

    @property
    def scale_y(self) -> float:
        """Net px a stored px along a column."""
        return self.net_height / self.extent.height

    @property
    def affine_net(self) -> Affine:
        """Net px corners to CRS units."""
        stored = self.extent.width / self.net_width, self.extent.height / self.net_height
        return self.extent.affine @ Affine.scale(*stored)

    @property
    def resampled(self) -> bool:
        """Whether net px are other than stored px."""
        return (self.net_height, self.net_width) != (self.extent.height, self.extent.width)


@dataclass(frozen=True)
class Lane:
    """Part of one axis: which source px it needs, and how much of each."""

    first: int
    """First source px."""
    count: int
    """Source px."""
    matrix: Any
    """Sparse (n, count), rows sum to 1; float64."""


def ratios(grids: Sequence[SceneExtent]) -> tuple[int, tuple[int, ...]]:
    """Which file of a scene is the finest, and how many of its px a px of each file is long.

    Raises:
        DecodeError: sizes that are no whole multiples, another CRS, other extents.
    """
    fine = max(grids, key=lambda grid: (grid.height, grid.width))
    found = []
    for grid in grids:
        ratio, refusal = fine.height // grid.height, None
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


def net_grid(extent: SceneExtent, spec: "BundleSpec", gsd: Gsd = "auto") -> NetGrid:
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
    ground_x, ground_y, why = _ground(extent, spec, gsd)
    shape = spec.tile_shape
    resize = spec.preprocess().geometry(*shape)
    own_y, own_x = resize.resized_height / shape[0], resize.resized_width / shape[1]
    if (own_y, own_x) != (1, 1):
        why += f"; training resized tiles by {_pair(own_x, own_y)}"
    factors = []
    for ground, own in ((ground_x, own_x), (ground_y, own_y)):
        if not FACTORS[0] <= ground <= FACTORS[1]:
            raise DecodeError(
                f"{why}: {ground:.4g} net px a px; accepted: 1/256 to 16 (gsd=none takes px as "
                "they are)"
            )
        whole = max(1, round(ground)) if ground >= 1 else 1 / round(1 / ground)
        factor = own * (whole if abs(ground / whole - 1) <= NEAR_WHOLE else ground)
        factors.append(1.0 if abs(factor - 1) <= NEAR_WHOLE else factor)
    net_width = max(1, round(extent.width * factors[0]))
    net_height = max(1, round(extent.height * factors[1]))
    if net_width * net_height > MAX_PIXELS:
        raise DecodeError(f"{why}: {net_height:,} x {net_width:,} net px; at most 2^40")
    return NetGrid(extent, net_height, net_width, why)


def mostly(measured: NDArray[Any]) -> NDArray[np.bool_]:
    """Where all bands are measured: shares (C, H, W) of `HALF` at least, or (H, W) for all."""
    enough: NDArray[np.bool_] = measured >= HALF
    if measured.ndim == 3:
        enough = np.asarray(enough.all(axis=0))
    return enough


def lane(start: int, stop: int, size: int, wanted: int) -> Lane:
    """The px `start` to `stop` of an axis of `size` px resampled to `wanted` px.

    Args:
        start: first px of the part, of the resampled axis.
        stop: px after the last; beyond `start`.
        size: px of the source's axis.
        wanted: px of the whole axis when resampled.
    """
    scale = size / wanted
    support = max(scale, 1.0)
    centre_n = (np.arange(start, stop) + 0.5) * scale
    low_n = np.floor(centre_n - support).astype(np.int64)
    at_nT = low_n[:, None] + np.arange(int(np.ceil(2 * support)) + 2)
    weight_nT = np.maximum(1 - np.abs(at_nT + 0.5 - centre_n[:, None]) / support, 0)
    weight_nT[(at_nT < 0) | (at_nT >= size)] = 0
    weight_nT /= weight_nT.sum(axis=1, keepdims=True)
    used_nT = weight_nT > 0
    used = at_nT[used_nT]
    first, count = int(used.min()), int(used.max() - used.min()) + 1
    edges = np.concatenate([[0], np.cumsum(used_nT.sum(axis=1))])
    shape = stop - start, count
    return Lane(first, count, csr_array((weight_nT[used_nT], used - first, edges), shape=shape))


def resampled(
    x_CHW: NDArray[Any], valid_CHW: NDArray[np.bool_], rows: Lane, columns: Lane
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Resample what two lanes need: each px is the mean over the valid px under its filter.

    Args:
        x_CHW: source px, `rows.count` x `columns.count`, any integer or float dtype.
        valid_CHW: which of them count.
        rows: vertical part.
        columns: horizontal part.

    Returns:
        Values (float32; float64 of 64-bit and of 32-bit whole numbers), 0 where nothing counts; and
        the share of the filter's weight that counts, (C, h, w).
    """
    working = np.float32 if x_CHW.dtype.itemsize <= 2 or x_CHW.dtype == np.float32 else np.float64
    down, across = rows.matrix.astype(working), columns.matrix.astype(working)

    def part(x_HW: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray((across @ (down @ x_HW).T).T)

    y_CHW = np.empty((len(x_CHW), down.shape[0], across.shape[0]), working)
    weight_CHW = np.ones_like(y_CHW)
    for y_HW, weight_HW, x_HW, valid_HW in zip(y_CHW, weight_CHW, x_CHW, valid_CHW, strict=True):
        clean_HW = x_HW.astype(working)
        if not valid_HW.all():
            clean_HW[~valid_HW] = 0
            weight_HW[:] = part(valid_HW.astype(working))
            weight_HW[weight_HW >= 1 - 1e-5] = 1  # rounding must not tell a whole part from another
        y_HW[:] = part(clean_HW) / np.where(weight_HW > 0, weight_HW, 1)
    return y_CHW, weight_CHW


def _miss(grid: SceneExtent, fine: SceneExtent, ratio: int) -> float:
    """Largest distance between corners of both, in px of the finer one."""
    if grid.transform is fine.transform is None:
        return 0.0
    to_fine = ~fine.affine @ grid.affine
    corners = [(column, row) for column in (0, grid.width) for row in (0, grid.height)]
    found = [(*(to_fine @ corner), *corner) for corner in corners]
    return max(math.hypot(x - ratio * col, y - ratio * row) for x, y, col, row in found)


def _ground(extent: SceneExtent, spec: "BundleSpec", gsd: Gsd) -> tuple[float, float, str]:
    """Ground factors of x and y, and why."""
    affine, crs = extent.affine, extent.crs
    if gsd == "none":
        return 1.0, 1.0, "px as they are (gsd=none)"
    target_x, target_y = spec.resolution, spec.resolution_y or spec.resolution
    if gsd != "auto":
        target_x = target_y = float(gsd)
    pixel = pixel_size(extent.height, extent.width, crs, extent.transform)
    if gsd == "auto" and crs and pixel:
        steps = math.hypot(affine.a, affine.d), math.hypot(affine.b, affine.e)
        if any(trained.hold(crs, steps, pixel) for trained in spec.trained_px):
            why = f"px as they are: {_pair(*pixel)} m, as tiles of the bundle have them"
            return 1.0, 1.0, why
    if target_x is None or target_y is None:
        return 1.0, 1.0, "px as they are: the bundle states no resolution"
    if pixel is None:
        return 1.0, 1.0, "px as they are: without a place on the ground"
    sizes = f"px of {_pair(*pixel)} m, the bundle's {_pair(target_x, target_y)} m"
    return pixel[0] / target_x, pixel[1] / target_y, sizes


def _pair(x: float, y: float) -> str:
    short_x, short_y = f"{x:.4g}", f"{y:.4g}"
    return short_x if short_x == short_y else f"{short_x} x {short_y}"
