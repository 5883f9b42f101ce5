"""What `score` and `evaluate` share: the bundle's demands, and the way from tiles to products."""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import pyarrow as pa

from satray.config.base import Resources
from satray.data.values import Units, as_units
from satray.errors import InputError
from satray.runs.run import Run
from satray.score.blocks import Blocks, Merged, merge
from satray.score.predictions import Layout
from satray.score.reading import Wanted
from satray.score.results import MapRequest
from satray.score.scheduler import Tally, run_stages
from satray.score.sources import TileSet

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec
    from satray.score.engines import EngineKey, PrecisionKey


D4_SAID = "symmetries: eight forward passes a tile, one for each flip and transpose"
"""What `--plan` tells of `symmetries: d4`."""


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


def towers_with_shares(spec: "BundleSpec") -> tuple[str, ...]:
    """Towers that a logit divides into; none under a dense head, which mixes them."""
    towers = tuple(tower.name for tower in spec.variant.towers)
    return towers if spec.variant.head == "linear" else ()


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


def failure_lines(merged: Merged, most: int = 3) -> list[str]:
    """Say what failed, the commonest reasons first."""
    if not merged.failed:
        return []
    lines = [f"{merged.failed:,} of {merged.tiles:,} tiles failed (failures.parquet):"]
    lines += [f"  {count:,} x {said}" for said, count in merged.reasons.most_common(most)]
    rest = len(merged.reasons) - most
    return lines + ([f"  and {rest:,} other reasons"] if rest > 0 else [])


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
