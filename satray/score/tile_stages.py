"""A block of tiles through the pipeline: read, looked at, written to the run's state.

A block's file comes last: where it is, the block is done.
"""

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from satray.models.geometry import InputGeometry, cells_on_tile
from satray.models.spec import BundleSpec
from satray.runs.run import Product, write_product
from satray.score.blocks import Blocks, block_file
from satray.score.predictions import Layout, TileFacts, predictions
from satray.score.products.names import product_path
from satray.score.rasters import (
    BORDER_CELLS,
    cam_raster,
    data_shares,
    source_affine,
)
from satray.score.results import Forward, MapRequest
from satray.score.stages import Network, Stages, Started
from satray.score.tiles import ReadBlock, Wanted, read_block
from satray.storage import Storage

if TYPE_CHECKING:
    from satray.score.engines import EngineKey, PrecisionKey

WRITERS = 8
"""Maps that are encoded and written at once."""


@dataclass(frozen=True)
class TileScoring:
    """How tiles are scored, and what is made of them."""

    bundle: str
    """Bundle folder, or a train run's `out`."""
    spec: BundleSpec
    """Its description."""
    maps: MapRequest = field(default_factory=MapRequest)
    """Maps to write."""
    batch: int = 64
    """Tiles a forward pass."""
    d4: bool = False
    """Average over the eight symmetries of each tile."""
    engine: "EngineKey" = "eager"
    """What computes features on CPUs."""
    precision: "PrecisionKey" = "fp32"
    """Of the backbones."""

    def px(self, count: int) -> int:
        """Px that the network looks at in so many tiles, all forwards together."""
        return count * self.spec.size**2 * (8 if self.d4 else 1)


@dataclass(frozen=True)
class TileBlock:
    """Tiles that follow one another in the list."""

    number: int
    """Its place among the run's blocks."""
    px: int
    """Px of the network's input, all forwards together."""
    parts: int = 1
    """It is read at once."""


BlockResult = tuple[int, Counter[str]]
"""What became of a block: its tiles, and what to know about georeferences, without the particulars
of each tile."""


@dataclass(frozen=True)
class TileStages(Stages[tuple[int, pa.Table], TileBlock, BlockResult]):
    """What is done with each block of a run."""

    scoring: TileScoring
    """How."""
    geometry: InputGeometry
    """How the bundle's tiles are resized and cropped."""
    wanted: Wanted
    """What the bundle wants of a tile."""
    layout: Layout
    """Columns of the predictions."""
    blocks: Blocks
    """The run's."""
    storage: Storage
    """Where bundle, tiles and run folder are."""
    out: str
    """The run folder."""

    def open(self, item: tuple[int, pa.Table]) -> Started[TileBlock]:
        """Read the tiles of a block, by its number and its rows of a `TileSet`'s table."""
        number, tiles = item
        block = read_block(tiles, self.wanted, self.storage)
        opened = TileBlock(number, self.scoring.px(len(tiles)))
        return Started(opened, block.pixels, replace(block, pixels=_NONE))

    def network(self, gpu: bool) -> tuple[Network, str]:
        """Load the bundle, and say what computes its features.

        Raises:
            InputError: it is not the one that the driver saw.
        """
        from satray.score.engines import load_engine
        from satray.score.forward import Scorer

        how = self.scoring
        of = how.bundle, self.layout.model_id, self.storage
        loaded = load_engine(*of, gpu, how.engine, how.precision)
        scorer = Scorer(loaded.bundle, how.maps, how.batch, d4=how.d4, features=loaded.features)
        return (lambda _opened, _part, pixels: scorer(pixels)), loaded.engine

    def write(
        self, opened: TileBlock, parts: Iterable[tuple[ReadBlock, Forward]], engine: str
    ) -> BlockResult:
        """Publish a block's maps and its file; the same again where a block is done twice."""
        ((block, forward),) = parts
        facts, stages = _judged(block, forward)
        good = [i for i, one in enumerate(facts) if one.error is None]
        with ThreadPoolExecutor(WRITERS, thread_name_prefix="maps") as pool:
            jobs = [
                pool.submit(self._map, facts[i], block.valid[i], tower, maps[i], engine)
                for tower, maps in forward.maps.items()
                for i in good
            ]
            products = [job.result() for job in jobs]
        table = predictions(self.layout, facts, forward.numbers)
        data = block_file(table, block.uris, stages, products, engine)
        self.storage.write(self.blocks.uri(opened.number), data)
        notes = Counter(fact.note.partition(" (")[0] for fact in block.facts if fact.note)
        return len(facts), notes

    def _map(
        self,
        facts: TileFacts,
        valid: NDArray[np.bool_] | None,
        tower: str,
        maps_Khw: NDArray[np.float32],
        engine: str,
    ) -> Product:
        how, spec = self.scoring, self.scoring.spec
        assert facts.height is not None
        assert facts.width is not None
        lattice = spec.grids[tower], maps_Khw.shape[1]
        size = facts.height, facts.width
        cells = cells_on_tile(self.geometry, *lattice, *size, d4=how.d4)
        if valid is not None:
            found = data_shares(valid, cells, *maps_Khw.shape[1:]) > 0
            maps_Khw = np.where(found, maps_Khw, np.float32(np.nan))
        data = cam_raster(
            maps_Khw,
            [spec.classes[k] for k in how.maps.classes],
            source_affine(facts.crs, facts.transform) @ cells,
            facts.crs,
            {
                "model_id": self.layout.model_id,
                "run_id": self.layout.run_id,
                "tile_id": facts.tile_id,
                "tower": tower,
                "kind": how.maps.kinds[0],
                "pooling": spec.variant.pooling,
                "symmetries": "d4" if how.d4 else "none",
                "engine": engine,
                "border_cells": BORDER_CELLS,
            },
        )
        return write_product(
            self.storage, self.out, product_path("cam", facts.tile_id, tower), data
        )


_NONE: NDArray[Any] = np.empty(0, np.uint8)


def _judged(block: ReadBlock, forward: Forward) -> tuple[list[TileFacts], list[str | None]]:
    """Fail the tiles whose logits are not finite: a table with NaN would spoil every mean."""
    facts, stages = list(block.facts), list(block.stages)
    for i in np.flatnonzero(~np.isfinite(forward.numbers.logits).all(axis=1)):
        if facts[i].error is None:
            facts[i] = replace(facts[i], error="the network's output is not finite")
            stages[i] = "score"
    return facts, stages
