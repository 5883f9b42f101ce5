"""What becomes of a scored block: its maps, then its file.

The file comes last: where it is, the block is done.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from satray.models.geometry import cam_transform, centred
from satray.models.spec import BundleSpec
from satray.runs.run import Product
from satray.scoring.blocks import Blocks, block_file
from satray.scoring.forward import Forward, MapRequest
from satray.scoring.predictions import Layout, TileFacts, predictions
from satray.scoring.rasters import (
    BORDER_CELLS,
    cam_path,
    cam_raster,
    cells_with_data,
    source_affine,
)
from satray.scoring.reading import ReadBlock
from satray.storage import Storage, join

WRITERS = 8
"""Maps that are encoded and written at once."""


@dataclass(frozen=True)
class BlockWriter:
    """Writes blocks of one run."""

    storage: Storage
    """Where the run folder is."""
    out: str
    """The run folder."""
    blocks: Blocks
    """Its blocks."""
    layout: Layout
    """Columns of the predictions."""
    spec: BundleSpec
    """The bundle's, for classes and geometry."""
    maps: MapRequest
    """Maps that the forward made."""
    d4: bool = False
    """Whether they are means over the tile's symmetries."""
    engine: str = "eager"
    """What computed the features (`satray.scoring.cpu.engine_line`)."""

    def write(self, number: int, block: ReadBlock, forward: Forward) -> int:
        """Publish a block's maps and its file; the same again where a block is done twice.

        Returns:
            How many of its tiles failed.
        """
        facts, stages = _judged(block, forward)
        good = [i for i, one in enumerate(facts) if one.error is None]
        with ThreadPoolExecutor(WRITERS, thread_name_prefix="maps") as pool:
            jobs = [
                pool.submit(self._map, facts[i], block.valid[i], tower, maps[i])
                for tower, maps in forward.maps.items()
                for i in good
            ]
            products = [job.result() for job in jobs]
        table = predictions(self.layout, facts, forward.numbers)
        data = block_file(table, block.uris, stages, products)
        self.storage.write(self.blocks.uri(number), data)
        return len(facts) - len(good)

    def _map(
        self,
        facts: TileFacts,
        valid: NDArray[np.bool_] | None,
        tower: str,
        maps_Khw: NDArray[np.float32],
    ) -> Product:
        cells = self.cells(facts, tower, maps_Khw.shape[1])
        if valid is not None:
            found = cells_with_data(valid, cells, *maps_Khw.shape[1:])
            maps_Khw = np.where(found, maps_Khw, np.float32(np.nan))
        data = cam_raster(
            maps_Khw,
            [self.spec.classes[k] for k in self.maps.classes],
            source_affine(facts.crs, facts.transform) @ cells,
            facts.crs,
            {
                "model_id": self.layout.model_id,
                "run_id": self.layout.run_id,
                "tile_id": facts.tile_id,
                "tower": tower,
                "kind": self.maps.kind,
                "pooling": self.spec.variant.pooling,
                "symmetries": "d4" if self.d4 else "none",
                "engine": self.engine,
                "border_cells": BORDER_CELLS,
            },
        )
        path = cam_path(facts.tile_id, tower)
        self.storage.write(join(self.out, path), data)
        return Product(path, len(data), hashlib.sha256(data).hexdigest())

    def cells(self, facts: TileFacts, tower: str, across: int) -> Affine:
        """Affine from a tower's cell corners, so many a side, to the tile's pixel corners."""
        height, width = self.spec.tile_shape
        assert facts.height is not None
        assert facts.width is not None
        delivered = Affine.scale(facts.width / width, facts.height / height)
        geometry = self.spec.preprocess().geometry(height, width)
        grid = self.spec.grids[tower]
        if self.d4:
            grid = centred(grid, geometry.size, across)
        return cam_transform(delivered, geometry, grid)


def _judged(block: ReadBlock, forward: Forward) -> tuple[list[TileFacts], list[str | None]]:
    """Fail the tiles whose logits are not finite: a table with NaN would spoil every mean."""
    facts, stages = list(block.facts), list(block.stages)
    for i in np.flatnonzero(~np.isfinite(forward.numbers.logits).all(axis=1)):
        if facts[i].error is None:
            facts[i] = replace(facts[i], error="the network's output is not finite")
            stages[i] = "score"
    return facts, stages
