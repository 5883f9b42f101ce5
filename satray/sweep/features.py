"""Features of a frozen network over an index, extracted once on Ray Data.

Read tasks fetch and decode blocks of tiles; a pool of actors makes each block's views, sends them
through the network and writes the pooled vectors as one file. A file is there whole or not at all,
so an extraction that was interrupted goes on where it stopped. `satray.sweep.feature_plan` says
what decides the features; `satray.sweep.feature_table` reads them.

Letters: N tiles of a block, B of a forward, V views, D numbers of a tower, C H W of a tile.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from satray import cluster
from satray.errors import InputError, SatrayError
from satray.runs.jsonable import to_json
from satray.runs.run import Run
from satray.storage import Storage, join
from satray.sweep.feature_file import to_parquet
from satray.sweep.feature_plan import (
    RECORD,
    SPLITS,
    FeatureBlock,
    FeatureSpec,
    missing,
)
from satray.sweep.feature_record import finished
from satray.sweep.feature_table import FeatureTable
from satray.tiles.blocks import TileSource, read_blocks, tile_source

if TYPE_CHECKING:
    from satray.training.plan.setup import Setup

READ_CPUS = 0.5
REPORT = pa.schema(
    [
        pa.field("file", pa.string()),
        pa.field("tiles", pa.int64()),
        pa.field("unreadable", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("computing", pa.float64()),
        pa.field("bf16", pa.bool_()),
        pa.field("error", pa.string()),
        pa.field("input", pa.bool_()),
    ]
)
"""What an actor tells of a block; or what ended it in one line, and whether the input is to blame
(Ray would drown it in its own words)."""


@dataclass(frozen=True)
class ExtractTask:
    """What every actor needs; pickles small."""

    setup: Setup
    """The run, resolved, without its index's table."""
    weights: str
    """URI of the network's first weights."""
    spec: FeatureSpec
    """What is wanted."""
    uri: str
    """Folder of the features."""
    storage: Storage
    """How URIs are reached."""
    shape: tuple[int, int, int]
    """(C, H, W) of a decoded tile."""
    dtype: str
    """NumPy dtype of its pixels."""
    actors: int
    """Actors of the pool; those of one node share its cores."""
    gpu: bool
    """Whether an actor has a GPU."""


def extract(
    setup: Setup, run: Run, weights_uri: str, spec: FeatureSpec, store: str
) -> FeatureTable:
    """The features of both splits: found where they were extracted before, else extracted now.

    Ray is up; where they are found it is not used.

    Args:
        setup: the run, resolved and measured, with its index's table.
        run: told how far things are; its seconds go to `features`.
        weights_uri: the network's first weights.
        spec: of these very things (`feature_spec`).
        store: folder of all features, local or URI; these go below `spec.key`.

    Raises:
        TrainingError: more tiles than `error_budget` allows cannot be read.
        SatrayError: what ended a task or an actor for good, in one line.
    """
    uri, cache = join(store, spec.key), setup.recipe.cache
    found = FeatureTable.find(uri, run.storage, folder=cache.folder, gib=cache.gib)
    if found is not None:
        run.say(f"features {spec.key}: found in {store}")
        return found
    with run.activity("features"):
        _extract(setup, run, weights_uri, spec, uri)
    found = FeatureTable.find(uri, run.storage, folder=cache.folder, gib=cache.gib)
    assert found is not None
    return found


def _extract(setup: Setup, run: Run, weights: str, spec: FeatureSpec, uri: str) -> None:
    begun, storage, recipe = time.perf_counter(), run.storage, setup.recipe
    sources = {
        split: tile_source(
            setup.index, split, setup.bands, storage, digest=setup.digest, cache=recipe.cache
        )
        for split in SPLITS
    }
    source = sources["train"]
    blocks = spec.blocks(source.tile_bytes)
    todo = missing(blocks, [entry.key for entry in storage.list(uri)])
    gpu = cluster.use_gpus(recipe.resources)
    actors = max(1, min(_most_actors(gpu), len(todo)))
    task = ExtractTask(
        setup.without_table(), weights, spec, uri, storage, source.shape, source.dtype, actors, gpu
    )
    images = sum(len(block) * spec.views_in(block.split) for block in todo)
    run.say(
        f"features {spec.key}: {sum(spec.tiles):,} tiles, {spec.views} views of each train tile; "
        f"{len(todo)} of {len(blocks)} blocks to compute, {images:,} images, on {actors} "
        f"{'GPU' if gpu else 'CPU'} actor{'s' if actors > 1 else ''}"
    )
    reports = []
    done = 0
    for report in _reports(sources, todo, task, recipe.resources.read_tasks):
        if report["error"] is not None:
            raise (InputError if report["input"] else SatrayError)(report["error"])
        reports.append(report)
        done += report["tiles"] * spec.views_in(report["file"].partition("-")[0])
        rate = done / (time.perf_counter() - begun)
        run.progress(f"features: {done:,} of {images:,} images, {rate:.1f} a second")
    record = finished(storage, uri, spec, blocks, reports, recipe.error_budget)
    record["classes"] = list(setup.index.meta.classes)
    record["seconds"] = time.perf_counter() - begun
    storage.write(join(uri, RECORD), to_json(record))  # last: it says complete
    run.say(f"features {spec.key}: {images:,} images in {record['seconds']:.1f} s")


def _most_actors(gpu: bool) -> int:
    """One a GPU of the cluster; or one a node that has CPUs to give, which takes all its cores.

    Each holds a CPU, and one share is left to read tasks, without which actors would wait for ever.

    Raises:
        InputError: that is none.
    """
    there = ray.cluster_resources()
    cpus = there.get("CPU", 0)
    if int(cpus - READ_CPUS) < 1:
        raise InputError(
            f"features: found {cpus:g} CPUs; accepted: {1 + READ_CPUS:g} or more, one for an actor "
            f"and {READ_CPUS:g} to read tiles"
        )
    if gpu:
        most = int(there.get("GPU", 1))
    else:
        most = sum(node["Alive"] and node["Resources"].get("CPU", 0) >= 1 for node in ray.nodes())
    return min(most, int(cpus - READ_CPUS))


def _reports(
    sources: dict[str, TileSource],
    todo: Sequence[FeatureBlock],
    task: ExtractTask,
    read_tasks: int,
) -> Iterator[dict[str, Any]]:
    """Compute blocks; a report of each as it is written."""
    if not todo:
        return
    dataset = ray.data.read_datasource(
        _Blocks(sources, todo),
        override_num_blocks=1,  # the source says how many; Ray shall not split further
        num_cpus=READ_CPUS,
        concurrency=min(read_tasks, len(todo)),
    )
    dataset.context.enable_progress_bars = False
    pool: Any = ActorPoolStrategy(size=task.actors)
    stream = dataset.map_batches(
        _Actor,
        fn_constructor_args=(task,),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=pool,
        num_cpus=1,
        num_gpus=1 if task.gpu else 0,
    )
    for table in stream.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from table.to_pylist()


class _Blocks(Datasource):
    """Blocks of tiles, one a read task; a row of the stream is a whole one, so Ray cuts none."""

    def __init__(self, sources: dict[str, TileSource], todo: Sequence[FeatureBlock]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sources = sources
        self._todo = tuple(todo)

    def get_name(self) -> str:
        """Name of the operator in Ray's logs."""
        return "TilesForFeatures"

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all blocks."""
        return sum(len(b) * self._sources[b.split].tile_bytes for b in self._todo)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One task a block, with its own tiles only."""
        del parallelism, data_context
        tasks = []
        for block in self._todo:
            source = self._sources[block.split]
            size = len(block) * source.tile_bytes
            metadata = BlockMetadata(num_rows=1, size_bytes=size, input_files=None, exec_stats=None)
            read = _Read(block, source.rows(np.arange(block.start, block.stop)))
            tasks.append(ReadTask(read, metadata, per_task_row_limit=per_task_row_limit))
        return tasks


@dataclass(frozen=True)
class _Read:
    """What one read task does."""

    block: FeatureBlock
    source: TileSource
    __name__: str = "read_tiles_for_features"  # Ray names the function in its warnings

    def __call__(self) -> Iterator[pa.Table]:
        rows = np.arange(self.block.start, self.block.stop, dtype=np.int64)
        (tiles,) = read_blocks(self.source, rows, 0, len(rows))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, tiles.schema) as writer:
            writer.write_table(tiles)
        data = sink.getvalue()
        offsets = pa.py_buffer(np.array([0, data.size], dtype=np.int64))
        held = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, data])
        yield pa.table({"split": [self.block.split], "file": [self.block.file], "tiles": held})


class _Actor:
    """Holds the frozen network; computes and writes a block a call."""

    def __init__(self, task: ExtractTask) -> None:
        import torch

        from satray.sweep.forward import Extractor

        if not task.gpu:
            here = -(-task.actors // cluster.node_count())
            torch.set_num_threads(cluster.threads_per_worker(here))
            torch.set_flush_denormal(True)  # networks make denormals, and CPUs crawl over them
        self._task = task
        self._extractor = Extractor(task.setup, task.storage, task.weights, task.spec, task.gpu)

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = zip(*(batch.column(n) for n in ("split", "file", "tiles")), strict=True)
        reports = [self._one(s.as_py(), f.as_py(), tiles.as_buffer()) for s, f, tiles in rows]
        return pa.Table.from_pylist(reports, schema=REPORT)

    def _one(self, split: str, file: str, data: pa.Buffer) -> dict[str, Any]:
        begun = time.perf_counter()
        try:
            tiles = pa.ipc.open_stream(data).read_all()
            found = self._extractor.block(split, tiles, self._task.shape, self._task.dtype)
            known = {name: found[name] for name in ("tiles", "bytes", "bf16")}
            known["computing"] = time.perf_counter() - begun
            rows, labels, errors, values = found["columns"]
            data = to_parquet(rows, labels, errors, values, known)
            self._task.storage.write(join(self._task.uri, file), data)
        except Exception as error:  # of a device that is too small, say
            line = " ".join(str(error).split())
            told = isinstance(error, SatrayError)
            line = line if told else f"features: {type(error).__name__}: {line}"
            return {"error": line, "input": isinstance(error, InputError)}
        lost = json.dumps(found.pop("unreadable"))
        return {"file": file, "unreadable": lost, **known}
