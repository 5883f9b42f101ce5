"""Features of a frozen network over an index, extracted once.

Tasks fetch and decode blocks of tiles, actors make each block's views and send them through the
network, and tasks write the pooled vectors as one file a block. An extraction that was interrupted
goes on where it stopped. `satray.tune.feature_table` reads what is written here.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from satray import cluster
from satray.config.base import Resources
from satray.data.cache import cache_lines
from satray.data.read import TileSource, read_blocks
from satray.errors import TrainingError
from satray.runs.run import Run, to_json
from satray.score.scheduler import Tally, run_stages
from satray.score.stages import Stages, Started
from satray.storage import Storage, join, name
from satray.tune.feature_table import (
    RECORD,
    SPLITS,
    Block,
    FeatureTable,
    blocks_of,
    notes_of,
    to_file,
    views_of,
)

if TYPE_CHECKING:
    from satray.train.setup import Setup
    from satray.tune.extractor import Extractor

TRIED = 64
"""Tiles at a time that could not be read and are tried again."""


def extract(setup: Setup, run: Run, weights: str, uri: str) -> FeatureTable:
    """The features of both splits: found where they were extracted before, else extracted now.

    Where they are found, neither Ray nor the network is used, and no tile is read but those that
    could not be: blocks with tiles that can be read by now are extracted anew, since a store that
    was away for a while shall not spoil features for good.

    Args:
        setup: the run, resolved and measured, with its index's table.
        run: told how far things are; its seconds go to `features`.
        weights: URI of the network's first weights.
        uri: their folder; its name stands for all that decides them (`starts.start_key`).

    Raises:
        TrainingError: more tiles than `error_budget` allows cannot be read. The blocks that lack
            them are removed, so that a rerun reads them again.
        SatrayError: what ended a task or an actor for good, in one line.
    """
    cache = setup.recipe.cache
    sources = {split: setup.source(split, run.storage) for split in SPLITS}
    tiles = {split: len(source) for split, source in sources.items()}
    views = views_of(setup.recipe, setup.index.meta.tile_shape)
    blocks = blocks_of(tiles, sources["train"].spec.nbytes, views, setup.recipe.input.size)
    found = FeatureTable.find(uri, run.storage, cache)
    mended = [] if found is None else _mended(found, sources, blocks)
    if found is None or mended:
        for file in (RECORD, *mended) if mended else ():
            run.storage.delete(join(uri, file))
        with run.activity("features"):
            _extract(setup, run, weights, uri, sources, blocks)
        found = FeatureTable.find(uri, run.storage, cache)
        assert found is not None
    else:
        run.say(f"features {name(uri)}: found in {uri}")
    if lost := [why for rows in found.record["unreadable"].values() for why in rows.values()]:
        run.say(
            f"note: features {name(uri)}: {len(lost):,} of {sum(tiles.values()):,} tiles could not "
            f"be read, and count for nothing; one of them: {lost[0]}"
        )
    return found


def _mended(
    table: FeatureTable, sources: Mapping[str, TileSource], blocks: Iterable[Block]
) -> list[str]:
    """Files of a table's blocks whose tiles could not be read, where one can by now."""
    found: list[str] = []
    for split, rows in table.record["unreadable"].items():
        wanted = sources[split].rows(np.array(list(rows), np.int64))
        tables = read_blocks(replace(wanted, cache=None), TRIED) if rows else ()
        read = {row for each in tables for row in each["row"].filter(each["valid"]).to_pylist()}
        own = [block for block in blocks if block.split == split]
        found += [each.file for each in own if not read.isdisjoint(range(each.start, each.stop))]
    return found


def _extract(
    setup: Setup,
    run: Run,
    weights: str,
    uri: str,
    sources: Mapping[str, TileSource],
    blocks: Sequence[Block],
) -> None:
    begun, storage, recipe = time.perf_counter(), run.storage, setup.recipe
    tiles = {split: len(source) for split, source in sources.items()}
    views = blocks[0].views
    written = {entry.key for entry in storage.list(uri)}
    todo = [block for block in blocks if block.file not in written]
    images = sum(block.images for block in todo)
    run.say(
        f"features {name(uri)}: {sum(tiles.values()):,} tiles, {views} views of each train tile; "
        f"{len(todo)} of {len(blocks)} blocks to compute, {images:,} images"
    )
    items = (
        (block, sources[block.split].rows(np.arange(block.start, block.stop))) for block in todo
    )
    stages = _Stages(setup.without_table(), storage, weights, uri)
    workers = _workers(recipe.resources, len(todo), run) if run.ray else None
    cache = sources["train"].cache
    for line in cluster.call_anywhere(cache_lines, cache) if run.ray else cache_lines(cache):
        run.say(line)
    tally, now = Tally(run, images, "image"), dict[str, dict[str, Any]]()
    for block, said in run_stages(stages, items, recipe.resources, tally, workers):
        now[block.file] = said
        tally.count(block.images)
    unreadable: dict[str, dict[str, str]] = {split: {} for split in SPLITS}
    torn: dict[str, list[str]] = {split: [] for split in SPLITS}
    bf16 = False
    for block in blocks:
        file = join(uri, block.file)
        notes = now.get(block.file) or notes_of(storage.read(file))
        unreadable[block.split] |= notes["unreadable"]
        torn[block.split] += [file] if notes["unreadable"] else []
        bf16 |= notes["bf16"]
    for split, rows in unreadable.items():
        if len(rows) > recipe.error_budget * tiles[split]:
            for file in torn[split]:
                storage.delete(file)
            raise TrainingError(
                f"features: {len(rows):,} of {tiles[split]:,} tiles of {split} could not be read "
                f"(error_budget={recipe.error_budget:g}); rerunning tries these again; one of "
                f"them: {next(iter(rows.values()))}"
            )
    seconds = time.perf_counter() - begun
    record = {
        "columns": notes["columns"],
        "rows": tiles,
        "views": {"train": views, "val": 1},
        "files": [block.file for block in blocks],
        "unreadable": unreadable,
        "bf16": bf16,
        "seconds": seconds,
    }
    storage.write(join(uri, RECORD), to_json(record))  # last: it says complete
    run.say(f"features {name(uri)}: {images:,} images in {seconds:.1f} s")


def _workers(resources: Resources, blocks: int, run: Run) -> cluster.Workers:
    """One actor a GPU; or one a node, which takes all its cores. A CPU is left to read tasks.

    Of a cluster no fewer than `resources.workers`: it may have nothing up yet.
    """
    gpu = cluster.use_gpus(resources, run.say)
    there = ray.cluster_resources()
    most = int(there.get("GPU", 1)) if gpu else len(cluster.cpu_nodes())
    most = min(most, int(there.get("CPU", 0)) - 1)
    if not cluster.is_local():
        most = max(most, resources.workers)
    return cluster.allot(resources, run.say, count=max(1, min(most, blocks)))


@dataclass(frozen=True)
class _Stages(Stages[tuple[Block, TileSource], Block, tuple[Block, dict[str, Any]]]):
    """What is done with each block: its tiles are read, looked at, and its features written."""

    setup: Setup
    storage: Storage
    weights: str
    uri: str

    def open(self, item: tuple[Block, TileSource]) -> Started[Block]:
        block, source = item
        (tiles,) = read_blocks(source, len(source))
        return Started(block, tiles, tiles.column("error").to_pylist())

    def network(self, gpu: bool) -> tuple[Extractor, str]:
        from satray.tune.extractor import Extractor  # torch: readers do without

        return Extractor(self.setup, self.storage, self.weights, gpu), "eager"

    def write(self, opened: Block, parts: Iterable[Any], engine: str) -> Any:
        del engine
        ((errors, (features, bf16)),) = parts
        data = to_file(opened, errors, features, bf16=bf16)
        self.storage.write(join(self.uri, opened.file), data)
        return opened, notes_of(data)
