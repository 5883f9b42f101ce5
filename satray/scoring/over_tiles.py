"""What `score` and `evaluate` share: the bundle's demands, and the way from tiles to products."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from satray.config.base import Resources
from satray.data.values import Units, as_units
from satray.errors import InputError
from satray.runs.run import Run
from satray.scoring.blocks import Blocks, Merged, merge
from satray.scoring.predictions import Layout
from satray.scoring.reading import Wanted
from satray.scoring.sources import TileSet

if TYPE_CHECKING:  # it imports torch
    from satray.models.spec import BundleSpec
    from satray.scoring.cpu import EngineKey


D4_SAID = "symmetries: eight forward passes a tile, one for each flip and transpose"
"""What `--plan` tells of `symmetries: d4`."""


@dataclass(frozen=True)
class Maps:
    """Class activation maps to write."""

    classes: tuple[int, ...] = ()
    """Places of the classes in the bundle's list; none: no maps."""
    kind: str = "dense"
    """`dense` or `argmax`."""


def wanted_of(spec: "BundleSpec", tiles: TileSet, maps: Maps) -> Wanted:
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
    maps: Maps,
    batch: int,
    resources: Resources,
    each: Callable[[pa.Table], object] | None = None,
    *,
    symmetries: str = "none",
    fresh: bool = False,
    engine: "EngineKey" = "eager",
) -> Merged:
    """Score tiles on Ray and publish predictions, failures and maps.

    Blocks that an earlier attempt of the run finished are not scored again, unless `fresh`.

    Args:
        run: the run.
        bundle: bundle folder, or a train run's `out`.
        tiles: what to score.
        maps: maps to write.
        batch: tiles a forward pass.
        resources: actors, read tasks, GPUs.
        each: called with each block's predictions, in order.
        symmetries: `d4` averages over the eight symmetries of each tile; `none` does not.
        fresh: score every block now, with the libraries, device and files of now.
        engine: what computes features on CPUs.
    """
    from satray import cluster
    from satray.models.bundle import load_bundle
    from satray.scoring.cpu import engine_for
    from satray.scoring.pipeline import ActorTask, run_blocks

    loaded = load_bundle(bundle, run.storage)  # weights that do not fit end here, in one line
    spec = loaded.spec
    wanted = wanted_of(spec, tiles, maps)
    layout = Layout(spec.classes, towers_with_shares(spec), loaded.model_id, run.run_id)
    blocks = Blocks.of(run.state, len(tiles), wanted.tile_bytes)
    done = set() if fresh else blocks.finished(run.storage)
    todo = [number for number in range(blocks.count) if number not in done]
    if done:
        run.say(f"going on: {len(done):,} of {blocks.count:,} blocks of tiles are scored already")
    px, forwards = len(tiles) * spec.size**2, 8 if symmetries == "d4" else 1
    task = ActorTask(
        bundle=bundle,
        model_id=loaded.model_id,
        storage=run.storage,
        out=run.out,
        blocks=blocks,
        layout=layout,
        map_classes=maps.classes,
        map_kind=maps.kind,
        batch=batch,
        d4=symmetries == "d4",
    )
    del loaded
    if todo:
        run.begin_writing()  # the actors write maps
        tally = _Tally(run, sum(len(blocks.rows(number)) for number in todo))
        with run.activity("scoring"):
            workers = cluster.allot(resources, run.say)
            task = replace(task, engine=engine_for(engine, px * forwards, workers))
            run_blocks(tiles.table, wanted, todo, task, workers, tally.add)
        tally.end()
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


class _Tally:
    """Adds up the reports of blocks."""

    def __init__(self, run: Run, tiles: int) -> None:
        self._run = run
        self._tiles = tiles
        self._start = time.perf_counter()
        self._sums: dict[str, float] = {}
        self._engines: set[str] = set()

    def add(self, report: dict[str, Any]) -> None:
        self._engines.add(report["engine"])
        for name, value in report.items():
            if isinstance(value, int | float):
                self._sums[name] = self._sums.get(name, 0) + value
        done, failed = int(self._sums["tiles"]), int(self._sums["failed"])
        rate = done / (time.perf_counter() - self._start)
        line = f"scored {done:,} of {self._tiles:,} tiles, {rate:.1f} a second"
        self._run.progress(line + (f", {failed:,} failed" if failed else ""))

    def end(self) -> None:
        """Add the seconds of all processes to the run's, apart from its own wall seconds."""
        for name in ("reading", "computing", "writing", "waiting"):
            self._run.add_seconds(f"{name} (all processes)", self._sums.get(name, 0.0))
        for name, count in self._sums.items():
            if name.startswith("ground: "):
                self._run.say(f"{name} (of {count:,.0f} of {self._sums['tiles']:,.0f} tiles)")
        seconds = time.perf_counter() - self._start
        tiles, megabytes = self._sums.get("tiles", 0), self._sums.get("bytes", 0) / 1e6
        self._run.say(f"engine: {'; '.join(sorted(self._engines))}")
        self._run.say(
            f"{tiles:,.0f} tiles in {seconds:.1f} s, start of the actors included: "
            f"{tiles / seconds:.1f} tiles and {megabytes / seconds:.1f} MB a second"
        )
