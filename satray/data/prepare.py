"""The job `prepare`: an archive of tiles and labels -> tile index, split, statistics."""

import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from satray import __version__
from satray.config.prepare import PrepareRecipe
from satray.data.decode import TileHeader
from satray.data.describe import (
    describe_archive,
    describe_files,
    describe_ground,
    describe_kind,
    describe_labels,
    describe_meeting,
    describe_mixed,
    describe_places,
    label_summary,
    size_text,
)
from satray.data.footprints import Footprints
from satray.data.georeference import resolutions
from satray.data.index import SCHEMA, IndexMeta, TileIndex, write_index
from satray.data.probe import Kind, Probed, header_of, probe, total
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


@dataclass(frozen=True)
class Seen:
    """A tile that was read, or the reason why not: a row of `probe.TILES`."""

    row: int
    """Row of the survey."""
    header: TileHeader | None
    """None where it could not be read."""
    bytes: int
    """Bytes read."""
    stage: str
    """`read` or `decode`, where it failed."""
    error: str
    """The reason, in one line."""
    crc32: int | None
    """Of the file's bytes; None where it could not be read."""


def read(recipe: PrepareRecipe, storage: Storage) -> Survey:
    """List the images and read the label table.

    Raises:
        InputError: nothing to prepare, a wrong label table, too many without a partner.
    """
    return survey(recipe, storage)


def plan(recipe: PrepareRecipe, found: Survey, storage: Storage) -> list[str]:
    """What would be done; opens few images, or those of small archives, and writes nothing."""
    uris = [entry.uri for entry in found.entries[:SAMPLE]]
    sample = total([_look(uris, found, recipe, storage)])
    tasks = -(-len(found.entries) // recipe.tiles_per_task)
    lines = [*describe_archive(found, recipe)]
    lines += [
        f"first images: {describe_kind(kind)} ({count} of {len(uris)} opened)"
        for kind, count in sample.kinds().items()
    ]
    seen = _seen(sample)
    lines += [f"cannot be read: {uris[s.row]}: {s.error}" for s in seen if s.error]
    headers = [(found.entries[s.row].key, s.header) for s in seen if s.header]
    lines += describe_files(headers)
    lines += describe_places([(key, header.note) for key, header in headers])
    if len(found.entries) <= LOOKED:
        rows, tiles = places_of(found, recipe, storage)
        lines += describe_meeting(tiles, [found.parts[row] for row in rows], recipe)
    else:
        lines.append(f"split: of over {LOOKED:,} tiles the summary says which meet on the ground")
    lines.append(
        f"one read of each: {len(found.entries):,} requests, "
        f"{size_text(sum(entry.size for entry in found.entries))}, about {tasks:,} tasks, "
        f"read_tasks={recipe.resources.read_tasks}"
    )
    return lines


def work(recipe: PrepareRecipe, found: Survey, run: Run) -> Outcome:
    """Read every image once on Ray; write index, statistics, label summary and quarantine.

    Raises:
        InputError: mixed band counts or dtypes (unless `mixed=quarantine`), or no image at all
            that could be read.
    """
    for line in describe_archive(found, recipe):
        run.say(line)
    with run.activity("reading and decoding"):
        probed = _probe(found, recipe, run)
    kind = _main_kind(probed, found, recipe)
    seen = _seen(probed)
    kept = [s for s in seen if s.header is not None and _kind_of(s.header) == kind]
    refused = _quarantine(seen, kind, found)
    units = _units(kept, kind, recipe)
    counts = _counts(probed, kind, _changes(kept, kind, units, found, recipe))
    index = _index(found, kept, kind, counts, units, recipe, run)

    summary = label_summary(index, found)
    write_index(index, run)
    run.publish("summary.json", json.dumps(summary, indent=1).encode(), rows=None)
    run.publish("unmatched.json", found.unmatched_json())
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(refused, schema=QUARANTINE), sink)
    run.publish("quarantine.parquet", sink.getvalue(), rows=len(refused))

    failed = sum(s.header is None for s in seen)
    bytes_read = sum(s.bytes for s in seen)
    seconds = max(run.seconds.get("reading and decoding", 0.0), 1e-9)
    alpha = sum(s.header is not None and s.header.alpha for s in kept)
    lines = describe_labels(index, refused, alpha)
    headers = [(found.entries[s.row].key, s.header) for s in kept if s.header]
    lines += describe_files(headers, index.meta)
    declared = {header.nodata for _, header in headers if header.nodata is not None}
    if counts[0].valid:
        lines += fill_lines(index.meta.bands, counts, declared)
    lines += describe_ground(index, [s.header.note for s in kept if s.header is not None])
    places = Footprints.of_table(index.table)
    lines += describe_meeting(places, index.table["split"].to_pylist(), recipe)
    lines.append(
        f"read {len(seen):,} images, {size_text(bytes_read)}: "
        f"{len(seen) / seconds:,.0f} images/s, {size_text(bytes_read / seconds)}/s"
    )
    return Outcome(
        counts={
            "tiles": len(index),
            **{f"tiles_{split}": n for split, n in index.split_counts.items()},
            "classes": len(index.meta.classes),
            "quarantined": len(refused),
            "images_without_label": len(found.matched.images_without_label),
            "labels_without_image": len(found.matched.labels_without_image),
            "bytes_read": bytes_read,
        },
        metrics={"images_per_second": len(seen) / seconds},
        summary=tuple(lines),
        attempted=len(seen),
        failed=failed,
        error_budget=recipe.error_budget,
    )


def _seen(probed: Probed) -> list[Seen]:
    return [
        Seen(r["row"], header_of(r), r["bytes"], r["stage"] or "", r["error"] or "", r["crc32"])
        for r in probed.tiles.to_pylist()
    ]


def _kind_of(header: TileHeader) -> Kind:
    return Kind(header.bands, header.dtype)


def _look(uris: Sequence[str], found: Survey, recipe: PrepareRecipe, storage: Storage) -> Probed:
    places, nothing = range(len(uris)), [False] * len(uris)
    beside = (found.masked[: len(uris)], found.worlds[: len(uris)])
    return probe(places, uris, nothing, storage, recipe.bands, *beside, recipe.pages)


def _probe(found: Survey, recipe: PrepareRecipe, run: Run) -> Probed:
    from satray import cluster
    from satray.data.pipeline import probe_all  # Ray takes a second to import

    parts: list[Probed] = []
    kinds: Counter[Kind] = Counter()
    examples: dict[Kind, str] = {}
    done = failed = 0
    for part in probe_all(
        [entry.uri for entry in found.entries],
        [split == "train" for split in found.parts],
        found.masked,
        run.storage,
        bands=recipe.bands,
        pages=recipe.pages,
        tiles_per_task=recipe.tiles_per_task,
        readers=cluster.readers(recipe.resources),
        worlds=found.worlds,
    ):
        parts.append(part)
        done += len(part.tiles)
        failed += part.tiles.column("kind").null_count
        kinds += part.kinds()
        for row, text in zip(
            *(part.tiles.column(n).to_pylist() for n in ("row", "kind")), strict=True
        ):
            if text is not None:
                examples.setdefault(Kind.of(text), found.entries[row].key)
        if len(kinds) > 1 and recipe.mixed == "refuse":
            raise InputError(describe_mixed(kinds, examples, recipe, done))
        run.progress(f"{done:,} of {len(found.entries):,} images, {failed:,} unreadable")
        if len(parts) == 64:  # merged as they come: a part of floats takes megabytes
            parts = [total(parts)]
    return total(parts)


def _main_kind(probed: Probed, found: Survey, recipe: PrepareRecipe) -> Kind:
    """The most frequent kind; of equal ones the first by name."""
    kinds = probed.kinds()
    if not kinds:
        first = _seen(probed)[0]
        raise InputError(
            f"images={recipe.images}: none of {len(probed.tiles):,} images can be read; "
            f"{found.entries[first.row].key}: {first.error}"
        )
    return min(kinds, key=lambda kind: (-kinds[kind], kind))


def _units(kept: Sequence[Seen], kind: Kind, recipe: PrepareRecipe) -> Units:
    """The archive's units: the recipe's, else what most tiles state; of equal ones the first."""
    bands, _ = kind
    if recipe.scale is None and recipe.offset is None:
        stated = Counter(s.header.units for s in kept if s.header is not None)
        return min(stated, key=lambda units: (-stated[units], repr(units)))
    numbers = []
    for name, value in (("scale", recipe.scale), ("offset", recipe.offset)):
        some = value if isinstance(value, tuple) else (value,)
        if len(some) not in (1, len(bands)):
            raise InputError(
                f"{name}: found {len(some)} numbers; accepted: one, or one for each of "
                f"{', '.join(bands)}"
            )
        numbers.append(some if len(some) > 1 else some * len(bands))
    try:
        return tuple(unit_of(*given) for given in zip(bands, *numbers, strict=True))
    except DecodeError as error:
        raise InputError(f"scale, offset: {error}") from error


def _changes(
    kept: Sequence[Seen], kind: Kind, units: Units, found: Survey, recipe: PrepareRecipe
) -> dict[Units, Change | None]:
    """What brings tiles to the archive's units, by what they state; also those not counted."""
    changes: dict[Units, Change | None] = {}
    for s in kept:
        if s.header is None or s.header.units in changes:
            continue
        try:
            changes[s.header.units] = change_of(s.header.units, units, kind[1])
        except DecodeError as error:
            key = found.entries[s.row].key
            raise InputError(f"images={recipe.images}: {key} states {error}") from error
    return changes


def _counts(
    probed: Probed, kind: Kind, changes: dict[Units, Change | None]
) -> tuple[BandCounts, ...]:
    """Statistics of all tiles of a kind, in the archive's units."""
    bands, dtype = kind
    parts = [tuple(BandCounts(dtype) for _ in bands)]
    for (other, stated), counts in probed.bands().items():
        if other != kind:
            continue
        change = changes[stated]
        if change is not None:
            each = zip(counts, change.gain, change.shift, strict=True)
            counts = tuple(changed(*one) for one in each)
        parts.append(counts)
    return merge(parts)


def _quarantine(seen: Sequence[Seen], kind: Kind, found: Survey) -> list[dict[str, str]]:
    rows = []
    for s in seen:
        uri = found.entries[s.row].uri
        if s.header is None:
            rows.append({"uri": uri, "stage": s.stage, "error": s.error})
        elif _kind_of(s.header) != kind:
            error = f"{describe_kind(_kind_of(s.header))}; most have {describe_kind(kind)}"
            rows.append({"uri": uri, "stage": "mixed", "error": error})
    return rows


def _index(
    found: Survey,
    kept: Sequence[Seen],
    kind: Kind,
    counts: tuple[BandCounts, ...],
    units: Units,
    recipe: PrepareRecipe,
    run: Run,
) -> TileIndex:
    bands, dtype = kind
    columns: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
    shapes: Counter[tuple[int, int]] = Counter()
    for s in kept:
        header, entry = s.header, found.entries[s.row]
        assert header is not None
        shapes[header.height, header.width] += 1
        values: dict[str, object] = {
            "tile_id": found.matched.tile_ids[s.row],
            "uri": entry.uri,
            "split": found.parts[s.row],
            "labels": found.labels.labels[found.matched.rows[s.row]].tolist(),
            "height": header.height,
            "width": header.width,
            "bands": list(header.bands),
            "dtype": header.dtype,
            "crs": header.crs,
            "transform": None if header.transform is None else list(header.transform),
            "nodata": header.nodata,
            "bytes": s.bytes,
            "etag": entry.etag,
            "crc32": s.crc32,
            "mask": found.masked[s.row],
        }
        for name, value in values.items():
            columns[name].append(value)
    places: Any = (columns[name] for name in ("crs", "transform", "height", "width"))
    sizes = resolutions(*places).T
    columns["resolution_x"], columns["resolution_y"] = (
        [None if math.isnan(size) else size for size in axis] for axis in sizes.tolist()
    )
    meta = IndexMeta(
        task=found.labels.task,
        classes=found.labels.classes,
        bands=bands,
        dtype=dtype,
        named=recipe.bands is not None,
        tile_shape=min(shapes, key=lambda shape: (-shapes[shape], shape)),
        statistics=tuple(summarise(name, band) for name, band in zip(bands, counts, strict=True)),
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
    table = pa.table(
        {field.name: pa.array(columns[field.name], field.type) for field in SCHEMA}, schema=SCHEMA
    )
    return TileIndex(table, meta)
