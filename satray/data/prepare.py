"""The job `prepare`: an archive of tiles and labels -> tile index, split, statistics."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from satray import __version__
from satray.config.prepare import PrepareRecipe
from satray.data.decode import TileHeader, read_header
from satray.data.describe import (
    SAID,
    describe_archive,
    describe_headers,
    describe_index,
    describe_meeting,
    label_summary,
    size_text,
)
from satray.data.georeference import world_at, world_files
from satray.data.index import SCHEMA, IndexMeta, TileIndex, table_with, write_index
from satray.data.labels import LabelTable, labels_from_folders, read_labels
from satray.data.match import (
    Matched,
    is_image,
    match_images,
    refuse_unmatched,
    tile_id,
    with_extensions,
)
from satray.data.probe import (
    Alike,
    Archive,
    Kind,
    block_of,
    forget,
    gather,
    header_codes,
    header_of,
    probe_block,
)
from satray.data.raster import MASK
from satray.data.split import Footprints, assign_parts, ground_blocks, split_by_ground
from satray.data.statistics import BandCounts, changed, fill_lines, merge, summarise
from satray.data.values import Units, change_of, unit_of
from satray.errors import DecodeError, InputError
from satray.runs.run import Outcome, Run, digest_entries
from satray.storage import Storage

LISTED = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("labels", pa.list_(pa.uint8()), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("mask", pa.bool_(), nullable=False),
        pa.field("world", pa.string()),
    ]
)
"""An image of an archive. `key`: its path below the archive, of which `match.tile_id` makes its id;
`size`, `etag`: as listed; `mask`: whether a `.msk` lies beside it; `world`: URI of the world file
that does."""

QUARANTINE = pa.schema([("uri", pa.string()), ("stage", pa.string()), ("error", pa.string())])
"""Columns of quarantine.parquet."""

SAMPLE = 3
"""Images that `--plan` decodes."""

LOOKED = 2_000
"""Largest archive whose tiles `--plan` opens all, for where they lie."""

SMALL_TILES, SMALL_BYTES = 4_000, 2 * 10**9
"""Largest archive that is read without Ray where nobody says: until Ray's tasks read, a process
alone reads some 4,000 tiles of 256 x 256 px in 4 bands, 2 GB."""


@dataclass(frozen=True)
class Survey:
    """An archive as its listing and its label table describe it, before an image is opened."""

    tiles: pa.Table
    """The labelled images, in the label table's order: `LISTED` and split. A column takes a tenth
    of the memory of objects, and archives have millions of images."""
    labels: LabelTable
    """The label table, without its rows: these are in `tiles`."""
    matched: Matched
    """What has no partner; those that belong together are in `tiles`."""
    digests: dict[str, str]
    """Digest of each input."""

    def __len__(self) -> int:
        return int(self.tiles.num_rows)

    @property
    def keys(self) -> pa.ChunkedArray:
        """Paths of the images below the archive."""
        return self.tiles["key"]

    @property
    def size(self) -> int:
        """Bytes of all images, as listed."""
        return int(pc.sum(self.tiles["size"]).as_py() or 0)


def read(recipe: PrepareRecipe, storage: Storage) -> Survey:
    """List the images, read the label table, match them, and split the rows.

    Raises:
        InputError: nothing to prepare, a wrong label table, too many without a partner.
    """
    entries = with_extensions(storage.list(recipe.images), recipe.extensions)
    images = [entry for entry in entries if is_image(entry.key)]
    if not entries or (recipe.labels is None and not images):
        what = f"{len(entries)} files, no image among them" if entries else "nothing"
        raise InputError(
            f"images={recipe.images}: holds {what}; accepted: a folder or prefix with JPEG, PNG "
            "or GeoTIFF files"
        )
    digests = {}
    if recipe.labels is None:
        labels = labels_from_folders([entry.key for entry in images], recipe)
    else:
        data = storage.read(recipe.labels)
        labels = read_labels(data, recipe.labels, recipe)
        digests["labels"] = hashlib.sha256(data).hexdigest()
    matched = match_images(labels, entries)
    refuse_unmatched(matched, labels, recipe.images, recipe.unmatched_budget)
    # labels beside the images, or an `out` below them, change nothing that is made
    used = {entry.key for entry in matched.entries}
    masks = {e.key for e in entries if e.key.removesuffix(MASK) in used} - used
    beside = world_files(entries)
    used |= masks | {entry.key for entry in beside.values()}
    digests["images"] = digest_entries(e for e in entries if e.key in used or is_image(e.key))
    images_M = matched.entries
    tiles = pa.table(
        {
            "key": [entry.key for entry in images_M],
            "uri": [entry.uri for entry in images_M],
            "labels": pa.FixedSizeListArray.from_arrays(
                labels.labels[matched.rows].ravel(), len(labels.classes)
            ),
            "size": [entry.size for entry in images_M],
            "etag": [entry.etag for entry in images_M],
            "mask": [entry.key + MASK in masks for entry in images_M],
            "world": [beside[e.uri].uri if e.uri in beside else None for e in images_M],
        },
        schema=LISTED,
    )
    if recipe.split.by == "ground":
        parts = _parts_by_ground(tiles, labels.labels[matched.rows], labels.task, recipe, storage)
    else:
        drawn = assign_parts(labels, recipe.split)
        parts = [drawn[row] for row in matched.rows]
    split = pa.array(parts, pa.string()).dictionary_encode()
    rowless = replace(
        labels, keys=(), labels=labels.labels[:0], columns=dict.fromkeys(labels.columns, ())
    )
    matched = replace(matched, rows=matched.rows[:0], entries=())
    return Survey(tiles.append_column("split", split), rowless, matched, digests)


def takes_ray(recipe: PrepareRecipe, found: Survey) -> bool:
    """Whether an archive is large enough for Ray."""
    del recipe
    return len(found) > SMALL_TILES or found.size > SMALL_BYTES


def plan(recipe: PrepareRecipe, found: Survey, storage: Storage) -> list[str]:
    """What would be done; opens few images, or those of small archives, and writes nothing."""
    probed = probe_block(block_of(found.tiles, 0, SAMPLE), recipe, storage)
    seen = Archive(found.keys)
    seen.add(probed)
    tiles = probed.tiles.sort_by("row")
    lines = describe_archive(found.tiles, found.labels, found.matched, recipe)
    lines += [
        f"first images: {kind} ({count} of {len(tiles)} opened)"
        for kind, count in seen.kinds().items()
    ]
    for bad in tiles.filter(tiles["error"].is_valid()).to_pylist():
        lines.append(f"cannot be read: {found.tiles['uri'][bad['row']]}: {bad['error']}")
    lines += describe_headers(seen.alike())
    if len(found) <= LOOKED:
        there, places = _read_footprints(found.tiles, recipe, storage)
        lines += describe_meeting(places, found.tiles["split"].take(there).to_pylist(), recipe)
    else:
        lines.append(f"split: of over {LOOKED:,} tiles the summary says which meet on the ground")
    asked = recipe.resources.ray
    ray = takes_ray(recipe, found) if asked == "auto" else asked == "yes"
    how = f"on Ray, read_tasks={recipe.resources.read_tasks}" if ray else "in this process"
    lines.append(f"one read of each: {len(found):,} requests, {size_text(found.size)}, {how}")
    return lines


def work(recipe: PrepareRecipe, found: Survey, run: Run) -> Outcome:
    """Read every image once; write index, statistics, label summary and quarantine.

    Args:
        recipe: what is wanted.
        found: the archive.
        run: its state keeps what is read, so that a run that goes on does not read it again.

    Raises:
        InputError: no image could be read, or images state units that exclude each other.
    """
    for line in describe_archive(found.tiles, found.labels, found.matched, recipe):
        run.say(line)
    try:
        with run.activity("reading and decoding"):
            archive = gather(found.tiles, recipe, run)
        return _publish(archive, found, recipe, run)
    except InputError:
        forget(run)  # the archive, once mended, is another run's: its folder may be this one
        raise


def _read_footprints(
    listed: pa.Table, recipe: PrepareRecipe, storage: Storage
) -> tuple[NDArray[np.int64], Footprints]:
    """Read the headers of images: the rows, rising, of those that can be read; their footprints."""
    headers: dict[int, TileHeader] = {}
    for place, data in storage.read_many(listed["uri"].to_pylist()):
        if not isinstance(data, Exception):
            world = world_at(listed["world"][place].as_py(), storage)
            with suppress(DecodeError):
                headers[place] = read_header(
                    data, bands=recipe.bands, world=world, pages=recipe.pages
                )
    rows = sorted(headers)
    columns = [SCHEMA.field(name) for name in ("crs", "transform", "height", "width")]
    found = [{field.name: getattr(headers[row], field.name) for field in columns} for row in rows]
    table = pa.Table.from_pylist(found, pa.schema(columns))
    return np.array(rows, np.int64), Footprints.of_table(table)


def _parts_by_ground(
    tiles: pa.Table,
    labels_MK: NDArray[np.uint8],
    task: str,
    recipe: PrepareRecipe,
    storage: Storage,
) -> list[str]:
    """Parts by blocks of ground; images that cannot be read, set aside later, are in train."""
    rows, places = _read_footprints(tiles, recipe, storage)
    blocks = ground_blocks(places, recipe.split.block)
    nowhere = rows[blocks < 0]
    if len(nowhere):
        raise InputError(
            f"split.by=ground: {len(nowhere):,} of {len(rows):,} images have no georeference, "
            f"e.g. {tiles['key'][nowhere[0]]}; accepted: images with a CRS and a transform "
            "(split.group=COLUMN keeps those of one scene together without)"
        )
    parts_M = np.full(len(tiles), "train", dtype=object)
    if len(rows):
        parts_M[rows] = split_by_ground(labels_MK[rows], task, blocks, recipe.split)
    return list(parts_M)


def _publish(archive: Archive, found: Survey, recipe: PrepareRecipe, run: Run) -> Outcome:
    """Write what was read: index, statistics, label summary and quarantine."""
    kind = _main_kind(archive, found, recipe, run.storage)
    alike = archive.alike(kind)
    units = _units(alike, kind, recipe)
    counts = _counts(archive, kind, units, recipe)
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
        statistics=tuple(map(summarise, kind.bands, counts)),
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
    said: list[pa.Table] = []
    set_aside = [QUARANTINE.empty_table()]

    def rows() -> Iterator[pa.Table]:
        for probed in archive.blocks(run.storage):
            good, bad = _parted(probed, found, kind)
            set_aside.append(bad)
            table = table_with(meta, good)
            said.append(table.select(SAID))
            yield table

    write_index(meta, rows(), run)
    index, refused = TileIndex(pa.concat_tables(said), meta), pa.concat_tables(set_aside)
    unmatched = {
        "images_without_label": found.matched.images_without_label,
        "labels_without_image": found.matched.labels_without_image,
        "ambiguous_labels": found.matched.ambiguous,
        "left_out_by_classes": found.labels.left_out,
    }
    summary = label_summary(index, found.labels)
    run.publish("summary.json", json.dumps(summary, indent=1).encode())
    run.publish("unmatched.json", json.dumps(unmatched, indent=1).encode())
    sink = io.BytesIO()
    pq.write_table(refused.combine_chunks(), sink)
    run.publish("quarantine.parquet", sink.getvalue(), rows=len(refused))

    lines = describe_index(index, refused, alike) + describe_headers(alike, meta)
    declared = {group.header.nodata for group in alike if group.header.nodata is not None}
    lines += fill_lines(meta.bands, counts, declared)
    lines += describe_meeting(Footprints.of_table(index.table), index.splits.tolist(), recipe)
    seconds = max(run.seconds.get("reading and decoding", 0.0), 1e-9)
    lines.append(
        f"read {archive.attempted:,} images, {size_text(archive.bytes)}: "
        f"{archive.attempted / seconds:,.0f} images/s, {size_text(archive.bytes / seconds)}/s"
    )
    return Outcome(
        counts={
            "tiles": len(index),
            **{f"tiles_{split}": n for split, n in index.split_counts.items()},
            "classes": len(meta.classes),
            "quarantined": len(refused),
            "images_without_label": len(found.matched.images_without_label),
            "labels_without_image": len(found.matched.labels_without_image),
            "bytes_read": archive.bytes,
        },
        metrics={"images_per_second": archive.attempted / seconds},
        summary=tuple(lines),
        attempted=archive.attempted,
        failed=len(refused),
        error_budget=recipe.error_budget,
    )


def _main_kind(archive: Archive, found: Survey, recipe: PrepareRecipe, storage: Storage) -> Kind:
    """The most frequent kind; of equal ones the first by name."""
    kinds = archive.kinds()
    if not kinds:
        (first,) = next(archive.blocks(storage)).slice(0, 1).to_pylist()
        raise InputError(
            f"images={recipe.images}: none of {archive.attempted:,} images can be read; "
            f"{found.tiles['key'][first['row']]}: {first['error']}"
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
        return tuple(map(unit_of, kind.bands, *numbers))
    except DecodeError as error:
        raise InputError(f"scale, offset: {error}") from error


def _counts(
    archive: Archive, kind: Kind, units: Units, recipe: PrepareRecipe
) -> tuple[BandCounts, ...]:
    """Statistics of all tiles of a kind, in the archive's units, which all must be brought to."""
    parts, of_units = [tuple(BandCounts(kind.dtype) for _ in kind.bands)], archive.counts()
    for group in archive.alike(kind):
        stated = group.header.units
        try:
            change = change_of(stated, units, kind.dtype)
        except DecodeError as error:
            raise InputError(f"images={recipe.images}: {group.key} states {error}") from error
        # the first group of a unit has the counts of all
        counts = of_units.pop((kind, stated), None)
        if counts is not None and change is not None:
            counts = tuple(map(changed, counts, change.gain, change.shift))
        parts += [] if counts is None else [counts]
    return merge(parts)


def _parted(probed: pa.Table, found: Survey, kind: Kind) -> tuple[pa.Table, pa.Table]:
    """Tiles of the main kind as rows of the index, and the others as rows of quarantine.parquet."""
    codes, texts = header_codes(probed)
    headers = [header_of(text) for text in texts]
    kinds = [Kind(header.bands, header.dtype) for header in headers]
    ours = np.array([*(one == kind for one in kinds), False], bool)[codes]
    good, of = probed.filter(pa.array(ours)), pa.array(codes[ours])
    images = found.tiles.take(good["row"])
    columns = {name: good[name] for name in ("transform", "bytes", "crc32")}
    columns |= {name: images[name] for name in ("uri", "split", "labels", "etag", "mask")}
    for name in ("height", "width", "bands", "dtype", "crs", "nodata"):
        each = [getattr(header, name) for header in headers]
        columns[name] = pa.array(each, SCHEMA.field(name).type).take(of)
    columns["tile_id"] = pa.array([tile_id(key) for key in images["key"].to_pylist()], pa.string())
    aside = []
    bad = probed.filter(pa.array(~ours))
    uris = found.tiles["uri"].take(bad["row"]).to_pylist()
    for uri, code, row in zip(uris, codes[~ours].tolist(), bad.to_pylist(), strict=True):
        mixed = code >= 0
        error = f"{kinds[code]}; most have {kind}" if mixed else row["error"]
        aside.append({"uri": uri, "stage": "mixed" if mixed else row["stage"], "error": error})
    return pa.table(columns), pa.Table.from_pylist(aside, schema=QUARANTINE)
