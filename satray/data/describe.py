"""What prepare says about an archive: lines for a person, and the label summary as JSON. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from satray.config.prepare import PrepareRecipe
from satray.data.decode import TileHeader
from satray.data.footprints import Footprints, count_meeting
from satray.data.index import IndexMeta
from satray.data.probe import Kind
from satray.data.survey import Survey
from satray.data.values import Units, units_told

PARTS = ("train", "val", "test")
"""Of a split, in order."""

SHOWN = 6
"""Classes, most frequent first, that the summary lines name."""

OFF_EARTH = "a CRS that does not lead to longitude and latitude there: no outline, no resolution"

MIXED = 1.1
"""The largest px over the smallest, on the ground, from which it is said."""


def describe_archive(found: Survey, recipe: PrepareRecipe) -> list[str]:
    """Images, labels, what has no partner, and the split."""
    labels, matched = found.labels, found.matched
    lines = [
        f"images: {len(found):,} labelled, {size_text(found.size)}, in {recipe.images}",
        f"labels: {labels.format}, {labels.task}, {_plural(len(labels.classes), 'class')}"
        f" ({_some(labels.classes)})",
        *(f"labels: {note}" for note in labels.notes),
        f"split: {_parts(found.split_counts)} ({_split_source(found, recipe)})",
    ]
    if labels.passed_over:
        shown = ", ".join(labels.passed_over[:40])
        more = len(labels.passed_over) - 40
        lines.append(f"columns not used: {shown}" + (f" and {more} more" if more > 0 else ""))
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


def describe_kind(kind: Kind) -> str:
    """Bands and dtype, as `4 bands (blue, green, red, nir) uint16`."""
    bands, dtype = kind
    return f"{_plural(len(bands), 'band')} ({_some(bands)}) {dtype}"


def describe_mixed(
    kinds: Mapping[Kind, int], examples: Mapping[Kind, str], recipe: PrepareRecipe, done: int
) -> str:
    """One line on an archive whose bands or dtypes differ."""
    found = "; ".join(
        f"{kinds[kind]:,} with {describe_kind(kind)}, e.g. {examples[kind]}"
        for kind in sorted(kinds, key=lambda kind: (-kinds[kind], kind))
    )
    return (
        f"images={recipe.images}: bands or dtypes differ ({found}; of the first {done:,} read); "
        "accepted: one kind, or mixed=quarantine to set the rarer ones aside"
    )


@dataclass(frozen=True)
class Indexed:
    """What lines and summary say of the tiles of a finished index, without its table."""

    meta: IndexMeta
    """Of the index."""
    labels: NDArray[np.uint8]
    """(N, K)."""
    splits: NDArray[np.object_]
    """(N,) train, val or test."""
    sizes: Mapping[tuple[int, int], int]
    """(height, width), px -> number of tiles."""
    resolutions: NDArray[np.float64]
    """(N, 2): width and height of a px on the ground, m; NaN where not known."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def split_counts(self) -> dict[str, int]:
        """Split -> number of tiles."""
        return {name: n for name in PARTS if (n := int((self.splits == name).sum()))}


def describe_tiles(index: Indexed, refused: pa.Table, alpha: int) -> list[str]:
    """Tiles, statistics and labels of the finished index, and what was set aside.

    Args:
        index: the finished index.
        refused: rows of quarantine.parquet.
        alpha: number of tiles with a band tagged alpha that is not among the data.
    """
    meta = index.meta
    height, width = meta.tile_shape
    other = len(index) - index.sizes[meta.tile_shape]
    lines = [
        f"tiles: {len(index):,} of {height} x {width} px, "
        f"{describe_kind(Kind(meta.bands, meta.dtype))}"
        + (f"; {other:,} have another size and are resampled" if other else ""),
    ]
    if alpha:
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
    counts = index.labels.sum(axis=0, dtype=np.int64)
    order = np.argsort(-counts, kind="stable")[:SHOWN]
    shown = ", ".join(f"{meta.classes[k]} {counts[k]:,}" for k in order)
    more = len(meta.classes) - len(order)
    lines.append(f"classes: {shown}" + (f" and {more} more (summary.json)" if more else ""))
    for value, word in ((1, "positive"), (0, "negative")):
        missing = []
        for split in index.split_counts:
            there = (index.labels[index.splits == split] == value).any(axis=0)
            names = [name for name, some in zip(meta.classes, there, strict=True) if not some]
            missing += [f"{_some(names)} in {split}"] if names else []
        if missing:
            lines.append(f"classes without a {word}: {'; '.join(missing)}")
    if len(refused):
        (first,) = refused.slice(0, 1).to_pylist()
        lines.append(
            f"set aside: {len(refused):,} (quarantine.parquet); "
            f"{first['uri'].rsplit('/', 1)[-1]}: {first['error']}"
        )
    sizes = [axis[~np.isnan(axis)] for axis in index.resolutions.T]
    if any(len(s) and s.max() > MIXED * s.min() for s in sizes):
        spans = " and ".join(
            f"{s.min():.4g} to {s.max():.4g} m {way} (median {np.median(s):.4g})"
            for s, way in zip(sizes, ("wide", "high"), strict=True)
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
    part_N = np.asarray(parts, dtype=object)
    train_N = (part_N == "train") & tiles.known
    lines = []
    for part in ("val", "test"):
        held_N = (part_N == part) & tiles.known
        if not held_N.any() or not train_N.any():
            continue
        met, count = count_meeting(tiles, held_N, train_N), int(held_N.sum())
        line = f"split: {met:,} of {_tiles(count)} of {part} touch or overlap tiles of train"
        if met and recipe.split.by != "ground":
            line += " (split.by=ground keeps blocks of ground on one side)"
        lines.append(line)
    return lines


def describe_places(notes: Sequence[tuple[str, str, int]]) -> list[str]:
    """Where georeferences are not plain.

    Args:
        notes: tiles, what to know of the place of each, and how many are like it.
    """
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for tile, note, count in notes:
        kind = note.partition(" (")[0]
        counts[kind] += count
        examples.setdefault(kind, tile + note.removeprefix(kind))
    return [
        f"ground: {_tiles(count)}: {kind}, e.g. {examples[kind]}"
        for kind, count in counts.most_common()
        if kind and count
    ]


def describe_files(
    headers: Sequence[tuple[str, TileHeader, int]], meta: IndexMeta | None = None
) -> list[str]:
    """What files hold besides plain bands: pages, and what their numbers mean.

    Args:
        headers: tiles by their keys, and how many are like each.
        meta: of the finished index; None where there is none yet.
    """
    lines = []
    paged = [(key, header, count) for key, header, count in headers if header.pages > 1]
    if paged:
        key, header, _ = paged[0]
        lines.append(
            f"pages: {_tiles(sum(n for _, _, n in paged))} of several pages, taken as bands "
            f"(pages=bands; pages=first takes the first only), e.g. {key} of {header.pages}"
        )
    left = [(key, header.pages_left, count) for key, header, count in headers if header.pages_left]
    if left:
        key, what, _ = left[0]
        more = f" and {len(what) - 1} more" if len(what) > 1 else ""
        lines.append(
            f"left out, unlike the first: in {_tiles(sum(n for _, _, n in left))}, e.g. {key}: "
            f"{what[0]}{more}"
        )
    stated: Counter[Units] = Counter()
    for _, header, count in headers:
        stated[header.units] += count
    if set(stated) <= {()} and not (meta and meta.units):
        return lines
    names = {header.units: header.bands for _, header, _ in reversed(headers)}
    told = [
        f"{_tiles(count)} state {units_told(names[units], units) if units else 'none'}"
        for units, count in sorted(stated.items(), key=lambda pair: (-pair[1], repr(pair[0])))
    ]
    lines.append(f"units: {'; '.join(told)}")
    if meta is None:
        return lines
    if not meta.units:
        lines[-1] += (
            "; brought to what those that state none are taken for: the same scale without offset "
            "(scale and offset say what it is)"
        )
    elif set(stated) != {meta.units}:
        lines[-1] += f"; all brought to {units_told(meta.bands, meta.units)}"
        lines[-1] += ", those that state none are taken to be in it" if () in stated else ""
    return lines


def label_summary(index: Indexed, found: Survey) -> dict[str, object]:
    """Class counts, co-occurrence, tiles without a label, and counts of each split."""
    y_NK, classes = index.labels, index.meta.classes

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
        "label_format": found.labels.format,
        "columns_not_used": list(found.labels.passed_over),
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


def _tiles(count: int) -> str:
    return _plural(count, "tile")


def _split_source(found: Survey, recipe: PrepareRecipe) -> str:
    options = recipe.split
    if options.by == "ground":
        extra = ", stratified" if options.stratify else ""
        return f"drawn by blocks of ground of {options.block:g} m, seed {options.seed}{extra}"
    if options.by == "column" or (options.by == "auto" and options.column in found.labels.columns):
        return f"from column {options.column!r}"
    extra = f", whole {options.group} groups" if options.group else ""
    extra += ", stratified" if options.stratify else ""
    return f"drawn with seed {options.seed}{extra}"


def _parts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{p} {counts[p]:,}" for p in PARTS if counts.get(p))


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _plural(count: int, noun: str) -> str:
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun}es" if noun.endswith("s") else f"{count:,} {noun}s"
