"""Blocks of tiles through a frozen network: pooled features of every view, as one file's bytes.

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
from satray.data.read import errors_of, to_torch
from satray.models.network import Network, pool
from satray.storage import Storage
from satray.train.loop.inputs import train_input
from satray.train.loop.precision import takes_bf16
from satray.train.loop.state import begin, determinism
from satray.train.plan.setup import Setup
from satray.train.workers import initial
from satray.tune.feature_plan import FLAT, FeatureSpec

TILES = {"cpu": 32, "cuda": 256}
"""Tiles a forward, where the device has the memory."""


def pooled(network: Network, x_BCHW: Tensor, poolings: tuple[str, ...]) -> dict[str, Tensor]:
    """What heads see of normalised tiles, from one forward: `TOWER_POOLING` -> float32 (B, D).

    Args:
        network: in evaluation mode.
        x_BCHW: its input.
        poolings: avg, max, lse, or flat (the whole map, as a dense head takes it).
    """
    found = {}
    for tower, f_BDhw in network.features(x_BCHW).items():
        for name in poolings:
            flat = name == FLAT
            p_BD = f_BDhw.float().flatten(1) if flat else pool(f_BDhw, cast(Any, name))
            found[f"{tower}_{name}"] = p_BD
    return found


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
        self.device = torch.device("cuda" if gpu else "cpu")
        self.bf16 = takes_bf16(recipe.precision, self.device)
        self.preprocess = setup.preprocess()
        self._augment = Augment.of(recipe.augment, recipe.input.size, recipe.seed)
        self._size = TILES[self.device.type]
        self._spec, self._deterministic = spec, recipe.deterministic
        network = setup.network()
        initial.load(network, storage, weights)
        network.eval().requires_grad_(False).to(self.device)
        self.network = network.to(memory_format=cast(Any, torch.channels_last))

    def block(
        self, split: str, table: pa.Table, shape: tuple[int, int, int], dtype: str
    ) -> dict[str, Any]:
        """Compute a block.

        Args:
            split: `train`: all views, in the recipe's precision; `val`: one, clean, in fp32.
            table: of `satray.data.read.read_blocks`.
            shape: (C, H, W) of its tiles.
            dtype: NumPy dtype of their pixels.

        Returns:
            `columns` (what `to_parquet` takes), and for the report `tiles`, `unreadable` (row ->
            reason), `bytes` read from storage, `bf16`.
        """
        batch = to_torch(table, shape, dtype)
        rows = batch["row"].numpy()
        features = self.features(split, batch["pixels"], rows)
        errors = table.column("error").to_pylist()
        return {
            "columns": (rows, batch["labels"].numpy(), errors, features),
            "tiles": len(rows),
            "unreadable": errors_of(table),
            "bytes": int(np.sum(table.column("bytes").to_numpy())),
            "bf16": self.bf16 and split == "train",
        }

    def features(
        self, split: str, pixels_NCHW: Tensor, rows: NDArray[np.int64]
    ) -> dict[str, NDArray[np.float32]]:
        """Column -> float32 (N, V, D); a tile travels to the device once for all its views."""
        views = self._spec.views_in(split)
        bf16 = self.bf16 and split == "train"
        found: dict[str, list[NDArray[np.float32]]] = {}
        with torch.inference_mode(), determinism(self._deterministic):
            start = 0
            while start < len(rows):
                some = slice(start, start + self._size)
                try:
                    by_view = self._views(split, pixels_NCHW[some], rows[some], views, bf16)
                except torch.OutOfMemoryError:
                    if self._size == 1:
                        raise
                    self._size //= 2  # for good: other tiles are as large
                    torch.cuda.empty_cache()
                    continue
                for name in by_view[0]:
                    p_BVD = torch.stack([each[name] for each in by_view], 1)
                    found.setdefault(name, []).append(p_BVD.cpu().numpy())
                start = some.stop
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def _views(
        self, split: str, pixels_BCHW: Tensor, rows: NDArray[np.int64], views: int, bf16: bool
    ) -> list[dict[str, Tensor]]:
        """A forward a view of some tiles: column -> (B, D)."""
        pixels_BCHW = send(pixels_BCHW, self.device)
        found = []
        for view in range(views):
            x_BCHW = self._input(split, pixels_BCHW, rows, view)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                found.append(pooled(self.network, x_BCHW, self._spec.poolings))
        return found

    def _input(self, split: str, pixels_BCHW: Tensor, rows: NDArray[np.int64], view: int) -> Tensor:
        if split != "train":
            return self.preprocess(pixels_BCHW)
        drawn = samples(rows, np.full(len(rows), view, np.int64))
        return train_input(pixels_BCHW, drawn, 0, self.preprocess, self._augment)
