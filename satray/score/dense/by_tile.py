"""Tiles of a scene exactly as in training: each its own forward, maps blended where they overlap.

Overlapping maps are weighted with a Hann window over the tile's cells (sum over weight). A tile's
border cells saw zero padding, and count least. Argmax maps are blended alike: without overlap their
cells and the bias add up to the tile's logit; with overlap they add up to nothing.

Legend: N tiles of a piece, B of a forward, K classes, n cells of a tile along a side.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from satray.models.bundle import Bundle
from satray.score.dense.answers import host, nothing, tile_scores
from satray.score.dense.inputs import (
    blank_cells,
    network_input,
    tile_filled,
    valid_shares,
)
from satray.score.dense.windows import ScenePlan, TowerLattice, Window
from satray.score.forward import Features, TileForward
from satray.score.results import CamKind, Patch, Wanted, WindowScores
from satray.score.scenes.grid import mostly

CPU_PX = 1024 * 1024
"""Px of a forward's tiles at most on a CPU: more is hardly faster there, and takes memory."""


class TileScorer:
    """A bundle over pieces of a scene, tile by tile; call it on pixels."""

    def __init__(
        self,
        bundle: Bundle,
        plan: ScenePlan,
        wanted: Wanted,
        batch: int = 16,
        features: Features | None = None,
    ) -> None:
        """Prepare.

        Args:
            bundle: on the device that is to compute; its network is turned to channels last.
            plan: of the scene.
            wanted: maps and numbers.
            batch: tiles a forward; on a CPU fewer, where these hold more than `CPU_PX`.
            features: another way to the same features; None: the network, eager.

        Raises:
            InputError: maps of a network whose head is dense.
        """
        self._bundle, self._plan, self._wanted = bundle, plan, wanted
        self._batch = batch
        if bundle.device.type == "cpu":
            self._batch = min(batch, max(1, CPU_PX // plan.geometry.size**2))
        d4 = plan.geometry.d4
        self._forward = TileForward(bundle, wanted.classes, wanted.kinds, d4=d4, features=features)
        self._shared = () if len(bundle.spec.variant.towers) == 1 else tuple(plan.rows.starts)

    @torch.inference_mode()
    def __call__(
        self,
        pixels_CHW: NDArray[np.generic],
        measured: NDArray[Any],
        piece: Window,
        fills_NC: NDArray[Any] | None = None,
    ) -> WindowScores:
        """Score a piece.

        Args:
            pixels_CHW: stored values on the net lattice, bands exactly the bundle's, in its
                order; of the whole piece.
            measured: (H, W) or (C, H, W) bool, or share of each that is measured; nothing beyond
                the scene.
            piece: of the plan.
            fills_NC: what stands in for what is not measured in each of the piece's tiles, where
                px are resampled; None: the tile's mean, as for a tile of its own. Beyond a scene
                that is smaller than a tile, the network sees the training mean.
        """
        plan = self._plan
        valid_HW = mostly(measured)
        tops, lefts = plan.corners(piece)
        valid_N = valid_shares(valid_HW, tops, lefts, plan.rows.size, plan.cols.size).ravel()
        patches = {t.name: self._patch(t, valid_HW, piece) for t in self._towers()}
        if not valid_HW.any():
            return WindowScores(nothing(self._bundle, valid_N, self._shared), patches=patches)
        x_1CHW = network_input(self._bundle, pixels_CHW, measured)
        corners = [(int(y), int(x)) for y in tops for x in lefts]

        def tile(n: int) -> Tensor:
            (y, x), side = corners[n], plan.geometry.size
            x_1Chw = x_1CHW[:, :, y : y + side, x : x + side]
            h, w = plan.rows.size, plan.cols.size
            there = np.s_[..., y : y + h, x : x + w]
            fill_C = None if fills_NC is None else fills_NC[n]
            values = tile_filled(pixels_CHW[there], measured[there], fill_C)
            if values is None:
                return x_1Chw
            own_1Chw = network_input(self._bundle, values, np.ones((h, w), bool))
            if (h, w) == (side, side):
                return own_1Chw
            x_1Chw = x_1Chw.clone()
            x_1Chw[:, :, :h, :w] = own_1Chw
            return x_1Chw

        logits, parts = [], []
        for start in range(0, len(corners), self._batch):
            some = range(start, min(start + self._batch, len(corners)))
            x_BCHW = torch.cat([tile(n) for n in some])
            found = self._forward(x_BCHW)
            logits.append(found.logits)
            parts.append(found.shares)
            for tower in self._towers():
                by_kind = {
                    kind: host(by_tower[tower.name]) for kind, by_tower in found.maps.items()
                }
                self._add(patches[tower.name], by_kind, tower, piece, some)
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        tiles = tile_scores(
            self._bundle, torch.cat(logits), joined, valid_N, self._wanted.min_valid
        )
        return WindowScores(tiles, patches=patches)

    def _towers(self) -> tuple[TowerLattice, ...]:
        return self._plan.geometry.towers if self._wanted.kinds else ()

    def _patch(self, tower: TowerLattice, valid_HW: NDArray[np.bool_], piece: Window) -> Patch:
        """Zeros, over the cells of the piece's tiles."""
        rows, cols = piece.cells(tower.name)
        shape = (len(rows), len(cols))
        origin = (piece.row.px.start, piece.col.px.start)
        blank = blank_cells(valid_HW, tower, origin, rows.within(0), cols.within(0))
        sums: dict[CamKind, NDArray[np.float32]] = {
            kind: np.zeros((len(self._wanted.classes), *shape), dtype=np.float32)
            for kind in self._wanted.kinds
        }
        weights = np.zeros(shape, dtype=np.float32)
        return Patch(rows.start, cols.start, sums, weights, ~blank)

    def _add(
        self,
        patch: Patch,
        maps: dict[CamKind, NDArray[np.float32]],
        tower: TowerLattice,
        piece: Window,
        some: range,
    ) -> None:
        """Add a batch of tiles' maps to the patch."""
        weight = hann(tower.tile_cells)
        starts = (self._plan.rows.starts[tower.name], self._plan.cols.starts[tower.name])
        for b, n in enumerate(some):
            i, j = divmod(n, len(piece.col.tiles))
            top = starts[0][piece.row.tiles.start + i] - patch.row
            left = starts[1][piece.col.tiles.start + j] - patch.col
            # a scene smaller than a tile has fewer cells
            height = min(tower.tile_cells, patch.weights.shape[0] - top)
            width = min(tower.tile_cells, patch.weights.shape[1] - left)
            there = np.s_[top : top + height, left : left + width]
            some_weight = weight[:height, :width]
            patch.weights[there] += some_weight
            for kind, maps_Bknn in maps.items():
                patch.sums[kind][:, *there] += some_weight * maps_Bknn[b, :, :height, :width]


def hann(cells: int) -> NDArray[np.float32]:
    """Weights of a tile's cells, (cells, cells): a Hann window at their centres, never 0."""
    line = np.sin(np.pi * (np.arange(cells) + 0.5) / cells) ** 2
    weights: NDArray[np.float32] = np.outer(line, line).astype(np.float32)
    return weights
