"""The job `prepare`: an archive of tiles and labels -> tile index, split, statistics."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from satray import __version__
from satray.config.prepare import PrepareRecipe
from satray.data import match, probe
from satray.data.decode import Kind, read_header
from satray.data.georeference import world_at, world_files
from satray.data.index import (
    PARTS,
    ROWS_PER_GROUP,
    SCHEMA,
    IndexMeta,
    TileIndex,
    table_with,
    write_index,
)
from satray.data.labels import LabelTable, labels_from_folders, read_labels
from satray.data.raster import MASK
from satray.data.split import (
    Footprints,
    assign_parts,
    count_meeting,
    ground_blocks,
    split_by_ground,
)
from satray.data.statistics import BandCounts, changed, merge, summarise
from satray.data.values import Units, change_of, unit_of
from satray.errors import DecodeError, InputError, counted, listed
from satray.runs.job import on_ray
from satray.runs.run import Outcome, Run, digest_entries
from satray.storage import Storage, join

SAMPLE = 3
"""Images that `--plan` decodes."""

SMALL_TILES, SMALL_BYTES = 4_000, 2 * 10**9
"""Largest archive that is read without Ray where nobody says: until Ray's tasks read, a process
alone reads some 4,000 tiles of 256 x 256 px in 4 bands, 2 GB."""

SHOWN = 6
"""Classes, or other names, that a line gives."""

FEW = 0.01
"""Share of pixels from which on it is said how many have a band's smallest or largest value."""

COUNTED = 1_000_000
"""Most tiles whose neighbours are sought: outlines take memory."""


@dataclass(frozen=True)
class Survey:
    """An archive as its listing and its label table describe it, before an image is opened."""

    tiles: pa.Table
    """The labelled images, in the label table's order: `uri`; `labels` (K uint8); `etag`: as
    listed; `mask`: whether a `.msk` lies beside it; `world`: URI of the world file that does;
    `split`. A column takes a tenth of the memory of objects."""
    root: str
    """What all URIs begin with; a tile's path below the archive follows."""
    size: int
    """Bytes of all images, as listed."""
    labels: LabelTable
    """The label table, without its rows: these are in `tiles`."""
    matched: match.Matched
    """What has no partner; those that belong together are in `tiles`."""
    digests: dict[str, str]
    """Digest of each input."""
    ground: Footprints | None
    """Where the tiles lie, where the split is drawn by it; None of more than `COUNTED`."""

    def __len__(self) -> int:
        return int(self.tiles.num_rows)

    def key(self, row: int) -> str:
        """A tile's path below the archive."""
        return str(self.tiles["uri"][row].as_py())[len(self.root) :]


def read(recipe: PrepareRecipe, storage: Storage) -> Survey:
    """List the images, read the label table, match them, and split the rows.

    Raises:
        InputError: nothing to prepare, a wrong label table, too many without a partner, numbers
            that are no unit.
    """
    given = (recipe.bands, recipe.scale, recipe.offset)
    count = next((len(some) for some in given if isinstance(some, tuple)), 1)
    _stated(recipe.bands or tuple(f"b{n + 1}" for n in range(count)), recipe)
    digests, labels = dict[str, str](), None
    if recipe.labels is not None:  # before the listing is there too, since this takes much memory
        data = storage.read(recipe.labels)
        labels = read_labels(data, recipe.labels, recipe)
        digests["labels"] = hashlib.sha256(data).hexdigest()
        del data
        pa.default_memory_pool().release_unused()
    files = match.with_extensions(storage.walk(recipe.images), recipe.extensions)
    listing = match.Listing.of(files)
    if not len(listing) or (labels is None and not listing.images.any()):
        what = "holds nothing"
        if len(listing):
            what = f"holds {len(listing)} files, no image among them"
        elif storage.exists(recipe.images):
            what = "is one file"
        raise InputError(
            f"images={recipe.images}: {what}; accepted: a folder or prefix with JPEG, PNG "
            "or GeoTIFF files"
        )
    if labels is None:
        labels = labels_from_folders(
            listing.keys.take(pa.array(listing.by_key(listing.images))), recipe
        )
    matched = match.match_images(labels, listing)
    match.refuse_unmatched(matched, labels, recipe.images, recipe.unmatched_budget)
    images, labels_MK = matched.images, labels.labels[matched.rows]
    parts_M, ground = None, None
    if recipe.split.by != "ground":
        parts_M = assign_parts(labels, recipe.split)[matched.rows]
    # what has a row a tile goes, views of it too, before the table of tiles comes
    no_rows = np.zeros(0, np.int64)
    matched = replace(matched, rows=no_rows, images=no_rows)
    labels = replace(
        labels,
        keys=pa.array([], pa.string()),
        labels=np.zeros((0, len(labels.classes)), np.uint8),
        columns=dict.fromkeys(labels.columns, ()),
    )
    pa.default_memory_pool().release_unused()
    masks_F, worlds_F = _beside(listing)
    # labels beside the images, or an `out` below them, change nothing that is made
    used_F = listing.images.copy()
    for some in (images, masks_F[images], worlds_F):
        used_F[some[some >= 0]] = True
    digests["images"] = digest_entries(listing.entries(listing.by_key(used_F)))
    size = pc.sum(listing.columns["size"].take(pa.array(images))).as_py()
    etags = listing.texts("etag", images)
    listing = replace(listing, columns=listing.columns.select(["key"]))
    pa.default_memory_pool().release_unused()
    tiles = pa.table(
        {
            "uri": listing.texts("key", images, before=listing.root),
            "labels": pa.FixedSizeListArray.from_arrays(labels_MK.ravel(), labels_MK.shape[1]),
            "etag": etags,
            "mask": masks_F[images] >= 0,
            "world": listing.texts("key", worlds_F[images], before=listing.root),
        }
    )
    if parts_M is None:
        parts_M, ground = _parts_by_ground(
            tiles, listing.root, labels_MK, labels.task, recipe, storage
        )
    tiles = tiles.append_column("split", pa.DictionaryArray.from_arrays(parts_M, PARTS))
    ground = ground if len(tiles) <= COUNTED else None
    return Survey(tiles, listing.root, size, labels, matched, digests, ground)


def takes_ray(recipe: PrepareRecipe, found: Survey) -> bool:
    """Whether an archive is large enough for Ray."""
    del recipe
    return len(found) > SMALL_TILES or found.size > SMALL_BYTES


def plan(recipe: PrepareRecipe, found: Survey, storage: Storage) -> list[str]:
    """What would be done; opens few images and writes nothing."""
    block = probe.block_of(found.tiles, 0, SAMPLE)
    seen = probe.Archive(len(block))
    seen.add(probe.probe_block(block, recipe, storage))
    alike, lines = seen.alike(found.key), _describe_archive(found, recipe)
    lines += [
        f"first images: {kind} ({count} of {seen.read} opened)"
        for kind, count in probe.tally(alike, lambda header: header.kind).items()
    ]
    for bad in seen.tiles(np.flatnonzero(seen.codes < 0)).to_pylist():
        lines.append(f"cannot be read: {found.tiles['uri'][bad['row']]}: {bad['error']}")
    lines += probe.describe_headers(alike)
    times, reads = 1, "one read"
    if recipe.split.by == "ground":
        times, reads = 2, "two reads"
        lines += _describe_meeting(found.ground, found.tiles["split"], recipe)
    elif any(group.header.crs for group in alike):
        lines.append("split: the run says how many tiles of val and test meet tiles of train")
    how = "in this process"
    if on_ray(recipe, found, takes_ray):
        how = f"on Ray, read_tasks={recipe.resources.read_tasks}"
    size = _size_text(times * found.size)
    lines.append(f"{reads} of each: {times * len(found):,} requests, {size}, {how}")
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
    for line in _describe_archive(found, recipe):
        run.say(line)
    try:
        with run.activity("reading and decoding"):
            archive = probe.gather(found.tiles, recipe, run)
        return _publish(archive, found, recipe, run)
    except InputError:
        # the archive, once mended, is another run's: its folder may be this one
        run.storage.delete(join(run.state, probe.FOLDER))
        raise


def _beside(listing: match.Listing) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(F,) rows of the mask and of the world file that lie beside each file; -1 of none."""
    ends = [pc.ends_with(listing.keys, end, ignore_case=True) for end in (MASK, "w", ".wld")]
    if not any(pc.any(some).as_py() for some in ends):
        nothing = np.broadcast_to(np.int64(-1), len(listing))
        return nothing, nothing

    def stem(key: str) -> str:
        image = key.removesuffix(MASK).lower()
        return image.rpartition(".")[0] or image

    masks_F, worlds_F = np.full((2, len(listing)), -1)
    for (rows,) in match.some_at_a_time((listing.keys, stem)):
        found = sorted(
            zip(listing.entries(rows), rows.tolist(), strict=True), key=lambda pair: pair[0].key
        )
        row_of = {entry.key: row for entry, row in found}
        worlds = world_files([entry for entry, _ in found])
        for entry, row in found:
            masks_F[row] = row_of.get(entry.key + MASK, -1)
            if entry.uri in worlds:
                worlds_F[row] = row_of[worlds[entry.uri].key]
    return masks_F, worlds_F


def _parts_by_ground(
    tiles: pa.Table,
    root: str,
    labels_MK: NDArray[np.uint8],
    task: str,
    recipe: PrepareRecipe,
    storage: Storage,
) -> tuple[NDArray[np.int8], Footprints]:
    """Parts by blocks of ground; images that cannot be read, set aside later, are in train.

    All images are read for it, and again by the run: what is counted in which part comes after.
    """
    names: dict[str, int] = {}
    read_M, crs_M = np.zeros(len(tiles), bool), np.full(len(tiles), -1)
    affines_M6, shapes_M2 = np.full((len(tiles), 6), np.nan), np.zeros((len(tiles), 2), np.int64)
    for row, data in storage.read_many(uri.as_py() for uri in tiles["uri"]):
        if isinstance(data, Exception):
            continue
        world = world_at(tiles["world"][row].as_py(), storage)
        with contextlib.suppress(DecodeError):
            header = read_header(data, bands=recipe.bands, world=world, pages=recipe.pages)
            read_M[row], shapes_M2[row] = True, (header.height, header.width)
            if header.crs is not None and header.transform is not None:
                crs_M[row] = names.setdefault(header.crs, len(names))
                affines_M6[row] = header.transform
    ground = Footprints(tuple(names), crs_M, affines_M6, shapes_M2)
    rows, blocks_M = np.flatnonzero(read_M), ground_blocks(ground, recipe.split.block)
    nowhere = rows[blocks_M[rows] < 0]
    if len(nowhere):
        raise InputError(
            f"split.by=ground: {len(nowhere):,} of {len(rows):,} images have no georeference, "
            f"e.g. {tiles['uri'][nowhere[0]].as_py()[len(root) :]}; accepted: images with a CRS "
            "and a transform (split.group=COLUMN keeps those of one scene together without)"
        )
    parts_M = np.full(len(tiles), PARTS.index("train"), np.int8)
    if len(rows):
        parts_M[rows] = split_by_ground(labels_MK[rows], task, blocks_M[rows], recipe.split)
    return parts_M, ground


def _publish(archive: probe.Archive, found: Survey, recipe: PrepareRecipe, run: Run) -> Outcome:
    """Write what was read: index, statistics, label summary and quarantine."""
    alike, images = archive.alike(found.key), len(found)
    if not alike:
        raise InputError(
            f"images={recipe.images}: none of {images:,} images can be read; "
            f"{found.key(0)}: {archive.tiles(np.zeros(1, np.int64))['error'][0]}"
        )
    kinds = probe.tally(alike, lambda header: header.kind)
    kind = min(kinds, key=lambda kind: (-kinds[kind], kind))
    alike = [group for group in alike if group.header.kind == kind]
    units = _units(alike, kind, recipe)
    counts = _counts(archive, alike, units, recipe)
    sizes = probe.tally(alike, lambda header: (header.height, header.width))
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
    headers = archive.headers
    ours_N = np.array([*(header.kind == kind for header in headers), False])[archive.codes]
    refused = _refused(archive, found, ours_N, kind)
    shared = ("height", "width", "bands", "dtype", "crs", "nodata")
    each = {name: [getattr(header, name) for header in headers] for name in shared}
    by_code = pa.table(each, pa.schema([SCHEMA.field(name) for name in shared]))
    needed = ["split", "labels"]  # by what is said of it
    if ours_N.sum() <= COUNTED:
        needed += ["crs", "transform", "height", "width"]
    kept = []

    def groups() -> Iterator[pa.Table]:
        ours = np.flatnonzero(ours_N)
        for start in range(0, len(ours), ROWS_PER_GROUP):
            rows = _rows(archive, found, by_code, ours[start : start + ROWS_PER_GROUP])
            kept.append(rows.select(needed))
            yield table_with(meta, rows)

    write_index(groups(), run)
    index = TileIndex(pa.concat_tables(kept), meta)
    unmatched = {
        "images_without_label": found.matched.images_without_label,
        "labels_without_image": found.matched.labels_without_image,
        "ambiguous_labels": found.matched.ambiguous,
        "left_out_by_classes": found.labels.left_out,
    }
    run.publish("summary.json", json.dumps(_label_summary(index, found.labels), indent=1).encode())
    run.publish("unmatched.json", json.dumps(unmatched, indent=1).encode())
    run.publish_table("quarantine.parquet", refused)

    lines = _describe_index(index, counts, refused, alike)
    ground = Footprints.of_table(index.table) if len(index) <= COUNTED else None
    lines += probe.describe_headers(alike, meta) + _describe_meeting(ground, index.splits, recipe)
    seconds = max(run.seconds.get("reading and decoding", 0.0), 1e-9)
    lines.append(
        f"read {images:,} images, {_size_text(archive.bytes)}: {images / seconds:,.0f} images/s, "
        f"{_size_text(archive.bytes / seconds)}/s"
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
        metrics={"images_per_second": images / seconds},
        summary=tuple(lines),
        attempted=images,
        failed=len(refused),
        error_budget=recipe.error_budget,
    )


def _units(alike: Sequence[probe.Alike], kind: Kind, recipe: PrepareRecipe) -> Units:
    """The archive's units: the recipe's, else what most tiles state; of equal ones the first."""
    if recipe.scale is not None or recipe.offset is not None:
        return _stated(kind.bands, recipe)
    stated = probe.tally(alike, lambda header: header.units)
    return min(stated, key=lambda units: (-stated[units], repr(units)))


def _stated(bands: tuple[str, ...], recipe: PrepareRecipe) -> Units:
    """The recipe's units, of bands called so or as many."""
    numbers = []
    for name, value in (("scale", recipe.scale), ("offset", recipe.offset)):
        some = value if isinstance(value, tuple) else (value,) * len(bands)
        if len(some) != len(bands):
            raise InputError(
                f"{name}: found {len(some)} numbers; accepted: one, or one for each of "
                f"{', '.join(bands)}"
            )
        numbers.append(some)
    try:
        return tuple(map(unit_of, bands, *numbers))
    except DecodeError as error:
        raise InputError(f"scale, offset: {error}") from error


def _counts(
    archive: probe.Archive, alike: Sequence[probe.Alike], units: Units, recipe: PrepareRecipe
) -> tuple[BandCounts, ...]:
    """Statistics of all tiles of a kind, in the archive's units, which all must be brought to."""
    kind, of_units = alike[0].header.kind, archive.counts
    parts = [tuple(BandCounts(kind.dtype) for _ in kind.bands)]
    for group in alike:
        try:
            change = change_of(group.header.units, units, kind.dtype)
        except DecodeError as error:
            raise InputError(f"images={recipe.images}: {group.key} states {error}") from error
        # the first group of a unit has the counts of all
        counts = of_units.pop(probe.kind_text(group.header), None)
        if counts is not None and change is not None:
            counts = tuple(map(changed, counts, change.gain, change.shift))
        parts += [] if counts is None else [counts]
    return merge(parts)


def _rows(
    archive: probe.Archive, found: Survey, by_code: pa.Table, some: NDArray[np.int64]
) -> pa.Table:
    """Some tiles, in order, as rows of the index; `by_code` has what those of a header share."""
    good, shared = archive.tiles(some), by_code.take(pa.array(archive.codes[some]))
    # a slice first: of a table in chunks, `take` copies all of it
    images = found.tiles.slice(some[0], some[-1] - some[0] + 1).take(pa.array(some - some[0]))
    columns = {name: good[name] for name in ("transform", "bytes", "crc32")}
    columns |= {name: images[name] for name in ("uri", "split", "labels", "etag", "mask")}
    columns |= {name: shared[name] for name in shared.column_names}
    columns["tile_id"] = pa.array(
        [match.tile_id(uri[len(found.root) :]) for uri in images["uri"].to_pylist()], pa.string()
    )
    return pa.table(columns)


def _refused(
    archive: probe.Archive, found: Survey, ours_N: NDArray[np.bool_], kind: Kind
) -> pa.Table:
    """The other tiles as rows of quarantine.parquet: uri, stage, error."""
    rows, headers = np.flatnonzero(~ours_N), archive.headers
    bad = archive.tiles(rows)
    stages, errors = bad["stage"].to_pylist(), bad["error"].to_pylist()
    for place, code in enumerate(archive.codes[rows].tolist()):
        if code >= 0:
            stages[place] = "mixed"
            errors[place] = f"{headers[code].kind}; most have {kind}"
    uris = [found.tiles["uri"][row].as_py() for row in rows.tolist()]
    columns = {"uri": uris, "stage": stages, "error": errors}
    return pa.table({name: pa.array(column, pa.string()) for name, column in columns.items()})


# ---- what is said of it


def _describe_archive(found: Survey, recipe: PrepareRecipe) -> list[str]:
    """Images, labels, what has no partner, and the split."""
    labels, matched = found.labels, found.matched
    counts = {c["values"]: c["counts"] for c in pc.value_counts(found.tiles["split"]).to_pylist()}
    parts = ", ".join(f"{part} {counts[part]:,}" for part in PARTS if part in counts)
    options = recipe.split
    how = f"drawn with seed {options.seed}"
    if options.by == "ground":
        how = f"drawn by blocks of ground of {options.block:g} m, seed {options.seed}"
    elif options.group:
        how += f", whole {options.group} groups"
    how += ", stratified" if options.stratify else ""
    if options.by == "column" or (options.by == "auto" and options.column in labels.columns):
        how = f"from column {options.column!r}"
    lines = [
        f"images: {len(found):,} labelled, {_size_text(found.size)}, in {recipe.images}",
        f"labels: {labels.format}, {labels.task} ({listed(labels.classes, SHOWN)})",
        *(f"labels: {note}" for note in labels.notes),
        f"split: {parts} ({how})",
    ]
    if labels.passed_over:
        lines.append(f"columns not used: {listed(labels.passed_over, 40)}")
    if matched.beside:
        lines.append(
            f"not used: {counted(len(matched.beside), 'image')} of the name of a tile and another "
            f"extension, e.g. {matched.beside[0]}"
        )
    alone, missing = matched.images_without_label, matched.labels_without_image
    if alone or missing:
        lines.append(
            f"unmatched: {counted(len(alone), 'image')} without a label row, "
            f"{counted(len(missing), 'label row')} without an image (unmatched.json lists them)"
        )
    return lines


def _describe_index(
    index: TileIndex,
    counts: Sequence[BandCounts],
    refused: pa.Table,
    groups: Sequence[probe.Alike],
) -> list[str]:
    """Tiles, statistics and labels of the finished index, and what was set aside."""
    meta = index.meta
    height, width = meta.tile_shape
    other = sum(g.count for g in groups if (g.header.height, g.header.width) != meta.tile_shape)
    lines = [
        f"tiles: {len(index):,} of {height} x {width} px, {Kind(meta.bands, meta.dtype)}"
        + (f"; {other:,} have another size and are resampled" if other else ""),
    ]
    if alpha := probe.count_of([group for group in groups if group.header.alpha]):
        # software tags the fourth of four bands alpha without being asked, a near-infrared one too
        lines.append(
            f"  {alpha:,} have one more band, tagged alpha: taken for transparency; where it is "
            f"data, say bands=[...] with {len(meta.bands) + 1} names"
        )
    for b, band in zip(meta.statistics, counts, strict=True):
        # a value that many pixels have at an end may be a fill that no file declares
        low, high = (
            f"{value:g}" + (f" ({n.sum() / b.valid:.1%} of px)" if n.sum() > FEW * b.valid else "")
            for value, n in ((b.min, band.counts[:1]), (b.max, band.counts[-1:]))
        )
        if b.valid:
            lines.append(
                f"  {b.name}: mean {b.mean:.6g}, std {b.std:.6g}, min {low}, max {high}, "
                f"2-98 % {b.percentiles['2']:.5g} to {b.percentiles['98']:.5g}"
            )
    classes, positives = meta.classes, index.labels.sum(axis=0, dtype=np.int64)
    order = np.argsort(-positives, kind="stable")
    lines.append(f"classes: {listed([f'{classes[k]} {positives[k]:,}' for k in order], SHOWN)}")
    for value, word in ((1, "positive"), (0, "negative")):
        missing = []
        for split in index.split_counts:
            there = (index.labels[index.splits == split] == value).any(axis=0)
            names = [name for name, some in zip(classes, there, strict=True) if not some]
            missing += [f"{listed(names, SHOWN)} in {split}"] if names else []
        if missing:
            lines.append(f"classes without a {word}: {'; '.join(missing)}")
    for stage in sorted(set(refused["stage"].to_pylist())):
        some = refused.filter(pc.equal(refused["stage"], stage))
        first = some.slice(0, 1).to_pylist()[0]
        lines.append(
            f"set aside: {len(some):,} ({stage}; quarantine.parquet), e.g. "
            f"{first['uri'].rsplit('/', 1)[-1]}: {first['error']}"
        )
    return lines


def _describe_meeting(
    tiles: Footprints | None, splits: NDArray[np.object_] | pa.ChunkedArray, recipe: PrepareRecipe
) -> list[str]:
    """How many tiles of val and test touch or overlap tiles of train, where tiles have a place."""
    if tiles is None:
        return [f"split: of more than {COUNTED:,} tiles it is not counted which meet on the ground"]
    splits_N = np.asarray(splits)
    train_N = (splits_N == "train") & tiles.known
    lines = []
    for part in ("val", "test"):
        held_N = (splits_N == part) & tiles.known
        if held_N.any() and train_N.any():
            met = count_meeting(tiles, held_N, train_N)
            line = f"split: {met:,} of {counted(int(held_N.sum()), 'tile')} of {part} touch or "
            line += "overlap tiles of train"
            if met and recipe.split.by != "ground":
                line += " (split.by=ground keeps blocks of ground on one side)"
            lines.append(line)
    return lines


def _label_summary(index: TileIndex, labels: LabelTable) -> dict[str, object]:
    """Class counts, co-occurrence, tiles without a label, and counts of each split."""
    y_NK, classes = index.labels, index.meta.classes

    def counts(rows: NDArray[np.bool_]) -> dict[str, object]:
        positives = y_NK[rows].sum(axis=0, dtype=np.int64).tolist()
        return {
            "tiles": int(rows.sum()),
            "tiles_without_label": int((~y_NK[rows].any(axis=1)).sum()),
            "positives": dict(zip(classes, positives, strict=True)),
        }

    return {
        "task": index.meta.task,
        "label_format": labels.format,
        "columns_not_used": list(labels.passed_over),
        "classes": list(classes),
        "all": counts(np.ones(len(index), dtype=bool)),
        "splits": {split: counts(index.splits == split) for split in index.split_counts},
        "labels_per_tile": float(y_NK.sum(dtype=np.int64) / max(len(index), 1)),
        "co_occurrence": [
            (y_NK * y_NK[:, k : k + 1]).sum(axis=0, dtype=np.int64).tolist()
            for k in range(len(classes))
        ],
    }


def _size_text(size: float) -> str:
    """A number of bytes in decimal units."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if size >= 100 or unit == "B" else f"{size:.1f} {unit}"
