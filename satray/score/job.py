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
from satray.errors import InputError, counted
from satray.models.spec import bundle_digest, bundle_digests, read_spec
from satray.runs.run import Outcome, Run, digest_entries
from satray.score.blocks import Blocks, Merged, merge
from satray.score.predictions import Layout, failure_lines, matrix, predicted_line
from satray.score.results import MapRequest
from satray.score.scheduler import Tally, run_stages, wants_ray
from satray.score.settings import D4_SAID, maps_of, towers_with_shares
from satray.score.tile_stages import TileScoring, TileStages
from satray.score.tiles import (
    TileSet,
    is_index,
    look,
    tiles_of_index,
    tiles_of_prefix,
    wanted_of,
)
from satray.storage import Storage

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec
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
    notes: tuple[str, ...]
    """What a few of them hold besides plain bands, a line each."""
    digests: dict[str, str]
    """Of bundle and tiles."""

    def plan(self, recipe: ScoreRecipe, storage: Storage) -> list[str]:
        """Say what would be scored, and with what."""
        del storage
        spec, maps, tiles = self.spec, self.maps, self.tiles
        wanted = wanted_of(spec, tiles)
        blocks = Blocks.of("", len(tiles), wanted.tile_bytes)
        towers = [f"{tower.name} ({tower.backbone})" for tower in spec.variant.towers]
        lines = [
            f"bundle: {', '.join(towers)}, {counted(len(spec.classes), 'class')} ({spec.task}), "
            f"bands {', '.join(spec.bands)} in {spec.dtype}",
            f"tiles: {len(tiles):,} {'of a tile index' if tiles.source.indexed else 'images'}, "
            f"{self.bytes / 1e6:,.1f} MB to read in {counted(len(tiles), 'request')}; delivered as "
            f"{wanted.height} x {wanted.width} px",
            f"work: {counted(blocks.count, 'block')} of {counted(blocks.size, 'tile')}; actors: "
            f"{recipe.resources.workers}, read tasks: {recipe.resources.read_tasks}",
        ]
        lines += self.notes
        if recipe.symmetries == "d4":
            lines.append(D4_SAID)
        if maps.classes:
            names = ", ".join(spec.classes[k] for k in maps.classes)
            lines.append(
                f"maps: {maps.kinds[0]}, of {names}: "
                f"{counted(len(tiles) * len(towers), 'file')} under cam/"
            )
        return lines

    def work(self, recipe: ScoreRecipe, run: Run) -> Outcome:
        """Score the tiles; publish `predictions/`, `cam/` and `failures.parquet`."""
        spec, maps, tiles = self.spec, self.maps, self.tiles
        for line in self.notes:
            run.say(line)
        predicted: Counter[str] = Counter(dict.fromkeys(spec.classes, 0))

        def count(table: pa.Table) -> None:
            given = np.nansum(matrix(table, "pred", spec.classes), axis=0)
            predicted.update({name: int(n) for name, n in zip(spec.classes, given, strict=True)})

        merged = score_tiles(run, self._scoring(recipe), tiles, recipe.resources, count)
        scored = merged.tiles - merged.failed
        summary = [f"scored {scored:,} of {counted(merged.tiles, 'tile')}: predictions/"]
        if scored:
            summary.append(predicted_line(predicted, scored))
        if maps.classes:
            summary.append(f"{counted(merged.maps, 'class activation map')}: cam/")
        return Outcome(
            counts={
                "tiles": merged.tiles,
                "failed": merged.failed,
                "maps": merged.maps,
                "classes": len(spec.classes),
            },
            metrics={"engine": merged.engine, "predicted": dict(predicted)},
            summary=(*summary, *failure_lines(merged.reasons, merged.tiles, "tile")),
            attempted=merged.tiles,
            failed=merged.failed,
            error_budget=recipe.error_budget,
        )

    def large(self, recipe: ScoreRecipe) -> bool:
        """Whether `resources.ray=auto` takes Ray."""
        return wants_ray(self._scoring(recipe).px(len(self.tiles)), recipe.resources)

    def early(self, recipe: ScoreRecipe, run: Run) -> None:
        """Nothing comes before Ray."""

    def _scoring(self, recipe: ScoreRecipe) -> TileScoring:
        return TileScoring(
            recipe.bundle,
            self.spec,
            self.maps,
            recipe.batch,
            recipe.symmetries == "d4",
            recipe.engine,
            recipe.precision,
        )


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
        select(tiles.source.names or (), spec.bands)
        refuse_dtype(index.meta.dtype, spec, f"tiles={recipe.tiles}")
        size = sum(index.table.column("bytes").to_pylist())
        return Tiles(spec, maps, tiles, size, (), {"bundle": found, "tiles": index.digest})
    listed = list(with_extensions(storage.list(place), recipe.extensions))
    tiles = tiles_of_prefix(place, listed, bands, recipe.pages)
    notes = look(tiles, wanted_of(spec, tiles, maps=bool(maps.classes)), storage)
    images = [e for e in listed if is_image(e.key.removesuffix(MASK))]
    digest = digest_entries([*images, *world_files(listed).values()])
    size = sum(entry.size for entry in listed if is_image(entry.key))
    return Tiles(spec, maps, tiles, size, tuple(notes), {"bundle": found, "tiles": digest})


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


def score_tiles(
    run: Run,
    scoring: TileScoring,
    tiles: TileSet,
    resources: Resources,
    each: Callable[[pa.Table], object] | None = None,
    *,
    fresh: bool = False,
) -> Merged:
    """Score tiles and publish predictions, failures and maps.

    Blocks that an earlier attempt of the run finished are not scored again, unless `fresh`.

    Args:
        run: the run; says whether Ray is up.
        scoring: how.
        tiles: what to score.
        resources: actors, read tasks, GPUs.
        each: called with each block's predictions, in order.
        fresh: score every block now, with the libraries, device and files of now.
    """
    from satray.models.bundle import load_bundle
    from satray.score.engines import engine_for

    # weights that do not fit end here, in one line
    loaded = load_bundle(scoring.bundle, run.storage)
    spec = loaded.spec
    wanted = wanted_of(spec, tiles, maps=bool(scoring.maps.classes))
    layout = Layout(spec.classes, towers_with_shares(spec), loaded.model_id, run.run_id)
    blocks = Blocks.of(run.state, len(tiles), wanted.tile_bytes)
    done = set() if fresh else blocks.finished(run.storage)
    todo = [number for number in range(blocks.count) if number not in done]
    if done:
        every = counted(blocks.count, "block")
        run.say(f"going on: {len(done):,} of {every} of tiles are scored already")
    if todo:
        run.begin_writing()  # tasks write maps
        with run.activity("scoring"):
            workers = None
            if run.ray:
                from satray import cluster

                workers = cluster.allot(resources, run.say)
            engine = engine_for(scoring.engine, scoring.px(len(tiles)), workers)
            stages = TileStages(
                replace(scoring, spec=spec, engine=engine),
                spec.preprocess().geometry(*spec.tile_shape),
                wanted,
                layout,
                blocks,
                run.storage,
                run.out,
            )
            del loaded
            items = ((number, tiles.rows(blocks.rows(number))) for number in todo)
            tally = Tally(run, sum(len(blocks.rows(number)) for number in todo), "tile")
            notes: Counter[str] = Counter()
            for count, noted in run_stages(stages, items, resources, tally, workers):
                tally.count(count)
                notes += noted
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
    if recipe.extensions is not None:
        raise InputError("extensions: a tile index names its tiles; accepted: nothing, or a prefix")
    tiles = tiles_of_index(index)
    if recipe.pages == "first" and tiles.source.pages != "first":
        raise InputError("pages=first: the tile index was made with pages=bands; accepted: that")
    return replace(tiles, source=replace(tiles.source, names=bands or tiles.source.names))
