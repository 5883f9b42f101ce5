"""What prepare says about an archive: lines for a person, and the label summary as JSON. Pure."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from satray.config.prepare import PrepareRecipe
from satray.data.decode import Kind
from satray.data.index import PARTS, IndexMeta, TileIndex
from satray.data.probe import Alike
from satray.data.split import Footprints, count_meeting
from satray.data.values import Units, units_text
from satray.errors import counted, listed

if TYPE_CHECKING:
    from satray.data.labels import LabelTable
    from satray.data.match import Matched

SHOWN = 6
"""Classes, or other names, that a line gives."""

COUNTED = 1_000_000
"""Most tiles whose neighbours are sought: outlines take memory."""


def describe_archive(
    tiles: pa.Table, labels: "LabelTable", matched: "Matched", recipe: PrepareRecipe
) -> list[str]:
    """Images, labels, what has no partner, and the split.

    Args:
        tiles: the labelled images: columns size and split.
        labels: the label table.
        matched: what has no partner.
        recipe: keys images and split.
    """
    counts = Counter(tiles["split"].to_pylist())
    parts = ", ".join(f"{part} {counts[part]:,}" for part in PARTS if counts[part])
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
        f"images: {len(tiles):,} labelled, {size_text(pc.sum(tiles['size']).as_py())}, in "
        f"{recipe.images}",
        f"labels: {labels.format}, {labels.task}, {len(labels.classes)} classes"
        f" ({listed(labels.classes, SHOWN)})",
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


def describe_headers(groups: Sequence[Alike], meta: IndexMeta | None = None) -> list[str]:
    """What files hold besides plain bands: pages, places that are not plain, numbers' meanings.

    Args:
        groups: tiles of like headers, by their first.
        meta: of the finished index; None where there is none yet.
    """
    lines = []
    if paged := [group for group in groups if group.header.pages]:
        lines.append(
            f"pages: {_tiles(paged)} of several pages, taken as bands where size and dtype agree "
            f"(pages=first takes the first only), e.g. {paged[0].key}: {paged[0].header.pages}"
        )
    for note in sorted({group.header.note for group in groups} - {""}):
        some = [group for group in groups if group.header.note == note]
        lines.append(f"ground: {_tiles(some)}: {note}, e.g. {some[0].key}")
    stated: dict[Units, list[Alike]] = {}
    for group in groups:
        stated.setdefault(group.header.units, []).append(group)
    if stated.keys() <= {()} and not (meta and meta.units):
        return lines
    line = "units: " + "; ".join(
        f"{_tiles(some)} state {units_text(some[0].header.bands, units) if units else 'none'}"
        for units, some in sorted(stated.items(), key=lambda p: (-_count(p[1]), repr(p[0])))
    )
    if meta is not None and stated.keys() != {meta.units}:
        to = units_text(meta.bands, meta.units) if meta.units else "the same scale without offset"
        line += f"; all brought to {to}"
    return [*lines, line]


def describe_index(index: TileIndex, refused: pa.Table, groups: Sequence[Alike]) -> list[str]:
    """Tiles, statistics and labels of the finished index, and what was set aside.

    Args:
        index: the finished index.
        refused: rows of quarantine.parquet.
        groups: its tiles of like headers.
    """
    meta = index.meta
    height, width = meta.tile_shape
    other = sum(g.count for g in groups if (g.header.height, g.header.width) != meta.tile_shape)
    lines = [
        f"tiles: {len(index):,} of {height} x {width} px, {Kind(meta.bands, meta.dtype)}"
        + (f"; {other:,} have another size and are resampled" if other else ""),
    ]
    if alpha := _count([group for group in groups if group.header.alpha]):
        # software tags the fourth of four bands alpha without being asked, a near-infrared one too
        lines.append(
            f"  {alpha:,} have one more band, tagged alpha: taken for transparency; where it is "
            f"data, say bands=[...] with {len(meta.bands) + 1} names"
        )
    lines += [
        f"  {b.name}: mean {b.mean:.6g}, std {b.std:.6g}, min {b.min:g}, max {b.max:g}, "
        f"2-98 % {b.percentiles['2']:.5g} to {b.percentiles['98']:.5g} ({b.valid:,} px of train)"
        for b in meta.statistics
    ]
    classes, counts = meta.classes, index.labels.sum(axis=0, dtype=np.int64)
    order = np.argsort(-counts, kind="stable")
    lines.append(f"classes: {listed([f'{classes[k]} {counts[k]:,}' for k in order], SHOWN)}")
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


def describe_meeting(index: TileIndex, recipe: PrepareRecipe) -> list[str]:
    """How many tiles of val and test touch or overlap tiles of train, where tiles have a place."""
    if len(index) > COUNTED:
        return [f"split: of more than {COUNTED:,} tiles it is not counted which meet on the ground"]
    tiles = Footprints.of_table(index.table)
    train_N = (index.splits == "train") & tiles.known
    lines = []
    for part in ("val", "test"):
        held_N = (index.splits == part) & tiles.known
        if held_N.any() and train_N.any():
            met = count_meeting(tiles, held_N, train_N)
            line = f"split: {met:,} of {counted(int(held_N.sum()), 'tile')} of {part} touch or "
            line += "overlap tiles of train"
            if met and recipe.split.by != "ground":
                line += " (split.by=ground keeps blocks of ground on one side)"
            lines.append(line)
    return lines


def label_summary(index: TileIndex, labels: "LabelTable") -> dict[str, object]:
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


def size_text(size: float) -> str:
    """A number of bytes in decimal units."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if size >= 100 or unit == "B" else f"{size:.1f} {unit}"


def _count(groups: Sequence[Alike]) -> int:
    return sum(group.count for group in groups)


def _tiles(groups: Sequence[Alike]) -> str:
    return counted(_count(groups), "tile")
