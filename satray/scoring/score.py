"""The job `score`: predictions and class activation maps of tiles; of scenes, see `maps`."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from satray.config.score import ScoreRecipe
from satray.data.bands import select
from satray.data.georeference import world_files
from satray.data.index import index_digest, read_index
from satray.data.keys import is_image, taken
from satray.data.source import MASK
from satray.errors import InputError
from satray.runs.inputs import digest_entries
from satray.runs.run import Outcome, Run
from satray.scoring.blocks import Blocks
from satray.scoring.maps import look as look_scenes
from satray.scoring.over_tiles import (
    D4_SAID,
    Maps,
    failure_lines,
    read_spec,
    refuse_dtype,
    score_tiles,
    wanted_of,
)
from satray.scoring.predictions import matrix
from satray.scoring.sources import (
    TileSet,
    described,
    is_index,
    look,
    tiles_of_index,
    tiles_of_prefix,
)
from satray.storage import Entry, Storage

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec

CLASSES_SAID = 8
"""Most classes that the last lines name."""


def inputs(recipe: ScoreRecipe, storage: Storage) -> dict[str, str]:
    """Digests of the bundle and of the tiles.

    Raises:
        InputError: no bundle, no tiles, or none of those looked at fits the bundle; a class to map
            that the bundle lacks, or maps that its network cannot give.
    """
    from satray.models.bundle import bundle_digest

    if recipe.scenes is not None:
        return look_scenes.inputs(recipe, storage)
    _listing.cache_clear()
    found = bundle_digest(recipe.bundle, storage)
    spec = read_spec(recipe.bundle, storage)
    maps = maps_of(recipe, spec)
    tiles = tiles_of(recipe, storage)
    if tiles.indexed:
        index = read_index(_place(recipe), storage)
        select(tiles.names or (), spec.bands)
        refuse_dtype(index.meta.dtype, spec, f"tiles={recipe.tiles}")
        return {"bundle": found, "tiles": index_digest(_place(recipe), storage)}
    look(tiles, wanted_of(spec, tiles, maps), storage)
    listed = _listed(recipe, storage)
    images = [e for e in listed if is_image(e.key.removesuffix(MASK))]
    return {"bundle": found, "tiles": digest_entries([*images, *world_files(listed).values()])}


def plan(recipe: ScoreRecipe, storage: Storage) -> list[str]:
    """Say what would be scored, and with what."""
    if recipe.scenes is not None:
        return look_scenes.plan(recipe, storage)
    spec = read_spec(recipe.bundle, storage)
    tiles = tiles_of(recipe, storage)
    maps = maps_of(recipe, spec)
    wanted = wanted_of(spec, tiles, maps)
    blocks = Blocks.of("", len(tiles), wanted.tile_bytes)
    towers = [f"{tower.name} ({tower.backbone})" for tower in spec.variant.towers]
    if tiles.indexed:
        kept = read_index(_place(recipe), storage).table.column("bytes").to_pylist()
    else:
        listed = _listed(recipe, storage)
        kept = [entry.size for entry in listed if is_image(entry.key)]
    lines = [
        f"bundle: {', '.join(towers)}, {len(spec.classes)} classes ({spec.task}), "
        f"bands {', '.join(spec.bands)} in {spec.dtype}",
        f"tiles: {len(tiles):,} {'of a tile index' if tiles.indexed else 'images'}, "
        f"{sum(kept) / 1e6:,.1f} MB to read in {len(tiles):,} requests; delivered as "
        f"{wanted.height} x {wanted.width} px",
        f"work: {blocks.count:,} blocks of {blocks.size} tiles; actors: "
        f"{recipe.resources.workers}, read tasks: {recipe.resources.read_tasks}",
    ]
    if not tiles.indexed:
        lines += described(tiles, storage)
    if recipe.symmetries == "d4":
        lines.append(D4_SAID)
    if maps.classes:
        names = ", ".join(spec.classes[k] for k in maps.classes)
        lines.append(
            f"maps: {maps.kind}, of {names}: {len(tiles) * len(towers):,} files under cam/"
        )
    return lines


def work(recipe: ScoreRecipe, run: Run) -> Outcome:
    """Score the tiles; publish `predictions/`, `cam/` and `failures.parquet`."""
    if recipe.scenes is not None:
        from satray.scoring.maps import job, scheduled

        return scheduled.work(recipe, run) if recipe.only_new else job.work(recipe, run)
    spec = read_spec(recipe.bundle, run.storage)
    tiles = tiles_of(recipe, run.storage)
    maps = maps_of(recipe, spec)
    for line in [] if tiles.indexed else described(tiles, run.storage):
        run.say(line)
    counts = _Predicted(spec.classes)
    merged = score_tiles(
        run,
        recipe.bundle,
        tiles,
        maps,
        recipe.batch,
        recipe.resources,
        counts.add,
        symmetries=recipe.symmetries,
    )
    scored = merged.tiles - merged.failed
    summary = [f"scored {scored:,} of {merged.tiles:,} tiles: predictions/"]
    if scored:
        summary.append(counts.line(scored))
    if maps.classes:
        summary.append(f"{merged.maps:,} class activation maps: cam/")
    return Outcome(
        counts={
            "tiles": merged.tiles,
            "failed": merged.failed,
            "maps": merged.maps,
            "classes": len(spec.classes),
        },
        metrics={"predicted": counts.by_class()},
        summary=(*summary, *failure_lines(merged)),
        attempted=merged.tiles,
        failed=merged.failed,
        error_budget=recipe.error_budget,
    )


def early(recipe: ScoreRecipe, run: Run) -> Outcome | None:
    """What comes before Ray: of a schedule, to see that there is nothing new."""
    if not recipe.only_new:
        return None
    from satray.scoring.maps import scheduled

    return scheduled.early(recipe, run)


def shared(recipe: ScoreRecipe) -> bool:
    """Whether the recipe's `out` serves the runs of a schedule."""
    return recipe.only_new


def tiles_of(recipe: ScoreRecipe, storage: Storage) -> TileSet:
    """Tiles of the recipe: an index's rows, or a prefix's images."""
    place, bands = _place(recipe), recipe.bands
    assert not isinstance(bands, dict)
    if not is_index(place, storage):
        return tiles_of_prefix(place, _listed(recipe, storage), bands, recipe.pages)
    index = read_index(place, storage)
    if not len(index):
        raise InputError(f"tiles={recipe.tiles}: the tile index has no rows")
    if bands is not None and len(bands) != len(index.meta.bands):
        raise InputError(
            f"bands: {len(bands)} names, but the tiles of the index have "
            f"{len(index.meta.bands)} bands ({', '.join(index.meta.bands)})"
        )
    tiles = tiles_of_index(index)
    if recipe.pages == "first" and tiles.pages != "first":
        raise InputError("pages=first: the tile index was made with pages=bands; accepted: that")
    return replace(tiles, names=bands or tiles.names)


def _listed(recipe: ScoreRecipe, storage: Storage) -> list[Entry]:
    return taken(_listing(_place(recipe), storage), recipe.extensions)


def _place(recipe: ScoreRecipe) -> str:
    assert recipe.tiles is not None
    return recipe.tiles


def maps_of(recipe: ScoreRecipe, spec: "BundleSpec") -> Maps:
    """Maps of the recipe.

    Raises:
        InputError: a class that the bundle lacks; a network with a dense head; argmax maps of a
            pooling that takes no maximum.
    """
    names = recipe.cam.classes
    if not names:
        return Maps()
    if spec.variant.head == "dense":
        raise InputError(
            "cam.classes: this bundle's dense head mixes all cells before it decides, so it has no "
            "class activation maps; accepted: none, or a bundle with head=linear"
        )
    if recipe.cam.kind == "argmax" and spec.variant.pooling != "max":
        raise InputError(
            f"cam.kind=argmax: this bundle pools with {spec.variant.pooling}; accepted: dense "
            "(argmax shows what a maximum pooling used)"
        )
    if names == ("all",) and "all" not in spec.classes:
        return Maps(tuple(range(len(spec.classes))), recipe.cam.kind or "dense")
    absent = [name for name in names if name not in spec.classes]
    if absent:
        raise InputError(
            f"cam.classes: no {', '.join(absent)} in the bundle; accepted: all, "
            f"{', '.join(spec.classes)}"
        )
    places = tuple(dict.fromkeys(spec.classes.index(name) for name in names))
    return Maps(places, recipe.cam.kind or "dense")


@lru_cache(maxsize=1)
def _listing(uri: str, storage: Storage) -> tuple[Entry, ...]:
    """List a prefix once a job, since a million tiles take a thousand requests."""
    return tuple(storage.list(uri))


@dataclass
class _Predicted:
    """Counts predictions a class."""

    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        self._counts = np.zeros(len(self.classes), dtype=np.int64)

    def add(self, table: pa.Table) -> None:
        self._counts += np.nansum(matrix(table, "pred", self.classes), axis=0).astype(np.int64)

    def by_class(self) -> dict[str, int]:
        return {name: int(n) for name, n in zip(self.classes, self._counts, strict=True)}

    def line(self, scored: int) -> str:
        most = sorted(self.by_class().items(), key=lambda pair: -pair[1])
        said = [f"{name} {n:,} ({n / scored:.1%})" for name, n in most[:CLASSES_SAID]]
        rest = len(most) - len(said)
        return f"predicted: {', '.join(said)}" + (f" and {rest} other classes" if rest else "")
