"""Tiles through a frozen network: pooled features of every view.

Apart from `satray.tune.features`, which plans and writes, and `satray.tune.feature_table`, which
trials read, since both do without torch.

Letters: N tiles of a block, B of a forward, V views, D numbers of a tower, C H W of a tile.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from satray.data.augment import Augment, send
from satray.data.order import samples
from satray.data.read import to_torch
from satray.models.network import pool
from satray.storage import Storage
from satray.train.checkpoints import from_bytes
from satray.train.process import begin, determinism, takes_bf16
from satray.train.setup import Setup
from satray.train.step import train_input
from satray.tune.feature_table import POOLINGS, Block

TILES = {"cpu": 32, "cuda": 256}
"""Tiles a forward, where the device has the memory."""


class Extractor:
    """A frozen network with its first weights, and what makes its input."""

    def __init__(self, setup: Setup, storage: Storage, weights: str, gpu: bool) -> None:
        """Load.

        Args:
            setup: the run, resolved and measured.
            storage: how `weights` is reached.
            weights: URI of the network's first weights.
            gpu: whether to compute on a GPU.
        """
        recipe = setup.recipe
        begin(recipe.seed, recipe.deterministic)
        self._device = torch.device("cuda" if gpu else "cpu")
        self._bf16 = takes_bf16(recipe.precision, self._device)
        self._preprocess = setup.preprocess()
        self._augment = Augment.of(recipe.augment, recipe.input.size, recipe.seed)
        self._many = TILES[self._device.type]
        self._setup = setup
        network = setup.network()
        network.load_state_dict(from_bytes(storage.read(weights)))
        network.eval().requires_grad_(False).to(self._device)
        self._network = network.to(memory_format=cast(Any, torch.channels_last))

    def __call__(
        self, block: Block, part: int, tiles: pa.Table
    ) -> tuple[dict[str, NDArray[np.float32]], bool]:
        """Compute a block; a tile travels to the device once for all its views.

        Args:
            block: train tiles are seen in all views, in the recipe's precision; those of
                validation in one, clean, in fp32.
            part: there is one.
            tiles: as `read_blocks` gives them.

        Returns:
            Column (`TOWER_POOLING`) -> float32 (N, V, D); whether they were computed in bf16.
        """
        del part
        batch = to_torch(tiles)
        pixels_NCHW, rows = batch["pixels"], batch["row"].numpy()
        bf16 = self._bf16 and block.split == "train"
        found: dict[str, list[Tensor]] = {}
        start = 0
        with torch.inference_mode(), determinism(self._setup.recipe.deterministic):
            while start < len(rows):
                some = slice(start, start + self._many)
                try:
                    by_column = self._forward(block, pixels_NCHW[some], rows[some], bf16)
                except torch.OutOfMemoryError:
                    if self._many == 1:
                        raise
                    self._many //= 2  # for good: other tiles are as large
                    torch.cuda.empty_cache()
                    continue
                for column, p_BVD in by_column.items():
                    found.setdefault(column, []).append(p_BVD)
                start = some.stop
        return {column: torch.cat(parts).numpy() for column, parts in found.items()}, bf16

    def _forward(
        self, block: Block, pixels_BCHW: Tensor, rows: NDArray[np.int64], bf16: bool
    ) -> dict[str, Tensor]:
        """All views of some tiles: column -> float32 (B, V, D) in the host's memory.

        Tiles come and vectors go between forwards: with a GPU's 256 tiles in several views, little
        beside them.
        """
        pixels_BCHW = send(pixels_BCHW, self._device)
        found: dict[str, list[Tensor]] = {}
        for view in range(block.views):
            if block.split == "train":
                drawn = samples(rows, np.full(len(rows), view, np.int64))
                x_BCHW = train_input(pixels_BCHW, drawn, 0, self._preprocess, self._augment)
            else:
                x_BCHW = self._preprocess(pixels_BCHW)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=bf16):
                maps = self._network.features(x_BCHW)
            for tower, f_BDhw in maps.items():
                for name in POOLINGS:
                    found.setdefault(f"{tower}_{name}", []).append(pool(f_BDhw, name))
        return {column: torch.stack(views, 1).cpu() for column, views in found.items()}
