"""The job `score`: predictions and class activation maps of tiles; of scenes, see `maps`."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from satray.config.score import ScoreRecipe
from satray.data.bands import select
from satray.data.georeference import world_files
from satray.data.index import TileIndex, read_index
from satray.data.match import is_image, with_extensions
from satray.data.raster import MASK
from satray.errors import InputError
from satray.models.spec import bundle_digest, bundle_digests, read_spec
from satray.runs.run import Outcome, Run, digest_entries
from satray.score.blocks import Blocks
from satray.score.maps import look as look_scenes
from satray.score.maps.look import Scenes
from satray.score.over_tiles import (
    D4_SAID,
    failure_lines,
    refuse_dtype,
    score_tiles,
    wanted_of,
)
from satray.score.predictions import matrix
from satray.score.results import CamKind, MapRequest
from satray.score.scheduler import wants_ray
from satray.score.sources import (
    TileSet,
    described,
    is_index,
    look,
    tiles_of_index,
    tiles_of_prefix,
)
from satray.score.tile_stages import px_of_tiles
from satray.storage import Storage

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec

CLASSES_SAID = 8
"""Most classes that the last lines name."""


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


def read(recipe: ScoreRecipe, storage: Storage) -> Tiles | Scenes:
    """Read the bundle's description, and list the tiles or scenes.

    Raises:
        InputError: no bundle, no tiles, or none of those looked at fits the bundle; a class to map
            that the bundle lacks, or maps that its network cannot give.
    """
    if recipe.scenes is not None:
        return look_scenes.read(recipe, storage)
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
    listed = with_extensions(storage.list(place), recipe.extensions)
    tiles = tiles_of_prefix(place, listed, bands, recipe.pages)
    look(tiles, wanted_of(spec, tiles, maps), storage)
    images = [e for e in listed if is_image(e.key.removesuffix(MASK))]
    digest = digest_entries([*images, *world_files(listed).values()])
    size = sum(entry.size for entry in listed if is_image(entry.key))
    return Tiles(spec, maps, tiles, size, {"bundle": found, "tiles": digest})


def plan(recipe: ScoreRecipe, found: Tiles | Scenes, storage: Storage) -> list[str]:
    """Say what would be scored, and with what."""
    if isinstance(found, Scenes):
        return look_scenes.plan(recipe, found, storage)
    spec, maps, tiles = found.spec, found.maps, found.tiles
    wanted = wanted_of(spec, tiles, maps)
    blocks = Blocks.of("", len(tiles), wanted.tile_bytes)
    towers = [f"{tower.name} ({tower.backbone})" for tower in spec.variant.towers]
    lines = [
        f"bundle: {', '.join(towers)}, {len(spec.classes)} classes ({spec.task}), "
        f"bands {', '.join(spec.bands)} in {spec.dtype}",
        f"tiles: {len(tiles):,} {'of a tile index' if tiles.indexed else 'images'}, "
        f"{found.bytes / 1e6:,.1f} MB to read in {len(tiles):,} requests; delivered as "
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


def work(recipe: ScoreRecipe, found: Tiles | Scenes, run: Run) -> Outcome:
    """Score the tiles; publish `predictions/`, `cam/` and `failures.parquet`."""
    if isinstance(found, Scenes):
        from satray.score.maps import job, scheduled

        if recipe.only_new:
            return scheduled.work(recipe, found, run)
        return job.work(recipe, found, run)
    spec, maps, tiles = found.spec, found.maps, found.tiles
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
        engine=recipe.engine,
        precision=recipe.precision,
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


def large(recipe: ScoreRecipe, found: Tiles | Scenes) -> bool:
    """Whether `resources.ray=auto` takes Ray."""
    if isinstance(found, Scenes):
        refs = found.found.scenes if found.by is None else [task.seen for task in found.by.todo]
        px = look_scenes.px_of(recipe, found.spec, refs)
    else:
        px = px_of_tiles(len(found.tiles), found.spec, recipe.symmetries == "d4")
    return wants_ray(px, recipe.resources)


def early(recipe: ScoreRecipe, found: Tiles | Scenes, run: Run) -> Outcome | Scenes | None:
    """What comes before Ray: of a schedule, to see what is new, and whether anything is."""
    if not (recipe.only_new and isinstance(found, Scenes)):
        return None
    from satray.score.maps import scheduled

    return scheduled.early(recipe, found, run)


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


def maps_of(recipe: ScoreRecipe, spec: "BundleSpec") -> MapRequest:
    """Maps of the recipe.

    Raises:
        InputError: a class that the bundle lacks; a network with a dense head; argmax maps of a
            pooling that takes no maximum.
    """
    names = recipe.cam.classes
    if not names:
        return MapRequest()
    kind: CamKind = "argmax" if recipe.cam.kind == "argmax" else "dense"
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
        return MapRequest(tuple(range(len(spec.classes))), kind)
    absent = [name for name in names if name not in spec.classes]
    if absent:
        raise InputError(
            f"cam.classes: no {', '.join(absent)} in the bundle; accepted: all, "
            f"{', '.join(spec.classes)}"
        )
    places = tuple(dict.fromkeys(spec.classes.index(name) for name in names))
    return MapRequest(places, kind)


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
