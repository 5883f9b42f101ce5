"""A bundle over windows of a scene: one forward a window, or one a tile.

Dense: each cell is that of one forward over the whole scene. Tiles: each is scored as in training,
and gives its own cells; where tiles overlap they are cut in the middle, so that border cells, which
saw zero padding, are a map's only where there are no others. Without overlap the cells of argmax
maps and the bias add up to the tile's logit; with overlap to nothing.

Legend: C bands, H x W net px, D features, h x w cells, K classes, k mapped, N tiles, B of a
forward, n cells of a tile along a side.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from affine import Affine
from numpy.typing import NDArray
from torch import Tensor

from satray.config.train import Pooling
from satray.data.values import filled
from satray.models.bundle import Bundle
from satray.models.network import LSE_SHARPNESS, argmax_cam, dense_cam
from satray.models.preprocess import normalize
from satray.score.forward import Features, TileForward, host, mean_over, numbers_of, turn_back
from satray.score.rasters import data_shares
from satray.score.results import MapRequest, Maps, WindowScores
from satray.score.scenes.grid import HALF, mostly
from satray.score.windows import (
    DenseGeometry,
    ScenePlan,
    Span,
    TowerLattice,
    Window,
    geometry_of,
    up,
)

CPU_PX = 1024 * 1024
"""Px of a forward's tiles at most on a CPU: more is hardly faster there, and takes memory."""
GATHERED = 1 << 24
"""Numbers that a gathered copy of features holds at most."""
PROBE = 256
"""Least side of what a network is measured on, net px; the next multiple of the block is taken."""


class _WindowScorer:
    """What both ways share."""

    def __init__(self, bundle: Bundle, plan: ScenePlan, maps: MapRequest, min_valid: float) -> None:
        self._bundle, self._plan, self._min_valid = bundle, plan, min_valid
        self._classes, self._kinds = maps.classes, maps.kinds
        variant = bundle.spec.variant
        several = variant.head == "linear" and len(variant.towers) > 1
        self._shared = tuple(tower.name for tower in variant.towers) if several else ()

    def _scores(
        self,
        logits_NK: Tensor,
        shares: dict[str, Tensor],
        maps: Maps,
        valid_HW: NDArray[np.bool_],
        window: Window,
    ) -> WindowScores:
        """Numbers of tiles, NaN and of no class where too little is valid; maps, NaN likewise."""
        parts, mostly_hw = {name: host(part) for name, part in shares.items()}, None
        numbers = numbers_of(self._bundle, logits_NK, parts)
        valid_N = self._valid(valid_HW, window)
        scored_N = (valid_N >= self._min_valid) & (valid_N > 0)
        for array in (numbers.logits, numbers.scores, *parts.values()):
            array[~scored_N] = np.nan
        numbers.preds[~scored_N] = 0
        for tower in self._plan.geometry.towers if maps else ():
            share_hw = self._data(valid_HW, tower, window)
            for by_tower in maps.values():
                by_tower[tower.name][:, share_hw == 0] = np.nan
            if tower == self._plan.geometry.finest:
                mostly_hw = share_hw >= HALF
        return WindowScores(numbers, scored_N, maps, mostly_hw)

    def _nothing(self, valid_HW: NDArray[np.bool_], window: Window) -> WindowScores:
        """Of a window without data."""
        nan_NK = torch.full((window.tiles, len(self._bundle.spec.classes)), torch.nan)
        shares = dict.fromkeys(self._shared, nan_NK)
        return self._scores(nan_NK, shares, self._empty(window), valid_HW, window)

    def _empty(self, window: Window) -> Maps:
        """Maps of the cells that the window gives, NaN."""
        made: Maps = {kind: {} for kind in self._kinds}
        for by_tower in made.values():
            for tower in self._plan.geometry.towers:
                cells = (len(span) for span in window.cells(tower.name))
                shape = len(self._classes), *cells
                by_tower[tower.name] = np.full(shape, np.nan, dtype=np.float32)
        return made

    def _valid(self, valid_HW: NDArray[np.bool_], window: Window) -> NDArray[np.float32]:
        """(N,) share of each tile's px that are valid."""
        tops, lefts = self._plan.corners(window)
        if valid_HW.min() == valid_HW.max():  # as of most; sums of many px cost as much as a layer
            return np.full(len(tops) * len(lefts), valid_HW[0, 0], dtype=np.float32)
        height, width = self._plan.rows.size, self._plan.cols.size
        sums = np.zeros((valid_HW.shape[0] + 1, valid_HW.shape[1] + 1), dtype=np.int64)
        sums[1:, 1:] = valid_HW.cumsum(0, dtype=np.int32).cumsum(1)
        rows = sums[tops + height] - sums[tops]
        counts = rows[:, lefts + width] - rows[:, lefts]
        shares: NDArray[np.float32] = (counts / (height * width)).astype(np.float32)
        return shares.ravel()

    def _data(
        self, valid_HW: NDArray[np.bool_], tower: TowerLattice, window: Window
    ) -> NDArray[np.float64]:
        """(h, w) share of valid px in the squares, a stride wide, of the cells that it gives."""
        rows, cols = window.cells(tower.name)
        h, w = len(rows), len(cols)
        if not h or not w or valid_HW.min() == valid_HW.max():
            return np.full((h, w), float(valid_HW[0, 0]))
        top, left = window.row.px.start, window.col.px.start
        cells = (
            Affine.translation(-left, -top)
            @ tower.affine()
            @ Affine.translation(cols.start, rows.start)
        )
        inside = self._plan.height - top, self._plan.width - left
        return data_shares(valid_HW, cells, h, w, inside)


class DenseScorer(_WindowScorer):
    """A bundle over windows of a scene; call it on pixels.

    Argmax maps of a scene: the lattice is cut into blocks of `tile_cells` x `tile_cells` cells
    from its origin on (smaller at its far edges), and each block has the argmax map of its own
    maxima. Its cells and the bias add up to the logit of the tile there, if tiles do not overlap.
    """

    def __init__(
        self,
        bundle: Bundle,
        plan: ScenePlan,
        maps: MapRequest,
        min_valid: float = 0.5,
        features: Features | None = None,
    ) -> None:
        """Prepare.

        Args:
            bundle: on the device that is to compute; its network is turned to channels last.
            plan: of the scene (with `argmax` where such maps are wanted).
            maps: maps to make.
            min_valid: share of a tile's px that are valid, below which it has no scores, 0 to 1.
            features: another way to the same features; None: the network, eager.

        Raises:
            InputError: the head is dense.
        """
        super().__init__(bundle, plan, maps, min_valid)
        if "argmax" in self._kinds and not plan.argmax:
            raise ValueError("argmax maps of a scene that was not planned for them")
        self._weights = bundle.network.cam_weights()
        self._bias = bundle.network.get_parameter("head.bias")
        bundle.network.to(memory_format=torch.channels_last)
        self._features = features or bundle.network.features

    @torch.inference_mode()
    def __call__(
        self, pixels_CHW: NDArray[np.generic], measured: NDArray[Any], window: Window
    ) -> WindowScores:
        """Score a window.

        Args:
            pixels_CHW: stored values on the net lattice, bands exactly the bundle's, in its
                order; of the whole window, also where it leaves the scene.
            measured: (H, W) or (C, H, W) bool, or share of each that is measured; nothing beyond
                the scene.
            window: of the plan.
        """
        valid_HW = mostly(measured)
        if not valid_HW.any():
            return self._nothing(valid_HW, window)
        found = mean_over(
            lambda x_1CHW, g: self._look(x_1CHW, window, g),
            network_input(self._bundle, pixels_CHW, measured),
            self._plan.geometry.d4,
        )
        parts = {name: found["share", name] for name in self._weights}
        logits_NK = self._bias + torch.stack(list(parts.values())).sum(0)
        shares = {name: parts[name] for name in self._shared}
        made: Maps = {
            kind: {name: host(found[kind, name]) for name in self._weights} for kind in self._kinds
        }
        return self._scores(logits_NK, shares, made, valid_HW, window)

    def _look(self, x_1CHW: Tensor, window: Window, g: int) -> dict[tuple[str, str], Tensor]:
        """Maps and shares of the window in one position."""
        made: dict[tuple[str, str], Tensor] = {}
        features = self._features(x_1CHW)
        for tower in self._plan.geometry.towers:
            w_KD = self._weights[tower.name]
            # where a tower's cells count from in this window
            first = [axis.px.start // tower.stride for axis in (window.row, window.col)]

            def cut(f_1Dhw: Tensor, spans: tuple[Span, ...], first: list[int] = first) -> Tensor:
                rows, cols = (span.within(start) for span, start in zip(spans, first, strict=True))
                return f_1Dhw[:, :, rows, cols].float()

            f_1Dhw = features.pop(tower.name)
            cells = tuple(tower.cells(side) for side in x_1CHW.shape[2:])
            if f_1Dhw.shape[2:] != cells:
                raise ValueError(f"tower {tower.name}: {f_1Dhw.shape[2:]} cells, planned: {cells}")
            f_1Dhw = turn_back(f_1Dhw, g)
            exact = tuple(axis.exact[tower.name] for axis in (window.row, window.col))
            made["share", tower.name] = self._shares(cut(f_1Dhw, exact), tower.name, window)
            core_1Dhw = cut(f_1Dhw, window.cells(tower.name))
            w_kD = w_KD[list(self._classes)]
            for kind in self._kinds:
                draw = dense_cam if kind == "dense" else _block_argmax(tower.tile_cells)
                made[kind, tower.name] = draw(core_1Dhw, w_kD)[0]
        return made

    def _shares(self, f_1Dhw: Tensor, tower: str, window: Window) -> Tensor:
        """s_NK: a tower's part of each tile's logits."""
        pooling, w_KD = self._bundle.spec.variant.pooling, self._weights[tower]
        # the mean of weighted features: few classes in place of many channels
        grid_Dhw = dense_cam(f_1Dhw, w_KD)[0] if pooling == "avg" else f_1Dhw[0]
        starts = []
        for axis, tiles in ((window.row, self._plan.rows), (window.col, self._plan.cols)):
            cells = tiles.starts[tower][axis.tiles.start : axis.tiles.stop]
            starts.append(torch.tensor(cells, dtype=torch.long) - axis.exact[tower].start)
        if not len(starts[0]) or not len(starts[1]):
            return w_KD.new_zeros(0, len(w_KD))
        tops_T, lefts_U = (s.to(f_1Dhw.device) for s in starts)
        counts = (self._plan.rows.counts[tower], self._plan.cols.counts[tower])
        pooled_DN = pool_footprints(grid_Dhw, tops_T, lefts_U, *counts, pooling).flatten(1)
        return pooled_DN.T if pooling == "avg" else pooled_DN.T @ w_KD.float().T


class TileScorer(_WindowScorer):
    """A bundle over windows of a scene, tile by tile; call it on pixels."""

    def __init__(
        self,
        bundle: Bundle,
        plan: ScenePlan,
        maps: MapRequest,
        min_valid: float = 0.5,
        batch: int = 16,
        features: Features | None = None,
    ) -> None:
        """Prepare.

        Args:
            bundle: on the device that is to compute; its network is turned to channels last.
            plan: of the scene.
            maps: maps to make.
            min_valid: share of a tile's px that are valid, below which it has no scores, 0 to 1.
            batch: tiles a forward; on a CPU fewer, where these hold more than `CPU_PX`.
            features: another way to the same features; None: the network, eager.

        Raises:
            InputError: maps of a network whose head is dense.
        """
        super().__init__(bundle, plan, maps, min_valid)
        self._batch = batch
        if bundle.device.type == "cpu":
            self._batch = min(batch, max(1, CPU_PX // plan.geometry.size**2))
        self._forward = TileForward(bundle, maps, d4=plan.geometry.d4, features=features)
        self._cores = {
            tower.name: (plan.rows.cores(tower), plan.cols.cores(tower))
            for tower in plan.geometry.towers
        }

    @torch.inference_mode()
    def __call__(
        self,
        pixels_CHW: NDArray[np.generic],
        measured: NDArray[Any],
        window: Window,
        fills_NC: NDArray[Any] | None = None,
    ) -> WindowScores:
        """Score a window.

        Args:
            pixels_CHW: stored values on the net lattice, bands exactly the bundle's, in its
                order; of the whole window.
            measured: (H, W) or (C, H, W) bool, or share of each that is measured; nothing beyond
                the scene.
            window: of the plan.
            fills_NC: what stands in for what is not measured in each of the window's tiles, where
                px are resampled; None: the tile's mean, as for a tile of its own. Beyond a scene
                that is smaller than a tile, the network sees the training mean.
        """
        valid_HW = mostly(measured)
        if not valid_HW.any():
            return self._nothing(valid_HW, window)
        x_1CHW = network_input(self._bundle, pixels_CHW, measured)
        places = self._plan.places(window)
        size, side = (self._plan.rows.size, self._plan.cols.size), self._plan.geometry.size

        def tile(n: int) -> Tensor:
            y, x = places[n]
            x_1Chw = x_1CHW[:, :, y : y + side, x : x + side]
            there = np.s_[..., y : y + size[0], x : x + size[1]]
            fill_C = None if fills_NC is None else fills_NC[n]
            values = tile_filled(pixels_CHW[there], measured[there], fill_C)
            if values is None:
                return x_1Chw
            own_1Chw = network_input(self._bundle, values, np.ones(size, bool))
            if size == (side, side):
                return own_1Chw
            x_1Chw = x_1Chw.clone()
            x_1Chw[:, :, : size[0], : size[1]] = own_1Chw
            return x_1Chw

        logits, parts, made = [], [], self._empty(window)
        for start in range(0, len(places), self._batch):
            some = range(start, min(start + self._batch, len(places)))
            found = self._forward(torch.cat([tile(n) for n in some]))
            logits.append(found.logits)
            parts.append(found.shares)
            for kind, by_tower in made.items():
                for name, maps_khw in by_tower.items():
                    self._put(maps_khw, host(found.maps[kind][name]), name, window, some)
        shares = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return self._scores(torch.cat(logits), shares, made, valid_HW, window)

    def _put(
        self,
        maps_khw: NDArray[np.float32],
        maps_Bknn: NDArray[np.float32],
        tower: str,
        window: Window,
        some: range,
    ) -> None:
        """Take the cells that some of a window's tiles give of their maps."""
        rows, cols = window.cells(tower)
        for n, maps_knn in zip(some, maps_Bknn, strict=True):
            i, j = divmod(n, len(window.col.tiles))
            row, col = window.row.tiles.start + i, window.col.tiles.start + j
            down, across = self._cores[tower][0][row], self._cores[tower][1][col]
            top, left = self._plan.rows.starts[tower][row], self._plan.cols.starts[tower][col]
            there = down.within(rows.start), across.within(cols.start)
            maps_khw[:, *there] = maps_knn[:, down.within(top), across.within(left)]


def network_input(
    bundle: Bundle, pixels_CHW: NDArray[np.generic], measured: NDArray[Any]
) -> Tensor:
    """Normalised x_1CHW (float32, channels last, on the bundle's device).

    Args:
        bundle: whose bands the channels are, in its order.
        pixels_CHW: stored values on the net lattice, any dtype; anything where not measured.
        measured: (H, W) or (C, H, W) bool, or share of each that is measured; below half the
            network sees the band's training mean.
    """
    way = bundle.spec.preprocess()
    pixels_1CHW = torch.from_numpy(np.ascontiguousarray(pixels_CHW))[None].to(bundle.device)
    x_1CHW = normalize(way.values(pixels_1CHW), way.mean, way.std)
    gap = measured < HALF
    if gap.any():
        x_1CHW = x_1CHW.masked_fill(torch.from_numpy(gap).to(bundle.device), 0.0)  # the mean
    return x_1CHW.contiguous(memory_format=torch.channels_last)


def tile_filled(
    pixels_CHW: NDArray[Any], measured: NDArray[Any], fill_C: NDArray[Any] | None
) -> NDArray[Any] | None:
    """A tile's pixels as a file of its own would have them; None where nothing is missing.

    Args:
        pixels_CHW: of the tile: means over what is measured.
        measured: (H, W) or (C, H, W) bool, or share of each that is measured.
        fill_C: what stands in for the rest; None: the tile's mean over what is measured.
    """
    if (measured == 1).all():
        return None
    share_CHW = np.broadcast_to(measured, pixels_CHW.shape)
    if measured.dtype == bool:
        return filled(pixels_CHW, share_CHW)
    if fill_C is None:
        raise ValueError("resampled tiles need what stands in for missing values")
    mixed_CHW: NDArray[Any] = pixels_CHW * share_CHW + fill_C[:, None, None] * (1 - share_CHW)
    return mixed_CHW


def pool_footprints(
    f_Dhw: Tensor, tops_T: Tensor, lefts_U: Tensor, height: int, width: int, pooling: Pooling
) -> Tensor:
    """p_DTU of the footprints that begin at each of `tops_T` x `lefts_U`, as `network.pool`.

    Pooling over a rectangle is pooling over its rows, then over its columns; each is done for all
    tiles together.

    Args:
        f_Dhw: float32.
        tops_T: first rows, in cells.
        lefts_U: first columns.
        height: of every footprint, in cells.
        width: the same.
        pooling: `avg`, `max` or `lse`.
    """
    if pooling == "max":
        return _maxima(_maxima(f_Dhw, 1, tops_T, height), 2, lefts_U, width)
    if pooling == "avg":
        return _gathered(_gathered(f_Dhw, 1, tops_T, height, "avg"), 2, lefts_U, width, "avg")
    cells = f_Dhw.new_tensor(height * width).log()
    r = LSE_SHARPNESS
    rows_DTw = _gathered(r * f_Dhw, 1, tops_T, height, "lse")
    return (_gathered(rows_DTw, 2, lefts_U, width, "lse") - cells) / r


def measure(bundle: Bundle, *, d4: bool = False, tiles: bool = False) -> DenseGeometry:
    """Run the network on a tile and on a small window of zeros: what planning needs to know.

    Args:
        bundle: on any device.
        d4: the geometry is to be that of means over the eight symmetries.
        tiles: with d4, whether tiles are turned one by one, or whole windows.

    Returns:
        Lattices, halos, tile and block; without halos where cells do not follow the length.

    Raises:
        InputError: strides that are no whole numbers.
    """
    spec = bundle.spec
    tile_cells = {name: cells[0] for name, cells in _cells(bundle, spec.size, spec.size).items()}
    short = {
        name: max(math.ceil(spec.size / grid.stride) - tile_cells[name], 0)
        for name, grid in spec.grids.items()
    }
    geometry = geometry_of(spec.grids, spec.size, tile_cells, short)
    if geometry.why_tiles is None:
        height = up(PROBE, geometry.block)
        width = height + geometry.block
        found, towers = _cells(bundle, height, width), []
        for tower in geometry.towers:
            h, w = found[tower.name]
            missing = height // tower.stride - h
            regular = width // tower.stride - w == missing >= 0
            halo = tower.halo if regular else None
            towers.append(replace(tower, halo=halo, short=max(missing, 0)))
        geometry = replace(geometry, towers=tuple(towers))
    return geometry.turned(tiles=tiles) if d4 else geometry


@torch.no_grad()
def _cells(bundle: Bundle, height: int, width: int) -> dict[str, tuple[int, int]]:
    """Rows and columns of each tower's features."""
    x_BCHW = torch.zeros(1, len(bundle.spec.bands), height, width, device=bundle.device)
    features = bundle.network.features(x_BCHW)
    return {name: (f.shape[2], f.shape[3]) for name, f in features.items()}


def _block_argmax(side: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The argmax map of each block of side x side cells, put together again."""

    def draw(f_1Dhw: Tensor, w_KD: Tensor) -> Tensor:
        _, D, h, w = f_1Dhw.shape
        if not h or not w:
            return f_1Dhw.new_zeros(1, len(w_KD), h, w)
        down, right = -(-h // side), -(-w // side)
        padding = (0, right * side - w, 0, down * side - h)
        f_Dhw = F.pad(f_1Dhw[0], padding, value=-torch.inf)
        f_BDnn = f_Dhw.view(D, down, side, right, side).permute(1, 3, 0, 2, 4)
        a_BKnn = argmax_cam(f_BDnn.reshape(-1, D, side, side), w_KD)
        a_Khw = a_BKnn.view(down, right, len(w_KD), side, side).permute(2, 0, 3, 1, 4)
        return a_Khw.reshape(1, len(w_KD), down * side, right * side)[:, :, :h, :w]

    return draw


def _maxima(f_Dhw: Tensor, axis: int, starts: Tensor, length: int) -> Tensor:
    """Maxima over `length` cells from each start: of runs of 2, 4, 8 ... that may overlap."""
    run, f = 1, f_Dhw
    while run < length:
        shift = min(run, length - run)
        n = f.shape[axis] - shift
        f = torch.maximum(f.narrow(axis, 0, n), f.narrow(axis, shift, n))
        run += shift
    return f.index_select(axis, starts)


def _gathered(
    f_Dhw: Tensor, axis: int, starts: Tensor, length: int, how: Literal["avg", "lse"]
) -> Tensor:
    """Means, or log-sum-exps, over `length` cells from each start; some channels at a time."""
    places = (starts[:, None] + torch.arange(length, device=starts.device)).flatten()
    other = f_Dhw.shape[3 - axis]
    channels = max(1, GATHERED // max(1, len(places) * other))
    parts = []
    for part in torch.split(f_Dhw, channels):
        shape = list(part.shape)
        shape[axis : axis + 1] = [len(starts), length]
        wide = part.index_select(axis, places).view(shape)
        parts.append(wide.mean(axis + 1) if how == "avg" else wide.logsumexp(axis + 1))
    return torch.cat(parts)
