"""Scoring on Ray Data: read tasks fetch and decode blocks, a pool of actors scores and writes them.

A row of the stream is a whole block of tiles, so that Ray can neither split nor merge one. The
driver learns of each block by a small report; the results go from the actors to storage directly.
"""

import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from satray import cluster
from satray.config.base import Resources
from satray.errors import InputError, SatrayError
from satray.scoring.blocks import Blocks
from satray.scoring.predictions import Layout
from satray.scoring.reading import ReadBlock, Wanted, read_block
from satray.storage import Storage

READ_CPUS = 0.5

REPORT = pa.schema(
    [
        pa.field("tiles", pa.int64()),
        pa.field("failed", pa.int64()),
        pa.field("bytes", pa.int64()),
        pa.field("reading", pa.float64()),
        pa.field("computing", pa.float64()),
        pa.field("writing", pa.float64()),
        pa.field("waiting", pa.float64()),
        pa.field("error", pa.string()),
        pa.field("input", pa.bool_()),
    ]
)
"""What an actor tells of a block: counts, bytes fetched, seconds by activity in its process; or
what ended it in one line, and whether the input is to blame (Ray would drown it in its own words).
"""


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
    actors: int
    """Actors of the pool; those of one node share its cores."""
    gpu: bool
    """Whether the actor has a GPU."""
    d4: bool = False
    """Average over the eight symmetries of each tile."""


def run_blocks(
    tiles: pa.Table,
    wanted: Wanted,
    todo: Sequence[int],
    task: ActorTask,
    resources: Resources,
    report: Callable[[dict[str, Any]], None],
) -> None:
    """Score blocks and wait for all of them.

    Args:
        tiles: all tiles of the run (a `TileSet`'s table).
        wanted: what the bundle wants of a tile.
        todo: numbers of the blocks to score.
        task: for the actors.
        resources: actors, read tasks, GPUs.
        report: called with each finished block's report.

    Raises:
        SatrayError: what ended a task or an actor for good, in one line.
    """
    actors = max(1, min(resources.workers, len(todo)))
    gpu = cluster.use_gpus(resources)
    task = replace(task, gpu=gpu, actors=actors)
    dataset = ray.data.read_datasource(
        BlockSource(tiles, wanted, task.blocks, todo, task.storage),
        override_num_blocks=1,  # the source says how many; Ray shall not split further
        num_cpus=READ_CPUS,
        concurrency=min(resources.read_tasks, len(todo)),
    )
    dataset.context.enable_progress_bars = False
    pool: Any = ActorPoolStrategy(size=actors)
    stream = dataset.map_batches(
        _Actor,
        fn_constructor_args=(task,),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=pool,
        num_cpus=1,
        num_gpus=1 if gpu else 0,
    )
    for table in stream.iter_batches(batch_size=None, batch_format="pyarrow"):
        for row in table.to_pylist():
            if row["error"] is not None:
                raise (InputError if row["input"] else SatrayError)(row["error"])
            report(row)


class BlockSource(Datasource):
    """Blocks of tiles, one a read task."""

    def __init__(
        self,
        tiles: pa.Table,
        wanted: Wanted,
        blocks: Blocks,
        todo: Sequence[int],
        storage: Storage,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tiles = tiles
        self._wanted = wanted
        self._blocks = blocks
        self._todo = list(todo)
        self._storage = storage

    def get_name(self) -> str:
        """Name of the operator in Ray's logs."""
        return "TileBlocks"

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all blocks."""
        return sum(self._bytes(number) for number in self._todo)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One task a block, with its own tiles only."""
        del parallelism, data_context
        tasks = []
        for number in self._todo:
            rows = pa.array(np.asarray(self._blocks.rows(number)))
            read = _Read(number, self._tiles.take(rows), self._wanted, self._storage)
            metadata = BlockMetadata(
                num_rows=1, size_bytes=self._bytes(number), input_files=None, exec_stats=None
            )
            tasks.append(ReadTask(read, metadata, per_task_row_limit=per_task_row_limit))
        return tasks

    def _bytes(self, number: int) -> int:
        return len(self._blocks.rows(number)) * self._wanted.tile_bytes


@dataclass(frozen=True)
class _Read:
    """What one read task does."""

    number: int
    tiles: pa.Table
    wanted: Wanted
    storage: Storage
    __name__: str = "read_tile_block"  # Ray names the function in its warnings

    def __call__(self) -> Iterator[pa.Table]:
        yield to_row(self.number, read_block(self.tiles, self.wanted, self.storage))


class _Actor:
    """Holds the bundle; scores and writes a block a call."""

    def __init__(self, task: ActorTask) -> None:
        import torch

        from satray.models.bundle import load_bundle
        from satray.scoring.forward import MapRequest, Scorer
        from satray.scoring.writing import BlockWriter

        if not task.gpu:
            torch.set_num_threads(
                cluster.threads_per_worker(-(-task.actors // cluster.node_count()))
            )
            torch.set_flush_denormal(True)  # networks make denormals, and CPUs crawl over them
        bundle = load_bundle(task.bundle, task.storage, "cuda" if task.gpu else "cpu")
        if bundle.model_id != task.model_id:
            raise InputError(
                f"bundle={task.bundle}: changed while the job was running "
                f"({task.model_id} -> {bundle.model_id}); rerun"
            )
        maps = MapRequest(task.map_classes, "argmax" if task.map_kind == "argmax" else "dense")
        self._scorer = Scorer(bundle, maps, task.batch, d4=task.d4)
        self._writer = BlockWriter(
            task.storage, task.out, task.blocks, task.layout, bundle.spec, maps, task.d4
        )
        self._idle_since = time.perf_counter()

    def __call__(self, batch: pa.Table) -> pa.Table:
        reports = [self._one(*from_row(batch, row)) for row in range(batch.num_rows)]
        return pa.Table.from_pylist(reports, schema=REPORT)

    def _one(self, number: int, block: ReadBlock) -> dict[str, Any]:
        try:
            return self._score(number, block)
        except SatrayError as error:
            line = " ".join(str(error).split())
            return {"error": line, "input": isinstance(error, InputError)}

    def _score(self, number: int, block: ReadBlock) -> dict[str, Any]:
        begin = time.perf_counter()
        forward = self._scorer(block.pixels)
        scored = time.perf_counter()
        failed = self._writer.write(number, block, forward)
        end = time.perf_counter()
        waiting, self._idle_since = begin - self._idle_since, end
        return {
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
    offsets = pa.py_buffer(np.array([0, pixels.nbytes], dtype=np.int64))
    flat = pixels.reshape(-1).view(np.uint8)
    held = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(flat)])
    rest = pickle.dumps((pixels.shape, str(pixels.dtype), replace(block, pixels=flat[:0])))
    return pa.table({"number": pa.array([number]), "pixels": held, "rest": pa.array([rest])})


def from_row(table: pa.Table, row: int) -> tuple[int, ReadBlock]:
    """Undo `to_row`, without a copy of the pixels (they are read-only then)."""
    shape, dtype, block = pickle.loads(table.column("rest")[row].as_py())
    pixels = np.frombuffer(table.column("pixels")[row].as_buffer(), dtype=dtype).reshape(shape)
    return table.column("number")[row].as_py(), replace(block, pixels=pixels)
