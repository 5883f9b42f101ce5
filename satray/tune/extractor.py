"""Tiles through a frozen network: pooled features of every view.

Letters: N tiles of a block, B of a forward, V views, D numbers of a tower, C H W of a tile.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from satray.data.augment import Augment, send
from satray.data.order import samples
from satray.models.network import pool
from satray.storage import Storage
from satray.train.checkpoints import from_bytes
from satray.train.setup import Setup
from satray.train.state import begin, determinism, takes_bf16
from satray.train.step import train_input
from satray.tune.feature_table import FLAT, FeatureSpec

TILES = {"cpu": 32, "cuda": 256}
"""Tiles a forward, where the device has the memory."""


class Extractor:
    """A frozen network with its first weights, and what makes its input."""

    def __init__(
        self, setup: Setup, storage: Storage, weights: str, spec: FeatureSpec, gpu: bool
    ) -> None:
        """Load.

        Args:
            setup: the run, resolved and measured.
            storage: how `weights` is reached.
            weights: URI of the network's first weights.
            spec: views and poolings.
            gpu: whether to compute on a GPU.
        """
        recipe = setup.recipe
        begin(recipe.seed, recipe.deterministic)
        self._device = torch.device("cuda" if gpu else "cpu")
        self.bf16 = takes_bf16(recipe.precision, self._device)
        """Whether train tiles are computed in bf16."""
        self._preprocess = setup.preprocess()
        self._augment = Augment.of(recipe.augment, recipe.input.size, recipe.seed)
        self._size = TILES[self._device.type]
        self._spec, self._deterministic = spec, recipe.deterministic
        network = setup.network()
        network.load_state_dict(from_bytes(storage.read(weights)))
        network.eval().requires_grad_(False).to(self._device)
        self._network = network.to(memory_format=cast(Any, torch.channels_last))

    def features(
        self, split: str, pixels_NCHW: Tensor, rows: NDArray[np.int64]
    ) -> dict[str, NDArray[np.float32]]:
        """Compute a block; a tile travels to the device once for all its views.

        Args:
            split: `train`: all views, in the recipe's precision; `val`: one, clean, in fp32.
            pixels_NCHW: as stored.
            rows: (N,) rows of the split, which augmentation is drawn from.

        Returns:
            Column (`TOWER_POOLING`) -> float32 (N, V, D).
        """
        found: dict[str, list[Tensor]] = {}
        with torch.inference_mode(), determinism(self._deterministic):
            start = 0
            while start < len(rows):
                some = slice(start, start + self._size)
                try:
                    by_column = self._forward(split, pixels_NCHW[some], rows[some])
                except torch.OutOfMemoryError:
                    if self._size == 1:
                        raise
                    self._size //= 2  # for good: other tiles are as large
                    torch.cuda.empty_cache()
                    continue
                for column, p_BVD in by_column.items():
                    found.setdefault(column, []).append(p_BVD)
                start = some.stop
        return {column: torch.cat(parts).numpy() for column, parts in found.items()}

    def _forward(
        self, split: str, pixels_BCHW: Tensor, rows: NDArray[np.int64]
    ) -> dict[str, Tensor]:
        """All views of some tiles: column -> float32 (B, V, D) in the host's memory."""
        pixels_BCHW = send(pixels_BCHW, self._device)
        found: dict[str, list[Tensor]] = {}
        for view in range(self._spec.views_in(split)):
            x_BCHW = self._input(split, pixels_BCHW, rows, view)
            bf16 = self.bf16 and split == "train"
            with torch.autocast(self._device.type, torch.bfloat16, enabled=bf16):
                maps = self._network.features(x_BCHW)
            for tower, f_BDhw in maps.items():
                for name in self._spec.poolings:
                    flat = name == FLAT
                    p_BD = f_BDhw.float().flatten(1) if flat else pool(f_BDhw, cast(Any, name))
                    found.setdefault(f"{tower}_{name}", []).append(p_BD)
        return {column: torch.stack(views, 1).cpu() for column, views in found.items()}

    def _input(self, split: str, pixels_BCHW: Tensor, rows: NDArray[np.int64], view: int) -> Tensor:
        if split != "train":
            return self._preprocess(pixels_BCHW)
        drawn = samples(rows, np.full(len(rows), view, np.int64))
        return train_input(pixels_BCHW, drawn, 0, self._preprocess, self._augment)
