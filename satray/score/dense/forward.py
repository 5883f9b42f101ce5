"""One forward over a window of a scene: maps of its core, numbers of its tiles.

Legend: C bands, H x W net px, D features, h x w cells, K classes, N tiles.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from satray.config.train import Pooling
from satray.models.bundle import Bundle
from satray.models.cam import argmax_cam, dense_cam
from satray.score.dense.answers import host, nothing, tile_scores
from satray.score.dense.inputs import blank_cells, network_input, valid_shares
from satray.score.dense.pooling import pool_footprints
from satray.score.dense.windows import ScenePlan, TowerLattice, Window
from satray.score.forward import Features, mean_over, turn_back
from satray.score.results import Maps, Wanted, WindowScores
from satray.score.scenes.grid import mostly


class DenseScorer:
    """A bundle over windows of a scene; call it on pixels.

    Argmax maps of a scene: the lattice is cut into blocks of `tile_cells` x `tile_cells` cells
    from its origin on (smaller at its far edges), and each block has the argmax map of its own
    maxima. Its cells and the bias add up to the logit of the tile there, if tiles do not overlap.
    """

    def __init__(
        self, bundle: Bundle, plan: ScenePlan, wanted: Wanted, features: Features | None = None
    ) -> None:
        """Prepare.

        Args:
            bundle: on the device that is to compute; its network is turned to channels last.
            plan: of the scene (with `argmax` where such maps are wanted).
            wanted: maps and numbers.
            features: another way to the same features; None: the network, eager.

        Raises:
            InputError: the head is dense.
        """
        if "argmax" in wanted.kinds and not plan.argmax:
            raise ValueError("argmax maps of a scene that was not planned for them")
        self._bundle, self._plan, self._wanted = bundle, plan, wanted
        self._weights = bundle.network.cam_weights()
        self._bias = bundle.network.get_parameter("head.bias")
        bundle.network.to(memory_format=torch.channels_last)
        self._features = features or bundle.network.features
        self._shared = tuple(self._weights) if len(self._weights) > 1 else ()

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
        valid_N = self._valid(valid_HW, window)
        if not valid_HW.any():
            return WindowScores(nothing(self._bundle, valid_N, self._shared), self._no_maps(window))
        x_1CHW = network_input(self._bundle, pixels_CHW, measured)
        found = mean_over(
            lambda x_1CHW, g: self._look(x_1CHW, window, g), x_1CHW, self._plan.geometry.d4
        )
        parts = {name: found["share", name] for name in self._weights}
        logits_NK = self._bias + torch.stack(list(parts.values())).sum(0)
        shares = {name: parts[name] for name in self._shared}
        tiles = tile_scores(self._bundle, logits_NK, shares, valid_N, self._wanted.min_valid)
        return WindowScores(tiles, self._masked(found, valid_HW, window))

    def _look(self, x_1CHW: Tensor, window: Window, g: int) -> dict[tuple[str, str], Tensor]:
        """Maps and shares of the window in one position."""
        pooling = self._bundle.spec.variant.pooling
        made: dict[tuple[str, str], Tensor] = {}
        features = self._features(x_1CHW)
        for tower in self._plan.geometry.towers:
            w_KD = self._weights[tower.name]
            exact = [axis.exact[tower.name] for axis in (window.row, window.col)]
            # where a tower's cells count from in this window
            first = [axis.px.start // tower.stride for axis in (window.row, window.col)]
            f_1Dhw = features.pop(tower.name)
            cells = tuple(tower.cells(side) for side in x_1CHW.shape[2:])
            if f_1Dhw.shape[2:] != cells:
                raise ValueError(f"tower {tower.name}: {f_1Dhw.shape[2:]} cells, planned: {cells}")
            f_1Dhw = turn_back(f_1Dhw, g)
            rows, cols = (span.within(start) for span, start in zip(exact, first, strict=True))
            exact_1Dhw = f_1Dhw[:, :, rows, cols].float()
            made["share", tower.name] = self._shares(exact_1Dhw, w_KD, tower, window, pooling)
            rows, cols = (
                span.within(start)
                for span, start in zip(window.cells(tower.name), first, strict=True)
            )
            core_1Dhw = f_1Dhw[:, :, rows, cols].float()
            w_kD = w_KD[list(self._wanted.classes)]
            for kind in self._wanted.kinds:
                draw = dense_cam if kind == "dense" else _block_argmax(tower.tile_cells)
                made[kind, tower.name] = draw(core_1Dhw, w_kD)[0]
        return made

    def _shares(
        self,
        f_1Dhw: Tensor,
        w_KD: Tensor,
        tower: TowerLattice,
        window: Window,
        pooling: Pooling,
    ) -> Tensor:
        """s_NK: the tower's part of each tile's logits."""
        name = tower.name
        # the mean of weighted features: few classes in place of many channels
        grid_Dhw = dense_cam(f_1Dhw, w_KD)[0] if pooling == "avg" else f_1Dhw[0]
        starts = []
        for axis, tiles in ((window.row, self._plan.rows), (window.col, self._plan.cols)):
            cells = tiles.starts[name][axis.tiles.start : axis.tiles.stop]
            starts.append(torch.tensor(cells, dtype=torch.long) - axis.exact[name].start)
        if not len(starts[0]) or not len(starts[1]):
            return w_KD.new_zeros(0, len(w_KD))
        tops_T, lefts_U = (s.to(f_1Dhw.device) for s in starts)
        counts = (self._plan.rows.counts[name], self._plan.cols.counts[name])
        pooled_DN = pool_footprints(grid_Dhw, tops_T, lefts_U, *counts, pooling).flatten(1)
        return pooled_DN.T if pooling == "avg" else pooled_DN.T @ w_KD.float().T

    def _valid(self, valid_HW: NDArray[np.bool_], window: Window) -> NDArray[np.float32]:
        plan = self._plan
        tops, lefts = plan.corners(window)
        if not len(tops) or not len(lefts):
            return np.zeros(0, dtype=np.float32)
        return valid_shares(valid_HW, tops, lefts, plan.rows.size, plan.cols.size).ravel()

    def _masked(
        self, found: dict[tuple[str, str], Tensor], valid_HW: NDArray[np.bool_], window: Window
    ) -> Maps:
        origin = (window.row.px.start, window.col.px.start)
        kinds = self._wanted.kinds
        made: Maps = {kind: {} for kind in kinds}
        for tower in self._plan.geometry.towers if kinds else ():
            rows, cols = (span.within(0) for span in window.cells(tower.name))
            blank_hw = blank_cells(valid_HW, tower, origin, rows, cols)
            for kind in kinds:
                made[kind][tower.name] = host(found[kind, tower.name])
                made[kind][tower.name][:, blank_hw] = np.nan
        return made

    def _no_maps(self, window: Window) -> Maps:
        made: Maps = {}
        for kind in self._wanted.kinds:
            made[kind] = {}
            for name in self._weights:
                shape = tuple(len(span) for span in window.cells(name))
                full = np.full((len(self._wanted.classes), *shape), np.nan, dtype=np.float32)
                made[kind][name] = full
        return made


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
