"""Features of a frozen network over an index, extracted once.

Tasks fetch and decode blocks of tiles, actors make each block's views and send them through the
network, and tasks write the pooled vectors as one file a block. An extraction that was interrupted
goes on where it stopped. `satray.tune.feature_table` says what
decides the features, and reads them.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray

from satray import cluster
from satray.config.base import Resources
from satray.data.cache import cache_lines
from satray.data.read import TileSource, read_blocks, to_torch
from satray.errors import SatrayError, TrainingError
from satray.runs.run import Run, to_json
from satray.score.scheduler import Tally, run_stages
from satray.score.stages import Stages, Started
from satray.storage import Storage, join
from satray.tune.feature_table import (
    FORMAT,
    RECORD,
    SPLITS,
    FeatureBlock,
    FeatureSpec,
    FeatureTable,
    notes_of,
    to_parquet,
)

if TYPE_CHECKING:
    from satray.train.setup import Setup
    from satray.tune.extractor import Extractor


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
    find = functools.partial(
        FeatureTable.find, uri, run.storage, folder=cache.folder, gib=cache.gib
    )
    found = find()
    if found is not None:
        run.say(f"features {spec.key}: found in {store}")
        return found
    with run.activity("features"):
        _extract(setup, run, weights_uri, spec, uri)
    found = find()
    assert found is not None
    return found


def _extract(setup: Setup, run: Run, weights: str, spec: FeatureSpec, uri: str) -> None:
    begun, storage, recipe = time.perf_counter(), run.storage, setup.recipe
    sources = {split: setup.source(split, storage) for split in SPLITS}
    source = sources["train"]
    for line in cache_lines(source.cache):
        run.say(line)
    blocks = spec.blocks(source.tile_bytes)
    written = {entry.key for entry in storage.list(uri)}
    todo = [block for block in blocks if block.file not in written]
    workers = _workers(recipe.resources, len(todo), run) if run.ray else None
    images = sum(len(block) * spec.views_in(block.split) for block in todo)
    run.say(
        f"features {spec.key}: {sum(spec.tiles):,} tiles, {spec.views} views of each train tile; "
        f"{len(todo)} of {len(blocks)} blocks to compute, {images:,} images"
    )
    shape, dtype = source.shape, source.dtype
    stages = _Stages(setup.without_table(), storage, weights, spec, uri, shape, dtype)
    items = (
        _Block(block, sources[block.split].rows(np.arange(block.start, block.stop)))
        for block in todo
    )
    reports = []
    tally = Tally(run, images, "images")
    for report in run_stages(stages, items, recipe.resources, tally, workers):
        reports.append(report)
        tally.count(report["images"])
    seconds = time.perf_counter() - begun
    record = {
        **finished(storage, uri, spec, blocks, reports, recipe.error_budget),
        "classes": list(setup.index.meta.classes),
        "seconds": seconds,
    }
    storage.write(join(uri, RECORD), to_json(record))  # last: it says complete
    run.say(f"features {spec.key}: {images:,} images in {seconds:.1f} s")


def _workers(resources: Resources, blocks: int, run: Run) -> cluster.Workers:
    """One actor a GPU; or one a node, which takes all its cores. A CPU is left to read tasks."""
    gpu = cluster.use_gpus(resources, run.say)
    there = ray.cluster_resources()
    most = int(there.get("GPU", 1)) if gpu else cluster.node_count()
    count = max(1, min(most, int(there.get("CPU", 0)) - 1, blocks))
    return cluster.allot(resources, run.say, count=count)


def finished(
    storage: Storage,
    uri: str,
    spec: FeatureSpec,
    blocks: Sequence[FeatureBlock],
    reports: Iterable[Mapping[str, Any]],
    budget: float,
) -> dict[str, Any]:
    """What `features.json` says of an extraction, once every block is there.

    Args:
        storage: how `uri` is reached.
        uri: folder of the features.
        spec: of them.
        blocks: all of them, written.
        reports: of those of this attempt: `file` and its `notes` (`notes_of`); of the others their
            files are read.
        budget: share of a split's tiles that may be unreadable.

    Raises:
        TrainingError: more could not be read. The blocks that lack them are removed, so that a
            rerun reads them again: a store that was away for a while shall not spoil features.
        SatrayError: blocks of the train split are of different precisions.
    """
    known = {each["file"]: each["notes"] for each in reports}
    lost: dict[str, dict[str, str]] = {split: {} for split in SPLITS}
    bf16 = set()
    for block in blocks:
        notes = known.get(block.file) or notes_of(storage.read(join(uri, block.file)))
        lost[block.split].update(notes["unreadable"])
        widths = notes["widths"]
        if block.split == "train":
            bf16.add(notes["bf16"])
    if len(bf16) > 1:
        raise SatrayError(
            f"features {spec.key}: some were computed in bf16, others in fp32, on processors of "
            "several kinds; base.precision=fp32 or bf16 makes them alike"
        )
    for split, tiles in zip(SPLITS, spec.tiles, strict=True):
        rows = lost[split]
        if len(rows) <= budget * tiles:
            continue
        for block in blocks:
            if block.split == split and any(block.start <= int(r) < block.stop for r in rows):
                storage.delete(join(uri, block.file))
        raise TrainingError(
            f"features: {len(rows):,} of {tiles:,} tiles of {split} could not be read "
            f"(error_budget={budget:g}); rerunning tries these again; one of them: "
            f"{next(iter(rows.values()))}"
        )
    return {
        "format": FORMAT,
        "key": spec.key,
        "decided_by": spec.decided_by,
        "columns": widths,
        "rows": dict(zip(SPLITS, spec.tiles, strict=True)),
        "views": {split: spec.views_in(split) for split in SPLITS},
        "files": [block.file for block in blocks],
        "unreadable": lost,
        "bf16": True in bf16,
    }


@dataclass(frozen=True)
class _Block:
    """Tiles to extract the features of."""

    block: FeatureBlock
    source: TileSource


@dataclass(frozen=True)
class _Opened:
    """A block whose tiles are read."""

    block: FeatureBlock
    px: int
    parts: int = 1


@dataclass(frozen=True)
class _Stages(Stages[_Block, _Opened, dict[str, Any]]):
    """What is done with each block."""

    setup: Setup
    storage: Storage
    weights: str
    spec: FeatureSpec
    uri: str
    shape: tuple[int, int, int]
    dtype: str

    def open(self, item: _Block) -> Started[_Opened]:
        (tiles,) = read_blocks(item.source, len(item.source))
        views = self.spec.views_in(item.block.split)
        px = len(item.block) * views * self.setup.recipe.input.size**2
        return Started(_Opened(item.block, px), tiles, tiles.column("error").to_pylist())

    def network(self, gpu: bool) -> _Network:
        from satray.tune.extractor import Extractor  # torch: readers do without

        extractor = Extractor(self.setup, self.storage, self.weights, self.spec, gpu)
        return _Network(extractor, self.shape, self.dtype)

    def write(self, opened: _Opened, parts: Iterable[Any], engine: str) -> dict[str, Any]:
        del engine
        ((errors, (rows, labels, features, bf16)),) = parts
        block = opened.block
        data = to_parquet(rows, labels, errors, features, bf16=bf16)
        self.storage.write(join(self.uri, block.file), data)
        images = len(rows) * self.spec.views_in(block.split)
        return {"file": block.file, "images": images, "notes": notes_of(data)}


@dataclass(frozen=True)
class _Network:
    """An extractor over blocks."""

    extractor: Extractor
    shape: tuple[int, int, int]
    dtype: str
    engine: str = "eager"

    def __call__(self, opened: _Opened, part: int, tiles: pa.Table) -> tuple[Any, ...]:
        del part
        batch = to_torch(tiles, self.shape, self.dtype)
        rows, split = batch["row"].numpy(), opened.block.split
        features = self.extractor.features(split, batch["pixels"], rows)
        bf16 = self.extractor.bf16 and split == "train"
        return rows, batch["labels"].numpy(), features, bf16
