"""Features of a frozen network over an index, extracted once on Ray Data.

Read tasks fetch and decode blocks of tiles; a pool of actors makes each block's views, sends them
through the network and writes the pooled vectors as one file. A file is there whole or not at all,
so an extraction that was interrupted goes on where it stopped. `satray.tune.feature_plan` says
what decides the features; `satray.tune.feature_table` reads them.

Letters: N tiles of a block, B of a forward, V views, D numbers of a tower, C H W of a tile.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import ray

from satray import cluster
from satray.block_pool import BlockRead, Report, Row, held, through_actors
from satray.data.cache import cache_lines
from satray.data.read import TileSource, read_blocks, tile_source
from satray.errors import InputError
from satray.runs.run import Run, to_json
from satray.storage import Storage, join
from satray.tune.feature_file import to_parquet
from satray.tune.feature_plan import (
    RECORD,
    SPLITS,
    FeatureBlock,
    FeatureSpec,
    missing,
)
from satray.tune.feature_record import finished
from satray.tune.feature_table import FeatureTable

if TYPE_CHECKING:
    from satray.train.plan.setup import Setup


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
    for line in cache_lines(source.cache):
        run.say(line)
    blocks = spec.blocks(source.tile_bytes)
    todo = missing(blocks, [entry.key for entry in storage.list(uri)])
    gpu = cluster.use_gpus(recipe.resources, run.say)
    actors = max(1, min(_most_actors(gpu), len(todo)))
    workers = cluster.allot(recipe.resources, run.say, count=actors)
    task = ExtractTask(
        setup.without_table(), weights, spec, uri, storage, source.shape, source.dtype, gpu
    )
    reads = [_block_read(block, sources[block.split]) for block in todo]
    images = sum(len(block) * spec.views_in(block.split) for block in todo)
    run.say(
        f"features {spec.key}: {sum(spec.tiles):,} tiles, {spec.views} views of each train tile; "
        f"{len(todo)} of {len(blocks)} blocks to compute, {images:,} images, on {actors} "
        f"{'GPU' if gpu else 'CPU'} actor{'s' if actors > 1 else ''}"
    )
    reports = []
    done = 0
    for report in through_actors("features", reads, workers, functools.partial(_Work, task)):
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

    Each holds a CPU, and one is left to read tasks, without which actors would wait for ever.

    Raises:
        InputError: that is none.
    """
    there = ray.cluster_resources()
    cpus = there.get("CPU", 0)
    if int(cpus - 1) < 1:
        raise InputError(
            f"features: found {cpus:g} CPUs; accepted: 2 or more, one for an actor "
            "and one to read tiles"
        )
    if gpu:
        most = int(there.get("GPU", 1))
    else:
        most = sum(node["Alive"] and node["Resources"].get("CPU", 0) >= 1 for node in ray.nodes())
    return min(most, int(cpus - 1))


def _block_read(block: FeatureBlock, source: TileSource) -> BlockRead:
    own = source.rows(np.arange(block.start, block.stop))
    return BlockRead(functools.partial(_read, block, own), len(block) * source.tile_bytes)


def _read(block: FeatureBlock, source: TileSource) -> pa.Table:
    (tiles,) = read_blocks(source, len(source))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, tiles.schema) as writer:
        writer.write_table(tiles)
    whole = held(sink.getvalue())
    return pa.table({"split": [block.split], "file": [block.file], "tiles": whole})


class _Work:
    """Holds the frozen network; computes and writes a block a call."""

    def __init__(self, task: ExtractTask) -> None:
        from satray.tune.forward import Extractor

        self._task = task
        self._extractor = Extractor(task.setup, task.storage, task.weights, task.spec, task.gpu)

    def __call__(self, row: Row) -> Report:
        begun = time.perf_counter()
        tiles = pa.ipc.open_stream(row["tiles"]).read_all()
        found = self._extractor.block(row["split"], tiles, self._task.shape, self._task.dtype)
        known = {name: found[name] for name in ("tiles", "bytes", "bf16")}
        known["computing"] = time.perf_counter() - begun
        rows, labels, errors, values = found["columns"]
        data = to_parquet(rows, labels, errors, values, known)
        self._task.storage.write(join(self._task.uri, row["file"]), data)
        return {"file": row["file"], "unreadable": found["unreadable"], **known}
