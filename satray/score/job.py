"""The job `score`: predictions and class activation maps of tiles; of scenes, see `scenes_job`.

`score_tiles` is also `evaluate`'s way from tiles to predictions.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from satray.config.base import Resources
from satray.config.score import ScoreRecipe
from satray.data.bands import select
from satray.data.georeference import world_files
from satray.data.index import TileIndex, read_index
from satray.data.match import is_image, with_extensions
from satray.data.raster import MASK
from satray.data.values import Units, as_units
from satray.errors import InputError
from satray.models.spec import bundle_digest, bundle_digests, read_spec
from satray.runs.run import Outcome, Run, digest_entries
from satray.score.blocks import Blocks, Merged, merge
from satray.score.predictions import Layout, failure_lines, matrix, predicted_line
from satray.score.results import MapRequest
from satray.score.scheduler import Tally, run_stages, wants_ray
from satray.score.settings import D4_SAID, maps_of, towers_with_shares
from satray.score.tile_stages import px_of_tiles
from satray.score.tiles import (
    TileSet,
    Wanted,
    described,
    is_index,
    look,
    tiles_of_index,
    tiles_of_prefix,
)
from satray.storage import Storage

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec
    from satray.score.engines import EngineKey, PrecisionKey
    from satray.score.scenes_job import Scenes


@dataclass(frozen=True)
class Tiles:
    """Tiles to score, and the bundle that scores them."""

    spec: "BundleSpec"
    """The bundle's description."""
    maps: MapRequest
    """What is mapped."""
    tiles: TileSet
    """The tiles."""
    bytes: int
    """What their files hold in all."""
    digests: dict[str, str]
    """Of bundle and tiles."""

    def plan(self, recipe: ScoreRecipe, storage: Storage) -> list[str]:
        """Say what would be scored, and with what."""
        spec, maps, tiles = self.spec, self.maps, self.tiles
        wanted = wanted_of(spec, tiles, maps)
        blocks = Blocks.of("", len(tiles), wanted.tile_bytes)
        towers = [f"{tower.name} ({tower.backbone})" for tower in spec.variant.towers]
        lines = [
            f"bundle: {', '.join(towers)}, {len(spec.classes)} classes ({spec.task}), "
            f"bands {', '.join(spec.bands)} in {spec.dtype}",
            f"tiles: {len(tiles):,} {'of a tile index' if tiles.indexed else 'images'}, "
            f"{self.bytes / 1e6:,.1f} MB to read in {len(tiles):,} requests; delivered as "
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
                f"maps: {maps.kinds[0]}, of {names}: {len(tiles) * len(towers):,} files under cam/"
            )
        return lines

    def work(self, recipe: ScoreRecipe, run: Run) -> Outcome:
        """Score the tiles; publish `predictions/`, `cam/` and `failures.parquet`."""
        spec, maps, tiles = self.spec, self.maps, self.tiles
        for line in [] if tiles.indexed else described(tiles, run.storage):
            run.say(line)
        predicted: Counter[str] = Counter(dict.fromkeys(spec.classes, 0))

        def count(table: pa.Table) -> None:
            given = np.nansum(matrix(table, "pred", spec.classes), axis=0)
            predicted.update({name: int(n) for name, n in zip(spec.classes, given, strict=True)})

        merged = score_tiles(
            run,
            recipe.bundle,
            tiles,
            maps,
            recipe.batch,
            recipe.resources,
            count,
            symmetries=recipe.symmetries,
            engine=recipe.engine,
            precision=recipe.precision,
        )
        scored = merged.tiles - merged.failed
        summary = [f"scored {scored:,} of {merged.tiles:,} tiles: predictions/"]
        if scored:
            summary.append(predicted_line(predicted, scored))
        if maps.classes:
            summary.append(f"{merged.maps:,} class activation maps: cam/")
        return Outcome(
            counts={
                "tiles": merged.tiles,
                "failed": merged.failed,
                "maps": merged.maps,
                "classes": len(spec.classes),
            },
            metrics={"predicted": dict(predicted)},
            summary=(*summary, *failure_lines(merged.reasons, merged.tiles, "tiles")),
            attempted=merged.tiles,
            failed=merged.failed,
            error_budget=recipe.error_budget,
        )

    def large(self, recipe: ScoreRecipe) -> bool:
        """Whether `resources.ray=auto` takes Ray."""
        px = px_of_tiles(len(self.tiles), self.spec, recipe.symmetries == "d4")
        return wants_ray(px, recipe.resources)

    def early(self, recipe: ScoreRecipe, run: Run) -> None:
        """Nothing comes before Ray."""


def read(recipe: ScoreRecipe, storage: Storage) -> "Tiles | Scenes":
    """Read the bundle's description, and list the tiles or scenes.

    Raises:
        InputError: no bundle, no tiles, or none of those looked at fits the bundle; a class to map
            that the bundle lacks, or maps that its network cannot give.
    """
    if recipe.scenes is not None:
        from satray.score import scenes_job

        return scenes_job.read(recipe, storage)
    found = bundle_digest(bundle_digests(recipe.bundle, storage))
    spec = read_spec(recipe.bundle, storage)
    maps = maps_of(recipe, spec)
    place, bands = recipe.tiles, recipe.bands
    assert place is not None
    assert not isinstance(bands, dict)
    if is_index(place, storage):
        index = read_index(place, storage)
        tiles = _indexed(recipe, index, bands)
        select(tiles.names or (), spec.bands)
        refuse_dtype(index.meta.dtype, spec, f"tiles={recipe.tiles}")
        size = sum(index.table.column("bytes").to_pylist())
        return Tiles(spec, maps, tiles, size, {"bundle": found, "tiles": index.digest})
    listed = list(with_extensions(storage.list(place), recipe.extensions))
    tiles = tiles_of_prefix(place, listed, bands, recipe.pages)
    look(tiles, wanted_of(spec, tiles, maps), storage)
    images = [e for e in listed if is_image(e.key.removesuffix(MASK))]
    digest = digest_entries([*images, *world_files(listed).values()])
    size = sum(entry.size for entry in listed if is_image(entry.key))
    return Tiles(spec, maps, tiles, size, {"bundle": found, "tiles": digest})


def plan(recipe: ScoreRecipe, found: "Tiles | Scenes", storage: Storage) -> list[str]:
    """Say what would be scored, and with what."""
    return found.plan(recipe, storage)


def work(recipe: ScoreRecipe, found: "Tiles | Scenes", run: Run) -> Outcome:
    """Score what was found, and publish what comes of it."""
    return found.work(recipe, run)


def large(recipe: ScoreRecipe, found: "Tiles | Scenes") -> bool:
    """Whether `resources.ray=auto` takes Ray."""
    return found.large(recipe)


def early(recipe: ScoreRecipe, found: "Tiles | Scenes", run: Run) -> "Outcome | Scenes | None":
    """What comes before Ray: of a schedule, to see what is new, and whether anything is."""
    return found.early(recipe, run)


def wanted_of(spec: "BundleSpec", tiles: TileSet, maps: MapRequest) -> Wanted:
    """What the bundle wants of these tiles."""
    height, width = spec.tile_shape
    return Wanted(
        bands=spec.bands,
        dtype=spec.dtype,
        height=height,
        width=width,
        names=tiles.names,
        indexed=tiles.indexed,
        index_named=tiles.index_named,
        maps=bool(maps.classes),
        units=as_units(spec.units),
        stated=_stated(spec, tiles),
        pages=tiles.pages,
    )


def _stated(spec: "BundleSpec", tiles: TileSet) -> Units:
    """What an index says of the bundle's bands; a band that it lacks is refused elsewhere."""
    by_name = dict(zip(tiles.names or (), tiles.units, strict=False))
    return tuple(by_name.get(band) for band in spec.bands) if by_name else ()


def score_tiles(
    run: Run,
    bundle: str,
    tiles: TileSet,
    maps: MapRequest,
    batch: int,
    resources: Resources,
    each: Callable[[pa.Table], object] | None = None,
    *,
    symmetries: str = "none",
    fresh: bool = False,
    engine: "EngineKey" = "eager",
    precision: "PrecisionKey" = "fp32",
) -> Merged:
    """Score tiles and publish predictions, failures and maps.

    Blocks that an earlier attempt of the run finished are not scored again, unless `fresh`.

    Args:
        run: the run; says whether Ray is up.
        bundle: bundle folder, or a train run's `out`.
        tiles: what to score.
        maps: maps to write.
        batch: tiles a forward pass.
        resources: actors, read tasks, GPUs.
        each: called with each block's predictions, in order.
        symmetries: `d4` averages over the eight symmetries of each tile; `none` does not.
        fresh: score every block now, with the libraries, device and files of now.
        engine: what computes features on CPUs.
        precision: of the backbones.
    """
    from satray.models.bundle import load_bundle
    from satray.score.engines import engine_for
    from satray.score.tile_stages import TileStages, px_of_tiles

    loaded = load_bundle(bundle, run.storage)  # weights that do not fit end here, in one line
    spec, d4 = loaded.spec, symmetries == "d4"
    wanted = wanted_of(spec, tiles, maps)
    layout = Layout(spec.classes, towers_with_shares(spec), loaded.model_id, run.run_id)
    blocks = Blocks.of(run.state, len(tiles), wanted.tile_bytes)
    done = set() if fresh else blocks.finished(run.storage)
    todo = [number for number in range(blocks.count) if number not in done]
    if done:
        run.say(f"going on: {len(done):,} of {blocks.count:,} blocks of tiles are scored already")
    if todo:
        run.begin_writing()  # tasks write maps
        with run.activity("scoring"):
            workers = None
            if run.ray:
                from satray import cluster

                workers = cluster.allot(resources, run.say)
            px = px_of_tiles(len(tiles), spec, d4)
            stages = TileStages(
                bundle,
                loaded.model_id,
                spec,
                spec.preprocess().geometry(*spec.tile_shape),
                run.storage,
                run.out,
                blocks,
                wanted,
                layout,
                maps,
                batch,
                d4,
                engine_for(engine, px, workers),
                precision,
            )
            del loaded
            items = ((number, tiles.rows(blocks.rows(number))) for number in todo)
            tally = Tally(run, sum(len(blocks.rows(number)) for number in todo), "tiles")
            notes: Counter[str] = Counter()
            for result in run_stages(stages, items, resources, tally, workers):
                tally.count(result.tiles)
                notes += result.notes
        tally.end()
        for note, count in notes.items():
            run.say(f"ground: {note} (of {count:,} of {len(tiles):,} tiles)")
    with run.activity("merging"):
        return merge(run, blocks, layout, each)


def refuse_dtype(found: str, spec: "BundleSpec", where: str) -> None:
    """Refuse tiles of another dtype than the bundle's: their values mean something else.

    Raises:
        InputError: the dtypes differ.
    """
    if found != spec.dtype:
        raise InputError(
            f"{where}: tiles are {found}, the bundle was trained on {spec.dtype}; "
            f"accepted: {spec.dtype}"
        )


def _indexed(recipe: ScoreRecipe, index: TileIndex, bands: tuple[str, ...] | None) -> TileSet:
    """The tiles of an index."""
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
