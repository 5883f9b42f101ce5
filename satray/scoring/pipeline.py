"""Scoring on Ray Data: read tasks fetch and decode blocks, a pool of actors scores and writes them.

The results go from the actors to storage directly; the driver learns of each by a small report.
"""

import functools
import pickle
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from satray import cluster
from satray.block_pool import BlockRead, Report, Row, held, through_actors
from satray.errors import InputError
from satray.scoring.blocks import Blocks
from satray.scoring.predictions import Layout
from satray.scoring.reading import ReadBlock, Wanted, read_block
from satray.storage import Storage

if TYPE_CHECKING:  # it imports torch
    from satray.scoring.cpu import EngineKey


@dataclass(frozen=True)
class ActorTask:
    """What every scoring actor needs; pickles small."""

    bundle: str
    """Bundle folder, or a train run's `out`."""
    model_id: str
    """The bundle's id as the driver saw it."""
    storage: Storage
    """Where bundle and run folder are."""
    out: str
    """The run folder."""
    blocks: Blocks
    """Its blocks."""
    layout: Layout
    """Columns of the predictions."""
    map_classes: tuple[int, ...]
    """Places of the classes to map."""
    map_kind: str
    """`dense` or `argmax`."""
    batch: int
    """Tiles a forward pass."""
    d4: bool = False
    """Average over the eight symmetries of each tile."""
    engine: "EngineKey" = "eager"
    """What computes features on CPUs."""


def run_blocks(
    tiles: pa.Table,
    wanted: Wanted,
    todo: Sequence[int],
    task: ActorTask,
    workers: cluster.Workers,
    report: Callable[[Report], None],
) -> None:
    """Score blocks and wait for all of them.

    Args:
        tiles: all tiles of the run (a `TileSet`'s table).
        wanted: what the bundle wants of a tile.
        todo: numbers of the blocks to score.
        task: for the actors.
        workers: the actors, and what reads for them.
        report: called with each finished block's: counts, bytes fetched, seconds by activity.

    Raises:
        SatrayError: what ended a task or an actor for good, in one line.
    """
    reads = []
    for number in todo:
        rows = task.blocks.rows(number)
        some = tiles.take(pa.array(np.asarray(rows)))
        read = functools.partial(_read, number, some, wanted, task.storage)
        reads.append(BlockRead(read, len(rows) * wanted.tile_bytes))
    make = functools.partial(_Work, task, workers.gpu)
    for told in through_actors("scoring", reads, workers, make):
        report(told)


def _read(number: int, tiles: pa.Table, wanted: Wanted, storage: Storage) -> pa.Table:
    return to_row(number, read_block(tiles, wanted, storage))


class _Work:
    """Holds the bundle; scores and writes a block a call."""

    def __init__(self, task: ActorTask, gpu: bool) -> None:
        from satray.models.bundle import load_bundle
        from satray.scoring.cpu import CpuFeatures, engine_line
        from satray.scoring.forward import MapRequest, Scorer
        from satray.scoring.writing import BlockWriter

        bundle = load_bundle(task.bundle, task.storage, "cuda" if gpu else "cpu")
        if bundle.model_id != task.model_id:
            raise InputError(
                f"bundle={task.bundle}: changed while the job was running "
                f"({task.model_id} -> {bundle.model_id}); rerun"
            )
        maps = MapRequest(task.map_classes, "argmax" if task.map_kind == "argmax" else "dense")
        features = None if gpu else CpuFeatures(bundle, task.engine)
        self._engine = engine_line(features)
        self._scorer = Scorer(bundle, maps, task.batch, d4=task.d4, features=features)
        self._writer = BlockWriter(
            task.storage,
            task.out,
            task.blocks,
            task.layout,
            bundle.spec,
            maps,
            task.d4,
            self._engine,
        )
        self._idle_since = time.perf_counter()

    def __call__(self, row: Row) -> Report:
        number, block = from_row(row)
        begin = time.perf_counter()
        forward = self._scorer(block.pixels)
        scored = time.perf_counter()
        failed = self._writer.write(number, block, forward)
        end = time.perf_counter()
        waiting, self._idle_since = begin - self._idle_since, end
        # kinds, without the particulars of each tile
        notes = Counter("ground: " + f.note.partition(" (")[0] for f in block.facts if f.note)
        return {
            **notes,
            "engine": self._engine,
            "tiles": len(block.facts),
            "failed": failed,
            "bytes": block.bytes,
            "reading": block.seconds,
            "computing": scored - begin,
            "writing": end - scored,
            "waiting": waiting,
        }


def to_row(number: int, block: ReadBlock) -> pa.Table:
    """One row that holds a block: its pixels as they lie in memory, all else pickled."""
    pixels = np.ascontiguousarray(block.pixels)
    flat = pixels.reshape(-1).view(np.uint8)
    rest = pickle.dumps((pixels.shape, str(pixels.dtype), replace(block, pixels=flat[:0])))
    return pa.table({"number": pa.array([number]), "pixels": held(flat), "rest": pa.array([rest])})


def from_row(row: Row) -> tuple[int, ReadBlock]:
    """Undo `to_row`, without a copy of the pixels (they are read-only then)."""
    shape, dtype, block = pickle.loads(row["rest"])
    pixels = np.frombuffer(row["pixels"], dtype=dtype).reshape(shape)
    return row["number"], replace(block, pixels=pixels)
