"""The job `prepare`: an archive of tiles and labels -> tile index, split, statistics."""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from satray import __version__
from satray.config.prepare import PrepareRecipe
from satray.data.describe import (
    OFF_EARTH,
    Indexed,
    describe_archive,
    describe_files,
    describe_kind,
    describe_meeting,
    describe_places,
    describe_tiles,
    label_summary,
    size_text,
)
from satray.data.footprints import Footprints
from satray.data.gather import Alike, Gathered, Seen, forget, gather
from satray.data.index import IndexMeta, table_with, write_index
from satray.data.match import tile_id
from satray.data.probe import Kind, Probed, probe
from satray.data.statistics import BandCounts, changed, fill_lines, merge, summarise
from satray.data.survey import Survey, places_of, survey
from satray.data.values import Change, Units, change_of, unit_of
from satray.errors import DecodeError, InputError
from satray.runs.run import Outcome, Run
from satray.storage import Storage

QUARANTINE = pa.schema([("uri", pa.string()), ("stage", pa.string()), ("error", pa.string())])
"""Columns of quarantine.parquet."""

SAMPLE = 3
"""Images that `--plan` decodes."""

LOOKED = 2_000
"""Largest archive whose tiles `--plan` opens all, for where they lie."""

SMALL_TILES, SMALL_BYTES = 4_000, 2 * 10**9
"""Largest archive that is read without Ray where nobody says: until Ray's tasks read, a process
alone reads some 4,000 tiles of 256 x 256 px in 4 bands, 2 GB."""


def read(recipe: PrepareRecipe, storage: Storage) -> Survey:
    """List the images and read the label table.

    Raises:
        InputError: nothing to prepare, a wrong label table, too many without a partner.
    """
    return survey(recipe, storage)


def takes_ray(recipe: PrepareRecipe, found: Survey) -> bool:
    """Whether an archive is large enough for Ray."""
    del recipe
    return len(found) > SMALL_TILES or found.size > SMALL_BYTES


def plan(recipe: PrepareRecipe, found: Survey, storage: Storage) -> list[str]:
    """What would be done; opens few images, or those of small archives, and writes nothing."""
    block = found.block(np.arange(min(SAMPLE, len(found))))
    names = ("row", "uri", "mask", "world")
    rows, uris, masked, worlds = (block[name].to_pylist() for name in names)
    nothing = [False] * len(rows)
    sample = probe(rows, uris, nothing, storage, recipe.bands, masked, worlds, recipe.pages)
    tiles = sample.tiles.sort_by("row")
    seen = Seen()
    seen.add(tiles)
    lines = describe_archive(found, recipe)
    lines += [
        f"first images: {describe_kind(kind)} ({count} of {len(rows)} opened)"
        for kind, count in seen.kinds().items()
    ]
    unread = tiles.filter(tiles["error"].is_valid()).select(["row", "error"]).to_pylist()
    lines += [f"cannot be read: {uris[bad['row']]}: {bad['error']}" for bad in unread]
    lines += describe_files([(found.key(g.row), g.header, g.count) for g in seen.alike()])
    lines += describe_places([(found.key(g.row), g.header.note, g.count) for g in seen.alike()])
    if len(found) <= LOOKED:
        there, places = places_of(found, recipe, storage)
        lines += describe_meeting(places, found.tiles["split"].take(there).to_pylist(), recipe)
    else:
        lines.append(f"split: of over {LOOKED:,} tiles the summary says which meet on the ground")
    asked = recipe.resources.ray
    ray = takes_ray(recipe, found) if asked == "auto" else asked == "yes"
    how = f"on Ray, read_tasks={recipe.resources.read_tasks}" if ray else "in this process"
    lines.append(f"one read of each: {len(found):,} requests, {size_text(found.size)}, {how}")
    return lines


def work(
    recipe: PrepareRecipe, found: Survey, run: Run, look: Callable[..., Probed] = probe
) -> Outcome:
    """Read every image once; write index, statistics, label summary and quarantine.

    Args:
        recipe: what is wanted.
        found: the archive.
        run: its state keeps what is read, so that a run that goes on does not read it again.
        look: looks at images, as `probe` does.

    Raises:
        InputError: mixed band counts or dtypes (unless `mixed=quarantine`), or no image at all
            that could be read.
    """
    for line in describe_archive(found, recipe):
        run.say(line)
    try:
        with run.activity("reading and decoding"):
            archive = gather(found, recipe, run, look)
        return _publish(archive, found, recipe, run)
    except InputError:
        forget(run)  # what is accepted instead is another run: its folder may be this one
        raise


def _publish(archive: Gathered, found: Survey, recipe: PrepareRecipe, run: Run) -> Outcome:
    """Write what was read: index, statistics, label summary and quarantine."""
    seen = archive.seen
    kind = _main_kind(archive, found, recipe, run.storage)
    alike = seen.alike(kind)
    units = _units(alike, kind, recipe)
    counts = _counts(archive.probed, kind, _changes(alike, kind, units, found, recipe))
    sizes: Counter[tuple[int, int]] = Counter()
    for group in alike:
        sizes[group.header.height, group.header.width] += group.count
    meta = IndexMeta(
        task=found.labels.task,
        classes=found.labels.classes,
        bands=kind.bands,
        dtype=kind.dtype,
        named=recipe.bands is not None,
        tile_shape=min(sizes, key=lambda shape: (-sizes[shape], shape)),
        statistics=tuple(
            summarise(name, band) for name, band in zip(kind.bands, counts, strict=True)
        ),
        provenance={
            "images": recipe.images,
            "labels": recipe.labels,
            "label_format": found.labels.format,
            "split": recipe.split.model_dump(mode="json"),
            "inputs": found.digests,
            "run_id": run.run_id,
            "satray": __version__,
        },
        units=units,
        pages=recipe.pages,
    )
    written = _Written()
    write_index(meta, _rows(archive, found, kind, meta, run.storage, written), run)
    rows_N = np.concatenate(written.rows)
    index = Indexed(
        meta,
        found.labels_of(rows_N),
        np.asarray(found.tiles["split"].take(pa.array(rows_N)).to_pylist(), dtype=object),
        sizes,
        np.concatenate(written.resolutions),
    )
    refused = pa.concat_tables([QUARANTINE.empty_table(), *written.refused]).combine_chunks()
    run.publish("summary.json", json.dumps(label_summary(index, found), indent=1).encode())
    run.publish("unmatched.json", found.unmatched_json())
    sink = io.BytesIO()
    pq.write_table(refused, sink)
    run.publish("quarantine.parquet", sink.getvalue(), rows=len(refused))

    seconds = max(run.seconds.get("reading and decoding", 0.0), 1e-9)
    lines = describe_tiles(index, refused, sum(g.count for g in alike if g.header.alpha))
    lines += describe_files([(found.key(g.row), g.header, g.count) for g in alike], meta)
    declared = {g.header.nodata for g in alike if g.header.nodata is not None}
    if counts[0].valid:
        lines += fill_lines(meta.bands, counts, declared)
    places = [(found.key(g.row), g.header.note, g.count) for g in alike]
    lines += describe_places([*places, (written.off_example, OFF_EARTH, written.off_earth)])
    lines += describe_meeting(
        Footprints.of_table(pa.concat_tables(written.places)), index.splits.tolist(), recipe
    )
    lines.append(
        f"read {seen.attempted:,} images, {size_text(seen.bytes)}: "
        f"{seen.attempted / seconds:,.0f} images/s, {size_text(seen.bytes / seconds)}/s"
    )
    return Outcome(
        counts={
            "tiles": len(index),
            **{f"tiles_{split}": n for split, n in index.split_counts.items()},
            "classes": len(meta.classes),
            "quarantined": len(refused),
            "images_without_label": len(found.matched.images_without_label),
            "labels_without_image": len(found.matched.labels_without_image),
            "bytes_read": seen.bytes,
        },
        metrics={"images_per_second": seen.attempted / seconds},
        summary=tuple(lines),
        attempted=seen.attempted,
        failed=seen.failed,
        error_budget=recipe.error_budget,
    )


def _main_kind(archive: Gathered, found: Survey, recipe: PrepareRecipe, storage: Storage) -> Kind:
    """The most frequent kind; of equal ones the first by name."""
    kinds = archive.seen.kinds()
    if not kinds:
        (first,) = next(archive.blocks(storage)).slice(0, 1).to_pylist()
        raise InputError(
            f"images={recipe.images}: none of {archive.seen.attempted:,} images can be read; "
            f"{found.key(first['row'])}: {first['error']}"
        )
    return min(kinds, key=lambda kind: (-kinds[kind], kind))


def _units(alike: Sequence[Alike], kind: Kind, recipe: PrepareRecipe) -> Units:
    """The archive's units: the recipe's, else what most tiles state; of equal ones the first."""
    if recipe.scale is None and recipe.offset is None:
        stated: Counter[Units] = Counter()
        for group in alike:
            stated[group.header.units] += group.count
        return min(stated, key=lambda units: (-stated[units], repr(units)))
    numbers = []
    for name, value in (("scale", recipe.scale), ("offset", recipe.offset)):
        some = value if isinstance(value, tuple) else (value,)
        if len(some) not in (1, len(kind.bands)):
            raise InputError(
                f"{name}: found {len(some)} numbers; accepted: one, or one for each of "
                f"{', '.join(kind.bands)}"
            )
        numbers.append(some if len(some) > 1 else some * len(kind.bands))
    try:
        return tuple(unit_of(*given) for given in zip(kind.bands, *numbers, strict=True))
    except DecodeError as error:
        raise InputError(f"scale, offset: {error}") from error


def _changes(
    alike: Sequence[Alike], kind: Kind, units: Units, found: Survey, recipe: PrepareRecipe
) -> dict[Units, Change | None]:
    """What brings tiles to the archive's units, by what they state; also those not counted."""
    changes: dict[Units, Change | None] = {}
    for group in alike:
        stated = group.header.units
        try:
            changes[stated] = change_of(stated, units, kind.dtype)
        except DecodeError as error:
            raise InputError(
                f"images={recipe.images}: {found.key(group.row)} states {error}"
            ) from error
    return changes


def _counts(
    probed: Probed, kind: Kind, changes: dict[Units, Change | None]
) -> tuple[BandCounts, ...]:
    """Statistics of all tiles of a kind, in the archive's units."""
    parts = [tuple(BandCounts(kind.dtype) for _ in kind.bands)]
    for (other, stated), counts in probed.bands().items():
        if other != kind:
            continue
        change = changes[stated]
        if change is not None:
            each = zip(counts, change.gain, change.shift, strict=True)
            counts = tuple(changed(*one) for one in each)
        parts.append(counts)
    return merge(parts)


class _Written:
    """What the lines and the summary need of the tiles that went into the index."""

    def __init__(self) -> None:
        self.rows: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
        self.resolutions: list[np.ndarray[tuple[int, int], np.dtype[np.float64]]] = []
        self.places: list[pa.Table] = []
        self.refused: list[pa.Table] = []
        self.off_earth = 0
        self.off_example = ""

    def add(self, rows: pa.Array, tiles: pa.Table, notes: pa.ChunkedArray) -> None:
        """Add rows of the survey, as they are in the index."""
        sizes = tiles.select(["resolution_x", "resolution_y"])
        self.rows.append(np.asarray(rows))
        self.resolutions.append(np.stack([c.to_numpy().astype(float) for c in sizes.columns], 1))
        self.places.append(tiles.select(["crs", "transform", "height", "width"]))
        placed = pc.and_(tiles["crs"].is_valid(), tiles["transform"].is_valid())
        off = pc.and_(pc.and_(placed, tiles["resolution_x"].is_null()), pc.equal(notes, ""))
        tile_ids = tiles["tile_id"].filter(off)
        if len(tile_ids) and not self.off_earth:
            self.off_example = tile_ids[0].as_py()
        self.off_earth += len(tile_ids)


def _rows(
    archive: Gathered, found: Survey, kind: Kind, meta: IndexMeta, storage: Storage, to: _Written
) -> Iterator[pa.Table]:
    """Tables of the index's rows in the survey's order; what is set aside goes to `to`."""
    for probed in archive.blocks(storage):
        kinds = probed["kind"].cast(pa.string())
        ours = pc.fill_null(pc.equal(kinds, kind.text), False)
        others = probed.filter(pc.invert(ours))
        if len(others):
            uris, told = found.tiles["uri"].take(others["row"]).to_pylist(), list[dict[str, str]]()
            for row in others.select(["kind", "stage", "error"]).to_pylist():
                stage, error = row["stage"], row["error"]
                if row["kind"] is not None:
                    other = describe_kind(Kind.of(row["kind"]))
                    stage, error = "mixed", f"{other}; most have {describe_kind(kind)}"
                told.append({"uri": uris[len(told)], "stage": stage, "error": error})
            to.refused.append(pa.Table.from_pylist(told, schema=QUARANTINE))
        tiles = probed.filter(ours)
        if not len(tiles):
            continue
        images = found.tiles.take(tiles["row"])
        own = ("height", "width", "crs", "transform", "nodata", "bytes", "crc32")
        listed = ("uri", "split", "labels", "etag", "mask")
        columns = {name: tiles[name] for name in own} | {name: images[name] for name in listed}
        same = pa.array([list(kind.bands)]).take(pa.array(np.zeros(len(tiles), np.int32)))
        columns["tile_id"] = pa.array([tile_id(key) for key in images["key"].to_pylist()])
        columns |= {"bands": same, "dtype": pa.array([kind.dtype] * len(tiles))}
        table = table_with(meta, pa.table(columns))
        to.add(tiles["row"].combine_chunks(), table, tiles["note"])
        yield table
