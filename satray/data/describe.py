"""What prepare says about an archive: lines for a person, and the label summary as JSON. Pure."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from satray.config.prepare import PrepareRecipe
from satray.data.index import PARTS, IndexMeta, TileIndex
from satray.data.probe import Alike, Kind
from satray.data.split import Footprints, count_meeting
from satray.data.values import Units, units_text
from satray.errors import listed

if TYPE_CHECKING:
    from satray.data.labels import LabelTable  # which imports pandas
    from satray.data.match import Matched

SHOWN = 6
"""Classes, or other names, that a line gives."""

COUNTED = 1_000_000
"""Most tiles whose neighbours are sought: outlines take memory."""

MIXED = 1.1
"""The largest px over the smallest, on the ground, from which it is said."""

SAID = (
    *("split", "labels", "height", "width"),
    *("crs", "transform", "resolution_x", "resolution_y"),
)
"""Columns of a tile index that lines and summary are made of."""


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
    size = size_text(pc.sum(tiles["size"]).as_py() or 0)
    lines = [
        f"images: {len(tiles):,} labelled, {size}, in {recipe.images}",
        f"labels: {labels.format}, {labels.task}, {_plural(len(labels.classes), 'class')}"
        f" ({listed(labels.classes, SHOWN)})",
        *(f"labels: {note}" for note in labels.notes),
        f"split: {parts} ({_split_source(labels, recipe)})",
    ]
    if labels.passed_over:
        lines.append(f"columns not used: {listed(labels.passed_over, 40)}")
    if matched.beside:
        lines.append(
            f"not used: {_plural(len(matched.beside), 'image')} of the name of a tile and another "
            f"extension, e.g. {matched.beside[0]}"
        )
    alone, missing = matched.images_without_label, matched.labels_without_image
    if alone or missing:
        lines.append(
            f"unmatched: {_plural(len(alone), 'image')} without a label row, "
            f"{_plural(len(missing), 'label row')} without an image (unmatched.json lists them)"
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
    return lines + _units_lines(groups, meta)


def describe_index(index: TileIndex, refused: pa.Table, groups: Sequence[Alike]) -> list[str]:
    """Tiles, statistics and labels of the finished index, and what was set aside.

    Args:
        index: the finished index; of its table the columns `SAID`.
        refused: rows of quarantine.parquet.
        groups: its tiles of like headers.
    """
    meta, table = index.meta, index.table
    height, width = meta.tile_shape
    usual = pc.and_(pc.equal(table["height"], height), pc.equal(table["width"], width))
    other = len(index) - (pc.sum(usual).as_py() or 0)
    lines = [
        f"tiles: {len(index):,} of {height} x {width} px, {Kind(meta.bands, meta.dtype)}"
        + (f"; {other:,} have another size and are resampled" if other else ""),
    ]
    if alpha := sum(group.count for group in groups if group.header.alpha):
        # software tags the fourth of four bands alpha without being asked, a near-infrared one too
        lines.append(
            f"  {alpha:,} have one more band, tagged alpha: taken for transparency; where it is "
            f"data, say bands=[...] with {len(meta.bands) + 1} names"
        )
    if meta.statistics[0].valid == 0:
        lines.append("statistics: none, no tile is in train")
    else:
        lines += [
            f"  {b.name}: mean {b.mean:.6g}, std {b.std:.6g}, min {b.min:g}, max {b.max:g}, "
            f"2-98 % {b.percentiles['2']:.5g} to {b.percentiles['98']:.5g}"
            for b in meta.statistics
        ]
    lines += _class_lines(index)
    if len(refused):
        stages = Counter(refused["stage"].to_pylist())
        lines += [
            f"set aside: {count:,} ({stage}; quarantine.parquet), e.g. "
            f"{first['uri'].rsplit('/', 1)[-1]}: {first['error']}"
            for stage, count in stages.items()
            for first in refused.filter(pc.equal(refused["stage"], stage)).slice(0, 1).to_pylist()
        ]
    sides = [np.asarray(table[f"resolution_{axis}"].drop_null()) for axis in "xy"]
    if any(len(s) and s.max() > MIXED * s.min() for s in sides):
        spans = " and ".join(
            f"{s.min():.4g} to {s.max():.4g} m {way} (median {np.median(s):.4g})"
            for s, way in zip(sides, ("wide", "high"), strict=True)
        )
        lines.append(
            f"ground: px are {spans}; score brings scenes to the median unless they have px of "
            "the tiles' own"
        )
    return lines


def describe_meeting(tiles: Footprints, parts: Sequence[str], recipe: PrepareRecipe) -> list[str]:
    """How many tiles of val and test touch or overlap tiles of train, where tiles have a place.

    Args:
        tiles: where N tiles lie.
        parts: train, val or test: of each.
        recipe: key split.by.
    """
    if len(parts) > COUNTED:
        return [f"split: of more than {COUNTED:,} tiles it is not counted which meet on the ground"]
    part_N = np.asarray(parts, dtype=object)
    train_N = (part_N == "train") & tiles.known
    lines = []
    for part in ("val", "test"):
        held_N = (part_N == part) & tiles.known
        if not held_N.any() or not train_N.any():
            continue
        met, held = count_meeting(tiles, held_N, train_N), _plural(int(held_N.sum()), "tile")
        line = f"split: {met:,} of {held} of {part} touch or overlap tiles of train"
        if met and recipe.split.by != "ground":
            line += " (split.by=ground keeps blocks of ground on one side)"
        lines.append(line)
    return lines


def label_summary(index: TileIndex, labels: "LabelTable") -> dict[str, object]:
    """Class counts, co-occurrence, tiles without a label, and counts of each split."""
    y_NK, classes, splits_N = index.labels, index.meta.classes, index.splits

    def counts(rows: NDArray[np.bool_]) -> dict[str, object]:
        return {
            "tiles": int(rows.sum()),
            "tiles_without_label": int((~y_NK[rows].any(axis=1)).sum()),
            "positives": dict(
                zip(classes, y_NK[rows].sum(axis=0, dtype=np.int64).tolist(), strict=True)
            ),
        }

    return {
        "task": index.meta.task,
        "label_format": labels.format,
        "columns_not_used": list(labels.passed_over),
        "classes": list(classes),
        "all": counts(np.ones(len(index), dtype=bool)),
        "splits": {split: counts(splits_N == split) for split in index.split_counts},
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


def _class_lines(index: TileIndex) -> list[str]:
    """The most frequent classes, and those that a part has no example of."""
    classes, splits_N = index.meta.classes, index.splits
    counts = index.labels.sum(axis=0, dtype=np.int64)
    order = np.argsort(-counts, kind="stable")
    shown = listed([f"{classes[k]} {counts[k]:,}" for k in order], SHOWN)
    lines = [f"classes: {shown}" + (" (summary.json)" if len(classes) > SHOWN else "")]
    for value, word in ((1, "positive"), (0, "negative")):
        missing = []
        for split in index.split_counts:
            there = (index.labels[splits_N == split] == value).any(axis=0)
            names = [name for name, some in zip(classes, there, strict=True) if not some]
            missing += [f"{listed(names, SHOWN)} in {split}"] if names else []
        if missing:
            lines.append(f"classes without a {word}: {'; '.join(missing)}")
    return lines


def _units_lines(groups: Sequence[Alike], meta: IndexMeta | None) -> list[str]:
    """What the numbers of tiles mean, where some state it, and what they are brought to."""
    stated: Counter[Units] = Counter()
    for group in groups:
        stated[group.header.units] += group.count
    if set(stated) <= {()} and not (meta and meta.units):
        return []
    names = {group.header.units: group.header.bands for group in reversed(groups)}
    stating = "; ".join(
        f"{_plural(count, 'tile')} state {units_text(names[units], units) if units else 'none'}"
        for units, count in sorted(stated.items(), key=lambda pair: (-pair[1], repr(pair[0])))
    )
    if meta is None or set(stated) == {meta.units}:
        return [f"units: {stating}"]
    to = units_text(meta.bands, meta.units) if meta.units else "the same scale without offset"
    return [f"units: {stating}; all brought to {to}"]


def _split_source(labels: "LabelTable", recipe: PrepareRecipe) -> str:
    options = recipe.split
    extra = ", stratified" if options.stratify else ""
    if options.by == "ground":
        return f"drawn by blocks of ground of {options.block:g} m, seed {options.seed}{extra}"
    if options.by == "column" or (options.by == "auto" and options.column in labels.columns):
        return f"from column {options.column!r}"
    groups = f", whole {options.group} groups" if options.group else ""
    return f"drawn with seed {options.seed}{groups}{extra}"


def _tiles(groups: Sequence[Alike]) -> str:
    return _plural(sum(group.count for group in groups), "tile")


def _plural(count: int, noun: str) -> str:
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun}es" if noun.endswith("s") else f"{count:,} {noun}s"
